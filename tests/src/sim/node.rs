//! A node: the driver around its members. Hands inputs to the core, performs effects, shares one allocator among its
//! seats, keeps a lease and a watch. Decides nothing that the core decides.

use super::checks::Verdict;
use super::checks::monotone::Shown;
use super::checks::served::{AsOf, Read};
use super::checks::{acknowledged, fresh, told};
use super::client::{Caller, Reply};
use super::coordinator::Request;
use super::disk::Disk;
use super::index::Index;
use super::nemesis::Point;
use super::plan::{Fault, HEARTBEAT, MILLI, Micros, Plan, SECOND};
use super::session::{Allocator, Asked, Wanted};
use super::subscriptions;
use super::world::{At, Event, World, node_id};
use crate::random::Random;
use rdb_proto::cursor::{CursorAct, CursorChange};
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::types::{Epoch, GroupId, KeyName, LogIndex, Membership, NodeId, SeatId, Seq};
use rdb_server::cdc::consumers::Heard;
use rdb_server::protocol::{
    Durable, Effect, Guard, Input, LogReadId, Message, Outcome, ProposalId, Seat, SeatConfig, Seen, Tick,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// One in so many appends comes together with a change of a cursor.
const CURSOR_EVERY: u64 = 5;

/// A read that is confirmed, and waits for the index.
#[derive(Debug)]
struct Confirmed {
    index: LogIndex,
    caller: Caller,
    name: KeyName,
}

/// A node's part of a seat.
#[derive(Debug)]
pub(super) struct Member {
    /// The core; `None` while the process is not there.
    pub(super) seat: Option<Seat>,
    pub(super) disk: Disk,
    pub(super) index: Index,
    to_index: VecDeque<Arc<Entry>>,
    is_indexing: bool,
    pub(super) shown: Shown,
    /// The last mark that was told, with its commit index.
    pub(super) resolved: (Seq, LogIndex),
    /// The mark that its disk remembers.
    pub(super) kept_mark: (Seq, LogIndex),
    leads: Option<Epoch>,
    proposals: BTreeMap<u64, (Caller, KeyName)>,
    pub(super) changes: BTreeMap<u64, Arc<CursorChange>>,
    /// Of consumers, by what was handed to the core for each.
    pub(super) questions: BTreeMap<u64, subscriptions::Asked>,
    /// With what was committed when each arrived.
    reads: BTreeMap<u64, (Caller, KeyName, LogIndex)>,
    confirmed: Vec<Confirmed>,
    pub(super) next: u64,
}

impl Member {
    fn new(plan: &Plan) -> Self {
        Self {
            seat: None,
            disk: Disk::default(),
            index: Index::new(plan.window, plan.mistake),
            to_index: VecDeque::new(),
            is_indexing: false,
            shown: Shown::default(),
            resolved: (Seq::ZERO, LogIndex::ZERO),
            kept_mark: (Seq::ZERO, LogIndex::ZERO),
            leads: None,
            proposals: BTreeMap::new(),
            changes: BTreeMap::new(),
            questions: BTreeMap::new(),
            reads: BTreeMap::new(),
            confirmed: vec![],
            next: 0,
        }
    }

    /// The core is gone, and all that was waiting for it.
    fn close(&mut self) {
        self.seat = None;
        self.to_index.clear();
        self.is_indexing = false;
        self.resolved = (Seq::ZERO, LogIndex::ZERO);
        self.leads = None;
        self.proposals.clear();
        self.changes.clear();
        self.questions.clear();
        self.reads.clear();
        self.confirmed.clear();
    }

    /// What the core starts from: what its disk holds, and what is found when it is read.
    fn durable(&mut self) -> Durable {
        if self.disk.open() {
            let applied = self.index.applied().min(self.disk.last());
            let kept = &self.disk.log()[..usize::try_from(applied.get()).unwrap()];
            self.index = self.index.rebuilt(kept.iter().map(Arc::as_ref));
        }
        self.disk.starts(self.index.applied(), self.kept_mark)
    }
}

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) is_up: bool,
    pub(super) life: u64,
    pub(super) paused_until: Micros,
    /// Parts of a million by which its clock is fast.
    pub(super) drift: i64,
    /// By how much its wall clock is off.
    pub(super) wall_offset: Micros,
    pub(super) members: BTreeMap<SeatId, Member>,
    pub(super) lease: Option<u64>,
    /// The process of the coordinator that it talks to.
    pub(super) connection: u64,
    pub(super) watch: u64,
    pub(super) watch_last: Micros,
    pub(super) is_counter_pending: bool,
    pub(super) counter_seen: Seq,
    pub(super) allocator: Allocator,
    pub(super) asks: BTreeMap<u64, Asked>,
    /// Asks whose answer was given up: a late one is void, and is handed to the core to see that it knows.
    pub(super) late: BTreeMap<u64, Vec<Wanted>>,
    pub(super) next_ask: u64,
    /// In runs in which the coordinator is rolled back, while the process is there.
    pub(super) guard: Option<Guard>,
    /// What its disk remembers of the coordinator.
    pub(super) seen_durable: Seen,
    /// When that was written last.
    pub(super) seen_written: Micros,
    pub(super) slow_disk: Micros,
    pub(super) stalled_until: Micros,
    /// Until then its disk has no room for what clients write.
    pub(super) full_until: Micros,
    /// Whom it heard of those that have names, while the process is there.
    pub(super) heard: Heard,
}

