//! A node of the model: its member of the seat, its disk, and what it waits for. One input at a time goes in; what the
//! core wants done on this node is done at once, what leaves it is handed back.

use super::config::Config;
use super::shared::Shared;
use super::state::Packet;
use crate::sim::checks::monotone::Shown;
use crate::sim::checks::{Verdict, told};
use crate::sim::disk::Disk;
use crate::sim::last_panic;
use rdb_proto::entry::Entry;
use rdb_proto::types::{Epoch, GroupId, LogIndex, Membership, NodeId, SeatId, Seq, Side};
use rdb_server::protocol::{
    AllocationId, Effect, Input, LeaderKey, LogReadId, Message, Outcome, ProposalId, ReadId, RoleName, Seat,
    SeatConfig, Tick, Written,
};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The one seat.
pub(super) const SEAT: SeatId = SeatId {
    group: GroupId(0),
    side: Side::Zero,
};

/// A request for numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Ask {
    pub(super) request: AllocationId,
    pub(super) count: u64,
    /// What the coordinator gave.
    pub(super) first: Option<Seq>,
    /// The node has given up waiting; the answer may come nevertheless.
    pub(super) is_void: bool,
}

/// A node. One that is down is one that nothing happens to: a crash and the start after it are one step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) seat: Seat,
    pub(super) disk: Disk,
    /// Grants of the coordinator that are on their way to this life of it.
    pub(super) wins: Vec<(Epoch, Membership)>,
    pub(super) asks: Vec<Ask>,
}

/// What happens to a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Local {
    Input(Input),
    /// A message arrives.
    Deliver(Shared<Packet>),
    /// The promise that was written first is durable.
    SyncPromise,
    /// The sync of the log that is under way is complete.
    SyncLog,
    /// It dies, loses what is not synced, starts, and sees whom the leader key names.
    Restart {
        /// Its disk knows how far it was committed and resolved.
        is_noted: bool,
        holder: Option<Epoch>,
    },
}

/// What can be seen from outside of one thing that happened to a node.
#[derive(Debug, Clone)]
pub(super) enum Seen {
    /// It leads, with this log.
    Leads(Epoch, Vec<Arc<Entry>>),
    /// Entries became committed here while this epoch was obeyed.
    Committed(Epoch, Vec<Arc<Entry>>),
    /// It cuts its log off from there, and knows of this commit.
    Truncated(LogIndex, LogIndex),
    Resolved(Seq, LogIndex),
    Replied(ProposalId, Written),
    Read(ReadId, LogIndex),
    /// A check of this node alone failed.
    Broken(&'static str, String),
}

/// What came of it.
#[derive(Debug, Clone)]
pub(super) struct Happened {
    pub(super) node: Node,
    pub(super) sent: Vec<Packet>,
    pub(super) seen: Vec<Seen>,
    /// The log was written.
    pub(super) has_written: bool,
    /// Effects, one a line, where they are asked for.
    pub(super) lines: Vec<String>,
}

impl Node {
    pub(super) fn new(config: &Config, id: NodeId) -> Self {
        let disk = Disk::default();
        Self {
            seat: Seat::new(
                seat_config(config, id),
                disk.starts(LogIndex::ZERO, Default::default()),
            ),
            disk,
            wins: vec![],
            asks: vec![],
        }
    }

    /// The epoch under which it stands or leads.
    pub(super) fn stands(&self) -> Option<Epoch> {
        match self.seat.role() {
            RoleName::Follower => None,
            RoleName::Candidate => Some(self.seat.promised()),
            RoleName::Recovering | RoleName::Leader => self.seat.leader().map(|(_, epoch)| epoch),
        }
    }

