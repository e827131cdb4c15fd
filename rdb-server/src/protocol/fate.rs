//! Several members, moved at random: messages lost, repeated and reordered, crashes that lose what was not durable,
//! elections at any moment. Checked after every step: committed entries are the same everywhere and are never lost
//! (6.4), no event is committed that a mark has passed (7), an acknowledged write is committed, a confirmed read sees
//! what was acknowledged before it, numbers agree with real time.

#![expect(clippy::arithmetic_side_effects, reason = "small numbers in tests")]

use super::cluster::Cluster;
use super::testing::{event_id, proposal};
use super::{AllocationId, Effect, Input, LeaderKey, Outcome, ReadId, Refusal, RoleName, Tick};
use proptest::prelude::*;
use rdb_proto::entry::Entry;
use rdb_proto::event::Expectation;
use rdb_proto::types::{Epoch, LogIndex, NodeId, Seq, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One thing that happens; numbers choose among what is there, and impossible ones are skipped.
#[derive(Debug, Clone, Copy)]
enum Act {
    Deliver(usize),
    Repeat(usize),
    Drop(usize),
    Persist(u64, usize),
    Promise(u64),
    Index(u64),
    LogRead(u64),
    Tick(u64, u64),
    Win(u64),
    Propose(u64),
    Read(u64),
    Allocate { late: bool },
    Void,
    Observe(u64),
    Foreign,
    Restart(u64),
    HandOver(u64),
    Change(usize),
    Settle,
}

fn act(nodes: u64) -> impl Strategy<Value = Act> {
    let node = 1..=nodes;
    prop_oneof![
        40 => (0..6_usize).prop_map(Act::Deliver),
        2 => (0..20_usize).prop_map(Act::Repeat),
        4 => (0..20_usize).prop_map(Act::Drop),
        12 => (node.clone(), 0..3_usize).prop_map(|(node, count)| Act::Persist(node, count)),
        10 => node.clone().prop_map(Act::Promise),
        4 => node.clone().prop_map(Act::Index),
        4 => node.clone().prop_map(Act::LogRead),
        6 => (node.clone(), 0..200_u64).prop_map(|(node, time)| Act::Tick(node, time)),
        2 => node.clone().prop_map(Act::Win),
        8 => node.clone().prop_map(Act::Propose),
        3 => node.clone().prop_map(Act::Read),
        8 => prop::bool::weighted(0.2).prop_map(|late| Act::Allocate { late }),
        1 => Just(Act::Void),
        6 => node.clone().prop_map(Act::Observe),
        2 => Just(Act::Foreign),
        1 => node.clone().prop_map(Act::Restart),
        1 => node.prop_map(Act::HandOver),
        2 => (0..6_usize).prop_map(Act::Change),
        2 => Just(Act::Settle),
    ]
}

#[derive(Debug, Default)]
struct Fate {
    counter: Seq,
    granted: u64,
    now: u64,
    next: u64,
    holder: Option<Epoch>,
    revision: u64,
    /// Requests for numbers that are outstanding, and those whose answer is late.
    requests: Vec<(NodeId, AllocationId, u64)>,
    late: Vec<(NodeId, AllocationId, Seq)>,
    /// Requests whose txn is made and whose answer is on its way.
    granted_numbers: Vec<(NodeId, AllocationId, Seq)>,
    committed: BTreeMap<LogIndex, Arc<Entry>>,
    /// Highest mark, by the commit it is valid for.
    marks: BTreeMap<LogIndex, Seq>,
    sent_at: BTreeMap<u64, Seq>,
    reads: BTreeMap<u64, LogIndex>,
    acknowledged: Seq,
    /// The last entry that was acknowledged.
    acknowledged_at: LogIndex,
    written: usize,
    confirmed: usize,
    resolved: usize,
    elections: usize,
}

impl Fate {
    fn act(&mut self, cluster: &mut Cluster, act: Act) {
        match act {
            Act::Deliver(_) | Act::Repeat(_) | Act::Drop(_) => self.network(cluster, act),
            Act::Persist(node, position) => {
                let ticket = cluster.worlds[&NodeId(node)].writes.get(position);
                if let Some(ticket) = ticket.map(|write| write.ticket) {
                    self.step(cluster, NodeId(node), Input::Persisted(ticket));
                }
            }
            Act::Promise(node) => {
                if let Some(epoch) = cluster.worlds[&NodeId(node)].promises.front().copied() {
                    self.step(cluster, NodeId(node), Input::PromisePersisted(epoch));
                }
            }
            Act::Index(node) => {
                let world = cluster.worlds.get_mut(&NodeId(node)).unwrap();
                let input = world.apply_index(world.seat.commit());
                self.step(cluster, NodeId(node), input);
            }
            Act::LogRead(node) => {
                let world = cluster.worlds.get_mut(&NodeId(node)).unwrap();
                if !world.log_reads.is_empty() {
                    let input = world.read_log();
                    self.step(cluster, NodeId(node), input);
                }
            }
            Act::Tick(node, passed) => {
                self.now += passed;
                for world in cluster.worlds.values_mut() {
                    world.now = Tick(self.now);
                }
                self.step(cluster, NodeId(node), Input::Tick);
            }
            Act::Win(node) => self.win(cluster, NodeId(node)),
            Act::Propose(node) => self.propose(cluster, NodeId(node)),
            Act::Read(node) => {
                self.next += 1;
                self.reads.insert(self.next, self.acknowledged_at);
                self.step(cluster, NodeId(node), Input::Read(ReadId(self.next)));
            }
            Act::Allocate { late } => self.allocate(cluster, late),
            Act::Void => {
                if let Some((node, request, count)) = self.requests.pop() {
                    // The txn may have been made all the same, and its answer comes late.
                    self.late.push((node, request, self.counter.next()));
                    self.counter = self.counter.plus(count);
                    self.step(cluster, node, Input::AllocationVoid { request });
                }
            }
            Act::Observe(node) => self.step(cluster, NodeId(node), Input::CounterObserved(self.counter)),
            Act::Foreign => {
                self.counter = self.counter.next();
                self.acknowledged = self.acknowledged.max(self.counter);
            }
            Act::Restart(node) => {
                cluster.worlds.get_mut(&NodeId(node)).unwrap().restart();
                self.requests.retain(|(asker, ..)| *asker != NodeId(node));
                // Another incarnation: the driver knows that older requests are not its own.
                self.late.retain(|(asker, ..)| *asker != NodeId(node));
                self.granted_numbers.retain(|(asker, ..)| *asker != NodeId(node));
                let members = cluster.worlds[&NodeId(node)].membership.clone();
                self.step(cluster, NodeId(node), Input::Members(members));
                let key = self.key();
                self.step(cluster, NodeId(node), key);
            }
            Act::HandOver(to) => {
                if let Some(epoch) = self.holder {
                    self.step(cluster, epoch.node, Input::HandOver(NodeId(to)));
                }
            }
            Act::Change(position) => self.change(cluster, position),
            Act::Settle => self.settle(cluster),
        }
    }

    /// The controller begins or ends a change of the members (rule 6.3.8): the previous ones are dropped once the
    /// holder's epoch-start is committed under the joint membership.
    fn change(&mut self, cluster: &mut Cluster, position: usize) {
        let mut membership = cluster.worlds[&NodeId(1)].membership.clone();
        if membership.previous.is_empty() {
            let is_outside = |node: &&NodeId| !membership.members.contains(node);
            let Some(outside) = cluster.worlds.keys().find(is_outside).copied() else {
                return;
            };
            membership.previous = membership.members.clone();
            let leaving = position % membership.members.len();
            membership.members[leaving] = outside;
            membership.members.sort();
        } else {
            let holder = self.holder.map(|epoch| (cluster.seat(epoch.node.0), epoch));
            let is_joint = holder.is_some_and(|(seat, epoch)| {
                seat.leader() == Some((epoch.node, epoch))
                    && seat.established_config() == Some(membership.number)
            });
            if !is_joint {
                return;
            }
            membership.previous.clear();
        }
        membership.number += 1;
        for world in cluster.worlds.values_mut() {
            world.membership = membership.clone();
        }
        for node in cluster.worlds.keys().copied().collect::<Vec<_>>() {
            self.step(cluster, node, Input::Members(membership.clone()));
        }
    }

    fn network(&mut self, cluster: &mut Cluster, act: Act) {
        let (Act::Deliver(position) | Act::Repeat(position) | Act::Drop(position)) = act else {
            return;
        };
        let message = if matches!(act, Act::Repeat(_)) {
            cluster.network.get(position).cloned()
        } else {
            cluster.network.remove(position)
        };
        if let Some((from, to, message)) = message
            && !matches!(act, Act::Drop(_))
        {
            self.step(cluster, to, Input::Received { from, message });
        }
    }

    fn key(&self) -> Input {
        Input::LeaderKey(LeaderKey {
            holder: self.holder,
            successor: None,
            revision: self.revision,
        })
    }

    fn win(&mut self, cluster: &mut Cluster, node: NodeId) {
        if !cluster.worlds[&node].membership.members.contains(&node) {
            return;
        }
        self.granted += 1;
        self.revision += 1;
        self.elections += 1;
        let number = self.granted;
        let epoch = Epoch { number, node };
        self.holder = Some(epoch);
        let membership = cluster.worlds[&node].membership.clone();
        self.step(cluster, node, Input::Won { epoch, membership });
        self.tell_key(cluster);
    }

    fn tell_key(&mut self, cluster: &mut Cluster) {
        for node in cluster.worlds.keys().copied().collect::<Vec<_>>() {
            // Anew for each: what one does may change the key again.
            self.step(cluster, node, self.key());
        }
    }

    fn propose(&mut self, cluster: &mut Cluster, node: NodeId) {
        self.next += 1;
        self.sent_at.insert(self.next, self.acknowledged);
        let mut proposal = proposal(
            self.next,
            ["a", "b"][usize::try_from(self.next % 2).unwrap()],
            Expectation::Any,
            &[],
        );
        proposal.events.push(super::testing::new_event(
            u128::from(self.next),
            rdb_proto::event::EventKind::Write,
        ));
        assert_eq!(proposal.events[0].event_id, event_id(u128::from(self.next)));
        cluster.worlds[&node].index.look_up(&mut proposal);
        self.step(cluster, node, Input::Propose(vec![proposal]));
    }

    fn allocate(&mut self, cluster: &mut Cluster, late: bool) {
        if late {
            if let Some((node, request, first)) = self.late.pop() {
                self.allocated(cluster, node, request, first);
            }
        } else if let Some((node, request, first)) = self.granted_numbers.pop() {
            self.allocated(cluster, node, request, first);
        } else if let Some((node, request, count)) = self.requests.pop() {
            let first = self.counter.next();
            self.counter = self.counter.plus(count);
            // The txn is made; its answer takes a while, and the counter may be observed meanwhile.
            self.granted_numbers.push((node, request, first));
        }
    }

    fn allocated(&mut self, cluster: &mut Cluster, node: NodeId, request: AllocationId, first: Seq) {
        let time = Timestamp(self.counter.get());
        self.step(cluster, node, Input::Allocated { request, first, time });
    }

    /// Nothing is lost for a while: what can end, ends.
    fn settle(&mut self, cluster: &mut Cluster) {
        let nodes: Vec<u64> = cluster.worlds.keys().map(|node| node.0).collect();
        for _ in 0..20 {
            for node in &nodes {
                while !cluster.worlds[&NodeId(*node)].promises.is_empty() {
                    self.act(cluster, Act::Promise(*node));
                }
                self.act(cluster, Act::Persist(*node, 0));
                self.act(cluster, Act::Index(*node));
                self.act(cluster, Act::LogRead(*node));
            }
            for _ in 0..cluster.network.len() {
                self.act(cluster, Act::Deliver(0));
            }
        }
    }

    fn step(&mut self, cluster: &mut Cluster, node: NodeId, input: Input) {
        for effect in cluster.step(node, input) {
            self.observe(cluster, node, effect);
        }
    }

    fn observe(&mut self, cluster: &mut Cluster, node: NodeId, effect: Effect) {
        match effect {
            Effect::Allocate { request, count } => self.requests.push((node, request, count)),
            Effect::Committed { entries, .. } => self.committed(&entries),
            Effect::Resolved { mark, commit } => self.resolved(mark, commit),
            Effect::Reply { proposal, outcome } => self.reply(proposal.0, outcome),
            Effect::ReadConfirmed { read, index } => {
                self.confirmed += 1;
                let at_least = self.reads.remove(&read.0).unwrap();
                assert!(
                    index >= at_least,
                    "{read} at {index} misses what was acknowledged at {at_least}"
                );
            }
            Effect::EpochTooLow { promised, .. } => {
                self.granted = self.granted.max(promised.number);
                self.step(cluster, node, Input::NotWon);
            }
            Effect::Campaign { above, revision } => {
                let is_member = cluster.worlds[&node].membership.members.contains(&node);
                if revision == self.revision && is_member {
                    self.granted = self.granted.max(above.number);
                    self.win(cluster, node);
                } else {
                    self.step(cluster, node, Input::NotWon);
                }
            }
            Effect::GiveUp { epoch, .. } => {
                if self.holder == Some(epoch) {
                    self.holder = None;
                    self.revision += 1;
                    self.tell_key(cluster);
                }
            }
            Effect::ReadRefused { .. }
            | Effect::PersistPromise(_)
            | Effect::Persist { .. }
            | Effect::Send { .. }
            | Effect::ReadLog { .. }
            | Effect::Repaired => {}
        }
    }

    fn committed(&mut self, entries: &[Arc<Entry>]) {
        for entry in entries {
            if let Some(before) = self.committed.insert(entry.index, Arc::clone(entry)) {
                assert_eq!(&before, entry, "6.4: a committed entry is another one now");
                continue;
            }
            let Some((first, _)) = entry.seqs() else {
                continue;
            };
            let passed = self.marks.range(..entry.index).map(|(_, mark)| *mark).max();
            assert!(
                passed.unwrap_or_default() < first,
                "7: a mark passed {first} at {}, which is committed",
                entry.index
            );
        }
    }

    fn resolved(&mut self, mark: Seq, commit: LogIndex) {
        self.resolved += 1;
        for (index, entry) in self.committed.range(commit.next()..) {
            let first = entry.seqs().map(|(first, _)| first);
            assert!(
                first.is_none_or(|first| first > mark),
                "7: the mark {mark} for {commit} passed what is committed at {index}"
            );
        }
        let marked = self.marks.entry(commit).or_default();
        *marked = mark.max(*marked);
    }

    fn reply(&mut self, proposal: u64, outcome: Outcome) {
        match outcome {
            Outcome::Written(written) => {
                let sent_at = self.sent_at[&proposal];
                assert!(
                    written.first_seq > sent_at,
                    "3: {} was acknowledged before p{proposal} was sent, which became {}",
                    sent_at,
                    written.first_seq
                );
                let has =
                    |entry: &Arc<Entry>| entry.seqs().is_some_and(|(first, _)| first == written.first_seq);
                let entry = self.committed.values().find(|entry| has(entry));
                let index = entry.expect("6.4: an acknowledged write is committed").index;
                self.acknowledged_at = self.acknowledged_at.max(index);
                self.acknowledged = self.acknowledged.max(written.first_seq);
                self.written += 1;
            }
            Outcome::Unknown
            | Outcome::Refused(
                Refusal::NotLeader { .. } | Refusal::Recovering | Refusal::NoNumbers | Refusal::Overloaded,
            ) => {}
            other @ (Outcome::Duplicate(_)
            | Outcome::Conflict(_)
            | Outcome::EventIdReused(_)
            | Outcome::Changed(_)
            | Outcome::RetryTooOld(_)) => panic!("nothing is conditional here: {other}"),
        }
    }
}

fn live(nodes: u64, writes: usize, acts: Vec<Act>) -> (Cluster, Fate) {
    let mut cluster = Cluster::new(nodes, writes);
    let mut fate = Fate::default();
    for node in 1..=nodes {
        let members = cluster.worlds[&NodeId(node)].membership.clone();
        fate.step(&mut cluster, NodeId(node), Input::Members(members));
    }
    fate.act(&mut cluster, Act::Win(1));
    fate.act(&mut cluster, Act::Settle);
    for act in acts {
        fate.act(&mut cluster, act);
    }
    (cluster, fate)
}

/// Once nothing is lost any more, a seat is led, writes, and everybody has everything.
fn assert_heals(cluster: &mut Cluster, fate: &mut Fate) {
    let nodes: Vec<u64> = cluster.worlds.keys().map(|node| node.0).collect();
    for _ in 0..60 {
        for node in &nodes {
            fate.act(cluster, Act::Tick(*node, 40));
        }
        fate.act(cluster, Act::Settle);
        while !fate.requests.is_empty() || !fate.granted_numbers.is_empty() {
            fate.act(cluster, Act::Allocate { late: false });
        }
    }
    let nodes: Vec<u64> = cluster.worlds[&NodeId(1)]
        .membership
        .members
        .iter()
        .map(|node| node.0)
        .collect();
    let leads = |node: &&u64| cluster.seat(**node).role() == RoleName::Leader;
    let leaders: Vec<_> = nodes.iter().filter(leads).copied().collect();
    assert_eq!(leaders.len(), 1, "one leads: {leaders:?} {:?}", fate.holder);
    let before = fate.written;
    fate.act(cluster, Act::Propose(leaders[0]));
    fate.act(cluster, Act::Allocate { late: false });
    fate.act(cluster, Act::Allocate { late: false });
    for _ in 0..4 {
        fate.act(cluster, Act::Settle);
        fate.act(cluster, Act::Tick(leaders[0], 40));
    }
    fate.act(cluster, Act::Settle);
    assert_eq!(fate.written, before + 1, "a write succeeds");
    for node in &nodes {
        assert_eq!(
            cluster.seat(*node).commit(),
            cluster.seat(leaders[0]).log_end().index
        );
        assert!(cluster.seat(*node).mark().seq >= fate.acknowledged.min(cluster.seat(*node).last_seq()));
    }
}

/// Three of four nodes are members.
fn live_and_change(acts: Vec<Act>) -> (Cluster, Fate) {
    let mut cluster = Cluster::new(4, 2);
    for world in cluster.worlds.values_mut() {
        world.membership.members.retain(|node| node.0 < 4);
    }
    let mut fate = Fate::default();
    for node in 1..=4 {
        let members = cluster.worlds[&NodeId(node)].membership.clone();
        fate.step(&mut cluster, NodeId(node), Input::Members(members));
    }
    fate.act(&mut cluster, Act::Win(1));
    fate.act(&mut cluster, Act::Settle);
    for act in acts {
        fate.act(&mut cluster, act);
    }
    (cluster, fate)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_to_three_members_their_promises_hold(acts in proptest::collection::vec(act(3), 1..600)) {
        let (mut cluster, mut fate) = live(3, 2, acts);
        assert_heals(&mut cluster, &mut fate);
    }

    #[test]
    fn whatever_happens_while_members_change_their_promises_hold(
        acts in proptest::collection::vec(act(4), 1..900)
    ) {
        let (mut cluster, mut fate) = live_and_change(acts);
        assert_heals(&mut cluster, &mut fate);
    }

    #[test]
    fn whatever_happens_to_five_members_their_promises_hold(acts in proptest::collection::vec(act(5), 1..600)) {
        let (mut cluster, mut fate) = live(5, 3, acts);
        assert_heals(&mut cluster, &mut fate);
    }
}

/// The random fates prove nothing if nothing happens in them.
#[test]
fn a_quiet_fate_writes_reads_and_resolves() {
    let acts = (0..30_u64).flat_map(|n| {
        let node = n % 3 + 1;
        [
            Act::Propose(node),
            Act::Allocate { late: false },
            Act::Allocate { late: false },
            Act::Read(node),
            Act::Tick(node, 10),
            Act::Observe(node),
            Act::Settle,
        ]
    });
    let mut acts: Vec<_> = acts.collect();
    acts.insert(105, Act::Win(2));
    let (mut cluster, mut fate) = live(3, 2, acts);
    assert_heals(&mut cluster, &mut fate);
    assert!(fate.written >= 10 && fate.confirmed >= 10, "{fate:?}");
    assert!(fate.resolved > 20 && fate.elections == 2, "{fate:?}");
}