impl Node {
    pub(super) fn new(
        plan: &Plan,
        place: usize,
        members: &BTreeMap<GroupId, Membership>,
        random: &mut Random,
    ) -> Self {
        let id = node_id(place);
        let mine = members
            .iter()
            .filter(|(_, membership)| membership.members.contains(&id));
        let seats = mine
            .flat_map(|(group, _)| rdb_proto::types::Side::BOTH.map(|side| SeatId { group: *group, side }));
        let drift = plan.rate(Fault::ClockDrift, 1_000, 200_000);
        let drift = i64::try_from(random.below(2 * drift + 1)).unwrap() - i64::try_from(drift).unwrap();
        Self {
            id,
            is_up: false,
            life: 0,
            paused_until: 0,
            drift,
            wall_offset: 0,
            members: seats.map(|seat| (seat, Member::new(plan))).collect(),
            lease: None,
            connection: 0,
            guard: None,
            seen_durable: Seen::default(),
            seen_written: 0,
            watch: 0,
            watch_last: 0,
            is_counter_pending: false,
            counter_seen: Seq::ZERO,
            allocator: Allocator::default(),
            asks: BTreeMap::new(),
            late: BTreeMap::new(),
            next_ask: 0,
            slow_disk: 0,
            stalled_until: 0,
            full_until: 0,
            heard: Heard::default(),
        }
    }

    /// Its clock.
    pub(super) fn tick(&self, now: Micros) -> Tick {
        let now = i64::try_from(now).unwrap();
        let local = now + now / 1_000_000 * self.drift + now % 1_000_000 * self.drift / 1_000_000;
        Tick(u64::try_from(local).unwrap() / MILLI)
    }
}

impl World {
    /// Whether the life of a process that something was planned for still goes on.
    pub(super) fn lives(&self, node: usize, life: u64) -> bool {
        self.nodes[node].is_up && self.nodes[node].life == life
    }

    pub(super) fn member(&mut self, at: At) -> &mut Member {
        self.nodes[at.0].members.get_mut(&at.1).unwrap()
    }

