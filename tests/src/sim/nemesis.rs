//! What goes wrong, and when: faults that come and go, and deaths at named points of the protocol.

use super::checks::Verdict;
use super::controller::seats;
use super::coordinator::Change;
use super::network::COORDINATOR;
use super::plan::{Fault, MILLI, Micros, SECOND};
use super::world::{At, Event, World, node_id};
use rdb_proto::types::{GroupId, LogIndex, Membership, NodeId, SeatId};
use rdb_server::protocol::{Effect, Input, Message};
use std::collections::BTreeSet;

/// A point of the protocol at which a process may die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Point {
    /// A promise is written, and not durable.
    Promising,
    /// A promise is durable, and nobody knows.
    PromiseSynced,
    /// A promise was told to its candidate.
    Promised,
    /// The seat is won, and the winner does not know.
    Won,
    /// Numbers are asked for.
    Asked,
    /// Numbers are there, and not used.
    Numbered,
    /// Entries are written and sent, and not durable.
    Appended,
    /// Entries are durable, and nobody knows.
    Synced,
    /// Entries are acknowledged to their leader.
    Acknowledged,
    /// Entries are committed, and clients told.
    Committed,
}

impl Point {
    /// The point that a step with these effects reaches.
    pub(super) fn of(effects: &[Effect]) -> Option<Self> {
        effects.iter().find_map(|effect| match effect {
            Effect::PersistPromise(_) => Some(Self::Promising),
            Effect::Persist { .. } => Some(Self::Appended),
            Effect::Allocate { .. } => Some(Self::Asked),
            Effect::Committed { .. } => Some(Self::Committed),
            Effect::Send {
                message: Message::FenceAck { .. },
                ..
            } => Some(Self::Promised),
            Effect::Send {
                message: Message::AppendAck { .. },
                ..
            } => Some(Self::Acknowledged),
            _ => None,
        })
    }

    /// One in so many times that it is reached, a process dies there.
    const fn one_in(self) -> u64 {
        match self {
            Self::Promising | Self::PromiseSynced | Self::Promised | Self::Won => 6,
            Self::Asked | Self::Numbered | Self::Committed => 150,
            Self::Appended | Self::Synced => 300,
            Self::Acknowledged => 1_000,
        }
    }
}

/// A storm over a seat.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storm {
    until: Micros,
    is_duel: bool,
}

/// Faults that come and go, with the longest time between two of them and the longest that one lasts.
const COMING: &[(Fault, Micros, Micros)] = &[
    (Fault::Partition, 8 * SECOND, 5 * SECOND),
    (Fault::OneWay, 6 * SECOND, 5 * SECOND),
    (Fault::CoordinatorCut, 8 * SECOND, 6 * SECOND),
    (Fault::Crash, 6 * SECOND, 4 * SECOND),
    (Fault::PowerLoss, 15 * SECOND, 2 * SECOND),
    (Fault::Pause, 5 * SECOND, 4 * SECOND),
    (Fault::SlowDisk, 10 * SECOND, 8 * SECOND),
    (Fault::StalledDisk, 8 * SECOND, 3 * SECOND),
    (Fault::ClockStep, 8 * SECOND, SECOND),
    (Fault::LeaseLoss, 6 * SECOND, SECOND),
    (Fault::Outage, 12 * SECOND, 5 * SECOND),
    (Fault::Usurper, SECOND, SECOND),
    (Fault::EpochRollback, 5 * SECOND, SECOND),
    (Fault::MembersChange, 6 * SECOND, SECOND),
    (Fault::HandOver, 6 * SECOND, SECOND),
    (Fault::WatchBroken, 6 * SECOND, SECOND),
    (Fault::Storm, 6 * SECOND, 2 * SECOND),
    (Fault::MembersRollback, 6 * SECOND, 3 * SECOND),
    (Fault::CoordinatorRollback, 15 * SECOND, 2 * SECOND),
    (Fault::BitRot, 6 * SECOND, SECOND),
    (Fault::FullDisk, 8 * SECOND, 6 * SECOND),
    (Fault::ConsumerGone, 6 * SECOND, 18 * SECOND),
];

