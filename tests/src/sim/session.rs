//! A node's side of the coordinator: its lease, its watch, what it asks and what comes back, and the allocator that all
//! its seats share. Hands on to the core what it hears, and decides nothing.

use super::checks::Verdict;
use super::coordinator::{Answer, Change, Request};
use super::nemesis::Point;
use super::network::COORDINATOR;
use super::plan::{Fault, MILLI, SECOND};
use super::world::{At, Event, World};
use rdb_proto::types::{Epoch, GroupId, Membership, SeatId, Seq, Timestamp};
use rdb_server::protocol::{AllocationId, GuardInput, Input, QuestionId, Seen};

/// What a node waits for from the coordinator.
#[derive(Debug)]
pub(super) enum Asked {
    Lease,
    Elect(SeatId),
    Resign,
    Numbers(Vec<Wanted>),
    List,
    State(QuestionId),
}

/// Numbers that a seat wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) seat: SeatId,
    pub(super) request: AllocationId,
    pub(super) count: u64,
}

/// The allocator that all seats of a node share.
#[derive(Debug, Default)]
pub(super) struct Allocator {
    pub(super) waiting: Vec<Wanted>,
    is_asking: bool,
    counter: Seq,
}

impl World {
    pub(super) fn ask(&mut self, node: usize, asked: Asked, request: Request) {
        let now = self.now;
        let state = &mut self.nodes[node];
        state.next_ask += 1;
        let (ask, life, connection) = (state.next_ask, state.life, state.connection);
        state.asks.insert(ask, asked);
        let patience = 500 * MILLI + self.driver.below(SECOND);
        self.queue
            .push(now + patience, Event::AskTimeout { node, life, ask });
        if self.network.reaches(node, COORDINATOR) {
            let delay = 200 + self.coordination.below(1_000);
            self.queue.push(
                now + delay,
                Event::Ask {
                    node,
                    life,
                    ask,
                    connection,
                    request,
                },
            );
        }
    }

    /// A request reaches the coordinator.
    pub(super) fn asked(
        &mut self,
        (node, life, ask): (usize, u64, u64),
        connection: u64,
        request: Request,
    ) -> Verdict {
        let is_of_session = matches!(
            request,
            Request::Allocate { .. } | Request::Begin { .. } | Request::Read
        );
        let is_cut_off = is_of_session && connection != self.coordinator.incarnation();
        if self.now < self.away_until || is_cut_off {
            return Ok(());
        }
        let generation = self.coordinator.generation();
        let is_list = request == Request::List;
        let id = self.nodes[node].id;
        let mut changes = vec![];
        let answer = self.coordinator.serve(self.now, id, request, &mut changes);
        self.tell_watches(&changes);
        if self.coordinator.generation() != generation {
            self.begun()?;
        }
        if is_list
            && self.lives(node, life)
            && let Answer::Listed { watch, .. } = &answer
        {
            self.nodes[node].watch = *watch;
            self.nodes[node].connection = self.coordinator.incarnation();
            self.nodes[node].watch_last = self.now;
        }
        let lost = self.plan.rate(Fault::ReplyLost, 1_000, 100_000);
        if !self.is_calm && self.coordination.below(1_000_000) < lost {
            self.count(Fault::ReplyLost);
            // Lost for good, or so late that nobody waits for it any more.
            if self.coordination.one_in(2) {
                let late = SECOND + self.coordination.below(2 * SECOND);
                self.queue.push(
                    self.now + late,
                    Event::Answered {
                        node,
                        life,
                        ask,
                        answer,
                    },
                );
            }
            return Ok(());
        }
        if self.network.reaches(COORDINATOR, node) {
            let delay = 200 + self.coordination.below(1_000);
            self.queue.push(
                self.now + delay,
                Event::Answered {
                    node,
                    life,
                    ask,
                    answer,
                },
            );
        }
        Ok(())
    }