    /// Hands an input to the core, and performs what it wants.
    pub(super) fn step(&mut self, at: At, input: Input) -> Verdict {
        if !self.nodes[at.0].is_up {
            return Ok(());
        }
        self.counts.steps += 1;
        let tick = self.nodes[at.0].tick(self.now);
        if self.trace.is_on() {
            let line = format!("n{} {} < {input}", at.0 + 1, at.1);
            self.trace.say(self.now, format_args!("{line}"));
        }
        let mut effects = Vec::new();
        let seat = self.member(at).seat.as_mut().unwrap();
        seat.step(tick, input, &mut effects);
        seat.assert_invariants();
        if self.trace.is_on() {
            for effect in &effects {
                self.trace
                    .say(self.now, format_args!("n{} {}   > {effect}", at.0 + 1, at.1));
            }
        }
        for effect in &effects {
            if let Effect::Committed { entries, .. } = effect {
                self.newly_committed(at, entries)?;
            }
        }
        let point = Point::of(&effects);
        for effect in self.in_any_order(effects) {
            self.perform(at, effect)?;
        }
        self.observe(at)?;
        if let Some(point) = point {
            self.at_point(at.0, point)?;
        }
        Ok(())
    }

    /// Effects may be performed in any order; writes to one disk come in the order of their tickets.
    fn in_any_order(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        if effects.len() < 2 || !self.driver.one_in(4) {
            return effects;
        }
        let is_write = |effect: &Effect| matches!(effect, Effect::Persist { .. } | Effect::PersistPromise(_));
        effects.reverse();
        let writes: Vec<Effect> = effects
            .iter()
            .rev()
            .filter(|effect| is_write(effect))
            .cloned()
            .collect();
        effects.retain(|effect| !is_write(effect));
        if self.driver.one_in(2) {
            effects.extend(writes);
            effects
        } else {
            writes.into_iter().chain(effects).collect()
        }
    }

    fn perform(&mut self, at: At, effect: Effect) -> Verdict {
        match effect {
            Effect::Repaired => {
                let is_noted = !self.disks.one_in(4);
                self.member(at).disk.repaired(is_noted);
                self.counts.repaired += 1;
            }
            Effect::EpochTooLow { epoch, promised } => {
                let lease = self.nodes[at.0].lease.unwrap_or_default();
                let request = Request::Raise {
                    seat: at.1,
                    lease,
                    epoch,
                    above: promised.number,
                };
                self.ask(at.0, Asked::Elect(at.1), request);
            }
            Effect::PersistPromise(epoch) => {
                let member = self.member(at);
                let config = member.seat.as_ref().map_or(0, Seat::config);
                member.disk.promise(epoch, config);
                let seen = self.seen_to_write(at.0);
                let done = self.disk_delay(at.0);
                self.plan_for(at, done, |at, life| Event::PromiseSynced { at, life, seen });
            }
            Effect::Persist {
                ticket,
                truncate_from,
                entries,
            } => {
                self.persist(at, ticket, truncate_from, entries)?;
            }
            Effect::Allocate { request, count } => {
                self.nodes[at.0].allocator.waiting.push(Wanted {
                    seat: at.1,
                    request,
                    count,
                });
                self.ask_numbers(at.0);
            }
            Effect::Reply { proposal, outcome } => self.reply(at, proposal.0, outcome)?,
            Effect::ReadConfirmed { read, index } => {
                if let Some((caller, name, committed)) = self.member(at).reads.remove(&read.0) {
                    fresh::check(at.1, committed, index)?;
                    self.member(at).confirmed.push(Confirmed { index, caller, name });
                    self.answer_reads(at);
                } else {
                    self.question_goes_on(at, read.0, Some(index));
                }
            }
            Effect::ReadRefused { read, .. } => {
                if let Some((caller, ..)) = self.member(at).reads.remove(&read.0) {
                    self.answer_client(caller, Reply::Refused);
                } else {
                    self.question_goes_on(at, read.0, None);
                }
            }
            Effect::Committed { index, entries } => {
                let notes = self.disks.one_in(4);
                let member = self.member(at);
                member.to_index.extend(entries);
                if notes {
                    // Never beyond what is durable here: an older suffix may come back in a crash.
                    member.disk.note_commit(index.min(member.disk.durable()));
                }
                self.plan_index(at);
            }
            Effect::Resolved { mark, commit } => {
                let committed = self.checks.commits.log(at.1);
                self.checks.marks.told(at.1, mark, commit, committed)?;
                let keeps = self.disks.one_in(8);
                let member = self.member(at);
                member.resolved = (mark, commit);
                if keeps {
                    member.kept_mark = (mark, commit);
                }
            }
            Effect::Send { to, message } => self.send(at, to, message)?,
            Effect::Campaign { above, revision } => self.campaign(at, above, revision)?,
            Effect::GiveUp { epoch, successor } => {
                let request = Request::Resign {
                    seat: at.1,
                    epoch,
                    successor,
                };
                self.ask(at.0, Asked::Resign, request);
            }
            Effect::ReadLog {
                read, first, last, ..
            } => {
                let done = self.disk_delay(at.0);
                let range = (first, last);
                self.plan_for(at, done, |at, life| Event::LogRead {
                    at,
                    life,
                    read,
                    range,
                });
            }
        }
        Ok(())
    }

