//! DESIGN 2 and 6.4: a committed entry is durable on W members, and is never lost or changed, in any later epoch.

use super::{Verdict, broken};
use rdb_proto::entry::Entry;
use rdb_proto::types::{Epoch, LogIndex, SeatId};
use std::collections::BTreeMap;
use std::sync::Arc;

const RULE: &str = "committed entries (DESIGN 6.4)";

/// What was ever committed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Commits {
    seats: BTreeMap<SeatId, Vec<Arc<Entry>>>,
    /// Under which epoch each of them was committed: its own or a later one.
    under: BTreeMap<SeatId, Vec<Epoch>>,
}

fn place(index: LogIndex) -> usize {
    usize::try_from(index.get()).unwrap()
}

impl Commits {
    /// The committed log of a seat.
    pub fn log(&self, seat: SeatId) -> &[Arc<Entry>] {
        self.seats.get(&seat).map_or(&[], Vec::as_slice)
    }

    /// Every seat with its log.
    pub fn all(&self) -> impl Iterator<Item = (SeatId, &[Arc<Entry>])> {
        self.seats.iter().map(|(seat, log)| (*seat, log.as_slice()))
    }

    /// Last committed index of a seat.
    pub fn last(&self, seat: SeatId) -> LogIndex {
        LogIndex(u64::try_from(self.log(seat).len()).unwrap())
    }

    /// A member says that entries are committed, under this epoch. Returns how many nobody knew of.
    ///
    /// # Errors
    /// When they are not those that are committed already, or leave a gap.
    pub fn committed(
        &mut self,
        seat: SeatId,
        epoch: Epoch,
        entries: &[Arc<Entry>],
    ) -> Result<usize, super::Violation> {
        let under = self.under.entry(seat).or_default();
        let log = self.seats.entry(seat).or_default();
        let mut added = 0;
        // A leader that hands its seat over in the step that commits is none any more when it is asked for its epoch; but
        // what is committed ends in an entry of the epoch that commits it.
        let epoch = entries.iter().map(|entry| entry.epoch).fold(epoch, Epoch::max);
        for entry in entries {
            match log.get(place(entry.index) - 1) {
                Some(known) if Arc::ptr_eq(known, entry) || known == entry => {}
                Some(known) => {
                    let what = format!("seat {seat}: {known} was committed, and now {entry} is");
                    return broken(RULE, what);
                }
                None if place(entry.index) == log.len() + 1 => {
                    log.push(Arc::clone(entry));
                    under.push(epoch);
                    added += 1;
                }
                None => {
                    let what = format!("seat {seat}: {entry} is committed behind {} entries", log.len());
                    return broken(RULE, what);
                }
            }
        }
        Ok(added)
    }

    /// The newest entry of a seat was committed just now; so many members have it durably.
    ///
    /// # Errors
    /// When fewer than W have.
    pub fn durable_on(&self, seat: SeatId, members: usize, writes: usize) -> Verdict {
        if members >= writes {
            return Ok(());
        }
        let last = self.last(seat);
        broken(
            RULE,
            format!(
                "seat {seat}: entry {last} is committed, and durable on {members} members of W = {writes}"
            ),
        )
    }

    /// A member leads under this epoch with this log.
    ///
    /// # Errors
    /// When an entry is not in it that was committed under a lower epoch. (A winner whose answers were late may lead
    /// under an epoch that others have passed already: it can commit nothing.)
    pub fn recovered(&self, seat: SeatId, epoch: Epoch, log: &[Arc<Entry>]) -> Verdict {
        let under = self.under.get(&seat).map_or(&[][..], Vec::as_slice);
        let bound = self
            .log(seat)
            .iter()
            .zip(under)
            .enumerate()
            .filter(|(_, (_, under))| **under < epoch);
        for (position, (known, _)) in bound {
            match log.get(position) {
                Some(entry) if Arc::ptr_eq(entry, known) || entry == known => {}
                found => {
                    let found = found.map_or_else(|| "nothing".to_owned(), ToString::to_string);
                    let what = format!("seat {seat}: a leader recovered {found} where {known} is committed");
                    return broken(RULE, what);
                }
            }
        }
        Ok(())
    }

    /// A member cuts its log off.
    ///
    /// # Errors
    /// When that takes what it knows to be committed.
    pub fn truncates(&self, seat: SeatId, from: LogIndex, commit: LogIndex) -> Verdict {
        if from > commit {
            return Ok(());
        }
        broken(
            RULE,
            format!("seat {seat}: a member truncates from {from} and knows commit {commit}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{SEAT, assert_broken, epoch, event, start};
    use super::*;

    fn three() -> Commits {
        let mut commits = Commits::default();
        let entries = [start(1, 1), event(2, 1, "a", 1, 1), event(3, 1, "a", 2, 2)];
        assert_eq!(commits.committed(SEAT, epoch(2), &entries).unwrap(), 3);
        commits
    }

    #[test]
    fn rejects_a_changed_entry_and_a_gap() {
        assert_eq!(
            three()
                .committed(SEAT, epoch(2), &[event(3, 1, "a", 2, 2)])
                .unwrap(),
            0
        );
        let changed = three().committed(SEAT, epoch(2), &[start(3, 2)]).map(|_| ());
        assert_broken(changed, "was committed, and now 3#2@1 epoch-start");
        assert_broken(
            three().committed(SEAT, epoch(2), &[start(5, 2)]).map(|_| ()),
            "behind 3 entries",
        );
    }

    #[test]
    fn rejects_a_commit_on_too_few_disks() {
        three().durable_on(SEAT, 2, 2).unwrap();
        assert_broken(three().durable_on(SEAT, 1, 2), "durable on 1 members of W = 2");
    }

    #[test]
    fn rejects_a_leader_without_what_is_committed() {
        let whole = [
            start(1, 1),
            event(2, 1, "a", 1, 1),
            event(3, 1, "a", 2, 2),
            start(4, 2),
        ];
        three().recovered(SEAT, epoch(3), &whole).unwrap();
        assert_broken(
            three().recovered(SEAT, epoch(3), &whole[..2]),
            "recovered nothing where 3#1@1",
        );
        let other = [start(1, 1), event(2, 1, "a", 1, 1), start(3, 2)];
        assert_broken(
            three().recovered(SEAT, epoch(3), &other),
            "recovered 3#2@1 epoch-start",
        );
        three().recovered(SEAT, epoch(2), &other).unwrap();
        assert_broken(
            three().truncates(SEAT, LogIndex(3), LogIndex(3)),
            "truncates from 3",
        );
    }
}
