//! Clients: each has one operation at a time, repeats it with the same event ids until it has an answer, and records
//! what it wanted and was told.

use super::checks::oracle::{Call, Span};
use super::checks::{Verdict, acknowledged, broken};
use super::plan::{Fault, MILLI, Micros, SECOND};
use super::world::{At, Event, HEALS_WITHIN, World};
use crate::random::Random;
use crate::workload::{History, Observation, Operation, Placed, Sent, Tick, Told};
use bytes::Bytes;
use rdb_proto::event::{EventKind, Expectation, NewEvent};
use rdb_proto::types::{EventId, KeyName, LogIndex, NodeId, SeatId, Seq, Version};
use rdb_server::protocol::{KeyState, Outcome, Proposal, ProposalId, Refusal};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who waits for an answer.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) client: usize,
    pub(super) want: Arc<Want>,
    pub(super) attempt: u64,
}

/// What a node answers.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Outcome(Outcome),
    Read(KeyState),
    Refused,
    /// Another node leads, if it is known which.
    Elsewhere(Option<NodeId>),
}

#[derive(Debug, Clone)]
enum Wish {
    Write {
        expect: Expectation,
        kind: EventKind,
        events: Vec<Sent>,
    },
    Read,
}

/// What a client wants: every attempt carries all of it.
#[derive(Debug)]
pub(super) struct Want {
    pub(super) id: u64,
    key: usize,
    wish: Wish,
    sent: Tick,
    begun: Micros,
    /// What the database had reached before the first attempt.
    since: Seq,
}

/// An operation that is under way.
#[derive(Debug, Clone)]
pub(super) struct Op {
    want: Arc<Want>,
    attempt: u64,
    /// The next attempt is made when a pause is over.
    is_pausing: bool,
    /// An attempt may have happened, or may still happen.
    is_unsure: bool,
    target: Option<usize>,
}

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    random: Random,
    op: Option<Op>,
    next: u64,
    /// The highest seq that it was told.
    seen: Seq,
    versions: BTreeMap<usize, Version>,
    leaders: BTreeMap<SeatId, usize>,
}

impl Client {
    pub(super) const fn new(random: Random) -> Self {
        Self {
            random,
            op: None,
            next: 0,
            seen: Seq::ZERO,
            versions: BTreeMap::new(),
            leaders: BTreeMap::new(),
        }
    }

    pub(super) const fn current(&self) -> Option<&Op> {
        self.op.as_ref()
    }
}

/// How long an operation may take once everything has healed.
const HEALTHY_WITHIN: Micros = 3 * SECOND;

impl World {
    pub(super) fn client_begins(&mut self, client: usize) {
        // The last seconds are for answers and marks to come in.
        if self.now + 3 * SECOND > self.plan.healed_until || self.clients[client].op.is_some() {
            return;
        }
        let sent = self.moment();
        let count = self.keys.len();
        let state = &mut self.clients[client];
        state.next += 1;
        let key = state.random.position(count);
        let version = state.versions.get(&key).copied().unwrap_or_default();
        let wish = wish(&mut state.random, version);
        let (id, since, begun) = (state.next, state.seen, self.now);
        let want = Arc::new(Want {
            id,
            key,
            wish,
            sent,
            begun,
            since,
        });
        if self.trace.is_on() {
            self.trace.say(
                self.now,
                format_args!("client {client} wants {} {:?}", self.keys[key].0, want.wish),
            );
        }
        state.op = Some(Op {
            want,
            attempt: 0,
            is_pausing: false,
            is_unsure: false,
            target: None,
        });
        self.attempt(client);
    }

    fn attempt(&mut self, client: usize) {
        let nodes = self.nodes.len();
        let state = &mut self.clients[client];
        let Some(op) = state.op.as_mut() else { return };
        op.attempt += 1;
        op.is_pausing = false;
        let seat = self.keys[op.want.key].1;
        let known = op.target.take().or_else(|| state.leaders.get(&seat).copied());
        let node = match known {
            Some(node) if !state.random.one_in(10) => node,
            Some(_) | None => state.random.position(nodes),
        };
        let (want, attempt) = (Arc::clone(&op.want), op.attempt);
        let delay = 100 + state.random.below(1_000);
        let patience = 300 * MILLI + state.random.below(700 * MILLI);
        self.queue.push(
            self.now + patience,
            Event::ClientTimeout {
                client,
                op: want.id,
                attempt,
            },
        );
        if self.is_lost(client) {
            return;
        }
        let caller = Caller {
            client,
            want,
            attempt,
        };
        self.queue.push(self.now + delay, Event::Request { caller, node });
    }