    fn plan_for(&mut self, at: At, delay: Micros, event: impl FnOnce(At, u64) -> Event) {
        let life = self.nodes[at.0].life;
        self.queue.push(self.now + delay, event(at, life));
    }

    pub(super) fn disk_delay(&mut self, node: usize) -> Micros {
        let stalled = self.nodes[node].stalled_until.saturating_sub(self.now);
        let slow = self.nodes[node].slow_disk;
        // Now and then one write takes much longer than another one to the same disk.
        let hiccup = if slow > 0 && self.disks.one_in(4) {
            self.disks.below(slow)
        } else {
            0
        };
        stalled + 200 + self.disks.below(1_500) + hiccup
    }

    fn persist(
        &mut self,
        at: At,
        ticket: rdb_server::protocol::PersistTicket,
        truncate_from: Option<LogIndex>,
        entries: Vec<Arc<Entry>>,
    ) -> Verdict {
        let commit = self.member(at).shown.commit;
        if let Some(from) = truncate_from {
            self.checks.commits.truncates(at.1, from, commit)?;
        }
        let base = truncate_from.map_or(self.member(at).disk.last(), LogIndex::previous);
        let mut before = self
            .member(at)
            .disk
            .entry(base)
            .map_or(Epoch::ZERO, |entry| entry.epoch);
        for entry in &entries {
            self.checks.matching.written(at.1, before, entry)?;
            before = entry.epoch;
        }
        if self.member(at).disk.write(ticket, truncate_from, entries) {
            self.member(at).disk.begin_sync();
            let done = self.disk_delay(at.0);
            self.plan_for(at, done, |at, life| Event::LogSynced { at, life });
        }
        Ok(())
    }

    pub(super) fn log_synced(&mut self, at: At, life: u64) -> Verdict {
        if !self.lives(at.0, life) {
            return Ok(());
        }
        let (ticket, more) = self.member(at).disk.synced();
        if more {
            self.member(at).disk.begin_sync();
            let done = self.disk_delay(at.0);
            self.plan_for(at, done, |at, life| Event::LogSynced { at, life });
        }
        if self.at_point(at.0, Point::Synced)? {
            return Ok(());
        }
        ticket.map_or(Ok(()), |ticket| self.step(at, Input::Persisted(ticket)))
    }

    pub(super) fn promise_synced(&mut self, at: At, life: u64) -> Verdict {
        if !self.lives(at.0, life) {
            return Ok(());
        }
        let epoch = self.member(at).disk.promise_synced();
        if self.at_point(at.0, Point::PromiseSynced)? {
            return Ok(());
        }
        epoch.map_or(Ok(()), |epoch| self.step(at, Input::PromisePersisted(epoch)))
    }