    pub(super) fn ask_timeout(&mut self, node: usize, life: u64, ask: u64) -> Verdict {
        if !self.lives(node, life) {
            return Ok(());
        }
        match self.nodes[node].asks.remove(&ask) {
            Some(Asked::Elect(seat)) => self.step((node, seat), Input::NotWon)?,
            Some(Asked::Numbers(wanted)) => {
                self.nodes[node].allocator.is_asking = false;
                for Wanted { seat, request, .. } in &wanted {
                    self.step((node, *seat), Input::AllocationVoid { request: *request })?;
                }
                if self.lives(node, life) {
                    self.nodes[node].late.insert(ask, wanted);
                    self.ask_numbers(node);
                }
            }
            Some(Asked::List) => self.list(node),
            Some(Asked::State(question)) => {
                self.guard_step(
                    node,
                    GuardInput::State {
                        question,
                        state: None,
                    },
                );
            }
            Some(Asked::Lease | Asked::Resign) | None => {}
        }
        Ok(())
    }

    pub(super) fn answered(&mut self, node: usize, life: u64, ask: u64, answer: Answer) -> Verdict {
        if !self.lives(node, life) {
            return Ok(());
        }
        if self.trace.is_on() {
            self.trace
                .say(self.now, format_args!("n{} coordinator: {answer:?}", node + 1));
        }
        let asked = self.nodes[node].asks.remove(&ask);
        let late = self.nodes[node].late.remove(&ask);
        match (asked, answer) {
            (Some(Asked::Lease), Answer::Alive { lease }) => self.nodes[node].lease = Some(lease),
            (Some(Asked::Lease), Answer::LeaseGone) => {
                self.nodes[node].lease = None;
                self.ask(node, Asked::Lease, Request::KeepAlive { lease: None });
            }
            (Some(Asked::Elect(seat)), Answer::Alive { lease }) => {
                self.nodes[node].lease = Some(lease);
                self.step((node, seat), Input::NotWon)?;
            }
            (
                Some(Asked::Elect(_)),
                Answer::Elected {
                    seat,
                    epoch,
                    membership,
                },
            ) => {
                if self.at_point(node, Point::Won)? {
                    return Ok(());
                }
                self.step((node, seat), Input::Won { epoch, membership })?;
            }
            (Some(Asked::Elect(_)), Answer::NotElected { seat, key }) => {
                self.step((node, seat), Input::LeaderKey(key))?;
                self.step((node, seat), Input::NotWon)?;
            }
            (Some(Asked::Elect(seat)), Answer::LeaseGone) => {
                self.nodes[node].lease = None;
                self.ask(node, Asked::Lease, Request::KeepAlive { lease: None });
                self.step((node, seat), Input::NotWon)?;
            }
            (Some(Asked::State(question)), Answer::State(state)) => {
                let state = Some(*state);
                self.guard_step(node, GuardInput::State { question, state });
            }
            (Some(Asked::Numbers(wanted)), Answer::State(state)) => {
                let allocator = &mut self.nodes[node].allocator;
                allocator.is_asking = false;
                allocator.waiting.splice(0..0, wanted);
                self.learn(node, *state);
                self.ask_numbers(node);
            }
            (Some(Asked::Numbers(wanted)), Answer::Numbers { first, time }) => {
                let total: u64 = wanted.iter().map(|one| one.count).sum();
                self.learn(
                    node,
                    Seen {
                        counter: first.plus(total).previous(),
                        time,
                        ..Seen::default()
                    },
                );
                self.nodes[node].allocator.counter = first.plus(total).previous();
                self.nodes[node].allocator.is_asking = false;
                self.hand_out(node, wanted, first, time)?;
                if self.lives(node, life) {
                    self.ask_numbers(node);
                }
            }
            (Some(Asked::Numbers(wanted)), Answer::CounterIs(counter)) => {
                let allocator = &mut self.nodes[node].allocator;
                allocator.counter = counter;
                allocator.is_asking = false;
                allocator.waiting.splice(0..0, wanted);
                self.ask_numbers(node);
            }
            (None, Answer::Numbers { first, time }) => {
                if let Some(wanted) = late {
                    self.hand_out(node, wanted, first, time)?;
                }
            }
            (
                Some(Asked::List),
                Answer::Listed {
                    leaders,
                    members,
                    counter,
                    watch,
                    state,
                },
            ) => {
                if self.nodes[node].watch != watch {
                    return Ok(());
                }
                self.guard_step(node, GuardInput::Connected(*state));
                self.nodes[node].allocator.counter = counter.max(self.nodes[node].allocator.counter);
                for (group, membership) in members {
                    self.members_changed(node, group, &membership)?;
                }
                for (seat, key) in leaders {
                    if self.nodes[node].members.contains_key(&seat) {
                        self.step((node, seat), Input::LeaderKey(key))?;
                    }
                }
                self.counter_moved(node, counter);
            }
            _ => {}
        }
        Ok(())
    }

