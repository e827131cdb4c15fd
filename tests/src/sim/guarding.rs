//! A node's guard against a coordinator that was restored to an older state (DESIGN 6.5), and that coordinator.
//!
//! A restore happens within this bound: whoever asks R members of every group meets one, for one of the groups at
//! least, whose **disk** knows a counter above the restored one (or no number was given since). That is what the guard
//! rests on. And where a group's members go back, its members of now know better, as for `members-rollback`. A restored
//! coordinator is a new process: a request for numbers over a connection to the one before never reaches it.

use super::checks::{Verdict, broken};
use super::coordinator::{Coordinator, Request};
use super::plan::{Fault, MILLI, Micros, SECOND};
use super::session::Asked;
use super::world::{At, Event, World, node_id};
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::event::decode_batch;
use rdb_proto::types::{Membership, Timestamp};
use rdb_server::protocol::{Guard, GuardEffect, GuardInput, QuestionId, Seat, Seen};

/// What nodes say to each other about the coordinator.
#[derive(Debug, Clone)]
pub(super) enum SeenMessage {
    Ask { question: QuestionId },
    Told { question: QuestionId, seen: Box<Seen> },
}

/// Backups that are kept of the coordinator.
const BACKUPS_MAX: usize = 12;

impl World {
    fn is_guarded(&self) -> bool {
        let is_chosen = self.plan.has(Fault::BitRot) && self.plan.seed.is_multiple_of(2);
        self.plan.has(Fault::CoordinatorRollback) || is_chosen
    }

    /// The node starts with what its disk remembers.
    pub(super) fn begin_guard(&mut self, node: usize) {
        if !self.is_guarded() {
            return;
        }
        let state = &mut self.nodes[node];
        let first = QuestionId(state.life << 32);
        let seen = state.seen_durable.clone();
        state.guard = Some(Guard::new(state.id, self.plan.writes, seen, first));
        self.learn_from_members(node);
    }

    pub(super) fn guard_step(&mut self, node: usize, input: GuardInput) {
        let tick = self.nodes[node].tick(self.now);
        let Some(guard) = &mut self.nodes[node].guard else {
            return;
        };
        let was_open = guard.may_allocate();
        let mut effects = vec![];
        guard.step(tick, input, &mut effects);
        let is_open = guard.may_allocate();
        for effect in effects {
            if self.trace.is_on() {
                let line = format!("n{} guard > {effect}", node + 1);
                self.trace.say(self.now, format_args!("{line}"));
            }
            match effect {
                GuardEffect::AskSeen { to, question } => {
                    let to = self.place_of(to);
                    self.tell_seen(node, to, &SeenMessage::Ask { question });
                }
                GuardEffect::ReadState { question } => {
                    self.ask(node, Asked::State(question), Request::Read);
                }
                GuardEffect::Begin { question, new } => {
                    let wall = Timestamp(self.now + self.nodes[node].wall_offset);
                    let new = Box::new(new);
                    self.ask(node, Asked::State(question), Request::Begin { new, wall });
                }
                GuardEffect::WithoutGroups(_) => self.counts.guards_without += 1,
            }
        }
        if is_open && !was_open {
            if self.trace.is_on() {
                self.trace
                    .say(self.now, format_args!("n{} guard opens", node + 1));
            }
            self.ask_numbers(node);
        }
    }

    /// Whether the node may ask for numbers, and of which generation.
    pub(super) fn may_allocate(&self, node: usize) -> Option<u64> {
        match &self.nodes[node].guard {
            None => Some(0),
            Some(guard) => guard.may_allocate().then(|| guard.generation()),
        }
    }

    pub(super) fn learn(&mut self, node: usize, seen: Seen) {
        self.guard_step(node, GuardInput::Learned(seen));
    }

    /// What the node's members have: their logs, promises and marks.
    pub(super) fn learn_from_members(&mut self, node: usize) {
        if self.nodes[node].guard.is_none() {
            return;
        }
        let mut seen = Seen::default();
        for (seat, member) in &self.nodes[node].members {
            let log = member.disk.log();
            let last = log.iter().rev().find_map(|entry| time_of(entry));
            let seq = log
                .iter()
                .rev()
                .find_map(|entry| entry.seqs())
                .unwrap_or_default()
                .1;
            let mark = member.shown.mark.max(member.kept_mark.0);
            let promised = member
                .seat
                .as_ref()
                .map_or(member.disk.promised(), Seat::promised);
            let config = member.seat.as_ref().map_or(member.disk.config(), Seat::config);
            let membership = member.seat.as_ref().map(Seat::membership).cloned();
            let mut one = Seen {
                counter: seq.max(mark),
                time: last.unwrap_or_default(),
                ..Seen::default()
            };
            one.epochs.insert(*seat, promised.number);
            one.members.insert(
                seat.group,
                Membership {
                    number: config,
                    ..Membership::default()
                },
            );
            seen.merge(&one);
            if let Some(membership) = membership {
                one.members.insert(seat.group, membership);
                seen.merge(&one);
            }
        }
        self.learn(node, seen);
    }

    /// What the node has seen, to write it to its disk; with all that its members have.
    pub(super) fn seen_to_write(&mut self, node: usize) -> Option<Box<Seen>> {
        self.learn_from_members(node);
        let guard = self.nodes[node].guard.as_ref()?;
        Some(Box::new(guard.seen().clone()))
    }

