//! Whether a node may ask the coordinator for numbers: the guard against an etcd that was restored from an older
//! backup (DESIGN 6.5, C8 of the review), one for each node.
//!
//! ```text
//!           Connected                R of every group told        State ≥ what was seen
//! away ───────────────► asking ─────────────────────► judging ───────────────────► open
//!  ▲ Disconnected         │ AskSeen … PeerSeen           │ State below: rolled back
//!  └── from everywhere    └ or WAIT without some         └─► NewGeneration, one txn ─► read and judge again
//! ```
//! A restored coordinator gives old numbers again. It shows only in what was seen of it before, and it cannot happen
//! behind a connection that stays. So with every connection begins a **session**: closed, until R members of every
//! group have told what they have seen **in this session** (each committed event is in a log of one of them), and the
//! coordinator, **read after that**, is not behind it. An earlier read could be behind for no other reason than its
//! age. While the guard is open, nothing is judged.
//!
//! **The driver** sends a request for numbers, and the txn of [`GuardEffect::Begin`], over the connection of the
//! session that they are of, never over a later one: else a coordinator that was restored meanwhile would serve them. A
//! request for numbers names [`Guard::generation`], which the txn compares.
//!
//! **Put right** is a rolled back coordinator by one txn that compares its generation, so that one node does it and
//! the others see the next one: counter and time go ahead by leaps, since numbers may still be under way that nobody
//! could tell of; epochs go above all promised ones; the newest members known come back, under numbers above those of
//! any change that somebody may know and that was lost.
//!
//! **Not covered:** a backup so young that none of the R members asked of any group knew a later counter, together
//! with numbers that were under way when it was restored.

use super::commit::can_recover;
use super::input::Tick;
use super::seen::Seen;
use crate::limits::{COUNTER_LEAP, GUARD_WAITS_MS, MEMBERSHIP_NUMBER_LEAP, TIME_LEAP_MICROSECONDS};
use crate::sabotage::{self, Sabotage};
use rdb_proto::types::{GroupId, Membership, NodeId, SeatId, Seq, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Names a question to other nodes, or a reading of the coordinator, until it is answered. Unique within an
/// incarnation, and over incarnations when [`Guard::new`] is told a first one that was never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct QuestionId(pub u64);

/// The txn that puts a rolled back coordinator right: IF the generation is `compares`, and no seat or group changed
/// since `as_of`, THEN all of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NewGeneration {
    /// The generation that the coordinator must have.
    pub compares: u64,
    /// Revision of the state that it was made from: members that changed after it would be taken back, and with them
    /// the quorum that later entries were committed by.
    pub as_of: u64,
    /// The generation that it gets: above every one that was seen.
    pub generation: u64,
    /// What the counter is set to.
    pub counter: Seq,
    /// What the time beside the counter is set to; the node's clock plus
    /// [`TIME_LEAP_MICROSECONDS`], when that is later.
    pub time: Timestamp,
    /// What the epoch key of each seat is set to: the next one granted is above every one known.
    pub epochs: BTreeMap<SeatId, u64>,
    /// What the members keys are set to. A group is missing whose newest members are not known, or of which fewer
    /// than R told: its own members keep it safe (rule 6.3.8).
    pub members: BTreeMap<GroupId, Membership>,
}

/// Something that happened to a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GuardInput {
    /// A heartbeat interval passed.
    Tick,
    /// A connection to the coordinator begins, also the first one; this was its state.
    Connected(Seen),
    /// The connection is over.
    Disconnected,
    /// The state as read for [`GuardEffect::ReadState`], or after the txn of [`GuardEffect::Begin`], by a
    /// linearizable read; `None` when that failed.
    State {
        /// Of the effect.
        question: QuestionId,
        /// What was read.
        state: Option<Seen>,
    },
    /// Answers [`GuardEffect::AskSeen`]. The answer is [`Guard::seen`] of that node, with all that its logs hold.
    PeerSeen {
        /// Who has seen it.
        from: NodeId,
        /// The question.
        question: QuestionId,
        /// What it has seen.
        seen: Seen,
    },
    /// The node itself learned this, from the coordinator or from its members.
    Learned(Seen),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GuardEffect {
    /// Ask this node what it has seen. Repeated each heartbeat.
    AskSeen {
        /// Who is asked.
        to: NodeId,
        /// Name for the answer.
        question: QuestionId,
    },
    /// Read the coordinator's state, then say [`GuardInput::State`].
    ReadState {
        /// Name for the answer.
        question: QuestionId,
    },
    /// The coordinator was rolled back: run this txn, then read and say [`GuardInput::State`], whatever became of it.
    Begin {
        /// Name for the answer.
        question: QuestionId,
        /// The txn.
        new: NewGeneration,
    },
    /// Fewer than R members of these groups told what they have seen, for as long as the guard waits: it goes on
    /// without them. Worth a warning: after a restore of the coordinator, their numbers may be given again.
    WithoutGroups(Vec<GroupId>),
}

