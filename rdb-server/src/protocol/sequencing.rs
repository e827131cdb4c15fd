//! Numbers: asked for, received, spent or lost (rules 6.5 and 6.3.6).
//!
//! ```text
//! Propose ─► queue ─► decide ─► batch ─► Allocate … Allocated ─► entries ─► Persist
//!             ▲ what arrives meanwhile waits here      └ AllocationVoid ─► refused
//! ```
//! One request is outstanding at a time, for exactly as many numbers as its batch has events, made after the
//! proposals arrived and before their entries exist: that is what makes seq order real-time order.
//!
//! **Decided late.** A proposal is decided when its batch is formed, not when it arrives. So nothing is ever decided
//! after a batch that still waits for numbers except within that batch, and a void allocation leaves nothing to
//! decide again: its batch is refused with [`Refusal::NoNumbers`], and the queue behind it was not decided yet.
//! Refusing and not asking again: whether it is worth asking again is the client's to say, and the refusal promises
//! that nothing happened.

use super::conditions::{Decision, Unnumbered, decide};
use super::effect::{Effect, Outcome, Refusal, Written};
use super::input::{AllocationId, Proposal, ProposalId};
use super::leader::{AwaitedCommit, Leader};
use super::member::Member;
use super::reads::Answer;
use crate::limits::{
    SEAT_BATCH_BYTES_MAX, SEAT_BATCH_EVENTS_MAX, SEAT_UNCOMMITTED_BYTES_MAX, SEAT_UNINDEXED_EVENTS_MAX,
    SEAT_WAITERS_MAX, SEAT_WAITING_BYTES_MAX, SEAT_WAITING_EVENTS_MAX,
};
use crate::sabotage::{self, Sabotage};
use rdb_proto::cursor::CursorChange;
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::event::{NewEvent, StoredEvents};
use rdb_proto::types::{KeyName, LogIndex, Seq, Timestamp, Version};
use std::collections::VecDeque;
use std::sync::Arc;

/// A proposal that waits to be decided.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Queued {
    /// What the index had announced when it arrived: the overlay must keep everything above.
    announced: LogIndex,
    weight: usize,
    proposal: Proposal,
}

/// Proposals that wait for the answer to the allocation before theirs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Queue {
    proposals: VecDeque<Queued>,
    events: usize,
    bytes: usize,
}

impl Queue {
    fn has_room_for(&self, events: usize, weight: usize) -> bool {
        self.events.saturating_add(events) <= SEAT_WAITING_EVENTS_MAX
            && self.bytes.saturating_add(weight) <= SEAT_WAITING_BYTES_MAX
    }

    fn push(&mut self, queued: Queued) {
        self.events = self.events.saturating_add(queued.proposal.events.len());
        self.bytes = self.bytes.saturating_add(queued.weight);
        self.proposals.push_back(queued);
    }

    fn pop(&mut self) -> Option<Queued> {
        let queued = self.proposals.pop_front()?;
        self.events = self.events.saturating_sub(queued.proposal.events.len());
        self.bytes = self.bytes.saturating_sub(queued.weight);
        Some(queued)
    }

    pub(super) const fn events(&self) -> usize {
        self.events
    }
}

/// A member of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Decided {
    Append {
        proposal: Proposal,
        first_version: Version,
    },
    RestsOnUnnumbered(Proposal),
}

impl Decided {
    fn into_proposal(self) -> Proposal {
        match self {
            Self::Append { proposal, .. } | Self::RestsOnUnnumbered(proposal) => proposal,
        }
    }
}

/// A batch that waits for its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Numbering {
    request: AllocationId,
    /// Highest seq that was known when the numbers were asked for; theirs are all above. While nothing is
    /// uncommitted, this is also how far the seat is resolved (section 7).
    pub(super) floor: Seq,
    count: u64,
    batch: Vec<Decided>,
    announced: LogIndex,
}

/// Numbers as the coordinator gave them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Grant {
    pub(super) request: AllocationId,
    pub(super) first: Seq,
    pub(super) time: Timestamp,
}

/// Where the next event of a batch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    index: LogIndex,
    seq: Seq,
    time: Timestamp,
}

