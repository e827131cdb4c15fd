//! DESIGN 6.7: what a member serves of its own index, without asking anybody. The latest event of a key, for a local
//! read, is that of the log up to what the index has applied: maybe old, never wrong. As of a seq at or below a mark
//! that the member told, it is that of the whole database for ever, whatever commits later.

use super::commits::Commits;
use super::{Verdict, broken};
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::types::{KeyName, LogIndex, SeatId, Seq};
use rdb_server::protocol::KeyState;
use std::collections::BTreeMap;
use std::sync::Arc;

const RULE: &str = "local reads and reads as of a seq (DESIGN 6.7)";

/// As of what a key was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsOf {
    /// Everything that the index had applied.
    Applied(LogIndex),
    /// A seq that the member's mark had reached.
    Seq(Seq),
}

/// A read that was served.
#[derive(Debug, Clone)]
pub struct Read {
    /// Of which seat.
    pub seat: SeatId,
    /// The key.
    pub name: KeyName,
    /// As of what.
    pub as_of: AsOf,
    /// The latest event that was found.
    pub found: KeyState,
}

/// Where each key of a seat stood after each of its events.
type Keys<'a> = BTreeMap<&'a KeyName, Vec<(LogIndex, KeyState)>>;

/// Judges the reads of a run by what was committed in all of it.
///
/// # Errors
/// When one found another event than the latest of its key as of its time.
pub fn check(reads: &[Read], commits: &Commits) -> Verdict {
    let seats: BTreeMap<SeatId, Keys<'_>> = commits.all().map(|(seat, log)| (seat, keys(log))).collect();
    for read in reads {
        let states = seats.get(&read.seat).and_then(|keys| keys.get(&read.name));
        let states = states.map_or(&[][..], Vec::as_slice);
        let passed = states.partition_point(|(index, state)| match read.as_of {
            AsOf::Applied(applied) => *index <= applied,
            AsOf::Seq(seq) => state.seq <= seq,
        });
        let latest = passed.checked_sub(1).map_or(KeyState::default(), |n| states[n].1);
        if read.found != latest {
            let what = format!("seat {}: {read:?} was served; it was {latest:?}", read.seat);
            return broken(RULE, what);
        }
    }
    Ok(())
}

fn keys(log: &[Arc<Entry>]) -> Keys<'_> {
    let mut keys = Keys::new();
    for entry in log {
        if let EntryBody::Events(events) = &entry.body {
            let count = u64::try_from(events.event_ids.len()).unwrap();
            let states = (0..count).map(|n| {
                let state = KeyState {
                    version: events.first_version.plus(n),
                    seq: events.first_seq.plus(n),
                    is_deleted: events.deletes,
                };
                (entry.index, state)
            });
            keys.entry(&events.name).or_default().extend(states);
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::super::example::{SEAT, assert_broken, epoch, event, start};
    use super::*;
    use rdb_proto::types::Version;

    fn read(as_of: AsOf, version: u64, seq: u64) -> Read {
        Read {
            seat: SEAT,
            name: KeyName::new("", "a").unwrap(),
            as_of,
            found: KeyState {
                version: Version(version),
                seq: Seq(seq),
                is_deleted: false,
            },
        }
    }

    #[test]
    fn rejects_what_came_later_and_what_was_missed() {
        let mut commits = Commits::default();
        let log = [
            start(1, 1),
            event(2, 1, "a", 3, 1),
            event(3, 1, "b", 4, 1),
            event(4, 1, "a", 7, 2),
        ];
        commits.committed(SEAT, epoch(1), &log).unwrap();
        let of = |as_of, version, seq| check(&[read(as_of, version, seq)], &commits);
        of(AsOf::Seq(Seq(2)), 0, 0).unwrap();
        of(AsOf::Seq(Seq(6)), 1, 3).unwrap();
        of(AsOf::Applied(LogIndex(3)), 1, 3).unwrap();
        of(AsOf::Applied(LogIndex(4)), 2, 7).unwrap();
        assert_broken(of(AsOf::Seq(Seq(7)), 1, 3), "as_of: Seq(7)");
        assert_broken(of(AsOf::Seq(Seq(6)), 2, 7), "as_of: Seq(6)");
        assert_broken(of(AsOf::Applied(LogIndex(3)), 2, 7), "Applied");
        assert_broken(of(AsOf::Applied(LogIndex(2)), 0, 0), "Applied");
    }
}
