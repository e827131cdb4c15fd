//! A member alone, moved at random through every order of inputs that a driver may choose, with restarts and lost
//! writes; a client's record is checked at the end of every life. What it checks: an acknowledged write is never
//! lost, changed or taken apart, and met its expectation; an event id is stored at most once; versions are dense and
//! seqs ascend; a mark is never passed; a read sees what was acknowledged before it; and an answer tells committed
//! state.

#![expect(clippy::arithmetic_side_effects, reason = "small numbers in tests")]

use super::testing::{World, alone, epoch, event_id, key, proposal};
use super::{
    AllocationId, Effect, Input, KeyState, Outcome, PersistTicket, ProposalId, ReadId, Refusal, RoleName,
};
use proptest::prelude::*;
use rdb_proto::event::Expectation;
use rdb_proto::types::{EventId, KeyName, LogIndex, Seq, Timestamp, Version};
use std::collections::{BTreeMap, BTreeSet};

/// One thing that happens; impossible ones are skipped.
#[derive(Debug, Clone)]
enum Act {
    Propose(Vec<Wish>),
    Read,
    Allocate { late: bool },
    Void,
    Foreign(u64),
    Observe,
    Persist(usize),
    Promise,
    Index(u64),
    Win,
    Lose,
    Restart,
}

/// A write that a client wants. A small world of keys and ids makes them meet.
#[derive(Debug, Clone)]
struct Wish {
    key: u8,
    ids: Vec<u128>,
    expect: Expectation,
}

fn wish() -> impl Strategy<Value = Wish> {
    let expect = prop_oneof![
        4 => Just(Expectation::Any),
        1 => Just(Expectation::Absent),
        1 => Just(Expectation::Exists),
        2 => (0..6_u64).prop_map(|version| Expectation::Exact(Version(version))),
    ];
    // Ids come in families of three: the same append again, a part of it, or another one that overlaps.
    let ids =
        (0..24_u128, 1..=3_u128).prop_map(|(family, count)| (1..=count).map(|n| family * 3 + n).collect());
    (0..3_u8, ids, expect).prop_map(|(key, ids, expect)| Wish { key, ids, expect })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => proptest::collection::vec(wish(), 1..4).prop_map(Act::Propose),
        2 => Just(Act::Read),
        6 => prop::bool::weighted(0.1).prop_map(|late| Act::Allocate { late }),
        1 => Just(Act::Void),
        1 => (1..4_u64).prop_map(Act::Foreign),
        2 => Just(Act::Observe),
        8 => (1..4_usize).prop_map(Act::Persist),
        4 => Just(Act::Promise),
        6 => (1..5_u64).prop_map(Act::Index),
        3 => Just(Act::Win),
        1 => Just(Act::Lose),
        1 => Just(Act::Restart),
    ]
}

/// What a client knows of a proposal.
#[derive(Debug)]
struct Asked {
    key: KeyName,
    ids: Vec<EventId>,
    expect: Expectation,
    /// The database had reached this seq when it was sent.
    sent_at: Seq,
}

#[derive(Debug, Default)]
struct Story {
    counter: Seq,
    granted: u64,
    held: u64,
    requests: Vec<(AllocationId, u64)>,
    void: Vec<(AllocationId, u64)>,
    asked: BTreeMap<ProposalId, Asked>,
    /// Every append that was ever sent.
    sent: BTreeSet<(KeyName, Vec<EventId>)>,
    acknowledged: Vec<(KeyName, Vec<EventId>, Seq, Version)>,
    next: u64,
    mark: Seq,
    acknowledged_seq: Seq,
    reads: BTreeMap<ReadId, Seq>,
    written: usize,
    conflicts: usize,
    duplicates: usize,
}

