//! A world of one member for the tests: the seat, its disk and its key index, moved by one-line commands.
//!
//! | command | input |
//! |---|---|
//! | `won 1`, `lost 1`, `promise-persisted 1` | by epoch number |
//! | `persisted 1`, `indexed 1`, `counter 7`, `read 1`, `tick` | by number |
//! | `allocated 1 first 10`, `void 1` | by request |
//! | `propose 1 a any 11 12; 2 b exact-3 13 delete` | proposal, key, expectation, event ids; several in one step |
//! | `propose 1 a any 11 retried 5` | a retry, first sent when the database had reached seq 5 |
//! | `key 3@1 revision 7`, `key vacant 2 revision 8` | the leader key: its holder, or its successor |
//! | `members`, `not-won`, `learners 4`, `unreachable 1`, `stand-after 200`, `hand-over 2`, `log-read` | of the coordinator, the network and the disk |
//! | `restart` | what was not persisted is gone |
//! | `rot 2` | entry 2 cannot be read at the next start, and what follows it is lost with it |
//!
//! Proposals are looked up in the key index as of the last `indexed`. The answer of a command is its effects, one
//! line each.

use super::{
    AllocationId, Durable, Effect, EpochRun, Input, KeyState, KnownEvent, LeaderKey, PersistTicket, Proposal,
    ProposalId, ReadId, Seat, SeatConfig, Tick,
};
use bytes::Bytes;
use rdb_proto::cursor::{CursorAct, CursorChange};
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::event::{EventKind, Expectation, NewEvent, StoredEvents};
use rdb_proto::types::{Epoch, EventId, KeyName, LogIndex, Membership, NodeId, Seq, Timestamp, Version};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use uuid::Uuid;

pub(super) const ME: NodeId = NodeId(1);

pub(super) fn key(name: &str) -> KeyName {
    KeyName::new("default", name).unwrap()
}

pub(super) fn event_id(n: u128) -> EventId {
    EventId(Uuid::from_u128(n))
}

pub(super) const fn epoch(number: u64) -> Epoch {
    Epoch { number, node: ME }
}

pub(super) fn alone() -> Membership {
    Membership {
        number: 1,
        members: vec![ME],
        previous: vec![],
    }
}

pub(super) fn new_event(id: u128, kind: EventKind) -> NewEvent {
    NewEvent {
        kind,
        event_type: String::new(),
        tags: vec![],
        meta: BTreeMap::new(),
        payload: Bytes::new(),
        event_id: event_id(id),
    }
}

pub(super) fn stored(name: &str, first_seq: u64, first_version: u64, ids: &[u128]) -> StoredEvents {
    let events = ids.iter().map(|id| new_event(*id, EventKind::Write)).collect();
    StoredEvents::number(
        key(name),
        Seq(first_seq),
        Version(first_version),
        Timestamp(1),
        events,
    )
    .unwrap()
}

pub(super) fn proposal(id: u64, name: &str, expect: Expectation, ids: &[u128]) -> Proposal {
    Proposal {
        id: ProposalId(id),
        name: key(name),
        expect,
        events: ids.iter().map(|id| new_event(*id, EventKind::Write)).collect(),
        retried_since: None,
        as_of: LogIndex::ZERO,
        committed: KeyState::default(),
        known: vec![],
        remembered_from: Seq::ZERO,
    }
}

/// A key index as the driver has one.
#[derive(Debug, Default, Clone)]
pub(super) struct Index {
    pub(super) applied: LogIndex,
    pub(super) keys: BTreeMap<KeyName, KeyState>,
    pub(super) ids: BTreeMap<EventId, (KeyName, Seq, Version)>,
    pub(super) remembered_from: Seq,
}