    fn is_lost(&mut self, client: usize) -> bool {
        let loss = self.plan.rate(Fault::ClientLoss, 1_000, 150_000);
        let is_lost = !self.is_calm && loss > 0 && self.clients[client].random.below(1_000_000) < loss;
        if is_lost {
            self.count(Fault::ClientLoss);
        }
        is_lost
    }

    /// A request reaches a node.
    pub(super) fn request_arrives(&mut self, caller: Caller, node: usize) -> Verdict {
        if !self.nodes[node].is_up {
            // The connection is refused: nothing happened.
            self.answer_client(caller, Reply::Elsewhere(None));
            return Ok(());
        }
        let (name, seat) = self.keys[caller.want.key].clone();
        let at: At = (node, seat);
        match self.leader_seen(at) {
            Some(leader) if leader == self.nodes[node].id => self.propose(at, caller, &name),
            leader => {
                let asks_anyway = self.nodes[node].members.contains_key(&seat) && self.driver.one_in(20);
                if asks_anyway {
                    return self.propose(at, caller, &name);
                }
                self.answer_client(caller, Reply::Elsewhere(leader));
                Ok(())
            }
        }
    }

    /// What the caller wants, as a proposal; `None` when it is a read.
    pub(super) fn proposal(&self, caller: &Caller, id: u64) -> Option<Proposal> {
        let want = &caller.want;
        let Wish::Write { expect, kind, events } = &want.wish else {
            return None;
        };
        let is_short = self.plan.has(Fault::ShortWindow);
        let events = events.iter().map(|sent| NewEvent {
            kind: *kind,
            event_type: String::new(),
            tags: vec![],
            meta: BTreeMap::new(),
            payload: Bytes::from(sent.payload.clone()),
            event_id: sent.event_id,
        });
        Some(Proposal {
            id: ProposalId(id),
            name: self.keys[want.key].0.clone(),
            expect: *expect,
            events: events.collect(),
            // A first attempt that is delayed for longer than the window lasts must be known as old, too.
            retried_since: (caller.attempt > 1 || is_short).then_some(want.since),
            as_of: LogIndex::ZERO,
            committed: KeyState::default(),
            known: vec![],
            remembered_from: Seq::ZERO,
        })
    }

    pub(super) fn answer_client(&mut self, caller: Caller, reply: Reply) {
        let Caller {
            client,
            want,
            attempt,
        } = caller;
        if self.is_lost(client) {
            return;
        }
        let op = want.id;
        let delay = 100 + self.clients[client].random.below(1_000);
        self.queue.push(
            self.now + delay,
            Event::Reply {
                client,
                op,
                attempt,
                reply,
            },
        );
    }

    /// Rule 6.4 at the moment when a leader tells an outcome.
    pub(super) fn check_outcome(
        &self,
        seat: SeatId,
        caller: &Caller,
        name: &KeyName,
        outcome: &Outcome,
    ) -> Verdict {
        let committed = self.checks.commits.log(seat);
        match outcome {
            Outcome::Written(written) => {
                let Wish::Write { events, .. } = &caller.want.wish else {
                    return Ok(());
                };
                let told = (0..).zip(events).map(|(n, sent)| {
                    (
                        sent.event_id,
                        written.first_seq.plus(n),
                        written.first_version.plus(n),
                    )
                });
                acknowledged::check(seat, committed, name, told)
            }
            Outcome::Duplicate(known) => {
                let told = known
                    .iter()
                    .map(|known| (known.event_id, known.seq, known.version));
                acknowledged::check(seat, committed, name, told)
            }
            Outcome::Conflict(state) => {
                acknowledged::check_conflict(seat, committed, name, state.seq, state.version)
            }
            Outcome::EventIdReused(id) => broken(
                "event ids (DESIGN 6.6)",
                format!("{id} is told to be of another append"),
            ),
            Outcome::Changed(index) => broken(
                "one reply for each proposal",
                format!("an append is told to have changed a cursor at {index}"),
            ),
            Outcome::RetryTooOld(_) | Outcome::Refused(_) | Outcome::Unknown => Ok(()),
        }
    }

    pub(super) fn client_timeout(&mut self, client: usize, op: u64, attempt: u64) -> Verdict {
        let Some(current) = self.clients[client].op.as_mut() else {
            return Ok(());
        };
        if current.want.id != op || current.attempt != attempt {
            return Ok(());
        }
        current.is_unsure = true;
        let seat = self.keys[current.want.key].1;
        self.clients[client].leaders.remove(&seat);
        self.again(client)
    }

