//! Who holds the change stream: whether the resolved mark follows the counter, and which seat it waits for when it does
//! not (DESIGN 7). A hole is closed by evidence, never by a time-out; so an operator must see whose evidence is missing.

use super::handle::{Handle, SeatHandle};
use super::tasks::Tasks;
use crate::clock;
use crate::limits::{HELD_AFTER, HELD_LOOK_INTERVAL};
use rdb_proto::types::{SeatId, Seq};
use std::sync::Arc;
use std::time::Instant;

/// A mark that stands still although later seqs were handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The seat whose mark is the lowest.
    pub seat: SeatId,
    /// Where it stands.
    pub mark: Seq,
    /// Since when a later seq is known.
    pub since: Instant,
}

/// Watches the marks of the seats that this node has members of, until the node stops.
pub(super) async fn watch(node: Handle, tasks: Tasks) {
    tokio::select! {
        () = tasks.stopping() => {}
        () = watch_on(&node) => {}
    }
}

async fn watch_on(node: &Handle) {
    let mut counter = node.shared.coordinator.counter();
    loop {
        // Under load the mark moves all the time: a look now and then is enough to find that it does not.
        clock::sleep(HELD_LOOK_INTERVAL).await;
        let members = node.members();
        let mut mark = node
            .shared
            .marks
            .watch_seats(members.values().map(|seat| seat.position));
        let is_behind = counter.wait_for(|counter| *counter > mark.seq());
        let Ok(asked) = is_behind.await.map(|counter| *counter) else {
            return;
        };
        let since = clock::monotonic();
        if clock::within(HELD_AFTER, mark.reached(asked)).await.is_some() {
            continue;
        }
        let lowest = members.values().min_by_key(|seat| seat.view.borrow().resolved);
        let Some(seat) = lowest else {
            continue;
        };
        tell(node, seat, since);
        let mut moved = node.shared.seats.clone();
        tokio::select! {
            _ = mark.reached(asked) => {}
            // A member that left holds nothing here any more.
            _ = moved.changed() => {}
        }
        node.shared.held.send_replace(None);
        tracing::info!(seat = %seat.id, "the change stream goes on");
    }
}

fn tell(node: &Handle, seat: &Arc<SeatHandle>, since: Instant) {
    let view = *seat.view.borrow();
    let held = Held {
        seat: seat.id,
        mark: view.resolved,
        since,
    };
    node.shared.held.send_replace(Some(held));
    let leader = view.leader.map(|leader| leader.to_string());
    tracing::warn!(
        seat = %seat.id,
        leader = leader.as_deref().unwrap_or("nobody"),
        mark = %view.resolved,
        why = %view.hold,
        "the change stream stands still: this seat holds it"
    );
}