impl Leader {
    /// Takes proposals in. They are decided by [`Leader::form_batch`].
    pub(super) fn propose(&mut self, member: &Member, proposals: Vec<Proposal>, effects: &mut Vec<Effect>) {
        if !self.is_serving(member) || self.hand_over.is_some() {
            refuse_all(proposals, Refusal::Recovering, effects);
            return;
        }
        for proposal in proposals {
            assert!(!proposal.events.is_empty(), "3: {} has no events", proposal.id);
            assert!(
                proposal.as_of >= member.indexed,
                "6.6: {} was looked up as of {}, but {} was announced",
                proposal.id,
                proposal.as_of,
                member.indexed
            );
            let weight = proposal.events.iter().map(NewEvent::weight).sum();
            if self.queue.has_room_for(proposal.events.len(), weight) {
                self.queue.push(Queued {
                    announced: member.indexed,
                    weight,
                    proposal,
                });
            } else {
                refuse_all([proposal], Refusal::Overloaded, effects);
            }
        }
    }

    /// Appends changes of named subscriptions. They need no numbers, so they wait for none, and go before what does.
    pub(super) fn change_cursors(
        &mut self,
        member: &mut Member,
        changes: Vec<(ProposalId, Arc<CursorChange>)>,
        effects: &mut Vec<Effect>,
    ) {
        let refusal = if !self.is_serving(member) || self.hand_over.is_some() {
            Some(Refusal::Recovering)
        } else if self.has_room(member) {
            None
        } else {
            Some(Refusal::Overloaded)
        };
        if let Some(refusal) = refusal {
            refuse_changes(changes, refusal, effects);
            return;
        }
        let mut entries = Vec::with_capacity(changes.len());
        let mut index = member.log.last();
        for (proposal, change) in changes {
            index = index.next();
            self.overlay.skip(index);
            self.replies.push_back(AwaitedCommit {
                index,
                proposal,
                outcome: Outcome::Changed(index),
            });
            entries.push(Arc::new(Entry {
                index,
                epoch: self.epoch,
                body: EntryBody::Cursor(change),
            }));
        }
        member.log.append(entries, effects);
    }

    /// Decides what waits, and asks for as many numbers as that needs, unless an answer is outstanding.
    pub(super) fn form_batch(
        &mut self,
        member: &Member,
        next_request: &mut AllocationId,
        effects: &mut Vec<Effect>,
    ) {
        while self.numbering.is_none() && self.has_room(member) && self.queue.events > 0 {
            let (batch, count, announced) = self.decide_batch(member, effects);
            if count == 0 {
                assert!(batch.is_empty(), "6.6: an answer rests on an empty batch");
                continue;
            }
            let request = *next_request;
            next_request.0 = next_request.0.saturating_add(1);
            let known = member.mark.seq.max(member.known_mark);
            let floor = member.counter.max(member.log.last_seq()).max(known);
            self.numbering = Some(Numbering {
                request,
                floor,
                count,
                batch,
                announced,
            });
            effects.push(Effect::Allocate { request, count });
        }
        self.forget_indexed(member);
    }

    /// Whether memory allows another batch. While not, the queue fills up, and then refuses.
    fn has_room(&self, member: &Member) -> bool {
        member.log.tail_bytes() < SEAT_UNCOMMITTED_BYTES_MAX
            && self.overlay.events() < SEAT_UNINDEXED_EVENTS_MAX
            && self.confirmations.len() < SEAT_WAITERS_MAX
    }

    fn decide_batch(&mut self, member: &Member, effects: &mut Vec<Effect>) -> (Vec<Decided>, u64, LogIndex) {
        let mut batch = Vec::new();
        let mut unnumbered = Unnumbered::default();
        let (mut events, mut bytes) = (0_usize, 0_usize);
        let mut announced = member.indexed;
        while let Some(queued) = self.queue.pop() {
            let Queued { proposal, weight, .. } = queued;
            match decide(&proposal, &self.overlay, &unnumbered) {
                Decision::Append(first_version) => {
                    events = events.saturating_add(proposal.events.len());
                    bytes = bytes.saturating_add(weight);
                    if !sabotage::is(Sabotage::DecideIgnoresWaiting) {
                        unnumbered.note(&proposal, first_version);
                    }
                    batch.push(Decided::Append {
                        proposal,
                        first_version,
                    });
                }
                Decision::RestsOnUnnumbered => batch.push(Decided::RestsOnUnnumbered(proposal)),
                Decision::Answer { outcome, rests_on } => {
                    self.answer(
                        member,
                        Answer {
                            proposal: proposal.id,
                            outcome,
                            rests_on,
                        },
                        effects,
                    );
                    continue;
                }
            }
            announced = announced.min(queued.announced);
            if bytes >= SEAT_BATCH_BYTES_MAX || self.is_next_too_many(events) {
                break;
            }
        }
        (batch, u64::try_from(events).unwrap_or(u64::MAX), announced)
    }

    fn is_next_too_many(&self, events: usize) -> bool {
        let next = self.queue.proposals.front();
        let next = next.map_or(0, |queued| queued.proposal.events.len());
        events.saturating_add(next) > SEAT_BATCH_EVENTS_MAX
    }

