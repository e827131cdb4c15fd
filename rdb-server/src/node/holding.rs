//! Who holds the change stream: whether the resolved mark follows the counter, and which seat it waits for when it does
//! not (DESIGN 7). A hole is closed by evidence, never by a time-out; so an operator must see whose evidence is missing.

use super::handle::Handle;
use super::status::{Held, SeatView};
use crate::cdc::SeatsMark;
use crate::clock;
use crate::limits::{HELD_AFTER, HELD_LOOK_INTERVAL};
use rdb_proto::types::{SeatId, Seq};
use std::sync::Arc;
use tokio::sync::watch;

/// Watches the marks of the seats that this node has members of, until the node stops. While they stand still,
/// `Shared::held` says since when.
pub(super) async fn watch(node: Handle) {
    tokio::select! {
        () = node.tasks().stopping() => {}
        () = watch_on(&node) => {}
    }
}

async fn watch_on(node: &Handle) {
    let mut counter = node.shared.coordinator.counter();
    let mut seats = node.shared.seats.clone();
    loop {
        // Under load the mark moves all the time: a look now and then is enough to find that it does not.
        clock::sleep(HELD_LOOK_INTERVAL).await;
        let members = Arc::clone(&seats.borrow_and_update());
        let mark = node
            .shared
            .marks
            .watch_seats(members.values().map(|seat| seat.position));
        tokio::select! {
            is_over = look(node, &mut counter, mark) => if is_over.is_err() { return },
            // A member that left holds nothing here any more, and a new one may.
            changed = seats.changed() => if changed.is_err() { return },
        }
        if node.shared.held.send_replace(None).is_some() {
            tracing::info!("the change stream goes on");
        }
    }
}

/// Waits for a mark that stands still, and until it does not any more; or until it is seen to move.
async fn look(
    node: &Handle,
    counter: &mut watch::Receiver<Seq>,
    mut mark: SeatsMark,
) -> Result<(), watch::error::RecvError> {
    let asked = *counter.wait_for(|counter| *counter > mark.seq()).await?;
    let (since, before) = (clock::monotonic(), mark.seq());
    if let Some(reached) = clock::within(HELD_AFTER, mark.reached(asked)).await {
        return reached;
    }
    if mark.seq() > before {
        return Ok(());
    }
    node.shared.held.send_replace(Some(since));
    if let Some((seat, view)) = node.lowest() {
        let leader = view.leader.map(|leader| leader.to_string());
        tracing::warn!(
            %seat,
            leader = leader.as_deref().unwrap_or("nobody"),
            mark = %view.resolved,
            why = %view.hold,
            "the change stream stands still: this seat holds it"
        );
    }
    mark.reached(asked).await
}

impl Handle {
    /// The seat whose mark is the lowest of those here: while the stream stands still, it is the one that is waited for.
    fn lowest(&self) -> Option<(SeatId, SeatView)> {
        let members = self.members();
        let views = members.values().map(|seat| (seat.id, *seat.view.borrow()));
        views.min_by_key(|(_, view)| view.resolved)
    }

    /// What the change stream waits for now.
    pub(super) fn held(&self) -> Option<Held> {
        let since = (*self.shared.held.borrow())?;
        let (seat, view) = self.lowest()?;
        Some(Held { seat, view, since })
    }
}