impl Story {
    fn act(&mut self, world: &mut World, act: Act) {
        let input = match act {
            Act::Propose(wishes) => Some(self.propose(world, wishes)),
            Act::Read => {
                self.next += 1;
                self.reads.insert(ReadId(self.next), self.acknowledged_seq);
                Some(Input::Read(ReadId(self.next)))
            }
            Act::Allocate { late } => self.allocate(late),
            Act::Void => self.requests.pop().map(|(request, count)| {
                self.void.push((request, count));
                Input::AllocationVoid { request }
            }),
            Act::Foreign(count) => {
                self.counter = self.counter.plus(count);
                None
            }
            Act::Observe => Some(Input::CounterObserved(self.counter)),
            Act::Persist(count) => {
                let last = count.min(world.writes.len());
                let ticket: Option<PersistTicket> = last.checked_sub(1).map(|i| world.writes[i].ticket);
                ticket.map(Input::Persisted)
            }
            Act::Promise => {
                let promised = world.seat.promised();
                (promised > world.promised).then_some(Input::PromisePersisted(promised))
            }
            Act::Index(count) => {
                let index = world.index.applied.plus(count).min(world.seat.commit());
                (index > world.index.applied).then(|| world.apply_index(index))
            }
            Act::Win => (world.seat.role() == RoleName::Follower).then(|| {
                self.granted += 1;
                self.held = self.granted;
                Input::Won {
                    epoch: epoch(self.granted),
                    membership: alone(),
                }
            }),
            Act::Lose => Some(Input::Lost {
                epoch: epoch(self.held),
            }),
            Act::Restart => {
                world.restart();
                self.mark = Seq::ZERO;
                // The driver's requests died with it; so did every client's connection.
                self.requests.clear();
                self.void.clear();
                self.asked.clear();
                self.reads.clear();
                self.check(world);
                None
            }
        };
        for effect in input.map(|input| world.step(input)).into_iter().flatten() {
            self.observe(world, effect);
        }
    }

    fn propose(&mut self, world: &World, wishes: Vec<Wish>) -> Input {
        let mut proposals = vec![];
        for wish in wishes {
            self.next += 1;
            let name = ["a", "b", "c"][usize::from(wish.key)];
            let mut proposal = proposal(self.next, name, wish.expect, &wish.ids);
            world.index.look_up(&mut proposal);
            let asked = Asked {
                key: key(name),
                ids: wish.ids.iter().copied().map(event_id).collect(),
                expect: wish.expect,
                sent_at: self.acknowledged_seq,
            };
            self.sent.insert((asked.key.clone(), asked.ids.clone()));
            self.asked.insert(proposal.id, asked);
            proposals.push(proposal);
        }
        Input::Propose(proposals)
    }

    fn allocate(&mut self, late: bool) -> Option<Input> {
        let (request, count) = if late {
            self.void.pop()
        } else {
            self.requests.pop()
        }?;
        let first = self.counter.next();
        self.counter = self.counter.plus(count);
        Some(Input::Allocated {
            request,
            first,
            time: Timestamp(self.counter.get()),
        })
    }

    fn observe(&mut self, world: &World, effect: Effect) {
        match effect {
            Effect::Allocate { request, count } => self.requests.push((request, count)),
            Effect::Reply { proposal, outcome } => self.reply(world, proposal, outcome),
            Effect::Resolved { mark, commit } => {
                assert!(mark > self.mark, "a mark is told once");
                assert!(commit <= world.seat.commit());
                self.mark = mark;
            }
            Effect::ReadConfirmed { read, index } => {
                let at_least = self.reads.remove(&read).unwrap();
                assert!(index <= world.seat.commit());
                let seen = world.committed.iter().filter(|entry| entry.index <= index);
                let seen = seen.filter_map(|entry| entry.seqs()).next_back();
                assert!(
                    seen.unwrap_or_default().1 >= at_least,
                    "a read misses an acknowledged write"
                );
            }
            Effect::ReadRefused { read, .. } => assert!(self.reads.remove(&read).is_some()),
            Effect::Committed { entries, .. } => {
                for (first, _) in entries.iter().filter_map(|entry| entry.seqs()) {
                    assert!(
                        first > self.mark,
                        "seq {first} commits below the mark {}",
                        self.mark
                    );
                }
            }
            Effect::EpochTooLow { .. } => panic!("every epoch is new"),
            Effect::PersistPromise(_) | Effect::Persist { .. } => {}
            Effect::Send { .. }
            | Effect::Campaign { .. }
            | Effect::GiveUp { .. }
            | Effect::ReadLog { .. }
            | Effect::Repaired => {
                panic!("a member alone needs nobody: {effect}")
            }
        }
    }