    /// Numbers came: the batch becomes entries. An answer to any other request than the outstanding one is void,
    /// its numbers are holes: between its request and now, numbers above it may have been acknowledged.
    pub(super) fn allocated(&mut self, member: &mut Member, grant: Grant, effects: &mut Vec<Effect>) {
        let Some(numbering) = self.numbering.take_if(|numbering| {
            numbering.request == grant.request || sabotage::is(Sabotage::LateAllocationTaken)
        }) else {
            return;
        };
        assert_numbers_are_new(&numbering, grant, member);
        member.time = grant.time;
        let mut next = Place {
            index: member.log.last().next(),
            seq: grant.first,
            time: grant.time,
        };
        let mut entries = Vec::with_capacity(numbering.batch.len());
        for decided in numbering.batch {
            match decided {
                Decided::Append {
                    proposal,
                    first_version,
                } => self.number(proposal, first_version, &mut next, &mut entries),
                Decided::RestsOnUnnumbered(proposal) => self.decide_again(member, &proposal, effects),
            }
        }
        assert!(
            next.seq == grant.first.plus(numbering.count),
            "6.5: the batch did not use exactly the numbers that it asked for"
        );
        if sabotage::is(Sabotage::SplitAppend) {
            for entry in entries {
                member.log.append(vec![entry], effects);
            }
        } else {
            member.log.append(entries, effects);
        }
    }

    /// No numbers will come: the batch is refused. Whether numbers were taken for it does not matter, they are
    /// holes.
    pub(super) fn allocation_void(&mut self, request: AllocationId, effects: &mut Vec<Effect>) {
        if let Some(numbering) = self.numbering.take_if(|numbering| numbering.request == request) {
            let proposals = numbering.batch.into_iter().map(Decided::into_proposal);
            refuse_all(proposals, Refusal::NoNumbers, effects);
        }
    }

    /// Makes the entry of one append, and remembers whom to tell when it is committed.
    fn number(
        &mut self,
        proposal: Proposal,
        first_version: Version,
        next: &mut Place,
        entries: &mut Vec<Arc<Entry>>,
    ) {
        let written = Written {
            first_seq: next.seq,
            first_version,
        };
        let mut version = first_version;
        for events in parts_of(proposal.events) {
            let events = stored_events(&proposal.name, version, *next, events);
            let index = next.index;
            self.overlay.push(index, &events);
            next.index = index.next();
            next.seq = events.last_seq().next();
            version = events.last_version().next();
            entries.push(Arc::new(Entry {
                index,
                epoch: self.epoch,
                body: EntryBody::Events(Arc::new(events)),
            }));
        }
        self.replies.push_back(AwaitedCommit {
            index: next.index.previous(),
            proposal: proposal.id,
            outcome: Outcome::Written(written),
        });
    }

    fn answer(&mut self, member: &Member, answer: Answer, effects: &mut Vec<Effect>) {
        self.confirmations.answer(answer, member.log.commit(), effects);
    }

    /// Everything that the proposal rests on has an entry by now, so that its answer can name seqs and wait for
    /// the commit.
    fn decide_again(&mut self, member: &Member, proposal: &Proposal, effects: &mut Vec<Effect>) {
        match decide(proposal, &self.overlay, &Unnumbered::default()) {
            Decision::Answer { outcome, rests_on } => {
                self.answer(
                    member,
                    Answer {
                        proposal: proposal.id,
                        outcome,
                        rests_on,
                    },
                    effects,
                );
            }
            Decision::Append(_) | Decision::RestsOnUnnumbered => {
                unreachable!("6.6: {} changed its mind when its batch got numbers", proposal.id)
            }
        }
    }

    /// Forgets what the index shows to every proposal that is still to be decided.
    fn forget_indexed(&mut self, member: &Member) {
        let queued = self.queue.proposals.front().map(|queued| queued.announced);
        let numbering = self.numbering.as_ref().map(|numbering| numbering.announced);
        let oldest = [queued, numbering].into_iter().flatten().min();
        self.overlay
            .forget(oldest.map_or(member.indexed, |oldest| oldest.min(member.indexed)));
    }

    /// Refuses what was not appended, at the end of the epoch: its numbers would be void.
    pub(super) fn refuse_unappended(&mut self, refusal: Refusal, effects: &mut Vec<Effect>) {
        let batch = self.numbering.take().map(|numbering| numbering.batch);
        let batch = batch.into_iter().flatten().map(Decided::into_proposal);
        refuse_all(batch, refusal, effects);
        while let Some(queued) = self.queue.pop() {
            refuse_all([queued.proposal], refusal, effects);
        }
    }
}

