//! How far the coordinator's keys have come: what shows that an etcd was restored to an older state (DESIGN 6.5).

use super::CoordinationError;
use rdb_proto::types::{GroupId, Membership, SeatId, Seq, Timestamp};
use std::collections::BTreeMap;

/// The keys that only go forward, at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// How often the database was put right after the coordinator went back.
    pub generation: u64,
    /// Revision of the coordinator; means something within its generation only.
    pub revision: u64,
    /// Last number given.
    pub counter: Seq,
    /// The time beside it.
    pub time: Timestamp,
    /// Last epoch number granted, of every seat that had one.
    pub epochs: BTreeMap<SeatId, u64>,
    /// Members of every group that has some.
    pub members: BTreeMap<GroupId, Membership>,
}

impl Progress {
    /// Whether these keys, read after `known` was, can be of a coordinator that did not go back.
    ///
    /// # Errors
    /// [`CoordinationError::RolledBack`], with the first key that did.
    pub(super) fn is_after(&self, known: &Self) -> Result<(), CoordinationError> {
        let not_below = |what, seen: u64, found: u64| {
            if found < seen {
                return Err(CoordinationError::RolledBack { what, seen, found });
            }
            Ok(())
        };
        not_below("its generation", known.generation, self.generation)?;
        // A later generation was made by a node that knew more than this one, and its revision begins anew.
        if self.generation > known.generation {
            return Ok(());
        }
        not_below("its revision", known.revision, self.revision)?;
        not_below("its counter", known.counter.get(), self.counter.get())?;
        for (seat, number) in &known.epochs {
            let found = self.epochs.get(seat).copied().unwrap_or_default();
            not_below("the epoch of a seat", *number, found)?;
        }
        for (group, membership) in &known.members {
            let found = self.members.get(group).map_or(0, |found| found.number);
            not_below("the number of a group's members", membership.number, found)?;
        }
        Ok(())
    }
}

/// What puts a coordinator right that went back: all of it, IF its generation is still `compares`, and no seat or group
/// of it changed since it was at `as_of`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// The generation that it must have.
    pub compares: u64,
    /// Its revision when it was read.
    pub as_of: u64,
    /// What it gets; the revision stands for nothing. Seats and groups that are not named stay as they are.
    pub to: Progress,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_proto::types::Side;

    fn progress(generation: u64, revision: u64, counter: u64) -> Progress {
        Progress {
            generation,
            revision,
            counter: Seq(counter),
            ..Progress::default()
        }
    }

    #[test]
    fn a_revision_that_caught_up_hides_no_counter_and_no_epoch_that_went_back() {
        let known = progress(1, 50, 100);
        assert!(progress(1, 50, 100).is_after(&known).is_ok());
        assert!(progress(1, 49, 100).is_after(&known).is_err());
        assert!(progress(1, 90, 99).is_after(&known).is_err());
        let seat = SeatId {
            group: GroupId(0),
            side: Side::One,
        };
        let known = Progress {
            epochs: BTreeMap::from([(seat, 3)]),
            ..known
        };
        assert!(progress(1, 90, 100).is_after(&known).is_err());
    }

    #[test]
    fn a_later_generation_counts_anew_and_an_earlier_one_went_back() {
        let known = progress(2, 50, 100);
        assert!(progress(3, 10, 200).is_after(&known).is_ok());
        assert!(progress(1, 90, 200).is_after(&known).is_err());
    }
}