impl World {
    pub(super) fn plan_faults(&mut self) {
        for (fault, _, _) in COMING {
            self.plan_next(*fault);
        }
    }

    /// When this fault comes next. Drawn in runs without it too, so that a run with fewer faults is the same run.
    fn plan_next(&mut self, fault: Fault) {
        let Some((_, between, _)) = COMING.iter().find(|(one, _, _)| *one == fault) else {
            return;
        };
        if self.plan.has(fault) {
            let between = self.plan.rate(fault, between / 6, 2 * between);
            let at = self.now + 50 * MILLI + self.nemesis.below(between);
            if at < self.plan.faults_until {
                self.queue.push(at, Event::Fault(fault));
            }
        }
    }

    fn lasts(&mut self, fault: Fault) -> Micros {
        let longest = COMING
            .iter()
            .find(|(one, _, _)| *one == fault)
            .map_or(SECOND, |(_, _, longest)| *longest);
        // Short ones are as interesting as long ones.
        let scale = self.nemesis.below(longest) + 1;
        50 * MILLI + self.nemesis.below(scale)
    }

    pub(super) fn fault(&mut self, fault: Fault) -> Verdict {
        self.plan_next(fault);
        if self.is_calm {
            return Ok(());
        }
        self.count(fault);
        let nodes = self.nodes.len();
        let one = self.nemesis.position(nodes);
        let other = self.nemesis.position(nodes);
        let until = self.now + self.lasts(fault);
        if self.trace.is_on() {
            self.trace.say(
                self.now,
                format_args!(
                    "fault {fault} n{} n{} until {} ms",
                    one + 1,
                    other + 1,
                    until / MILLI
                ),
            );
        }
        match fault {
            Fault::Partition => self.partition(one, other, until),
            Fault::OneWay => {
                self.network.cut(one, other);
                self.queue.push(until, Event::Heal(fault, one, other));
            }
            Fault::CoordinatorCut => {
                self.network.cut(one, COORDINATOR);
                self.network.cut(COORDINATOR, one);
                self.queue.push(until, Event::Heal(fault, one, COORDINATOR));
            }
            Fault::Crash => {
                self.crash(one);
                self.queue.push(until, Event::Restart(one));
            }
            Fault::PowerLoss => {
                for node in 0..nodes {
                    self.crash(node);
                    let later = self.nemesis.below(SECOND);
                    self.queue.push(until + later, Event::Restart(node));
                }
            }
            Fault::Pause => self.nodes[one].paused_until = until,
            Fault::SlowDisk => {
                self.nodes[one].slow_disk = 5 * MILLI + self.nemesis.below(400 * MILLI);
                self.queue.push(until, Event::Heal(fault, one, other));
            }
            Fault::StalledDisk => self.nodes[one].stalled_until = until,
            Fault::ClockStep => self.nodes[one].wall_offset = self.nemesis.below(20 * SECOND),
            Fault::LeaseLoss => {
                let mut changes = vec![];
                let id = self.nodes[one].id;
                self.coordinator.revoke(id, &mut changes);
                self.tell_watches(&changes);
            }
            Fault::Outage => self.away_until = until,
            Fault::Usurper => self.usurp(one)?,
            Fault::EpochRollback => {
                let mut changes = vec![];
                let back = 1 + self.nemesis.below(4);
                let seats: Vec<_> = self.seats().collect();
                let seat = seats[self.nemesis.position(seats.len())];
                self.coordinator.forget_epochs(seat, back, &mut changes);
                self.tell_watches(&changes);
            }
            Fault::MembersChange => self.begin_change()?,
            Fault::HandOver => self.hand_over(one, other)?,
            Fault::WatchBroken => self.break_watch(one),
            Fault::Storm => {
                let seats: Vec<_> = self.seats().collect();
                let seat = seats[self.nemesis.position(seats.len())];
                self.begin_storm(seat, until);
            }
            Fault::MembersRollback => {
                let group = GroupId(u32::try_from(self.nemesis.below(u64::from(self.plan.groups))).unwrap());
                self.roll_members_back(group, until);
            }
            Fault::CoordinatorRollback => self.roll_back(until),
            Fault::BitRot => self.rot(one, until),
            Fault::FullDisk => self.nodes[one].full_until = until,
            Fault::ConsumerGone => self.lose_consumer(until),
            _ => {}
        }
        Ok(())
    }