impl Index {
    fn apply(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.applied.next());
        self.applied = entry.index;
        let EntryBody::Events(events) = &entry.body else {
            return;
        };
        let state = KeyState {
            version: events.last_version(),
            seq: events.last_seq(),
            is_deleted: events.deletes,
        };
        let before = self.keys.insert(events.name.clone(), state).unwrap_or_default();
        assert_eq!(
            events.first_version,
            before.version.next(),
            "versions of {} are dense",
            events.name
        );
        for (n, id) in (0..).zip(events.event_ids.iter()) {
            let place = (
                events.name.clone(),
                events.first_seq.plus(n),
                events.first_version.plus(n),
            );
            assert_eq!(self.ids.insert(*id, place), None, "{id} is stored once");
        }
    }

    pub(super) fn look_up(&self, proposal: &mut Proposal) {
        proposal.as_of = self.applied;
        proposal.committed = self.keys.get(&proposal.name).copied().unwrap_or_default();
        proposal.remembered_from = self.remembered_from;
        let known = |event: &NewEvent| {
            let (name, seq, version) = self.ids.get(&event.event_id)?;
            (*seq >= self.remembered_from).then(|| KnownEvent {
                event_id: event.event_id,
                seq: *seq,
                version: *version,
                is_same_key: *name == proposal.name,
            })
        };
        proposal.known = proposal.events.iter().filter_map(known).collect();
    }
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) seat: Seat,
    pub(super) index: Index,
    /// Log on disk; what is written and not durable stands in `writes`.
    pub(super) disk: Vec<Arc<Entry>>,
    pub(super) promised: Epoch,
    pub(super) writes: VecDeque<Write>,
    pub(super) committed: Vec<Arc<Entry>>,
    /// What the seat is told when it wins.
    pub(super) membership: Membership,
    pub(super) now: Tick,
    /// Promises that are under way.
    pub(super) promises: VecDeque<Epoch>,
    /// Reads of the log that are not answered.
    pub(super) log_reads: VecDeque<Effect>,
    lost: Option<Epoch>,
}

/// A change of the log that is under way.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) ticket: PersistTicket,
    truncate_from: Option<LogIndex>,
    entries: Vec<Arc<Entry>>,
}

impl Write {
    fn apply(self, disk: &mut Vec<Arc<Entry>>) {
        if let Some(first) = self.truncate_from {
            disk.retain(|entry| entry.index < first);
        }
        disk.extend(self.entries);
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::of(SeatConfig::new(ME, 1), alone())
    }

    pub(super) fn of(config: SeatConfig, membership: Membership) -> Self {
        select_sabotage();
        Self {
            membership,
            now: Tick(0),
            promises: VecDeque::new(),
            log_reads: VecDeque::new(),
            seat: Seat::new(config, Durable::default()),
            index: Index::default(),
            disk: vec![],
            promised: Epoch::ZERO,
            writes: VecDeque::new(),
            committed: vec![],
            lost: None,
        }
    }

    /// An entry, and what follows it, is lost at the next start, where the key index is built again.
    pub(super) fn rot(&mut self, command: &str) {
        let index = command.strip_prefix("rot ").unwrap().parse().unwrap();
        self.lost = Some(self.promised);
        self.disk.retain(|entry| entry.index < LogIndex(index));
        self.index = Index::default();
        for entry in self
            .committed
            .iter()
            .filter(|entry| entry.index < LogIndex(index))
        {
            self.index.apply(entry);
        }
    }

    /// A world whose seat leads under epoch 1 and takes proposals. Its log holds the epoch-start only.
    pub(super) fn serving() -> Self {
        let mut world = Self::new();
        world.run_all(&["won 1", "promise-persisted 1", "persisted 1", "indexed 1"]);
        world
    }

    pub(super) fn run_all(&mut self, commands: &[&str]) {
        for command in commands {
            self.run(command);
        }
    }

    /// Runs one command and returns its effects.
    pub(super) fn run(&mut self, command: &str) -> Vec<String> {
        if command == "restart" {
            self.restart();
            return vec![];
        }
        if command.starts_with("rot ") {
            self.rot(command);
            return vec![];
        }
        let input = self.parse(command);
        self.step(input).iter().map(ToString::to_string).collect()
    }