/// Tells of each change that it was not taken.
pub(super) fn refuse_changes(
    changes: Vec<(ProposalId, Arc<CursorChange>)>,
    refusal: Refusal,
    effects: &mut Vec<Effect>,
) {
    effects.extend(changes.into_iter().map(|(proposal, _)| Effect::Reply {
        proposal,
        outcome: Outcome::Refused(refusal),
    }));
}

/// Rule 6.3.6, on the line where it matters: a number at or below one of these was already passed by a mark, or
/// stands after a number that was acknowledged before this write was sent.
fn assert_numbers_are_new(numbering: &Numbering, grant: Grant, member: &Member) {
    let Grant { first, time, .. } = grant;
    if sabotage::is(Sabotage::Rule6Removed) || sabotage::is(Sabotage::LateAllocationTaken) {
        return;
    }
    assert!(
        first > numbering.floor,
        "6.3.6: seq {first} was given, but {} was known when it was asked for",
        numbering.floor
    );
    assert!(
        first > member.log.last_seq(),
        "6.3.6: seq {first} was given after {} was appended",
        member.log.last_seq()
    );
    assert!(
        first > member.mark.seq || sabotage::is(Sabotage::MarkTooEarly),
        "6.3.6: seq {first} is at or below the mark {}",
        member.mark.seq
    );
    assert!(
        time >= member.time,
        "6.5: event time went back from {} to {time}",
        member.time
    );
}

/// The events that share an entry: all of the append, since what shares an entry is durable and committed together.
fn parts_of(events: Vec<NewEvent>) -> Vec<Vec<NewEvent>> {
    if sabotage::is(Sabotage::SplitAppend) {
        events.into_iter().map(|event| vec![event]).collect()
    } else {
        vec![events]
    }
}

#[expect(
    clippy::expect_used,
    reason = "numbering fails for no events only, which `propose` asserts"
)]
fn stored_events(name: &KeyName, version: Version, next: Place, events: Vec<NewEvent>) -> StoredEvents {
    StoredEvents::number(name.clone(), next.seq, version, next.time, events)
        .expect("a proposal has events: asserted when it arrived")
}

/// Refuses proposals that were not appended.
pub(super) fn refuse_all(
    proposals: impl IntoIterator<Item = Proposal>,
    refusal: Refusal,
    effects: &mut Vec<Effect>,
) {
    effects.extend(proposals.into_iter().map(|proposal| Effect::Reply {
        proposal: proposal.id,
        outcome: Outcome::Refused(refusal),
    }));
}

#[cfg(test)]
mod tests {
    use super::super::testing::World;

    /// Rule 6.6, C7 of the review. Red with `decide_ignores_waiting`.
    #[test]
    fn of_two_writes_that_demand_one_version_one_wins_while_neither_has_a_number() {
        let mut world = World::serving();
        assert_eq!(
            world.run("propose 1 a exact-0 11; 2 a exact-0 12; 3 a any 13"),
            ["allocate a1 count 2"]
        );
        world.run("allocated 1 first 1");
        assert_eq!(
            world.run("persisted 2")[1..4],
            [
                "reply p1 written seq 1 version 1",
                "reply p3 written seq 2 version 2",
                "resolved 2 commit 3",
            ]
        );
    }

    /// Rule 6.6. Red with `decide_ignores_waiting` and with `duplicate_unchecked`.
    #[test]
    fn a_retry_that_overtakes_the_numbers_of_its_first_attempt_is_not_written_again() {
        let mut world = World::serving();
        assert_eq!(
            world.run("propose 1 a any 11; 2 a any 11 retried 0"),
            ["allocate a1 count 1"]
        );
        assert_eq!(world.run("propose 3 a any 11 retried 0"), [""; 0]);
        world.run("allocated 1 first 1");
        assert_eq!(
            world.run("persisted 2")[1..],
            [
                "reply p1 written seq 1 version 1",
                "resolved 1 commit 2",
                "reply p2 duplicate [seq 1 version 1]",
                "reply p3 duplicate [seq 1 version 1]",
            ]
        );
    }

    /// Section 3. Red with `split_append`: a crash between two entries would store a part.
    #[test]
    fn the_events_of_one_append_share_one_entry() {
        let mut world = World::serving();
        assert_eq!(world.run("propose 1 a any 11 12 13"), ["allocate a1 count 3"]);
        assert_eq!(
            world.run("allocated 1 first 5")[0],
            "persist t2 [2#1@1 default/a@1..3 seq 5..7]"
        );
    }