    /// Tries again, or gives up.
    fn again(&mut self, client: usize) -> Verdict {
        let must_work = self.now > self.plan.faults_until + HEALS_WITHIN;
        let state = &mut self.clients[client];
        let Some(op) = state.op.as_mut().filter(|op| !op.is_pausing) else {
            return Ok(());
        };
        let healthy_since = op.want.begun.max(self.plan.faults_until + HEALS_WITHIN);
        if must_work && self.now > healthy_since + HEALTHY_WITHIN {
            let what = format!(
                "client {client} has no answer after {} ms without faults: {op:?} of {}",
                (self.now - healthy_since) / MILLI,
                self.keys[op.want.key].1
            );
            return broken("liveness (DESIGN 3)", what);
        }
        if op.attempt >= 12 && !must_work && state.random.one_in(3) {
            let told = if op.is_unsure {
                Told::Unknown
            } else {
                Told::Refused
            };
            self.done(client, told);
            return Ok(());
        }
        op.is_pausing = true;
        let id = op.want.id;
        let delay = 5 * MILLI + state.random.below(100 * MILLI);
        self.queue
            .push(self.now + delay, Event::ClientRetry { client, op: id });
        Ok(())
    }

    /// A pause is over.
    pub(super) fn client_retry(&mut self, client: usize, op: u64) {
        let is_pausing = |current: &Op| current.want.id == op && current.is_pausing;
        if self.clients[client].op.as_ref().is_some_and(is_pausing) {
            self.attempt(client);
        }
    }

    pub(super) fn client_hears(&mut self, client: usize, op: u64, attempt: u64, reply: Reply) -> Verdict {
        let Some(current) = self.clients[client].op.as_ref() else {
            return Ok(());
        };
        if current.want.id != op {
            return Ok(());
        }
        // An answer to an attempt that was given up is as good, when it is final.
        let is_current = current.attempt == attempt;
        let (unsure, seat) = (current.is_unsure, self.keys[current.want.key].1);
        match reply {
            Reply::Outcome(outcome) => self.hears_outcome(client, outcome, (is_current, unsure)),
            Reply::Read(state) => {
                if is_current {
                    let found = (state.version > Version::ZERO && !state.is_deleted).then_some(state.version);
                    self.read_done(client, found);
                }
                Ok(())
            }
            Reply::Refused if is_current => self.again(client),
            Reply::Elsewhere(leader) if is_current => {
                match leader {
                    Some(leader) => {
                        let place = self.place_of(leader);
                        self.clients[client].leaders.insert(seat, place);
                    }
                    None => {
                        self.clients[client].leaders.remove(&seat);
                    }
                }
                self.again(client)
            }
            Reply::Refused | Reply::Elsewhere(_) => Ok(()),
        }
    }

    fn hears_outcome(
        &mut self,
        client: usize,
        outcome: Outcome,
        (is_current, unsure): (bool, bool),
    ) -> Verdict {
        let at = self.moment();
        match outcome {
            Outcome::Written(written) => {
                let state = &self.clients[client];
                let count = match state.op.as_ref().map(|op| &op.want.wish) {
                    Some(Wish::Write { events, .. }) => u64::try_from(events.len()).unwrap(),
                    Some(Wish::Read) | None => return Ok(()),
                };
                let placed = (0..count).map(|n| Placed {
                    seq: written.first_seq.plus(n),
                    version: written.first_version.plus(n),
                });
                *self.counts.told.entry("written").or_default() += 1;
                let told = Told::Acknowledged {
                    at,
                    placed: placed.collect(),
                };
                self.done(client, told);
            }
            Outcome::Duplicate(known) => {
                *self.counts.told.entry("duplicate").or_default() += 1;
                let placed = known.iter().map(|known| Placed {
                    seq: known.seq,
                    version: known.version,
                });
                let told = Told::Acknowledged {
                    at,
                    placed: placed.collect(),
                };
                self.done(client, told);
            }
            Outcome::Conflict(state) => {
                // After an attempt whose outcome is not known, another one may still be on its way.
                let told = if unsure {
                    Told::Unknown
                } else {
                    Told::Conflict {
                        at,
                        current: state.version,
                    }
                };
                if let Some(op) = self.clients[client].op.as_ref() {
                    let key = op.want.key;
                    self.clients[client].versions.insert(key, state.version);
                }
                self.done(client, told);
            }
            Outcome::RetryTooOld(_) | Outcome::EventIdReused(_) => self.done(client, Told::Unknown),
            Outcome::Refused(Refusal::NotLeader {
                leader: Some((node, _)),
            }) if is_current => {
                let place = self.place_of(node);
                if let Some(op) = self.clients[client].op.as_mut() {
                    op.target = Some(place);
                    let seat = self.keys[op.want.key].1;
                    self.clients[client].leaders.insert(seat, place);
                }
                return self.again(client);
            }
            Outcome::Refused(_) if is_current => return self.again(client),
            Outcome::Unknown if is_current => {
                if let Some(op) = self.clients[client].op.as_mut() {
                    op.is_unsure = true;
                }
                return self.again(client);
            }
            // No append is answered so: the check of the outcome has said it.
            Outcome::Changed(_) | Outcome::Refused(_) => {}
            Outcome::Unknown => {
                if let Some(op) = self.clients[client].op.as_mut() {
                    op.is_unsure = true;
                }
            }
        }
        Ok(())
    }