    /// An entry on a disk of the node becomes unreadable, where R intact members of its seat remain.
    fn rot(&mut self, node: usize, until: Micros) {
        let seats: Vec<SeatId> = self.nodes[node].members.keys().copied().collect();
        if seats.is_empty() {
            return;
        }
        let seat = seats[self.nemesis.position(seats.len())];
        let is_damaged = |place: &usize| {
            let member = self.nodes[*place].members.get(&seat);
            member.is_some_and(|member| member.disk.is_damaged())
        };
        // Of all nodes that have a part in the seat: members change, and those of later are then among these.
        let others = (0..self.nodes.len()).filter(|place| *place != node);
        let damaged = others.filter(is_damaged).count();
        let disk = &self.nodes[node].members[&seat].disk;
        let durable = disk.durable().get();
        if damaged + 2 > self.plan.writes || disk.is_rotting() || durable == 0 {
            return;
        }
        // The last ones are those that may not be committed.
        let back = if self.nemesis.one_in(2) { 4 } else { 200 };
        let index = durable - self.nemesis.below(durable.min(back));
        let disk = &mut self.member((node, seat)).disk;
        disk.rot(LogIndex(index));
        self.counts.rotten += 1;
        if self.trace.is_on() {
            self.trace
                .say(self.now, format_args!("n{} {seat} entry {index} rots", node + 1));
        }
        if self.nemesis.one_in(2) {
            self.crash(node);
            self.queue.push(until, Event::Restart(node));
        }
    }

    /// A member stands for a seat, as if it had not heard its leader.
    fn usurp(&mut self, node: usize) -> Verdict {
        let seats: Vec<_> = self.nodes[node].members.keys().copied().collect();
        if seats.is_empty() || !self.nodes[node].is_up {
            return Ok(());
        }
        let seat = seats[self.nemesis.position(seats.len())];
        self.usurp_seat(node, seat)
    }

    fn usurp_seat(&mut self, node: usize, seat: SeatId) -> Verdict {
        let is_member = self
            .coordinator
            .members(seat.group)
            .members
            .contains(&node_id(node));
        if !is_member || !self.nodes[node].is_up || !self.nodes[node].members.contains_key(&seat) {
            return Ok(());
        }
        let revision = self.coordinator.leader(seat).revision;
        let above = self.nodes[node].members[&seat].disk.promised();
        self.campaign((node, seat), above, revision)
    }

    /// All that may want to lead a seat, or are asked by one that does.
    fn around(&self, seat: SeatId) -> Vec<NodeId> {
        let now = &self.members[&seat.group];
        let rolled_back = self.coordinator.members(seat.group);
        let everybody: BTreeSet<NodeId> = now.everybody().chain(rolled_back.everybody()).collect();
        everybody.into_iter().collect()
    }

    /// A storm over a seat. In a duel two members fight over it, the one that leads it and another; else it is anybody.
    pub(super) fn begin_storm(&mut self, seat: SeatId, until: Micros) {
        let everybody = self.around(seat);
        let other = everybody[self.nemesis.position(everybody.len())];
        let holder = self.coordinator.leader(seat).holder.map(|epoch| epoch.node);
        let pair = [other, holder.unwrap_or(everybody[0])];
        let is_duel = self.nemesis.one_in(2);
        self.storms.insert(seat, Storm { until, is_duel });
        self.queue.push(self.now, Event::Storm(seat, pair));
    }