    /// Once a second, whatever else happens; and what waits for numbers does not wait for long.
    pub(super) fn beat_guard(&mut self, node: usize) -> Verdict {
        if self.nodes[node].guard.is_none() {
            return Ok(());
        }
        self.guard_step(node, GuardInput::Tick);
        if self.now >= self.nodes[node].seen_written + SECOND {
            self.nodes[node].seen_written = self.now;
            let seen = self.seen_to_write(node).unwrap_or_default();
            let life = self.nodes[node].life;
            let done = self.now + self.disk_delay(node);
            self.queue.push(done, Event::SeenSynced { node, life, seen });
        }
        if self.may_allocate(node).is_none() {
            self.refuse_numbers(node)?;
        }
        Ok(())
    }

    pub(super) fn seen_synced(&mut self, node: usize, life: u64, seen: &Seen) {
        if self.lives(node, life) {
            self.nodes[node].seen_durable.merge(seen);
        }
    }

    /// The promise of a member is durable, and with it what its node has seen.
    pub(super) fn promise_seen(&mut self, at: At, life: u64, seen: Option<Box<Seen>>) {
        if let Some(seen) = seen
            && self.lives(at.0, life)
        {
            self.nodes[at.0].seen_durable.merge(&seen);
        }
    }

    fn tell_seen(&mut self, from: usize, to: usize, message: &SeenMessage) {
        for arrival in self.network.send(self.now, from, to, &mut self.counts.faults) {
            let message = message.clone();
            self.queue.push(arrival, Event::Seen { to, from, message });
        }
    }

    pub(super) fn seen_told(&mut self, to: usize, from: usize, message: SeenMessage) {
        if !self.nodes[to].is_up {
            return;
        }
        match message {
            SeenMessage::Ask { question } => {
                if let Some(seen) = self.seen_to_write(to) {
                    self.tell_seen(to, from, &SeenMessage::Told { question, seen });
                }
            }
            SeenMessage::Told { question, seen } => self.guard_step(
                to,
                GuardInput::PeerSeen {
                    from: node_id(from),
                    question,
                    seen: *seen,
                },
            ),
        }
    }

    // The coordinator.

    /// A backup is made of the coordinator.
    pub(super) fn back_up(&mut self) {
        if !self.is_guarded() || self.is_calm {
            return;
        }
        self.backups.push_back(self.coordinator.clone());
        if self.backups.len() > BACKUPS_MAX {
            self.backups.pop_front();
        }
        let next = 100 * MILLI + self.nemesis.below(4 * SECOND);
        self.queue.push(self.now + next, Event::BackUp);
    }

    /// The coordinator is restored from one of its backups.
    pub(super) fn roll_back(&mut self, until: Micros) {
        let possible: Vec<Coordinator> = self
            .backups
            .iter()
            .filter(|backup| self.is_noticed(backup))
            .cloned()
            .collect();
        if possible.is_empty() {
            return;
        }
        let backup = possible[self.nemesis.position(possible.len())].clone();
        self.counts.rollbacks += 1;
        if self.trace.is_on() {
            let (from, to) = (self.coordinator.state(), backup.state());
            self.trace.say(
                self.now,
                format_args!("coordinator: from {from:?} back to {to:?}"),
            );
        }
        self.coordinator.restore(&backup, self.now);
        if self.nemesis.one_in(2) {
            self.away_until = until;
        }
        for node in 0..self.nodes.len() {
            self.break_watch(node);
        }
    }

    /// The bound of this module.
    fn is_noticed(&self, backup: &Coordinator) -> bool {
        let mut groups = self.members.iter();
        let members_are_safe = groups.all(|(group, now)| {
            let old = backup.members(*group);
            old == now || self.knows_better_than(*group, old)
        });
        let knows = |node: &rdb_proto::types::NodeId| {
            self.nodes[self.place_of(*node)].seen_durable.counter > backup.counter()
        };
        let is_known = |membership: &Membership| {
            let strangers = membership.members.iter().filter(|node| !knows(node)).count();
            strangers < membership.members.len() + 1 - self.plan.writes
        };
        members_are_safe
            && (backup.counter() == self.coordinator.given() || self.members.values().any(is_known))
    }

    /// The txn that puts the coordinator right was run: its members are those of now.
    ///
    /// # Errors
    /// When it was never wrong.
    pub(super) fn begun(&mut self) -> Verdict {
        self.counts.generations += 1;
        let happened = |fault| self.counts.faults.contains_key(&fault);
        let back = [
            Fault::CoordinatorRollback,
            Fault::EpochRollback,
            Fault::MembersRollback,
        ];
        if !back.into_iter().any(happened) {
            return broken(
                "rollback (DESIGN 6.5)",
                "a coordinator was put right that had never gone back".to_owned(),
            );
        }
        for (group, now) in &mut self.members {
            let restored = self.coordinator.members(*group);
            if restored != now {
                let before = std::mem::replace(now, restored.clone());
                self.past.entry(*group).or_default().push(before);
            }
        }
        Ok(())
    }
}

fn time_of(entry: &Entry) -> Option<Timestamp> {
    match &entry.body {
        EntryBody::Events(events) => {
            let events = decode_batch(&events.encoded).ok()?;
            events.last().map(|event| event.time)
        }
        EntryBody::EpochStart(_) | EntryBody::Cursor(_) => None,
    }
}