    pub(super) fn step(&mut self, input: Input) -> Vec<Effect> {
        if let Input::PromisePersisted(epoch) = &input {
            self.promised = *epoch;
            self.promises.retain(|under_way| under_way > epoch);
        }
        if let Input::Persisted(ticket) = &input {
            while self.writes.front().is_some_and(|write| write.ticket <= *ticket) {
                self.writes.pop_front().unwrap().apply(&mut self.disk);
            }
        }
        let mut effects = Vec::new();
        self.seat.step(self.now, input, &mut effects);
        self.seat.assert_invariants();
        for effect in &effects {
            if let Effect::Persist {
                ticket,
                truncate_from,
                entries,
            } = effect
            {
                self.writes.push_back(Write {
                    ticket: *ticket,
                    truncate_from: *truncate_from,
                    entries: entries.clone(),
                });
            }
            if let Effect::PersistPromise(epoch) = effect {
                self.promises.push_back(*epoch);
            }
            if *effect == Effect::Repaired {
                self.lost = None;
            }
            if let Effect::ReadLog { .. } = effect {
                self.log_reads.push_back(effect.clone());
            }
            if let Effect::Committed { index, entries } = effect {
                self.committed.extend(entries.iter().cloned());
                assert_eq!(self.committed.last().map(|entry| entry.index), Some(*index));
            }
        }
        effects
    }

    pub(super) fn restart(&mut self) {
        self.writes.clear();
        self.log_reads.clear();
        self.promises.clear();
        let commit = self.index.applied;
        let at_most = |entry: &&Arc<Entry>| entry.index <= commit;
        let mut runs: Vec<EpochRun> = vec![];
        for entry in &self.disk {
            if runs.last().is_none_or(|run| run.epoch < entry.epoch) {
                runs.push(EpochRun {
                    first: entry.index,
                    epoch: entry.epoch,
                });
            }
        }
        let durable = Durable {
            promised: self.promised,
            runs,
            commit,
            committed_seq: self
                .disk
                .iter()
                .filter(at_most)
                .filter_map(|entry| entry.seqs())
                .next_back()
                .map_or(Seq::ZERO, |(_, last)| last),
            tail: self
                .disk
                .iter()
                .filter(|entry| entry.index > commit)
                .cloned()
                .collect(),
            indexed: commit,
            mark: Seq::ZERO,
            membership: self
                .disk
                .iter()
                .filter(at_most)
                .rev()
                .find_map(|entry| match &entry.body {
                    EntryBody::EpochStart(membership) => Some(membership.clone()),
                    EntryBody::Events(_) | EntryBody::Cursor(_) => None,
                })
                .unwrap_or_default(),
            config: self.seat.config(),
            lost: self.lost,
        };
        self.committed.retain(|entry| entry.index <= commit);
        self.seat = Seat::new(self.seat.member.config, durable);
    }