    pub(super) fn log_read(
        &mut self,
        at: At,
        life: u64,
        read: LogReadId,
        range: (LogIndex, LogIndex),
    ) -> Verdict {
        if !self.lives(at.0, life) {
            return Ok(());
        }
        let short = self.disks.one_in(4);
        if self.member(at).disk.is_rotten(range.0, range.1) {
            // Its next start finds out what is lost.
            self.crash(at.0);
            let again = self.disks.below(SECOND);
            self.queue.push(self.now + again, Event::Restart(at.0));
            return Ok(());
        }
        let log = self.member(at).disk.log();
        let place = |index: LogIndex| usize::try_from(index.get()).unwrap().min(log.len());
        let mut entries = log[place(range.0.previous())..place(range.1)].to_vec();
        if short {
            entries.truncate(1);
        }
        if entries.is_empty() {
            return Ok(());
        }
        self.step(at, Input::LogRead { read, entries })
    }

    fn send(&mut self, at: At, to: NodeId, message: Message) -> Verdict {
        let member = self.member(at);
        let obeys = member.seat.as_ref().map_or(Epoch::ZERO, Seat::promised);
        told::check(at.1, obeys, &member.disk, &message)?;
        let to = self.place_of(to);
        let arrivals = self.network.send(self.now, at.0, to, &mut self.counts.faults);
        self.answered_in_duel(at, to, &message);
        for arrival in arrivals {
            let message = message.clone();
            self.queue.push(
                arrival,
                Event::Deliver {
                    to,
                    from: at.0,
                    seat: at.1,
                    message,
                },
            );
        }
        Ok(())
    }

    pub(super) fn deliver(&mut self, to: usize, from: usize, seat: SeatId, message: Message) -> Verdict {
        if !self.nodes[to].is_up || !self.nodes[to].members.contains_key(&seat) {
            return Ok(());
        }
        self.step(
            (to, seat),
            Input::Received {
                from: node_id(from),
                message,
            },
        )
    }

    pub(super) fn refused(&mut self, to: usize, node: usize) -> Verdict {
        if !self.nodes[to].is_up || self.nodes[node].is_up {
            return Ok(());
        }
        self.for_each_member(to, &|_| Input::Unreachable(node_id(node)))
    }

    pub(super) fn for_each_member(&mut self, node: usize, input: &dyn Fn(SeatId) -> Input) -> Verdict {
        let seats: Vec<SeatId> = self.nodes[node].members.keys().copied().collect();
        seats
            .into_iter()
            .try_for_each(|seat| self.step((node, seat), input(seat)))
    }

    /// What the member shows after a step.
    fn observe(&mut self, at: At) -> Verdict {
        if !self.nodes[at.0].is_up {
            return Ok(());
        }
        let (id, life) = (self.nodes[at.0].id, self.nodes[at.0].life);
        let member = self.member(at);
        let seat = member.seat.as_ref().unwrap();
        let now = Shown {
            promised: member.disk.promised(),
            commit: seat.commit(),
            mark: seat.mark().seq,
        };
        let leads = match seat.leader() {
            Some((node, epoch)) if node == id => Some(epoch),
            Some(_) | None => None,
        };
        member.shown.becomes(now)?;
        if leads == member.leads {
            return Ok(());
        }
        member.leads = leads;
        if let Some(epoch) = leads {
            self.checks.leaders.leads(at.1, epoch, id, life)?;
            let log = self.nodes[at.0].members[&at.1].disk.log();
            self.checks.commits.recovered(at.1, epoch, log)?;
        }
        Ok(())
    }

    // The key index.

    fn plan_index(&mut self, at: At) {
        if std::mem::replace(&mut self.member(at).is_indexing, true) {
            return;
        }
        let lag = self.plan.rate(Fault::IndexLag, 10 * MILLI, 800 * MILLI);
        let lag = if lag > 0 && !self.is_calm && self.driver.one_in(4) {
            self.driver.below(lag)
        } else {
            0
        };
        let delay = 50 + self.driver.below(500) + lag;
        self.plan_for(at, delay, |at, life| Event::IndexStep { at, life });
    }

