//! Whether a proposal is appended, conflicts, or happened already (rule 6.6). Decides; changes nothing.
//!
//! Decisions are made in log order against three layers, each newer than the one before:
//!
//! 1. what the key index said when the proposal was looked up: committed;
//! 2. the [`Overlay`]: appended under this epoch, committed or not;
//! 3. the batch under formation, [`Unnumbered`]: decided to be appended, still without numbers. Without this layer two writes that both
//!    demand `exactly 5` would both become version 6, and a retry that meets its first attempt here would be
//!    written twice.
//!
//! An answer that appends nothing names the entry it rests on: told before that entry is committed, a conflict
//! might be with something that a new leader drops, and a duplicate might acknowledge what is then lost. What
//! rests on the third layer has no entry to name yet, and is decided again once the batch has numbers.

use super::effect::Outcome;
use super::input::{KeyState, KnownEvent, Proposal};
use super::overlay::{Overlay, SortedName};
use crate::sabotage::{self, Sabotage};
use rdb_proto::event::{EventKind, Expectation};
use rdb_proto::types::{EventId, LogIndex, Seq, Version};
use std::collections::{BTreeMap, BTreeSet};

/// What a proposal comes to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Decision {
    /// Its events are to be appended, the first with this version.
    Append(Version),
    /// It appends nothing.
    Answer {
        /// What to tell.
        outcome: Outcome,
        /// May be told once this entry is committed; [`LogIndex::ZERO`] when it rests on committed state only.
        rests_on: LogIndex,
    },
    /// It appends nothing because of something that waits for numbers: decide again when that has them.
    RestsOnUnnumbered,
}

/// What a batch under formation will do to keys and event ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Unnumbered {
    keys: BTreeMap<SortedName, KeyState>,
    ids: BTreeSet<EventId>,
}

impl Unnumbered {
    /// Notes that the proposal is to be appended with this first version.
    pub(super) fn note(&mut self, proposal: &Proposal, first_version: Version) {
        let behind = u64::try_from(proposal.events.len()).map_or(u64::MAX, |count| count.saturating_sub(1));
        let state = KeyState {
            version: first_version.plus(behind),
            seq: Seq::ZERO,
            is_deleted: proposal
                .events
                .last()
                .is_some_and(|event| event.kind == EventKind::Delete),
        };
        self.keys.insert(SortedName::new(&proposal.name), state);
        self.ids
            .extend(proposal.events.iter().map(|event| event.event_id));
    }
}

/// Decides one proposal. With `unnumbered` empty, the answer is never [`Decision::RestsOnUnnumbered`].
pub(super) fn decide(proposal: &Proposal, overlay: &Overlay, unnumbered: &Unnumbered) -> Decision {
    // A retry is looked at before its expectation: its own first attempt is what makes the expectation fail.
    match find_known(proposal, overlay, unnumbered) {
        Known::Unnumbered => return Decision::RestsOnUnnumbered,
        Known::Stored { events, rests_on } if !events.is_empty() => {
            let outcome = answer_to_known(proposal, events);
            return Decision::Answer { outcome, rests_on };
        }
        Known::Stored { .. } => {}
    }
    if let Some(id) = too_old(proposal) {
        return Decision::Answer {
            outcome: Outcome::RetryTooOld(id),
            rests_on: LogIndex::ZERO,
        };
    }
    decide_expectation(proposal, overlay, unnumbered)
}

enum Known {
    /// At least one of the events waits for its number.
    Unnumbered,
    /// Those of the events that are stored, in order; the last entry that holds one of them.
    Stored {
        events: Vec<KnownEvent>,
        rests_on: LogIndex,
    },
}

fn find_known(proposal: &Proposal, overlay: &Overlay, unnumbered: &Unnumbered) -> Known {
    let mut events = Vec::new();
    let mut rests_on = LogIndex::ZERO;
    if sabotage::is(Sabotage::DuplicateUnchecked) {
        return Known::Stored { events, rests_on };
    }
    let mut remembered = proposal.known.iter().peekable();
    for event in &proposal.events {
        let id = event.event_id;
        if let Some(known) = remembered.next_if(|known| known.event_id == id) {
            events.push(*known);
        } else if unnumbered.ids.contains(&id) {
            return Known::Unnumbered;
        } else if let Some((known, index)) = overlay.known(id, &proposal.name) {
            events.push(known);
            rests_on = rests_on.max(index);
        }
    }
    assert!(
        remembered.next().is_none(),
        "6.6: known events of {} are not in the order of its events",
        proposal.id
    );
    Known::Stored { events, rests_on }
}