    /// The epoch under which it leads.
    pub(super) fn leads(&self) -> Option<Epoch> {
        match self.seat.role() {
            RoleName::Follower | RoleName::Candidate => None,
            RoleName::Recovering | RoleName::Leader => self.stands(),
        }
    }
}

const fn seat_config(config: &Config, id: NodeId) -> SeatConfig {
    SeatConfig {
        me: id,
        writes: config.writes,
        // Nothing rests on time: who stands is the checker's choice.
        failover_after_ms: u64::MAX,
        recent_bytes_max: 1 << 20,
    }
}

/// Lets something happen to a node, with everything that follows on it at once.
pub(super) fn happen(config: &Config, id: NodeId, node: &Node, what: Local, is_told: bool) -> Happened {
    let mut performer = Performer {
        config,
        id,
        inputs: VecDeque::new(),
        is_told,
        done: Happened {
            node: node.clone(),
            sent: vec![],
            seen: vec![],
            has_written: false,
            lines: vec![],
        },
    };
    let verdict = catch_unwind(AssertUnwindSafe(|| performer.happen(what)));
    match verdict {
        Ok(Ok(())) => {}
        Ok(Err(broken)) => performer.done.seen.push(Seen::Broken(broken.rule, broken.what)),
        Err(_) => {
            let what = last_panic();
            // A leader that is given a number at or below one that it knows stops: that is how a coordinator that
            // went back is noticed. It starts again, and nothing was sent.
            if config.is_stop_expected && what.contains("was given") {
                performer.done.sent.clear();
                performer.done.seen.clear();
                performer.done.node = node.clone();
                performer.restart(false);
            } else {
                performer.done.seen.push(Seen::Broken(ASSERTION, what));
            }
        }
    }
    performer.done
}

/// Name of the property that no assert of the core fails.
pub(super) const ASSERTION: &str = "assertions of the core (DESIGN 6.4)";

struct Performer<'a> {
    config: &'a Config,
    id: NodeId,
    /// What follows from an effect on this node alone, and happens in the same step of the model.
    inputs: VecDeque<Input>,
    is_told: bool,
    done: Happened,
}