    /// A moment of a storm over a seat: its members are divided anew, and one of them stands.
    ///
    /// What needs two losses of the leader in a row, the second of them before the first successor has told anybody
    /// anything, does not come about by chance in a run of a minute (Raft figure 8). So in a duel the two take turns: the
    /// one that stood last is alone, the other stands among the rest.
    pub(super) fn storm(&mut self, seat: SeatId, [stands, stood]: [NodeId; 2]) -> Verdict {
        let everybody = self.around(seat);
        let storm = self.storms.get(&seat).copied();
        let is_over = self.is_calm || storm.is_none_or(|storm| self.now >= storm.until);
        let is_duel = storm.is_some_and(|storm| storm.is_duel);
        let sides: Vec<(usize, bool)> = everybody
            .iter()
            .map(|node| {
                let by_chance = self.nemesis.one_in(2);
                let is_here = if is_duel { *node != stood } else { by_chance };
                (self.place_of(*node), is_over || is_here)
            })
            .collect();
        for (a, is_here) in &sides {
            for (b, is_there) in &sides {
                if is_here == is_there {
                    self.network.join(*a, *b);
                } else {
                    self.network.cut(*a, *b);
                }
            }
        }
        if is_over {
            self.storms.remove(&seat);
            return Ok(());
        }
        // About as long as it takes to win and to be obeyed, and now and then long enough to commit something.
        let longest = [10, 10, 50, 200][self.nemesis.position(4)] * MILLI;
        let next = 2 * MILLI + self.nemesis.below(longest);
        self.queue
            .push(self.now + next, Event::Storm(seat, [stood, stands]));
        if self.nemesis.one_in(4) {
            return Ok(());
        }
        let stands = if is_duel {
            stands
        } else {
            everybody[self.nemesis.position(everybody.len())]
        };
        self.usurp_seat(self.place_of(stands), seat)
    }

    /// In a duel, who was just answered may be heard no more: a winner that nobody follows yet, a leader whose entries
    /// went only half of the way.
    pub(super) fn answered_in_duel(&mut self, (node, seat): At, to: usize, message: &Message) {
        if self.is_calm || !self.storms.get(&seat).is_some_and(|storm| storm.is_duel) {
            return;
        }
        let one_in = match message {
            Message::FenceAck { .. } => 3,
            Message::AppendAck { .. } => 8,
            _ => return,
        };
        if self.nemesis.one_in(one_in) {
            self.network.cut(to, node);
        }
    }

    /// Whether the coordinator may bring these members of a group back: everybody who could recover a seat from them
    /// has to ask a member that knows better (rule 6.3.8). Where that is not so, the members alone cannot know.
    pub(super) fn knows_better_than(&self, group: GroupId, old: &Membership) -> bool {
        let now = &self.members[&group];
        let knows_better = |node: &NodeId| {
            seats(group).iter().all(|seat| {
                let member = self.nodes[self.place_of(*node)].members.get(seat);
                member.is_some_and(|member| member.disk.config() >= now.number)
            })
        };
        let strangers = old
            .members
            .iter()
            .filter(|node| !now.members.contains(node))
            .count();
        now.previous.is_empty()
            && !self.changes.contains_key(&group)
            && now.members.iter().all(knows_better)
            && old.number < now.number
            && strangers < old.members.len() + 1 - self.plan.writes
    }