    fn read_done(&mut self, client: usize, found: Option<Version>) {
        let answered = self.moment();
        let state = &mut self.clients[client];
        let Some(op) = state.op.take() else { return };
        if let Some(version) = found {
            state.versions.insert(op.want.key, version);
        }
        *self.counts.told.entry("read").or_default() += 1;
        self.history.observations.push(Observation {
            key: self.keys[op.want.key].0.key.as_str().to_owned(),
            sent: op.want.sent,
            answered,
            found,
        });
        self.rest(client);
    }

    fn done(&mut self, client: usize, told: Told) {
        let state = &mut self.clients[client];
        let Some(op) = state.op.take() else { return };
        let name = match &told {
            Told::Acknowledged { placed, .. } => {
                if let Some(last) = placed.last() {
                    state.seen = last.seq.max(state.seen);
                    state.versions.insert(op.want.key, last.version);
                }
                "acknowledged"
            }
            Told::Conflict { .. } => "conflict",
            Told::Refused => "refused",
            Told::Unknown => "unknown",
        };
        *self.counts.told.entry(name).or_default() += 1;
        if self.trace.is_on() {
            self.trace
                .say(self.now, format_args!("client {client} is told {told:?}"));
        }
        if let Wish::Write { expect, kind, events } = &op.want.wish {
            self.history.operations.push(Operation {
                key: self.keys[op.want.key].0.key.as_str().to_owned(),
                kind: *kind,
                events: events.clone(),
                expect: *expect,
                sent: op.want.sent,
                told,
            });
        }
        self.rest(client);
    }

    fn rest(&mut self, client: usize) {
        let think = self.plan.think;
        let pause = 1 + self.clients[client].random.below(think);
        self.queue.push(self.now + pause, Event::Client(client));
    }
}

fn wish(random: &mut Random, version: Version) -> Wish {
    if random.one_in(4) {
        return Wish::Read;
    }
    let expect = match random.below(8) {
        0..=3 => Expectation::Any,
        4 | 5 => Expectation::Exact(version),
        6 => Expectation::Exists,
        _ => Expectation::Absent,
    };
    let kind = if random.one_in(8) {
        EventKind::Delete
    } else {
        EventKind::Write
    };
    let count = match random.below(6) {
        0 if kind == EventKind::Write => 2 + random.below(3),
        _ => 1,
    };
    let events = (0..count).map(|_| {
        let id = random.uuid();
        let payload = if kind == EventKind::Write {
            id.simple().to_string()
        } else {
            String::new()
        };
        Sent {
            event_id: EventId(id),
            payload,
        }
    });
    Wish::Write {
        expect,
        kind,
        events: events.collect(),
    }
}

/// The operations on a key, for the oracle.
pub(super) fn spans(history: &History, key: &str) -> Vec<Span> {
    let writes = history.operations.iter().filter(|operation| operation.key == key);
    let writes = writes.filter_map(|operation| {
        let write = |told| Call::Write {
            expect: operation.expect,
            events: u64::try_from(operation.events.len()).unwrap(),
            kind: operation.kind,
            told,
        };
        let (answered, call) = match &operation.told {
            Told::Acknowledged { at, placed } => (at.0, write(Some(placed[0].version))),
            Told::Conflict { at, current } => (
                at.0,
                Call::Conflict {
                    expect: operation.expect,
                    current: *current,
                },
            ),
            Told::Unknown => (u64::MAX, write(None)),
            Told::Refused => return None,
        };
        Some(Span {
            sent: operation.sent.0,
            answered,
            call,
        })
    });
    let reads = history
        .observations
        .iter()
        .filter(|read| read.key == key)
        .map(|read| Span {
            sent: read.sent.0,
            answered: read.answered.0,
            call: Call::Read(read.found),
        });
    writes.chain(reads).collect()
}