    pub(super) fn index_step(&mut self, at: At, life: u64) -> Verdict {
        if !self.lives(at.0, life) {
            return Ok(());
        }
        let most = 1 + self.driver.position(64);
        // Now and then the index is further than it announced.
        let announces = !self.driver.one_in(8);
        let member = self.nodes[at.0].members.get_mut(&at.1).unwrap();
        member.is_indexing = false;
        for _ in 0..most {
            let Some(entry) = member.to_index.pop_front() else {
                break;
            };
            member.index.apply(&entry);
            if at.1 == self.name.1 && matches!(entry.body, EntryBody::Cursor(_)) {
                let cursor = member.index.cursor(&self.name.0);
                self.checks.cursors.applied(at.1, entry.index, cursor)?;
            }
        }
        let applied = member.index.applied();
        let announced = member.seat.as_ref().map_or(applied, Seat::indexed);
        if !member.to_index.is_empty() || (!announces && applied > announced) {
            self.plan_index(at);
        }
        self.answer_reads(at);
        self.read_index(at);
        if announces && applied > announced {
            self.step(at, Input::Indexed(applied))?;
        }
        self.answer_questions(at, life)
    }

    fn answer_reads(&mut self, at: At) {
        let member = self.member(at);
        let applied = member.index.applied();
        let (ready, waiting) = member
            .confirmed
            .drain(..)
            .partition(|read: &Confirmed| read.index <= applied);
        member.confirmed = waiting;
        for Confirmed { caller, name, .. } in ready {
            let state = self.member(at).index.state(&name);
            self.answer_client(caller, Reply::Read(state));
        }
    }

    /// Somebody reads a key of this member alone: as its index has it, and as of a seq that its mark has reached.
    fn read_index(&mut self, at: At) {
        if !self.reader.one_in(4) {
            return;
        }
        let of_seat: Vec<_> = self.keys.iter().filter(|(_, seat)| *seat == at.1).collect();
        let name = of_seat[self.reader.position(of_seat.len())].0.clone();
        let member = &self.nodes[at.0].members[&at.1];
        let index = &member.index;
        let mut serve = |as_of, found| {
            self.checks.reads.push(Read {
                seat: at.1,
                name: name.clone(),
                as_of,
                found,
            });
        };
        serve(AsOf::Applied(index.applied()), index.state(&name));
        let (mark, commit) = member.resolved;
        if mark > Seq::ZERO && index.applied() >= commit {
            let back = if self.reader.one_in(2) { 8 } else { 1_000 };
            let seq = Seq(mark.get() - self.reader.below(mark.get().min(back)));
            serve(AsOf::Seq(seq), index.state_as_of(&name, seq));
        }
    }

    // Clients.

    /// A client's request for a key of a seat of which this node is a member.
    pub(super) fn propose(&mut self, at: At, caller: Caller, name: &KeyName) -> Verdict {
        let member = self.member(at);
        member.next += 1;
        let id = member.next;
        let Some(proposal) = self.proposal(&caller, id) else {
            let committed = self.checks.commits.last(at.1);
            self.member(at)
                .reads
                .insert(id, (caller, name.clone(), committed));
            return self.step(at, Input::Read(rdb_server::protocol::ReadId(id)));
        };
        if self.now < self.nodes[at.0].full_until {
            self.answer_client(caller, Reply::Refused);
            return Ok(());
        }
        if id.is_multiple_of(CURSOR_EVERY) {
            self.change_cursor(at)?;
        }
        let mut proposal = proposal;
        let member = self.member(at);
        member.index.look_up(&mut proposal);
        member.proposals.insert(id, (caller, name.clone()));
        self.step(at, Input::Propose(vec![proposal]))
    }