    fn hand_out(&mut self, node: usize, wanted: Vec<Wanted>, first: Seq, time: Timestamp) -> Verdict {
        let mut next = first;
        for Wanted { seat, request, count } in wanted {
            if self.at_point(node, Point::Numbered)? || !self.nodes[node].is_up {
                return Ok(());
            }
            self.step(
                (node, seat),
                Input::Allocated {
                    request,
                    first: next,
                    time,
                },
            )?;
            next = next.plus(count);
        }
        Ok(())
    }

    pub(super) fn ask_numbers(&mut self, node: usize) {
        let allocator = &mut self.nodes[node].allocator;
        if allocator.is_asking || allocator.waiting.is_empty() {
            return;
        }
        let Some(generation) = self.may_allocate(node) else {
            return;
        };
        let allocator = &mut self.nodes[node].allocator;
        allocator.is_asking = true;
        let wanted = std::mem::take(&mut allocator.waiting);
        let request = Request::Allocate {
            expected: allocator.counter,
            generation,
            count: wanted.iter().map(|one| one.count).sum(),
            wall: Timestamp(self.now + self.nodes[node].wall_offset),
        };
        self.ask(node, Asked::Numbers(wanted), request);
    }

    /// No numbers come before long: what waits for them is refused.
    pub(super) fn refuse_numbers(&mut self, node: usize) -> Verdict {
        let waiting = std::mem::take(&mut self.nodes[node].allocator.waiting);
        for Wanted { seat, request, .. } in waiting {
            self.step((node, seat), Input::AllocationVoid { request })?;
        }
        Ok(())
    }

    pub(super) fn campaign(&mut self, at: At, above: Epoch, revision: u64) -> Verdict {
        let Some(lease) = self.nodes[at.0].lease else {
            // Without a lease nobody can be elected: as good as not won, after a moment.
            self.ask(at.0, Asked::Elect(at.1), Request::KeepAlive { lease: None });
            return Ok(());
        };
        let request = Request::Elect {
            seat: at.1,
            lease,
            revision,
            above: above.number,
        };
        self.ask(at.0, Asked::Elect(at.1), request);
        Ok(())
    }

    pub(super) fn list(&mut self, node: usize) {
        self.guard_step(node, GuardInput::Disconnected);
        self.ask(node, Asked::List, Request::List);
    }

    pub(super) fn keep_alive(&mut self, node: usize, life: u64) {
        if !self.lives(node, life) {
            return;
        }
        let lease = self.nodes[node].lease;
        self.ask(node, Asked::Lease, Request::KeepAlive { lease });
        self.queue.push(
            self.now + self.plan.lease_ttl / 4,
            Event::KeepAlive { node, life },
        );
    }

    /// Tells every watch what changed.
    pub(super) fn tell_watches(&mut self, changes: &[Change]) {
        for change in changes {
            if self.trace.is_on() && !matches!(change, Change::Counter(_)) {
                self.trace.say(self.now, format_args!("coordinator: {change:?}"));
            }
            for node in 0..self.nodes.len() {
                self.tell_watch(node, change);
            }
        }
    }

