//! A cluster in one thread: nodes, their disks, the network, the coordinator, clients and subscribers, moved by one
//! queue from one seed. What a node does with inputs and effects is in [`super::node`], what clients do in
//! [`super::client`], what goes wrong in [`super::nemesis`].

use super::checks::{Verdict, Violation, broken};
use super::checks::{
    commits::Commits, cursors::Cursors, effects::Effects, kept::Kept, leaders::Leaders, marks::Marks,
    matching::Matching, oracle, seqs::Seqs, served, versions::Versions,
};
use super::client::{Caller, Client, Reply};
use super::consumer::Consumer;
use super::controller::Step;
use super::coordinator::{Answer, Change, Coordinator, Request};
use super::guarding::SeenMessage;
use super::nemesis::Storm;
use super::network::Network;
use super::node::Node;
use super::plan::{Fault, MILLI, Micros, Plan, SECOND};
use super::queue::Queue;
use super::subscriber::Subscriber;
use super::subscriptions::{Question, Told};
use super::trace::Trace;
use crate::random::Random;
use crate::workload::{History, Tick};
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::event::{Event as Stored, decode_batch};
use rdb_proto::types::{GroupId, KeyName, LogIndex, Membership, NodeId, SeatId, Side};
use rdb_server::protocol::{LogReadId, Message, Seen};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A member: its node's place, and its seat.
pub(super) type At = (usize, SeatId);

/// Something that is going to happen. What is of a life of a process does not outlive it.
#[derive(Debug)]
pub(super) enum Event {
    Deliver {
        to: usize,
        from: usize,
        seat: SeatId,
        message: Message,
    },
    Refused {
        to: usize,
        node: usize,
    },
    Seen {
        to: usize,
        from: usize,
        message: SeenMessage,
    },
    SeenSynced {
        node: usize,
        life: u64,
        seen: Box<Seen>,
    },
    LogSynced {
        at: At,
        life: u64,
    },
    PromiseSynced {
        at: At,
        life: u64,
        seen: Option<Box<Seen>>,
    },
    LogRead {
        at: At,
        life: u64,
        read: LogReadId,
        range: (LogIndex, LogIndex),
    },
    IndexStep {
        at: At,
        life: u64,
    },
    Beat {
        node: usize,
        life: u64,
    },
    KeepAlive {
        node: usize,
        life: u64,
    },
    Ask {
        node: usize,
        life: u64,
        ask: u64,
        connection: u64,
        request: Request,
    },
    Answered {
        node: usize,
        life: u64,
        ask: u64,
        answer: Answer,
    },
    AskTimeout {
        node: usize,
        life: u64,
        ask: u64,
    },
    Watch {
        node: usize,
        life: u64,
        watch: u64,
        change: Change,
        seen: Option<Box<Seen>>,
    },
    CounterShown {
        node: usize,
        life: u64,
    },
    Client(usize),
    Request {
        caller: Caller,
        node: usize,
    },
    Reply {
        client: usize,
        op: u64,
        attempt: u64,
        reply: Reply,
    },
    ClientTimeout {
        client: usize,
        op: u64,
        attempt: u64,
    },
    ClientRetry {
        client: usize,
        op: u64,
    },
    Poll(usize),
    Consumer(usize),
    Question {
        question: Question,
        node: usize,
    },
    /// A member may be far enough for what consumers asked it.
    Questions {
        at: At,
        life: u64,
    },
    ConsumerHears {
        question: Question,
        told: Told,
    },
    Lapse,
    Fault(Fault),
    Heal(Fault, usize, usize),
    Restart(usize),
    Controller(GroupId),
    Storm(SeatId, [NodeId; 2]),
    MembersBack(GroupId),
    BackUp,
    Calm,
}