    /// The overlay may forget an entry only when no proposal is left that was looked up before the index showed it.
    #[test]
    fn a_proposal_that_waited_while_the_index_advanced_still_sees_what_it_was_looked_up_before() {
        let mut world = World::serving();
        world.run_all(&["propose 1 a any 11", "allocated 1 first 1", "persisted 2"]);
        world.run("propose 2 z any 12");
        // Looked up before the index shows version 1 of `a`, decided after.
        world.run_all(&["propose 3 a any 13; 4 a any 11 retried 0", "indexed 2"]);
        world.run("allocated 2 first 2");
        assert_eq!(
            world.run("allocated 3 first 3")[0],
            "persist t4 [4#1@1 default/a@2..2 seq 3..3]"
        );
    }

    #[test]
    fn only_the_first_answer_to_the_outstanding_request_is_used() {
        let mut world = World::serving();
        world.run("propose 1 a any 11");
        assert_eq!(world.run("allocated 9 first 1"), [""; 0]);
        world.run_all(&["void 1", "propose 2 a any 12"]);
        assert_eq!(world.run("allocated 1 first 1"), [""; 0], "void: a hole");
        world.run("allocated 2 first 5");
        assert_eq!(
            world.run("allocated 2 first 9"),
            [""; 0],
            "the first answer was used"
        );
        assert_eq!(world.run("void 2"), [""; 0]);
    }

    #[test]
    fn numbers_that_an_earlier_epoch_asked_for_are_holes() {
        let mut world = World::serving();
        world.run_all(&[
            "propose 1 a any 11",
            "won 2",
            "promise-persisted 2",
            "persisted 2",
            "indexed 2",
        ]);
        assert_eq!(world.run("allocated 1 first 1"), [""; 0]);
        assert_eq!(world.run("propose 2 a any 12"), ["allocate a2 count 1"]);
    }

    #[test]
    #[should_panic(expected = "6.3.6: seq 7 was given, but 7 was known")]
    fn a_number_at_or_below_the_counter_observed_before_is_a_bug() {
        World::serving().run_all(&["counter 7", "propose 1 a any 11", "allocated 1 first 7"]);
    }

    #[test]
    #[should_panic(expected = "6.3.6: seq 2 was given, but 2 was known")]
    fn a_number_at_or_below_the_own_last_seq_is_a_bug() {
        World::serving().run_all(&[
            "propose 1 a any 11 12",
            "allocated 1 first 1",
            "propose 2 a any 13",
            "allocated 2 first 2",
        ]);
    }

    #[test]
    #[should_panic(expected = "6.6: p2 was looked up as of 1, but 2 was announced")]
    fn a_proposal_looked_up_before_what_was_announced_is_a_bug() {
        let mut world = World::serving();
        let stale = world.index.clone();
        world.run_all(&[
            "propose 1 a any 11",
            "allocated 1 first 1",
            "persisted 2",
            "indexed 2",
        ]);
        world.index = stale;
        world.run("propose 2 a any 12");
    }

    #[test]
    fn what_waits_is_bounded_and_more_is_refused_as_overload() {
        let mut world = World::serving();
        world.run("propose 0 z any 1");
        let mut next = 2_u64;
        let mut refused = vec![];
        while refused.is_empty() {
            let ids: Vec<_> = (next..).take(1_000).map(|id| id.to_string()).collect();
            refused = world.run(&format!("propose {next} a any {}", ids.join(" ")));
            next = next.saturating_add(1_000);
            assert!(next < 70_000);
        }
        assert_eq!(refused.len(), 1);
        assert!(refused[0].ends_with("refused overloaded"));
        assert!(world.seat.waiting_events() > 64_000);
        // The queue drains in batches of a bounded size.
        assert_eq!(world.run("allocated 1 first 1")[1], "allocate a2 count 16000");
    }

    #[test]
    fn the_core_remembers_nothing_of_what_is_indexed() {
        let mut world = World::serving();
        for n in 1..=50_u64 {
            let write = format!("propose {n} k{n} any {n}");
            let allocated = format!("allocated {n} first {n}");
            let place = n.saturating_add(1);
            let (persisted, indexed) = (format!("persisted {place}"), format!("indexed {place}"));
            world.run_all(&[&write, &allocated, &persisted, &indexed]);
        }
        let super::super::seat::Role::Leader(leader) = &world.seat.role else {
            panic!("not a leader");
        };
        assert_eq!(leader.overlay.events(), 0);
        assert!(leader.replies.is_empty());
        assert_eq!(world.seat.member.log.tail_bytes(), 0);
    }
}