    pub(super) fn parse(&mut self, command: &str) -> Input {
        let words: Vec<&str> = command
            .split([' ', ';'])
            .filter(|word| !word.is_empty())
            .collect();
        let number = |i: usize| words[i].parse::<u64>().unwrap_or_else(|_| panic!("{command}"));
        let node = self.seat.member.config.me;
        let epoch = |number| Epoch { number, node };
        match words[0] {
            "won" => Input::Won {
                epoch: epoch(number(1)),
                membership: self.membership.clone(),
            },
            "lost" => Input::Lost {
                epoch: epoch(number(1)),
            },
            "promise-persisted" => Input::PromisePersisted(epoch(number(1))),
            "persisted" => Input::Persisted(PersistTicket(number(1))),
            "indexed" => self.apply_index(LogIndex(number(1))),
            "counter" => Input::CounterObserved(Seq(number(1))),
            "read" => Input::Read(ReadId(number(1))),
            "tick" => Input::Tick,
            "not-won" => Input::NotWon,
            "members" => Input::Members(self.membership.clone()),
            "learners" => Input::Learners((1..words.len()).map(|i| NodeId(number(i))).collect()),
            "unreachable" => Input::Unreachable(NodeId(number(1))),
            "stand-after" => Input::StandAfter(number(1)),
            "hand-over" => Input::HandOver(NodeId(number(1))),
            "key" => Input::LeaderKey(parse_key(&words)),
            "log-read" => self.read_log(),
            "void" => Input::AllocationVoid {
                request: AllocationId(number(1)),
            },
            "allocated" => Input::Allocated {
                request: AllocationId(number(1)),
                first: Seq(number(3)),
                time: Timestamp(1),
            },
            // A consumer of the named subscription says that it is done up to a seq.
            "acknowledge" => {
                let change = CursorChange {
                    name: words[2].to_owned(),
                    act: CursorAct::Acknowledge {
                        generation: 1,
                        position: Seq(number(3)),
                    },
                };
                Input::ChangeCursors(vec![(ProposalId(number(1)), Arc::new(change))])
            }
            "propose" => {
                let text = command.strip_prefix("propose ").unwrap();
                let mut proposals: Vec<_> = text.split(';').map(parse_proposal).collect();
                for proposal in &mut proposals {
                    self.index.look_up(proposal);
                }
                Input::Propose(proposals)
            }
            _ => panic!("no such command: {command}"),
        }
    }

    /// Answers the oldest read of the log.
    pub(super) fn read_log(&mut self) -> Input {
        let Some(Effect::ReadLog {
            read, first, last, ..
        }) = self.log_reads.pop_front()
        else {
            panic!("nothing is to be read");
        };
        let is_asked = |entry: &&Arc<Entry>| entry.index >= first && entry.index <= last;
        Input::LogRead {
            read,
            entries: self.disk.iter().filter(is_asked).cloned().collect(),
        }
    }

    pub(super) fn apply_index(&mut self, index: LogIndex) -> Input {
        let after = self.index.applied;
        for entry in self
            .committed
            .iter()
            .filter(|entry| entry.index > after && entry.index <= index)
        {
            self.index.apply(entry);
        }
        Input::Indexed(index)
    }
}

/// Makes the mistake that `RDB_SABOTAGE` names, to see which tests notice.
pub(super) fn select_sabotage() {
    #[cfg(feature = "sabotage")]
    if let Some(name) = std::env::var_os("RDB_SABOTAGE") {
        let is_first = crate::sabotage::select(name.to_str().unwrap());
        let is_known = crate::sabotage::Sabotage::ALL
            .iter()
            .any(|one| one.as_str() == name);
        assert!(is_first || is_known, "no such sabotage");
    }
}

/// `key 3@1 revision 7` or `key vacant [2] revision 7`, the node being the successor.
fn parse_key(words: &[&str]) -> LeaderKey {
    let epoch = |(number, node): (&str, &str)| Epoch {
        number: number.parse().unwrap(),
        node: NodeId(node.parse().unwrap()),
    };
    LeaderKey {
        holder: words[1].split_once('@').map(epoch),
        successor: words[2].parse().ok().map(NodeId),
        revision: words.last().unwrap().parse().unwrap(),
    }
}

fn parse_proposal(text: &str) -> Proposal {
    let mut words = text.split_whitespace();
    let id = words.next().unwrap().parse().unwrap();
    let name = words.next().unwrap();
    let expect = match words.next().unwrap() {
        "any" => Expectation::Any,
        "absent" => Expectation::Absent,
        "exists" => Expectation::Exists,
        exact => Expectation::Exact(Version(exact.strip_prefix("exact-").unwrap().parse().unwrap())),
    };
    let mut proposal = proposal(id, name, expect, &[]);
    while let Some(word) = words.next() {
        match word {
            "retried" => proposal.retried_since = Some(Seq(words.next().unwrap().parse().unwrap())),
            "delete" => proposal.events.last_mut().unwrap().kind = EventKind::Delete,
            id => proposal
                .events
                .push(new_event(id.parse().unwrap(), EventKind::Write)),
        }
    }
    proposal
}
