//! Whether the members of a seat have the same entries.
//!
//! Blocks of all members begin at the same indexes, so those with the same first and last entry can be compared. A block
//! is forgotten when all have told theirs: members read at about one pace, so little is kept.

use rdb_client::VerifiedBlock;
use std::collections::{BTreeMap, BTreeSet};

/// A block that is not the same on all members that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Members that have the same, the most of them first.
    pub(crate) alike: Vec<Vec<usize>>,
}

/// What was heard of one seat.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Members that may say more.
    awaited: BTreeSet<usize>,
    /// By first entry: member, last entry and digest.
    open: BTreeMap<u64, Vec<(usize, u64, Vec<u8>)>>,
    /// Entries that at least two members have told of.
    pub(crate) compared: u64,
    pub(crate) differences: Vec<Difference>,
}

impl Comparison {
    pub(crate) fn of(members: impl IntoIterator<Item = usize>) -> Self {
        Self {
            awaited: members.into_iter().collect(),
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, member: usize, block: VerifiedBlock) {
        let VerifiedBlock {
            first, last, digest, ..
        } = block;
        let told = self.open.entry(first).or_default();
        told.push((member, last, digest));
        if has_all(&self.awaited, told) {
            let told = self.open.remove(&first).unwrap_or_default();
            self.settle(first, told);
        }
    }

    /// A member says no more: nothing more is kept for it.
    pub(crate) fn without(&mut self, member: usize) {
        self.awaited.remove(&member);
        let open = std::mem::take(&mut self.open);
        for (first, told) in open {
            if has_all(&self.awaited, &told) {
                self.settle(first, told);
            } else {
                self.open.insert(first, told);
            }
        }
    }

    /// Compares what not all have told. Blocks one after the other of which the same members have the same are one
    /// difference.
    pub(crate) fn finish(&mut self) {
        for (first, told) in std::mem::take(&mut self.open) {
            self.settle(first, told);
        }
        self.differences.sort_by_key(|difference| difference.first);
        self.differences.dedup_by(|next, before| {
            let goes_on = before.last.saturating_add(1) == next.first && before.alike == next.alike;
            if goes_on {
                before.last = next.last;
            }
            goes_on
        });
    }

    fn settle(&mut self, first: u64, told: Vec<(usize, u64, Vec<u8>)>) {
        let mut by_last: BTreeMap<u64, BTreeMap<Vec<u8>, Vec<usize>>> = BTreeMap::new();
        for (member, last, digest) in told {
            let alike = by_last.entry(last).or_default();
            alike.entry(digest).or_default().push(member);
        }
        for (last, alike) in by_last {
            let mut alike: Vec<Vec<usize>> = alike.into_values().collect();
            if alike.iter().map(Vec::len).sum::<usize>() > 1 {
                self.compared = self
                    .compared
                    .saturating_add(last.saturating_sub(first))
                    .saturating_add(1);
            }
            if alike.len() > 1 {
                for members in &mut alike {
                    members.sort_unstable();
                }
                alike.sort_by_key(|members| (std::cmp::Reverse(members.len()), members.first().copied()));
                self.differences.push(Difference { first, last, alike });
            }
        }
    }
}

fn has_all(awaited: &BTreeSet<usize>, told: &[(usize, u64, Vec<u8>)]) -> bool {
    awaited
        .iter()
        .all(|member| told.iter().any(|(one, ..)| one == member))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(first: u64, last: u64, digest: u8) -> VerifiedBlock {
        VerifiedBlock {
            first,
            last,
            bytes: 1,
            digest: vec![digest],
        }
    }

    #[test]
    fn members_that_have_the_same_do_not_differ_and_nothing_of_them_is_kept() {
        let mut seat = Comparison::of(0..2);
        for member in 0..2 {
            seat.add(member, block(1, 1_024, 7));
            seat.add(member, block(1_025, 1_100, 8));
        }
        assert!(seat.open.is_empty());
        seat.finish();
        assert_eq!((seat.differences.len(), seat.compared), (0, 1_100));
    }

    #[test]
    fn a_difference_names_the_block_and_who_has_the_same() {
        let mut seat = Comparison::of(0..3);
        for (member, digest) in [(2, 7), (0, 9), (1, 7)] {
            seat.add(member, block(1, 1_024, digest));
            seat.add(member, block(1_025, 2_048, 1));
        }
        let difference = Difference {
            first: 1,
            last: 1_024,
            alike: vec![vec![1, 2], vec![0]],
        };
        assert_eq!(seat.differences, [difference]);
    }

    #[test]
    fn blocks_that_differ_alike_one_after_the_other_are_told_at_once() {
        let mut seat = Comparison::of(0..2);
        for (member, digests) in [(0, [1, 2, 3]), (1, [4, 5, 3])] {
            seat.add(member, block(1_025, 2_048, digests[1]));
            seat.add(member, block(1, 1_024, digests[0]));
            seat.add(member, block(2_049, 2_050, digests[2]));
        }
        seat.finish();
        let difference = Difference {
            first: 1,
            last: 2_048,
            alike: vec![vec![0], vec![1]],
        };
        assert_eq!(seat.differences, [difference]);
    }

    #[test]
    fn who_says_no_more_is_not_waited_for() {
        let mut seat = Comparison::of(0..3);
        // One that has said all is still compared with those that have not.
        seat.add(0, block(1, 9, 7));
        seat.without(0);
        assert_eq!((seat.open.len(), seat.compared), (1, 0));
        seat.add(1, block(1, 9, 7));
        seat.without(2);
        assert_eq!((seat.open.len(), seat.compared), (0, 9));
    }

    #[test]
    fn of_members_that_one_is_silent_of_the_others_are_compared() {
        let mut seat = Comparison::of(0..3);
        seat.add(0, block(1, 9, 7));
        seat.add(2, block(1, 9, 8));
        assert_eq!(seat.differences, [], "the third may still tell");
        seat.finish();
        assert_eq!(seat.differences[0].alike, [[0], [2]]);
    }

    #[test]
    fn blocks_that_end_at_other_entries_are_not_compared() {
        let mut seat = Comparison::of(0..2);
        seat.add(0, block(1, 9, 7));
        seat.add(1, block(1, 8, 8));
        seat.finish();
        assert_eq!((seat.differences.len(), seat.compared), (0, 0));
    }
}