    /// A consumer of a named subscription says how far it is.
    fn change_cursor(&mut self, at: At) -> Verdict {
        let late = self.late_acknowledgement(at.1);
        let member = self.member(at);
        member.next += 1;
        let id = member.next;
        let change = Arc::new(late.unwrap_or_else(|| CursorChange {
            name: format!("{} of n{}", id, at.0 + 1),
            act: CursorAct::Acknowledge {
                generation: id,
                position: Seq(id),
            },
        }));
        member.changes.insert(id, Arc::clone(&change));
        self.step(at, Input::ChangeCursors(vec![(ProposalId(id), change)]))
    }

    fn reply(&mut self, at: At, proposal: u64, outcome: Outcome) -> Verdict {
        if let Some(change) = self.member(at).changes.remove(&proposal) {
            self.name_changed(at, proposal, &outcome);
            return match outcome {
                Outcome::Changed(index) => {
                    acknowledged::check_change(at.1, self.checks.commits.log(at.1), &change, index)
                }
                Outcome::Refused(_) | Outcome::Unknown => Ok(()),
                other => super::checks::broken(
                    "one reply for each proposal",
                    format!("a change of a cursor is told: {other}"),
                ),
            };
        }
        let Some((caller, name)) = self.member(at).proposals.remove(&proposal) else {
            return super::checks::broken(
                "one reply for each proposal",
                format!("p{proposal} got another: {outcome}"),
            );
        };
        self.check_outcome(at.1, &caller, &name, &outcome)?;
        self.answer_client(caller, Reply::Outcome(outcome));
        Ok(())
    }

    pub(super) fn beat(&mut self, node: usize, life: u64) -> Verdict {
        if !self.lives(node, life) {
            return Ok(());
        }
        self.queue.push(self.now + HEARTBEAT, Event::Beat { node, life });
        self.for_each_member(node, &|_| Input::Tick)?;
        self.beat_guard(node)
    }

    // Life and death.

    /// The process starts, from what its disks hold.
    pub(super) fn restart(&mut self, node: usize) -> Verdict {
        if self.nodes[node].is_up {
            return Ok(());
        }
        let state = &mut self.nodes[node];
        state.is_up = true;
        state.life += 1;
        let life = state.life;
        if self.trace.is_on() {
            self.trace
                .say(self.now, format_args!("n{} starts, life {life}", node + 1));
        }
        let seats: Vec<SeatId> = self.nodes[node].members.keys().copied().collect();
        for seat in seats {
            self.wake((node, seat))?;
        }
        self.begin_guard(node);
        self.ask(node, Asked::Lease, Request::KeepAlive { lease: None });
        self.list(node);
        let first = self.driver.below(HEARTBEAT);
        self.queue.push(self.now + first, Event::Beat { node, life });
        self.queue.push(
            self.now + self.plan.lease_ttl / 4,
            Event::KeepAlive { node, life },
        );
        Ok(())
    }

    /// A member starts, from what its disk holds.
    fn wake(&mut self, at: At) -> Verdict {
        let (node, seat) = at;
        let config = SeatConfig {
            failover_after_ms: self.plan.failover_after / MILLI,
            recent_bytes_max: if self.plan.seed.is_multiple_of(3) {
                0
            } else {
                1 << 20
            },
            ..SeatConfig::new(self.nodes[node].id, self.plan.writes)
        };
        let delay = self.driver.below(150);
        let members = self.members[&seat.group].clone();
        let member = self.member(at);
        let durable = member.durable();
        member.shown.restarts(durable.promised)?;
        let applied = usize::try_from(durable.indexed.get()).unwrap();
        let commit = usize::try_from(durable.commit.get()).unwrap();
        let to_index = member.disk.log()[applied..commit].iter();
        member.to_index = to_index.cloned().collect();
        let opened = Seat::new(config, durable);
        if !opened.is_damaged() {
            member.disk.repaired(true);
        }
        member.seat = Some(opened);
        // The order of standing rotates, so that the two seats of a group have different first candidates.
        let place = members
            .members
            .iter()
            .position(|one| *one == node_id(node))
            .unwrap_or(0);
        let rotated = place + usize::try_from(seat.side.number()).unwrap();
        let rank = u64::try_from(rotated % members.members.len()).unwrap();
        self.step(at, Input::Members(members))?;
        self.step(at, Input::StandAfter(rank * 150 + delay))?;
        if !self.member(at).to_index.is_empty() {
            self.plan_index(at);
        }
        Ok(())
    }