    /// The coordinator brings back members of a group of before a change or two.
    fn roll_members_back(&mut self, group: GroupId, until: Micros) {
        let past: Vec<Membership> = self
            .past
            .get(&group)
            .into_iter()
            .flatten()
            .rev()
            .take(4)
            .filter(|old| self.knows_better_than(group, old))
            .cloned()
            .collect();
        if past.is_empty() {
            return;
        }
        let old = past[self.nemesis.position(past.len())].clone();
        self.coordinator.set_members(group, old.clone());
        self.tell_watches(&[Change::Members(group, old)]);
        self.queue.push(until, Event::MembersBack(group));
        // Those of before stand, in a storm over both seats.
        for seat in seats(group) {
            self.begin_storm(seat, until);
        }
    }

    /// The coordinator is put right.
    pub(super) fn members_back(&mut self, group: GroupId) {
        let now = self.members[&group].clone();
        if *self.coordinator.members(group) != now {
            self.coordinator.set_members(group, now.clone());
            self.tell_watches(&[Change::Members(group, now)]);
        }
    }

    /// A node gives all that it leads to another.
    fn hand_over(&mut self, from: usize, to: usize) -> Verdict {
        let seats: Vec<_> = self.nodes[from].members.keys().copied().collect();
        let shared = seats
            .into_iter()
            .filter(|seat| self.members[&seat.group].members.contains(&node_id(to)));
        let shared: Vec<_> = shared.collect();
        shared
            .into_iter()
            .try_for_each(|seat| self.step((from, seat), Input::HandOver(node_id(to))))
    }

    /// Some nodes against the others, or one whom some cannot reach; the coordinator on a side of its own choice.
    fn partition(&mut self, one: usize, other: usize, until: Micros) {
        let nodes = self.nodes.len();
        let is_bridge = self.nemesis.one_in(3);
        for a in 0..nodes {
            for b in 0..nodes {
                let is_cut = if is_bridge {
                    a != b && a != other && b != other && (a == one) != (b == one)
                } else {
                    (a <= one) != (b <= one)
                };
                if is_cut {
                    self.network.cut(a, b);
                    self.queue.push(until, Event::Heal(Fault::Partition, a, b));
                }
            }
        }
    }

    pub(super) fn heal(&mut self, fault: Fault, one: usize, other: usize) {
        match fault {
            Fault::SlowDisk => self.nodes[one].slow_disk = 0,
            _ => self.network.join(one, other),
        }
    }

    /// Faults are over: what is left of them heals, and everything must work before long.
    pub(super) fn calm(&mut self) -> Verdict {
        if self.trace.is_on() {
            self.trace.say(self.now, format_args!("calm"));
        }
        self.is_calm = true;
        self.storms.clear();
        let groups: Vec<_> = self.members.keys().copied().collect();
        for group in groups {
            // After a rollback of the whole, that is the guard's.
            if self.plan.has(Fault::MembersRollback) {
                self.members_back(group);
            }
        }
        self.network.heal(true);
        self.away_until = 0;
        self.wake_consumers();
        for node in 0..self.nodes.len() {
            self.nodes[node].paused_until = 0;
            self.nodes[node].slow_disk = 0;
            self.nodes[node].stalled_until = 0;
            self.nodes[node].full_until = 0;
            self.restart(node)?;
        }
        Ok(())
    }

    /// A process is at a point. Returns whether it died there.
    pub(super) fn at_point(&mut self, node: usize, point: Point) -> Result<bool, super::checks::Violation> {
        if self.is_calm || !self.plan.has(Fault::CrashPoint) || !self.nodes[node].is_up {
            return Ok(false);
        }
        if !self.nemesis.one_in(point.one_in()) || self.now < self.last_point + SECOND {
            return Ok(false);
        }
        self.last_point = self.now;
        self.count(Fault::CrashPoint);
        if self.trace.is_on() {
            self.trace
                .say(self.now, format_args!("n{} is {point:?}", node + 1));
        }
        self.crash(node);
        let until = self.now + 20 * MILLI + self.lasts(Fault::Crash);
        self.queue.push(until, Event::Restart(node));
        Ok(true)
    }
}