impl Performer<'_> {
    fn happen(&mut self, what: Local) -> Verdict {
        match what {
            Local::Input(input) => self.inputs.push_back(input),
            Local::Deliver(packet) => self.inputs.push_back(Input::Received {
                from: packet.from,
                message: packet.message.clone(),
            }),
            Local::SyncPromise => self.sync_promise(),
            Local::SyncLog => self.sync_log(),
            Local::Restart { is_noted, holder } => {
                self.restart(is_noted);
                self.inputs.extend(holder.map(|epoch| {
                    Input::LeaderKey(LeaderKey {
                        holder: Some(epoch),
                        successor: None,
                        revision: 1,
                    })
                }));
            }
        }
        while let Some(input) = self.inputs.pop_front() {
            self.step(input)?;
        }
        Ok(())
    }

    fn sync_promise(&mut self) {
        let epoch = self.done.node.disk.promise_synced();
        self.inputs.extend(epoch.map(Input::PromisePersisted));
    }

    fn sync_log(&mut self) {
        let (ticket, more) = self.done.node.disk.synced();
        if more {
            self.done.node.disk.begin_sync();
        }
        self.inputs.extend(ticket.map(Input::Persisted));
    }

    fn restart(&mut self, is_noted: bool) {
        let node = &mut self.done.node;
        let mut mark = (Seq::ZERO, LogIndex::ZERO);
        if is_noted {
            node.disk.note_commit(node.seat.commit().min(node.disk.durable()));
            mark = (node.seat.mark().seq, node.seat.mark().commit);
        }
        node.disk.crash(0, None, 0);
        node.wins.clear();
        node.asks.clear();
        let commit = node.disk.commit();
        node.seat = Seat::new(seat_config(self.config, self.id), node.disk.starts(commit, mark));
        self.inputs.clear();
    }

    fn step(&mut self, input: Input) -> Verdict {
        if self.is_told {
            self.done.lines.push(format!("< {input}"));
        }
        let before = self.shown();
        let led = self.done.node.leads();
        let mut effects = vec![];
        self.done.node.seat.step(Tick(0), input, &mut effects);
        self.done.node.seat.assert_invariants();
        let promised = self.done.node.seat.promised();
        if self.is_told {
            let lines = effects.iter().map(|effect| format!("  > {effect}"));
            self.done.lines.extend(lines);
        }
        for effect in &effects {
            if let Effect::Committed { entries, .. } = effect {
                self.done.seen.push(Seen::Committed(promised, entries.clone()));
            }
        }
        effects.into_iter().try_for_each(|effect| self.perform(effect))?;
        let mut shown = before;
        shown.becomes(self.shown())?;
        let leads = self.done.node.leads();
        if leads != led
            && let Some(epoch) = leads
        {
            let log = self.done.node.disk.log().to_vec();
            self.done.seen.push(Seen::Leads(epoch, log));
        }
        Ok(())
    }

    fn shown(&self) -> Shown {
        let seat = &self.done.node.seat;
        Shown {
            promised: seat.promised(),
            commit: seat.commit(),
            mark: seat.mark().seq,
        }
    }

    fn perform(&mut self, effect: Effect) -> Verdict {
        match effect {
            Effect::PersistPromise(epoch) => {
                let config = self.done.node.seat.config();
                self.done.node.disk.promise(epoch, config);
                if self.config.is_promise_at_once {
                    self.sync_promise();
                }
            }
            Effect::Persist {
                ticket,
                truncate_from,
                entries,
            } => {
                let commit = self.done.node.seat.commit();
                self.done
                    .seen
                    .extend(truncate_from.map(|from| Seen::Truncated(from, commit)));
                self.done.has_written = true;
                let disk = &mut self.done.node.disk;
                if disk.write(ticket, truncate_from, entries) {
                    disk.begin_sync();
                }
                if self.config.is_log_at_once {
                    self.sync_log();
                }
            }
            Effect::Allocate { request, count } => self.done.node.asks.push(Ask {
                request,
                count,
                first: None,
                is_void: false,
            }),
            Effect::Reply {
                proposal,
                outcome: Outcome::Written(written),
            } => self.done.seen.push(Seen::Replied(proposal, written)),
            Effect::ReadConfirmed { read, index } => self.done.seen.push(Seen::Read(read, index)),
            Effect::Committed { index, .. } => self.inputs.push_back(Input::Indexed(index)),
            Effect::Resolved { mark, commit } => self.done.seen.push(Seen::Resolved(mark, commit)),
            Effect::Send { to, message } => self.send(to, message)?,
            Effect::ReadLog {
                read, first, last, ..
            } => self.read_log(read, first, last),
            // Who stands when is the checker's choice; a refusal says that nothing happened; no disk rots.
            Effect::EpochTooLow { .. }
            | Effect::Campaign { .. }
            | Effect::GiveUp { .. }
            | Effect::Reply { .. }
            | Effect::ReadRefused { .. }
            | Effect::Repaired => {}
        }
        Ok(())
    }

    fn read_log(&mut self, read: LogReadId, first: LogIndex, last: LogIndex) {
        let is_asked = |entry: &&Arc<Entry>| entry.index >= first && entry.index <= last;
        let entries = self.done.node.disk.log().iter().filter(is_asked).cloned();
        self.inputs.push_back(Input::LogRead {
            read,
            entries: entries.collect(),
        });
    }

    fn send(&mut self, to: NodeId, message: Message) -> Verdict {
        let node = &self.done.node;
        told::check(SEAT, node.seat.promised(), &node.disk, &message)?;
        if !self.is_lost(&message) {
            self.done.sent.push(Packet {
                from: self.id,
                to,
                message,
            });
        }
        Ok(())
    }

    /// Whether the network of this configuration always loses such a message.
    fn is_lost(&self, message: &Message) -> bool {
        match message {
            Message::Reject { .. } => !self.config.has_rejects,
            Message::Append(append) => {
                let end = self.done.node.seat.log_end();
                !self.config.has_heartbeats && append.entries.is_empty() && append.prev == end
            }
            Message::AppendAck { matched, .. } => !self.config.has_heartbeats && *matched == LogIndex::ZERO,
            Message::Fence { .. }
            | Message::FenceAck { .. }
            | Message::Fetch { .. }
            | Message::Fetched { .. }
            | Message::Mismatch { .. }
            | Message::PreVote { .. }
            | Message::PreVoteAnswer { .. } => false,
        }
    }
}