    /// The node gets a part in a seat, with an empty disk unless it had one before.
    pub(super) fn join(&mut self, node: usize, seat: SeatId) -> Verdict {
        let is_new = !self.nodes[node].members.contains_key(&seat);
        if is_new {
            let member = Member::new(&self.plan);
            self.nodes[node].members.insert(seat, member);
            if self.nodes[node].is_up {
                self.wake((node, seat))?;
            }
        }
        if self.nodes[node].is_up {
            let key = self.coordinator.leader(seat);
            self.step((node, seat), Input::LeaderKey(key))?;
        }
        Ok(())
    }

    /// The process dies. What is not synced is lost from some point on.
    pub(super) fn crash(&mut self, node: usize) {
        if !self.nodes[node].is_up {
            return;
        }
        if self.trace.is_on() {
            self.trace.say(self.now, format_args!("n{} dies", node + 1));
        }
        let tears = self.plan.has(Fault::TornTail);
        let has_consumers = !self.consumers.is_empty();
        let (disks, mut torn) = (&mut self.disks, 0);
        let state = &mut self.nodes[node];
        state.is_up = false;
        state.lease = None;
        state.watch = 0;
        state.guard = None;
        state.is_counter_pending = false;
        state.counter_seen = Seq::ZERO;
        state.allocator = Allocator::default();
        state.asks.clear();
        state.late.clear();
        state.heard = Heard::default();
        state.paused_until = 0;
        for member in state.members.values_mut() {
            let kept = disks.position(member.disk.unsynced() + 1);
            let part = (tears && disks.one_in(2)).then(|| disks.position(member.disk.unsynced_entries() + 1));
            let promises = disks.position(member.disk.unsynced_promises() + 1);
            torn += u64::from(part.is_some());
            let sure = member.disk.durable();
            member.disk.crash(kept, part, promises);
            // What the index kept is somewhere behind, and never beyond what was durable in the log.
            let behind = disks.below(20);
            let was = member.index.applied().min(sure);
            let applied = LogIndex(member.index.applied().get().saturating_sub(behind));
            let applied = usize::try_from(applied.min(sure).get()).unwrap();
            let (kept, later) = member.disk.log().split_at(applied);
            member.index = member.index.rebuilt(kept.iter().map(Arc::as_ref));
            // Its cursors are written one by one, before it says how far it is.
            if has_consumers {
                let most = usize::try_from(was.get()).unwrap() - applied;
                let ahead = &later[..disks.position(most + 1)];
                member.index.run_ahead(ahead.iter().map(Arc::as_ref));
            }
            member.close();
        }
        if torn > 0 {
            *self.counts.faults.entry(Fault::TornTail).or_default() += torn;
        }
        for other in 0..self.nodes.len() {
            if other != node && self.network.reaches(node, other) && !self.driver.one_in(3) {
                let delay = self.driver.below(50 * MILLI);
                self.queue
                    .push(self.now + delay, Event::Refused { to: other, node });
            }
        }
    }

    /// Who leads a seat, as a member sees it.
    pub(super) fn leader_seen(&self, at: At) -> Option<NodeId> {
        let member = self.nodes[at.0].members.get(&at.1)?;
        member.seat.as_ref()?.leader().map(|(node, _)| node)
    }
}