/// Some ids of the proposal are stored already. It is a retry only when all of them are, as one append to this key; or
/// when they are the end of one whose beginning the window has forgotten, as it is bounded in events, not in appends.
fn answer_to_known(proposal: &Proposal, known: Vec<KnownEvent>) -> Outcome {
    let first = known.first().copied();
    let follows = |(position, event): (u64, &KnownEvent)| {
        event.is_same_key
            && first.is_some_and(|first| {
                event.seq == first.seq.plus(position) && event.version == first.version.plus(position)
            })
    };
    let is_one_append = (0..).zip(&known).all(follows);
    let ids = proposal.events.iter().rev().map(|event| event.event_id);
    let is_its_end = ids
        .zip(known.iter().rev())
        .all(|(id, event)| id == event.event_id);
    match first {
        _ if is_one_append && known.len() == proposal.events.len() => Outcome::Duplicate(known),
        Some(first) => match too_old(proposal) {
            Some(id) if is_one_append && is_its_end => Outcome::RetryTooOld(id),
            Some(_) | None => Outcome::EventIdReused(first.event_id),
        },
        None => Outcome::Duplicate(known),
    }
}

/// A retry whose first attempt may have been stored so long ago that its event ids are forgotten.
///
/// The first attempt can only have numbers above `retried_since`, so from there on every id must be remembered.
fn too_old(proposal: &Proposal) -> Option<EventId> {
    let since = proposal.retried_since?;
    // A stranger's number: it may be the highest there is, so nothing is added to it.
    if since >= proposal.remembered_from.previous() {
        return None;
    }
    proposal.events.first().map(|event| event.event_id)
}

fn decide_expectation(proposal: &Proposal, overlay: &Overlay, unnumbered: &Unnumbered) -> Decision {
    let name = SortedName::new(&proposal.name);
    let appended = overlay.key(&name);
    // The index may have been further than it announced when it was asked: the higher version is the later one.
    let (state, rests_on) = match appended {
        Some((state, index)) if state.version > proposal.committed.version => (state, index),
        Some(_) | None => (proposal.committed, LogIndex::ZERO),
    };
    let waiting = unnumbered.keys.get(&name);
    let latest = waiting.copied().unwrap_or(state);
    assert!(
        latest.version >= state.version,
        "6.6: what waits for numbers is older than what is appended"
    );
    if is_met(proposal.expect, latest) || sabotage::is(Sabotage::ExpectationUnchecked) {
        Decision::Append(latest.version.next())
    } else if waiting.is_some() {
        Decision::RestsOnUnnumbered
    } else {
        Decision::Answer {
            outcome: Outcome::Conflict(state),
            rests_on,
        }
    }
}