/// Everything that is checked after every step.
#[derive(Debug, Default)]
pub(super) struct Checks {
    pub(super) leaders: Leaders,
    pub(super) matching: Matching,
    pub(super) commits: Commits,
    pub(super) seqs: Seqs,
    pub(super) versions: Versions,
    pub(super) marks: Marks,
    pub(super) cursors: Cursors,
    pub(super) kept: Kept,
    pub(super) effects: Effects,
    /// Judged at the end.
    pub(super) reads: Vec<served::Read>,
}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Faults by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// Inputs that members took.
    pub steps: u64,
    /// Simulated time.
    pub micros: Micros,
    /// Events acknowledged.
    pub acknowledged: u64,
    /// Events committed.
    pub committed: u64,
    /// Operations by what was told: written, duplicate, conflict, refused, unknown, read.
    pub told: BTreeMap<&'static str, u64>,
    /// Times that a seat got another leader.
    pub failovers: u64,
    /// Entries that subscribers got.
    pub streamed: u64,
    /// Times that a consumer was told to have the name.
    pub claims: u64,
    /// Positions that were told to be acknowledged.
    pub positions: u64,
    /// Consumers that were told that another has the name.
    pub fenced: u64,
    /// Events that had their effect.
    pub effects: u64,
    /// Writes of a group's members key.
    pub changes: u64,
    /// Restores of the coordinator from a backup.
    pub rollbacks: u64,
    /// Times that it was put right.
    pub generations: u64,
    /// Times that a guard went on without a group.
    pub guards_without: u64,
    /// Entries that became unreadable.
    pub rotten: u64,
    /// Logs that were repaired.
    pub repaired: u64,
    /// Operations on keys that the oracle searched to the end.
    pub searched: u64,
    /// Those of keys whose search was given up.
    pub unsearched: u64,
    /// Reads that members served of their own indexes.
    pub served: u64,
}

/// A cluster.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) now: Micros,
    pub(super) queue: Queue<Event>,
    pub(super) nodes: Vec<Node>,
    pub(super) members: BTreeMap<GroupId, Membership>,
    /// Those that each group had before.
    pub(super) past: BTreeMap<GroupId, Vec<Membership>>,
    /// Changes of members that are under way.
    pub(super) changes: BTreeMap<GroupId, Step>,
    pub(super) network: Network,
    pub(super) coordinator: Coordinator,
    /// Older states of the coordinator, the oldest first.
    pub(super) backups: VecDeque<Coordinator>,
    /// Until then the coordinator does not answer.
    pub(super) away_until: Micros,
    pub(super) clients: Vec<Client>,
    /// Those of the change stream, then the streams of consumers.
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) consumers: Vec<Consumer>,
    /// The named subscription, and its seat.
    pub(super) name: (String, SeatId),
    pub(super) keys: Vec<(KeyName, SeatId)>,
    pub(super) checks: Checks,
    pub(super) counts: Counts,
    pub(super) history: History,
    pub(super) trace: Trace,
    pub(super) moments: u64,
    pub(super) is_calm: bool,
    /// For the disks, the driver, the coordinator, the faults.
    pub(super) disks: Random,
    pub(super) driver: Random,
    pub(super) coordination: Random,
    pub(super) nemesis: Random,
    /// Who reads what of an index.
    pub(super) reader: Random,
    pub(super) last_point: Micros,
    /// Seats with a storm over them.
    pub(super) storms: BTreeMap<SeatId, Storm>,
}

/// How long the cluster has to heal, once faults have stopped.
pub const HEALS_WITHIN: Micros = 8 * SECOND;

fn seat_ids(groups: u32) -> impl Iterator<Item = SeatId> {
    (0..groups).flat_map(|group| {
        Side::BOTH.map(|side| SeatId {
            group: GroupId(group),
            side,
        })
    })
}