    fn tell_watch(&mut self, node: usize, change: &Change) {
        let state = &self.nodes[node];
        let (life, watch) = (state.life, state.watch);
        if !state.is_up || watch == 0 {
            return;
        }
        if !self.network.reaches(COORDINATOR, node) {
            self.break_watch(node);
            return;
        }
        let late = self.plan.rate(Fault::WatchLate, 5_000, 300_000);
        let mut delay = 200 + self.coordination.below(1_500);
        if !self.is_calm && late > 0 && self.coordination.below(1_000_000) < late {
            self.count(Fault::WatchLate);
            delay += self.coordination.below(SECOND);
        }
        let mut at = (self.now + delay).max(self.nodes[node].watch_last + 1);
        // A node may learn the counter from elsewhere than from the watch that tells it of leaders: nothing may rest
        // on an order between the two.
        let is_ahead = self.plan.has(Fault::WatchLate)
            && matches!(change, Change::Counter(_))
            && self.coordination.one_in(2);
        if is_ahead {
            at = self.now + 200 + self.coordination.below(1_500);
        } else {
            self.nodes[node].watch_last = at;
        }
        let guard = self.nodes[node].guard.as_ref();
        let seen = guard.map(|_| Box::new(self.coordinator.shown_by(change)));
        self.queue.push(
            at,
            Event::Watch {
                node,
                life,
                watch,
                change: change.clone(),
                seen,
            },
        );
    }

    /// The watch ends; the node notices after a while, and lists anew.
    pub(super) fn break_watch(&mut self, node: usize) {
        self.nodes[node].watch = 0;
        if self.nodes[node].is_up {
            let delay = 50 * MILLI + self.coordination.below(SECOND);
            let life = self.nodes[node].life;
            self.nodes[node].next_ask += 1;
            let ask = self.nodes[node].next_ask;
            self.nodes[node].asks.insert(ask, Asked::List);
            self.queue
                .push(self.now + delay, Event::AskTimeout { node, life, ask });
        }
    }

    pub(super) fn watched(&mut self, node: usize, life: u64, watch: u64, change: Change) -> Verdict {
        if !self.lives(node, life) || self.nodes[node].watch != watch {
            return Ok(());
        }
        match change {
            Change::Leader(seat, key) => {
                if self.nodes[node].members.contains_key(&seat) {
                    self.step((node, seat), Input::LeaderKey(key))?;
                }
            }
            Change::Members(group, membership) => self.members_changed(node, group, &membership)?,
            Change::Counter(counter) => self.counter_moved(node, counter),
        }
        Ok(())
    }

    fn members_changed(&mut self, node: usize, group: GroupId, membership: &Membership) -> Verdict {
        for seat in rdb_proto::types::Side::BOTH.map(|side| SeatId { group, side }) {
            if self.nodes[node].members.contains_key(&seat) {
                self.step((node, seat), Input::Members(membership.clone()))?;
            }
        }
        Ok(())
    }

    /// The members hear of the counter at most every few milliseconds: the latest value is all that counts.
    fn counter_moved(&mut self, node: usize, counter: Seq) {
        let state = &mut self.nodes[node];
        state.counter_seen = counter.max(state.counter_seen);
        if !std::mem::replace(&mut state.is_counter_pending, true) {
            let life = state.life;
            let delay = self.driver.below(20 * MILLI);
            self.queue
                .push(self.now + delay, Event::CounterShown { node, life });
        }
    }

    pub(super) fn counter_shown(&mut self, node: usize, life: u64) -> Verdict {
        if !self.lives(node, life) {
            return Ok(());
        }
        self.nodes[node].is_counter_pending = false;
        let counter = self.nodes[node].counter_seen;
        self.for_each_member(node, &|_| Input::CounterObserved(counter))
    }
}