    fn reply(&mut self, world: &World, proposal: ProposalId, outcome: Outcome) {
        let asked = self.asked.remove(&proposal).expect("answered once");
        let commit = world.seat.committed_seq();
        match outcome {
            Outcome::Written(written) => {
                assert!(
                    written.first_seq > asked.sent_at,
                    "seq order agrees with real time"
                );
                assert!(written.first_seq <= commit);
                let before = written.first_version.previous();
                let is_met = match asked.expect {
                    Expectation::Any => true,
                    Expectation::Absent => before == Version::ZERO,
                    Expectation::Exists => before > Version::ZERO,
                    Expectation::Exact(version) => before == version,
                };
                assert!(
                    is_met,
                    "{proposal} expected {}, and followed {before}",
                    asked.expect
                );
                self.written += 1;
                self.acknowledge(asked, written.first_seq, written.first_version);
            }
            Outcome::Duplicate(known) => {
                assert_eq!(known.len(), asked.ids.len());
                assert!(known[0].seq <= commit, "told from what is not committed");
                self.duplicates += 1;
                self.acknowledge(asked, known[0].seq, known[0].version);
            }
            Outcome::Conflict(KeyState { seq, .. }) => {
                assert!(seq <= commit, "told from what is not committed");
                self.conflicts += 1;
            }
            Outcome::EventIdReused(_) | Outcome::Unknown => {}
            Outcome::Changed(index) => panic!("an append changed a cursor at {index}"),
            Outcome::RetryTooOld(_) => panic!("nothing was sent as a retry"),
            Outcome::Refused(refusal) => assert_ne!(refusal, Refusal::Overloaded),
        }
    }

    fn acknowledge(&mut self, asked: Asked, first: Seq, version: Version) {
        let last = first.plus(u64::try_from(asked.ids.len()).unwrap()).previous();
        self.acknowledged_seq = self.acknowledged_seq.max(last);
        self.acknowledged.push((asked.key, asked.ids, first, version));
    }

    /// Every acknowledged write is on the disk, where it was said to be, and no id is there twice.
    fn check(&self, world: &World) {
        let mut stored = BTreeMap::new();
        let mut versions: BTreeMap<KeyName, Version> = BTreeMap::new();
        let mut last = Seq::ZERO;
        for entry in &world.disk {
            let rdb_proto::entry::EntryBody::Events(events) = &entry.body else {
                continue;
            };
            assert!(events.first_seq > last, "seqs ascend");
            last = events.last_seq();
            let append = (events.name.clone(), events.event_ids.to_vec());
            assert!(self.sent.contains(&append), "{events:?} is a part of an append");
            let before = versions.insert(events.name.clone(), events.last_version());
            assert_eq!(
                events.first_version,
                before.unwrap_or_default().next(),
                "versions are dense"
            );
            for (n, id) in (0..).zip(events.event_ids.iter()) {
                let place = (
                    events.name.clone(),
                    events.first_seq.plus(n),
                    events.first_version.plus(n),
                );
                assert_eq!(stored.insert(*id, place), None, "{id} is stored once");
            }
        }
        for (name, ids, first, version) in &self.acknowledged {
            for (n, id) in (0..).zip(ids) {
                let place = (name.clone(), first.plus(n), version.plus(n));
                assert_eq!(stored.get(id), Some(&place), "{id} was acknowledged");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Section 3 and rule 6.4, for every order of inputs. Red with every sabotage.
    #[test]
    fn whatever_happens_to_a_member_alone_its_promises_hold(acts in proptest::collection::vec(act(), 1..300)) {
        let mut world = World::serving();
        let mut story = Story { granted: 1, held: 1, ..Story::default() };
        for act in acts {
            story.act(&mut world, act);
        }
        story.act(&mut world, Act::Restart);
    }
}

/// The random lives above prove nothing if nothing happens in them.
#[test]
fn a_quiet_life_writes_conflicts_and_repeats() {
    let mut world = World::serving();
    let mut story = Story {
        granted: 1,
        held: 1,
        ..Story::default()
    };
    for n in 0..40_u128 {
        let ids = vec![n / 2 + 1];
        let expect = if n % 5 == 0 {
            Expectation::Absent
        } else {
            Expectation::Any
        };
        story.act(&mut world, Act::Propose(vec![Wish { key: 0, ids, expect }]));
        for act in [Act::Allocate { late: false }, Act::Persist(9), Act::Index(9)] {
            story.act(&mut world, act);
        }
    }
    story.check(&world);
    assert!(
        story.written > 10 && story.conflicts > 2 && story.duplicates > 10,
        "{story:?}"
    );
    assert_eq!(world.seat.indexed(), world.seat.commit());
    assert!(world.seat.commit() > LogIndex(10));
}