impl World {
    pub(super) fn new(plan: Plan, trace: Trace) -> Self {
        let mut random = Random::new(plan.seed ^ 0x5eed);
        let mut members = BTreeMap::new();
        for group in 0..plan.groups {
            let first = usize::try_from(group).unwrap();
            let mut nodes: Vec<NodeId> = (0..plan.group_size)
                .map(|n| node_id((first + n) % plan.nodes))
                .collect();
            nodes.sort_unstable();
            let membership = Membership {
                number: 1,
                members: nodes,
                previous: vec![],
            };
            members.insert(GroupId(group), membership);
        }
        let network = Network::new(&plan, random.fork());
        let coordinator = Coordinator::new(members.clone(), seat_ids(plan.groups), plan.lease_ttl);
        let keys = keys(&plan);
        let clients = (0..plan.clients).map(|_| Client::new(random.fork())).collect();
        let mut driver = random.fork();
        let nodes = (0..plan.nodes)
            .map(|place| Node::new(&plan, place, &members, &mut driver))
            .collect();
        let mut subscribers: Vec<_> = (0..plan.nodes.min(3))
            .map(|place| Subscriber::new(place, plan.groups, random.fork()))
            .collect();
        // Drawn apart: without consumers a run is as it was before there were any.
        let mut apart = Random::new(plan.seed ^ 0xc0_5e4);
        let name = format!("s{}", apart.below(64));
        let name = (name.clone(), seat_of(&plan, &KeyName::new("", &name).unwrap()));
        let mut consumers = vec![];
        for place in 0..plan.consumers {
            consumers.push(Consumer::new(subscribers.len(), apart.fork()));
            subscribers.push(Subscriber::new(place % plan.nodes, plan.groups, apart.fork()));
        }
        let mut world = Self {
            network,
            coordinator,
            keys,
            clients,
            nodes,
            members,
            past: BTreeMap::new(),
            changes: BTreeMap::new(),
            subscribers,
            consumers,
            name,
            now: 0,
            queue: Queue::default(),
            backups: VecDeque::new(),
            away_until: 0,
            checks: Checks::default(),
            counts: Counts::default(),
            history: History::default(),
            trace,
            moments: 0,
            is_calm: false,
            disks: random.fork(),
            driver,
            coordination: random.fork(),
            nemesis: random.fork(),
            reader: random.fork(),
            last_point: 0,
            storms: BTreeMap::new(),
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in 0..self.nodes.len() {
            let at = self.driver.below(50 * MILLI);
            self.queue.push(at, Event::Restart(node));
        }
        for client in 0..self.clients.len() {
            let at = 200 * MILLI + self.driver.below(SECOND);
            self.queue.push(at, Event::Client(client));
        }
        for subscriber in 0..self.subscribers.len() - self.consumers.len() {
            self.queue.push(500 * MILLI, Event::Poll(subscriber));
        }
        for consumer in 0..self.consumers.len() {
            self.queue.push(SECOND, Event::Consumer(consumer));
        }
        self.queue.push(SECOND, Event::Lapse);
        self.queue.push(self.plan.faults_until, Event::Calm);
        // Those that are there all the time count once for the run.
        for fault in [Fault::IndexLag, Fault::ClockDrift, Fault::ShortWindow] {
            if self.plan.has(fault) {
                self.count(fault);
            }
        }
        self.plan_faults();
        self.back_up();
    }

    /// Runs to the end.
    pub(super) fn run(&mut self) -> Verdict {
        while let Some((at, event)) = self.queue.pop() {
            if at > self.plan.healed_until {
                break;
            }
            self.now = at;
            if let Some(node) = event.node()
                && self.nodes[node].paused_until > at
            {
                let later = self.nodes[node].paused_until;
                self.queue.push(later, event);
                continue;
            }
            self.happens(event)?;
        }
        self.now = self.plan.healed_until;
        self.finish()
    }

    fn happens(&mut self, event: Event) -> Verdict {
        match event {
            Event::Deliver {
                to,
                from,
                seat,
                message,
            } => self.deliver(to, from, seat, message),
            Event::Refused { to, node } => self.refused(to, node),
            Event::LogSynced { at, life } => self.log_synced(at, life),
            Event::Seen { to, from, message } => {
                self.seen_told(to, from, message);
                Ok(())
            }
            Event::SeenSynced { node, life, seen } => {
                self.seen_synced(node, life, &seen);
                Ok(())
            }
            Event::PromiseSynced { at, life, seen } => {
                self.promise_seen(at, life, seen);
                self.promise_synced(at, life)
            }
            Event::LogRead {
                at,
                life,
                read,
                range,
            } => self.log_read(at, life, read, range),
            Event::IndexStep { at, life } => self.index_step(at, life),
            Event::Beat { node, life } => self.beat(node, life),
            Event::KeepAlive { node, life } => {
                self.keep_alive(node, life);
                Ok(())
            }
            Event::Ask {
                node,
                life,
                ask,
                connection,
                request,
            } => self.asked((node, life, ask), connection, request),
            Event::Answered {
                node,
                life,
                ask,
                answer,
            } => self.answered(node, life, ask, answer),
            Event::AskTimeout { node, life, ask } => self.ask_timeout(node, life, ask),
            Event::Watch {
                node,
                life,
                watch,
                change,
                seen,
            } => {
                if let Some(seen) = seen
                    && self.nodes[node].watch == watch
                    && self.lives(node, life)
                {
                    self.learn(node, *seen);
                }
                self.watched(node, life, watch, change)
            }
            Event::CounterShown { node, life } => self.counter_shown(node, life),
            Event::Client(client) => {
                self.client_begins(client);
                Ok(())
            }
            Event::Request { caller, node } => self.request_arrives(caller, node),
            Event::Reply {
                client,
                op,
                attempt,
                reply,
            } => self.client_hears(client, op, attempt, reply),
            Event::ClientTimeout { client, op, attempt } => self.client_timeout(client, op, attempt),
            Event::ClientRetry { client, op } => {
                self.client_retry(client, op);
                Ok(())
            }
            Event::Poll(subscriber) => self.poll(subscriber),
            Event::Consumer(consumer) => self.consumer_acts(consumer),
            Event::Question { question, node } => self.question_arrives(question, node),
            Event::Questions { at, life } => self.answer_questions(at, life),
            Event::ConsumerHears { question, told } => self.consumer_hears(question, told),
            Event::Lapse => {
                let mut changes = vec![];
                self.coordinator.lapse(self.now, &mut changes);
                self.tell_watches(&changes);
                self.queue.push(self.now + 200 * MILLI, Event::Lapse);
                Ok(())
            }
            Event::Fault(fault) => self.fault(fault),
            Event::Heal(fault, one, other) => {
                self.heal(fault, one, other);
                Ok(())
            }
            Event::Restart(node) => self.restart(node),
            Event::Controller(group) => self.controller(group),
            Event::Storm(seat, pair) => self.storm(seat, pair),
            Event::MembersBack(group) => {
                self.members_back(group);
                Ok(())
            }
            Event::BackUp => {
                self.back_up();
                Ok(())
            }
            Event::Calm => self.calm(),
        }
    }

    pub(super) fn moment(&mut self) -> Tick {
        self.moments += 1;
        Tick(self.moments)
    }

    pub(super) fn count(&mut self, fault: Fault) {
        *self.counts.faults.entry(fault).or_default() += 1;
    }

    pub(super) fn place_of(&self, id: NodeId) -> usize {
        usize::try_from(id.0 - 1).unwrap()
    }

    /// Entries that nobody knew to be committed are.
    pub(super) fn newly_committed(&mut self, at: At, entries: &[Arc<Entry>]) -> Verdict {
        let seat = at.1;
        let leader = self.nodes[at.0].members[&seat]
            .seat
            .as_ref()
            .and_then(rdb_server::protocol::Seat::leader);
        let under = leader.map_or(rdb_proto::types::Epoch::ZERO, |(_, epoch)| epoch);
        let added = self.checks.commits.committed(seat, under, entries)?;
        if added == 0 {
            return Ok(());
        }
        let last = self.checks.commits.last(seat);
        let newest = self.checks.commits.log(seat).last().cloned();
        // The leader is the first to know; it works with the members of its election.
        let leader = self.nodes[at.0].members[&seat].seat.as_ref();
        let members = leader.map_or(&[][..], |leader| leader.membership().members.as_slice());
        let has = |node: &&NodeId| {
            let member = self.nodes[self.place_of(**node)].members.get(&seat);
            member.is_some_and(|member| {
                let is_here = member.disk.durable() >= last && member.disk.entry(last) == newest.as_ref();
                // It acknowledged the entry before it lost it.
                is_here || newest.as_ref().is_some_and(|newest| member.disk.has_lost(newest))
            })
        };
        let durable = members.iter().filter(has).count();
        self.checks.commits.durable_on(seat, durable, self.plan.writes)?;
        let counter = self.coordinator.given();
        for entry in &entries[entries.len() - added..] {
            self.checks.marks.committed(seat, entry)?;
            self.checks.seqs.committed(seat, entry, counter)?;
            self.checks.versions.committed(entry)?;
            match &entry.body {
                EntryBody::Events(events) => self.counts.committed += events.count(),
                EntryBody::Cursor(change) => self.cursor_committed(entry.index, change)?,
                EntryBody::EpochStart(_) => {}
            }
        }
        Ok(())
    }

    /// What must be true at the end, when the cluster has healed.
    fn finish(&mut self) -> Verdict {
        const RULE: &str = "liveness (DESIGN 3, 7)";
        let counter = self.coordinator.counter();
        for (client, state) in self.clients.iter().enumerate() {
            if let Some(op) = state.current() {
                let what = format!(
                    "{op:?} of client {client} has no answer {} s after the last fault",
                    (self.now - self.plan.faults_until) / SECOND
                );
                return broken(RULE, what);
            }
        }
        for node in &self.nodes {
            for (seat, member) in &node.members {
                if !self.members[&seat.group].members.contains(&node.id) {
                    continue;
                }
                let commit = self.checks.commits.last(*seat);
                if member.shown.commit != commit {
                    let what = format!(
                        "seat {seat}: node {} knows commit {}, {commit} is committed",
                        node.id, member.shown.commit
                    );
                    return broken(RULE, what);
                }
                if member.resolved.0 < counter {
                    let what = format!(
                        "seat {seat}: node {} is resolved to {}, the counter is {counter}",
                        node.id, member.resolved.0
                    );
                    return broken(RULE, what);
                }
            }
        }
        self.counts.micros = self.now;
        self.counts.failovers = u64::try_from(self.checks.leaders.changes()).unwrap();
        self.judge()
    }

    fn judge(&mut self) -> Verdict {
        let mut stream: Vec<Stored> = Vec::new();
        for (_, log) in self.checks.commits.all() {
            for entry in log {
                if let EntryBody::Events(events) = &entry.body {
                    stream.extend(decode_batch(&events.encoded).map_err(|error| Violation {
                        rule: "stored events",
                        what: error.to_string(),
                    })?);
                }
            }
        }
        stream.sort_by_key(|event| event.seq);
        let seqs: Vec<_> = stream.iter().map(|event| event.seq).collect();
        let counter = self.coordinator.counter();
        let of_consumers = self.subscribers.len() - self.consumers.len();
        for (place, subscriber) in self.subscribers.iter().enumerate() {
            subscriber.feed.is_whole(&seqs)?;
            if place < of_consumers && subscriber.feed.position() < counter {
                let what = format!(
                    "a subscriber is at {}, the counter is {counter}",
                    subscriber.feed.position()
                );
                return broken("liveness (DESIGN 7)", what);
            }
            self.counts.streamed += u64::try_from(subscriber.feed.len()).unwrap();
        }
        self.finish_consumers(&seqs, counter)?;
        self.counts.effects = u64::try_from(self.checks.effects.len()).unwrap();
        crate::checkers::judge(&self.history, &stream)?;
        served::check(&self.checks.reads, &self.checks.commits)?;
        self.counts.served = u64::try_from(self.checks.reads.len()).unwrap();
        self.counts.acknowledged = u64::try_from(self.history.acknowledged()).unwrap();
        for (name, _) in &self.keys {
            let key = name.key.as_str();
            let spans = super::client::spans(&self.history, key);
            let count = u64::try_from(spans.len()).unwrap();
            if oracle::check(key, &spans)? {
                self.counts.searched += count;
            } else {
                self.counts.unsearched += count;
            }
        }
        Ok(())
    }
}

impl Event {
    /// The node whose process it is for.
    const fn node(&self) -> Option<usize> {
        match self {
            Self::Deliver { to, .. } | Self::Refused { to, .. } | Self::Seen { to, .. } => Some(*to),
            Self::LogSynced { at, .. }
            | Self::PromiseSynced { at, .. }
            | Self::LogRead { at, .. }
            | Self::IndexStep { at, .. }
            | Self::Questions { at, .. } => Some(at.0),
            Self::Beat { node, .. }
            | Self::KeepAlive { node, .. }
            | Self::SeenSynced { node, .. }
            | Self::Answered { node, .. }
            | Self::AskTimeout { node, .. }
            | Self::Watch { node, .. }
            | Self::CounterShown { node, .. }
            | Self::Request { node, .. }
            | Self::Question { node, .. } => Some(*node),
            Self::Ask { .. }
            | Self::Client(_)
            | Self::Reply { .. }
            | Self::ClientTimeout { .. }
            | Self::ClientRetry { .. }
            | Self::Poll(_)
            | Self::Consumer(_)
            | Self::ConsumerHears { .. }
            | Self::Lapse
            | Self::Fault(_)
            | Self::Heal(..)
            | Self::Restart(_)
            | Self::Controller(_)
            | Self::Storm(..)
            | Self::MembersBack(_)
            | Self::BackUp
            | Self::Calm => None,
        }
    }
}

/// The id of the node at a place.
pub(super) fn node_id(place: usize) -> NodeId {
    NodeId(u64::try_from(place).unwrap() + 1)
}

/// The seat of a key.
fn seat_of(plan: &Plan, name: &KeyName) -> SeatId {
    let seats: Vec<SeatId> = seat_ids(plan.groups).collect();
    seats[usize::from(name.slot().0) % seats.len()]
}

/// Keys until each seat has its number of them.
fn keys(plan: &Plan) -> Vec<(KeyName, SeatId)> {
    let seats: Vec<SeatId> = seat_ids(plan.groups).collect();
    let mut found: BTreeMap<SeatId, Vec<KeyName>> = BTreeMap::new();
    for n in 0.. {
        if seats.iter().all(|seat| {
            found
                .get(seat)
                .is_some_and(|keys| keys.len() == plan.keys_per_seat)
        }) {
            break;
        }
        let name = KeyName::new("", &format!("k{n}")).unwrap();
        let seat = seat_of(plan, &name);
        let keys = found.entry(seat).or_default();
        if keys.len() < plan.keys_per_seat {
            keys.push(name);
        }
    }
    found
        .into_iter()
        .flat_map(|(seat, keys)| keys.into_iter().map(move |key| (key, seat)))
        .collect()
}