/// What nodes told of the coordinator, and who did.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Told {
    /// W of every group.
    pub writes: usize,
    /// The higher of each that somebody told.
    pub seen: Seen,
    /// Who told.
    pub by: BTreeSet<NodeId>,
}

impl Told {
    fn is_whole(&self, membership: &Membership) -> bool {
        !membership.members.is_empty() && can_recover(membership, self.writes, |node| self.by.contains(&node))
    }

    /// Groups of which fewer than R members told: an event of theirs may be unknown to all who did.
    pub fn silent_groups(&self) -> Vec<GroupId> {
        let groups = self.seen.members.iter();
        groups
            .filter(|(_, membership)| !self.is_whole(membership))
            .map(|(group, _)| *group)
            .collect()
    }

    /// What puts a coordinator right that is in this state.
    pub fn new_generation(&self, state: &Seen) -> NewGeneration {
        let mut known = self.seen.clone();
        known.merge(state);
        let whole = known
            .members
            .into_iter()
            .filter(|(_, membership)| self.is_whole(membership));
        let members = whole.map(|(group, membership)| {
            let number = membership.number.saturating_add(MEMBERSHIP_NUMBER_LEAP);
            (group, Membership { number, ..membership })
        });
        NewGeneration {
            compares: state.generation,
            as_of: state.revision,
            generation: known.generation.saturating_add(1),
            counter: known.counter.plus(COUNTER_LEAP),
            time: Timestamp(known.time.0.saturating_add(TIME_LEAP_MICROSECONDS)),
            epochs: known.epochs,
            members: members.collect(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    Away,
    Asking,
    Judging {
        /// What was seen before the reading.
        seen: Box<Seen>,
        /// The reading under way.
        reading: Option<QuestionId>,
    },
    Open {
        generation: u64,
    },
}

/// The guard of a node, as a pure state machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Guard {
    me: NodeId,
    /// What this node has seen and was told, and who answered the question of this session.
    told: Told,
    phase: Phase,
    /// The question of this session.
    asked: QuestionId,
    connected_at: Tick,
    now: Tick,
    next: QuestionId,
}

impl Guard {
    /// A node that starts, with W of its groups and what its disk remembers. Closed.
    pub fn new(me: NodeId, writes: usize, seen: Seen, first_question: QuestionId) -> Self {
        Self {
            me,
            told: Told {
                writes,
                seen,
                by: BTreeSet::new(),
            },
            phase: Phase::Away,
            asked: first_question,
            connected_at: Tick::default(),
            now: Tick::default(),
            next: first_question,
        }
    }

    /// Whether the coordinator may be asked for numbers.
    pub fn may_allocate(&self) -> bool {
        matches!(self.phase, Phase::Open { .. }) || sabotage::is(Sabotage::RollbackUnguarded)
    }

    /// The generation that a request for numbers must name.
    pub const fn generation(&self) -> u64 {
        match self.phase {
            Phase::Open { generation } => generation,
            Phase::Away | Phase::Asking | Phase::Judging { .. } => self.told.seen.generation,
        }
    }

    /// What this node has seen: to keep on disk, and to tell who asks.
    pub const fn seen(&self) -> &Seen {
        &self.told.seen
    }

    /// Applies one input. Never blocks, never fails.
    pub fn step(&mut self, now: Tick, input: GuardInput, effects: &mut Vec<GuardEffect>) {
        self.now = self.now.max(now);
        match input {
            GuardInput::Tick => self.tick(effects),
            GuardInput::Connected(state) => {
                self.told.seen.merge(&state);
                self.begin_session(effects);
            }
            GuardInput::Disconnected => self.phase = Phase::Away,
            GuardInput::State { question, state } => self.state_read(question, state, effects),
            GuardInput::PeerSeen { from, question, seen } => {
                self.told.seen.merge(&seen);
                if question == self.asked && self.told.by.insert(from) {
                    self.judge_when_all_told(effects);
                }
            }
            GuardInput::Learned(seen) => self.learned(&seen, effects),
        }
    }

    const fn question(&mut self) -> QuestionId {
        self.next.0 = self.next.0.saturating_add(1);
        self.next
    }

    fn begin_session(&mut self, effects: &mut Vec<GuardEffect>) {
        self.phase = Phase::Asking;
        self.asked = self.question();
        self.told.by = BTreeSet::from([self.me]);
        self.connected_at = self.now;
        self.ask(effects);
        self.judge_when_all_told(effects);
    }

    fn tick(&mut self, effects: &mut Vec<GuardEffect>) {
        match &self.phase {
            Phase::Away | Phase::Open { .. } | Phase::Judging { reading: Some(_), .. } => {}
            Phase::Asking => {
                self.ask(effects);
                self.judge_when_all_told(effects);
            }
            Phase::Judging { seen, reading: None } => {
                let seen = seen.clone();
                self.read(seen, effects);
            }
        }
    }

    /// Asks who has not told yet, of the newest members known: of older ones at least one knows newer ones.
    fn ask(&self, effects: &mut Vec<GuardEffect>) {
        let everybody = self.told.seen.members.values().flat_map(Membership::everybody);
        let open: BTreeSet<NodeId> = everybody.filter(|node| !self.told.by.contains(node)).collect();
        let question = self.asked;
        effects.extend(open.into_iter().map(|to| GuardEffect::AskSeen { to, question }));
    }

    /// A group that lost all its disks must not stop the whole database: after a while it goes on without it. A
    /// restore is an operator's act, whose documented procedure is to have all groups up.
    const fn is_patient(&self) -> bool {
        self.now.0.saturating_sub(self.connected_at.0) < GUARD_WAITS_MS
    }

    fn judge_when_all_told(&mut self, effects: &mut Vec<GuardEffect>) {
        let is_due = !self.is_patient() || self.told.silent_groups().is_empty();
        if self.phase == Phase::Asking && is_due {
            self.read(Box::new(self.told.seen.clone()), effects);
        }
    }

    fn read(&mut self, seen: Box<Seen>, effects: &mut Vec<GuardEffect>) {
        let question = self.question();
        self.phase = Phase::Judging {
            seen,
            reading: Some(question),
        };
        effects.push(GuardEffect::ReadState { question });
    }

    fn state_read(&mut self, question: QuestionId, state: Option<Seen>, effects: &mut Vec<GuardEffect>) {
        let Phase::Judging { seen, reading } = &mut self.phase else {
            return;
        };
        if *reading != Some(question) {
            return;
        }
        *reading = None;
        let Some(state) = state else {
            return;
        };
        if state.is_below(seen) && !sabotage::is(Sabotage::RollbackUnguarded) {
            let new = self.told.new_generation(&state);
            let question = self.question();
            if let Phase::Judging { reading, .. } = &mut self.phase {
                *reading = Some(question);
            }
            effects.push(GuardEffect::Begin { question, new });
            return;
        }
        // It may name groups, or members, that nobody had told of.
        self.told.seen.merge(&state);
        let silent = self.told.silent_groups();
        if !silent.is_empty() && self.is_patient() {
            self.phase = Phase::Asking;
            self.ask(effects);
            return;
        }
        self.phase = Phase::Open {
            generation: state.generation,
        };
        if !silent.is_empty() {
            effects.push(GuardEffect::WithoutGroups(silent));
        }
    }

    /// Somebody put the coordinator right behind this node's back: it was rolled back, and the numbers of the
    /// generation before are void.
    fn learned(&mut self, seen: &Seen, effects: &mut Vec<GuardEffect>) {
        self.told.seen.merge(seen);
        if let Phase::Open { generation } = self.phase
            && self.told.seen.generation > generation
        {
            self.begin_session(effects);
        }
    }
}

impl fmt::Display for QuestionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "q{}", self.0)
    }
}

impl fmt::Display for NewGeneration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {} after {}", self.generation, self.compares)?;
        write!(f, " counter {} time {}", self.counter, self.time)?;
        for (seat, number) in &self.epochs {
            write!(f, " [{seat} epoch {number}]")?;
        }
        for (group, membership) in &self.members {
            write!(
                f,
                " [{group} config {} {:?}]",
                membership.number, membership.members
            )?;
        }
        Ok(())
    }
}

/// One line: what a trace and a test print.
impl fmt::Display for GuardEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AskSeen { to, question } => write!(f, "ask {to} for seen {question}"),
            Self::ReadState { question } => write!(f, "read state {question}"),
            Self::Begin { question, new } => write!(f, "begin {question} {new}"),
            Self::WithoutGroups(groups) => {
                f.write_str("without groups")?;
                groups.iter().try_for_each(|group| write!(f, " {group}"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
