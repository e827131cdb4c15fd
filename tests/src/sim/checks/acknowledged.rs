//! DESIGN 6.4: an acknowledged write is committed, where its client was told. So is what a duplicate's answer names,
//! and the state that a conflict names (rule 6.6).

use super::{Verdict, broken};
use rdb_proto::cursor::CursorChange;
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::types::{EventId, KeyName, LogIndex, SeatId, Seq, Version};
use std::sync::Arc;

const RULE: &str = "acknowledged is committed (DESIGN 6.4)";

/// Checks that events of these ids are committed at these places.
///
/// # Errors
/// When one is not.
pub fn check(
    seat: SeatId,
    committed: &[Arc<Entry>],
    name: &KeyName,
    told: impl Iterator<Item = (EventId, Seq, Version)>,
) -> Verdict {
    for (id, seq, version) in told {
        let found = entry_with(committed, seq).is_some_and(|events| {
            let position = usize::try_from(seq.since(events.first_seq)).unwrap();
            events.name == *name
                && events.event_ids.get(position) == Some(&id)
                && events.first_version.plus(seq.since(events.first_seq)) == version
        });
        if !found {
            let what = format!(
                "seat {seat}: {id} was told to be seq {seq}, version {version} of {name}; that is not committed"
            );
            return broken(RULE, what);
        }
    }
    Ok(())
}

/// Checks that a conflict names committed state.
///
/// # Errors
/// When it does not.
pub fn check_conflict(
    seat: SeatId,
    committed: &[Arc<Entry>],
    name: &KeyName,
    seq: Seq,
    version: Version,
) -> Verdict {
    let is_committed = if version == Version::ZERO {
        seq == Seq::ZERO
    } else {
        entry_with(committed, seq).is_some_and(|events| {
            events.name == *name && events.last_version() == version && events.last_seq() == seq
        })
    };
    if is_committed {
        return Ok(());
    }
    broken(
        RULE,
        format!(
            "seat {seat}: a conflict with version {version} of {name} at seq {seq} was told; that is not committed"
        ),
    )
}

/// The leader of a seat tells that a change of a cursor is committed at an index.
///
/// # Errors
/// When it is not.
pub fn check_change(
    seat: SeatId,
    committed: &[Arc<Entry>],
    change: &CursorChange,
    index: LogIndex,
) -> Verdict {
    let position = usize::try_from(index.get()).unwrap_or(usize::MAX);
    let entry = position
        .checked_sub(1)
        .and_then(|position| committed.get(position));
    match entry.map(|entry| &entry.body) {
        Some(EntryBody::Cursor(told)) if **told == *change => Ok(()),
        Some(_) | None => broken(
            RULE,
            format!("seat {seat}: {change} was told at {index}; that is not committed"),
        ),
    }
}

fn entry_with(committed: &[Arc<Entry>], seq: Seq) -> Option<&rdb_proto::event::StoredEvents> {
    // Entries without events take no seq, so the search looks at those with one. Nearly always it is near the end.
    let last = committed
        .iter()
        .rev()
        .find(|entry| entry.seqs().is_some_and(|(first, _)| first <= seq))?;
    match &last.body {
        EntryBody::Events(events) if events.last_seq() >= seq => Some(events),
        EntryBody::Events(_) | EntryBody::EpochStart(_) | EntryBody::Cursor(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{SEAT, assert_broken, event, start};
    use super::*;
    use uuid::Uuid;

    #[test]
    fn rejects_what_is_not_committed_or_elsewhere() {
        let log = [start(1, 1), event(2, 1, "a", 4, 1), start(3, 2)];
        let name = KeyName::new("", "a").unwrap();
        let told = |id: u128, seq, version| {
            let one = (EventId(Uuid::from_u128(id)), Seq(seq), Version(version));
            check(SEAT, &log, &name, [one].into_iter())
        };
        told(4, 4, 1).unwrap();
        assert_broken(told(4, 5, 1), "not committed");
        assert_broken(told(4, 4, 2), "not committed");
        assert_broken(told(5, 4, 1), "not committed");
        check_conflict(SEAT, &log, &name, Seq(4), Version(1)).unwrap();
        assert_broken(
            check_conflict(SEAT, &log, &name, Seq(6), Version(2)),
            "not committed",
        );
    }
}