fn is_met(expect: Expectation, state: KeyState) -> bool {
    let exists = state.version > Version::ZERO && !state.is_deleted;
    match expect {
        Expectation::Any => true,
        Expectation::Absent => !exists,
        Expectation::Exists => exists,
        Expectation::Exact(version) => state.version == version,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, event_id, key, proposal, stored};
    use super::*;

    fn decided(proposal: &Proposal) -> Decision {
        decide(proposal, &Overlay::new(LogIndex::ZERO), &Unnumbered::default())
    }

    fn answer(outcome: Outcome) -> Decision {
        Decision::Answer {
            outcome,
            rests_on: LogIndex::ZERO,
        }
    }

    fn state(version: u64, is_deleted: bool) -> KeyState {
        KeyState {
            version: Version(version),
            seq: Seq(version),
            is_deleted,
        }
    }

    fn known(id: u128, seq: u64, version: u64, is_same_key: bool) -> KnownEvent {
        KnownEvent {
            event_id: event_id(id),
            seq: Seq(seq),
            version: Version(version),
            is_same_key,
        }
    }

    /// Red with `expectation_unchecked`.
    #[test]
    fn an_expectation_that_does_not_hold_conflicts_with_the_current_state() {
        let (never, written, deleted) = (state(0, false), state(3, false), state(3, true));
        let exact = |version| Expectation::Exact(Version(version));
        let table = [
            (Expectation::Any, [true, true, true]),
            (Expectation::Absent, [true, false, true]),
            (Expectation::Exists, [false, true, false]),
            (exact(0), [true, false, false]),
            (exact(3), [false, true, true]),
            (exact(2), [false, false, false]),
        ];
        // Through a world first, so that a sabotage is selected when one is asked for.
        World::new();
        for (expect, holds) in table {
            for (committed, holds) in [never, written, deleted].into_iter().zip(holds) {
                let mut proposal = proposal(1, "a", expect, &[11]);
                proposal.committed = committed;
                let expected = if holds {
                    Decision::Append(committed.version.next())
                } else {
                    answer(Outcome::Conflict(committed))
                };
                assert_eq!(decided(&proposal), expected, "{expect} of {committed}");
            }
        }
    }

    /// Red with `duplicate_unchecked`.
    #[test]
    fn a_retry_is_a_duplicate_only_when_all_of_it_is_stored_as_one_append_to_its_key() {
        World::new();
        let outcome = |known: &[KnownEvent]| {
            let mut proposal = proposal(1, "a", Expectation::Absent, &[11, 12]);
            proposal.known = known.to_vec();
            match decided(&proposal) {
                Decision::Answer { outcome, .. } => outcome,
                other @ (Decision::Append(_) | Decision::RestsOnUnnumbered) => panic!("{other:?}"),
            }
        };
        let reused = |id| Outcome::EventIdReused(event_id(id));
        let whole = [known(11, 5, 1, true), known(12, 6, 2, true)];
        assert_eq!(outcome(&whole), Outcome::Duplicate(whole.to_vec()));
        assert_eq!(outcome(&whole[..1]), reused(11), "only the first is stored");
        assert_eq!(outcome(&whole[1..]), reused(12), "only the second is stored");
        let elsewhere = [known(11, 5, 1, false), known(12, 6, 2, false)];
        assert_eq!(outcome(&elsewhere), reused(11), "under another key");
        let apart = [known(11, 5, 1, true), known(12, 9, 2, true)];
        assert_eq!(outcome(&apart), reused(11), "by two appends");
        let turned = [known(11, 6, 2, true), known(12, 5, 1, true)];
        assert_eq!(outcome(&turned), reused(11), "in another order");
    }

    #[test]
    fn a_retry_older_than_the_window_is_refused_and_never_written() {
        let retried = |since, remembered_from| {
            let mut proposal = proposal(1, "a", Expectation::Any, &[11]);
            proposal.retried_since = since;
            proposal.remembered_from = Seq(remembered_from);
            decided(&proposal)
        };
        let append = Decision::Append(Version(1));
        assert_eq!(retried(None, 90), append, "not a retry");
        assert_eq!(
            retried(Some(Seq(89)), 90),
            append,
            "everything since is remembered"
        );
        assert_eq!(
            retried(Some(Seq(88)), 90),
            answer(Outcome::RetryTooOld(event_id(11))),
            "it may have been stored as seq 89, which is forgotten"
        );
    }

    /// The window may end within an append: found by the simulator.
    #[test]
    fn a_retry_of_which_the_window_remembers_only_the_end_is_too_old_and_no_misuse() {
        let retried = |since, known: &[KnownEvent]| {
            let mut proposal = proposal(1, "a", Expectation::Any, &[11, 12, 13]);
            proposal.retried_since = since;
            proposal.remembered_from = Seq(6);
            proposal.known = known.to_vec();
            decided(&proposal)
        };
        let end = [known(12, 6, 2, true), known(13, 7, 3, true)];
        let too_old = answer(Outcome::RetryTooOld(event_id(11)));
        assert_eq!(retried(Some(Seq(4)), &end), too_old);
        let reused = |id| answer(Outcome::EventIdReused(event_id(id)));
        assert_eq!(retried(None, &end), reused(12), "not a retry");
        assert_eq!(
            retried(Some(Seq(5)), &end),
            reused(12),
            "all that it could have written is remembered"
        );
        assert_eq!(retried(Some(Seq(4)), &end[..1]), reused(12), "its middle only");
        let elsewhere = [known(13, 7, 3, false)];
        assert_eq!(retried(Some(Seq(4)), &elsewhere), reused(13), "another key's");
    }

    #[test]
    fn a_decision_takes_the_newer_of_index_and_overlay() {
        let mut overlay = Overlay::new(LogIndex(1));
        overlay.push(LogIndex(2), &stored("a", 10, 4, &[1]));
        let decided = |version| {
            let mut proposal = proposal(1, "a", Expectation::Exact(Version(9)), &[11]);
            proposal.committed = state(version, false);
            decide(&proposal, &overlay, &Unnumbered::default())
        };
        let in_overlay = KeyState {
            version: Version(4),
            seq: Seq(10),
            is_deleted: false,
        };
        let from_overlay = Decision::Answer {
            outcome: Outcome::Conflict(in_overlay),
            rests_on: LogIndex(2),
        };
        assert_eq!(decided(3), from_overlay);
        assert_eq!(
            decided(5),
            answer(Outcome::Conflict(state(5, false))),
            "further than announced"
        );
    }

    #[test]
    fn what_rests_on_a_waiting_append_is_decided_again() {
        let mut unnumbered = Unnumbered::default();
        unnumbered.note(&proposal(1, "a", Expectation::Any, &[11, 12]), Version(1));
        let overlay = Overlay::new(LogIndex::ZERO);
        let decided = |expect, id| decide(&proposal(2, "a", expect, &[id]), &overlay, &unnumbered);
        assert_eq!(decided(Expectation::Absent, 13), Decision::RestsOnUnnumbered);
        assert_eq!(decided(Expectation::Any, 12), Decision::RestsOnUnnumbered);
        let exact = Expectation::Exact(Version(2));
        assert_eq!(decided(exact, 13), Decision::Append(Version(3)));
        let other = decide(
            &proposal(2, "b", Expectation::Absent, &[13]),
            &overlay,
            &unnumbered,
        );
        assert_eq!(other, Decision::Append(Version(1)));
        assert_eq!(
            unnumbered.keys.keys().collect::<Vec<_>>(),
            [&SortedName::new(&key("a"))]
        );
    }
}
