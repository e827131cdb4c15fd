//! Consumers of a named subscription: several contend for it. The one that has it does something for each event that
//! comes, the effect and how far it is in one transaction, and acknowledges that now and then. It is a model of the
//! client library's consumer: it says at times that it is there, and asks for nothing more once another one may have the
//! name; what it was handed by then it still does.

use super::checks::{Verdict, broken};
use super::mistakes::Mistake;
use super::plan::{Fault, MILLI, Micros, SECOND};
use super::subscriptions::{Question, Told, Want};
use super::world::{Event, HEALS_WITHIN, World};
use crate::random::Random;
use rdb_proto::types::Seq;
use rdb_server::limits::CONSUMER_HEARD_FOR;
use uuid::Uuid;

/// A consumer.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) random: Random,
    /// Drawn anew for each time that it wants the name.
    id: Uuid,
    /// Its stream's place among the subscribers.
    stream: usize,
    holds: Option<Holds>,
    waits: Option<Waits>,
    questions: u64,
    leader: Option<usize>,
    rests_until: Micros,
    paused_until: Micros,
}

/// It has the name, as far as it knows.
#[derive(Debug, Clone, Copy)]
struct Holds {
    generation: u64,
    /// How many events of its stream it has done.
    taken: usize,
    /// Everything at or below is done.
    done: Seq,
    acknowledged: Seq,
    heard_at: Micros,
    said_at: Micros,
}

/// For an answer.
#[derive(Debug, Clone, Copy)]
struct Waits {
    question: Question,
    since: Micros,
    until: Micros,
}

/// Who is not heard for so long may be replaced.
fn heard_for() -> Micros {
    Micros::try_from(CONSUMER_HEARD_FOR.as_micros()).unwrap()
}

impl Consumer {
    pub(super) fn new(stream: usize, mut random: Random) -> Self {
        Self {
            id: random.uuid(),
            random,
            stream,
            holds: None,
            waits: None,
            questions: 0,
            leader: None,
            rests_until: 0,
            paused_until: 0,
        }
    }

    /// It has not got the name any more, and will want it again.
    fn lets_go(&mut self, now: Micros) {
        self.id = self.random.uuid();
        self.holds = None;
        self.waits = None;
        self.rests_until = now + self.random.below(SECOND);
    }
}

impl World {
    /// A moment of a consumer.
    pub(super) fn consumer_acts(&mut self, consumer: usize) -> Verdict {
        let now = self.now;
        let one = &mut self.consumers[consumer];
        let again = 50 * MILLI + one.random.below(200 * MILLI);
        self.queue.push(now + again, Event::Consumer(consumer));
        if one.paused_until > now || one.rests_until > now {
            return Ok(());
        }
        if one.waits.is_some_and(|waits| waits.until <= now) {
            one.waits = None;
            one.leader = None;
        }
        if let Some(holds) = one.holds {
            return self.consume(consumer, holds);
        }
        if one.waits.is_none() {
            let seeks = !self.is_calm && one.random.one_in(40);
            let want = if seeks {
                Want::Seek(one.random.below(30))
            } else {
                Want::Claim(one.id)
            };
            self.ask_about_name(consumer, want);
        }
        Ok(())
    }

    /// The consumer that has the name, or had it, does some of what it was handed, and says so.
    fn consume(&mut self, consumer: usize, mut holds: Holds) -> Verdict {
        let stream = self.consumers[consumer].stream;
        let is_unheard = self.now >= holds.heard_at + heard_for();
        if !is_unheard {
            self.listen(stream)?;
        }
        let one = &mut self.consumers[consumer];
        let feed = &self.subscribers[stream].feed;
        // With faults it may be slower than those who write.
        let most = 1 + if self.is_calm {
            feed.len()
        } else {
            one.random.position(64)
        };
        for seq in (0..most).map_while(|n| feed.get(holds.taken + n)) {
            self.checks.effects.write(seq);
            holds.done = seq;
        }
        holds.taken = feed.len().min(holds.taken + most);
        if holds.taken == feed.len() {
            holds.done = feed.position();
            self.checks.effects.reach(holds.done);
        }
        if self.plan.mistake == Some(Mistake::CursorBeforeEffect) {
            holds.done = feed.position();
        }
        one.holds = Some(holds);
        if !self.is_calm && one.random.one_in(150) {
            self.ask_about_name(consumer, Want::Release(holds.generation));
            return Ok(());
        }
        let is_due = is_unheard || self.now >= holds.said_at + heard_for() / 3;
        // What it says of its own accord takes the place of a question that has no answer yet.
        let acknowledges = holds.done > holds.acknowledged && (self.is_calm || one.random.one_in(3));
        if acknowledges || (is_due && one.waits.is_none()) {
            let want = Want::Acknowledge {
                generation: holds.generation,
                seq: holds.done,
            };
            self.ask_about_name(consumer, want);
        }
        Ok(())
    }

    fn ask_about_name(&mut self, consumer: usize, want: Want) {
        let nodes = self.nodes.len();
        let one = &mut self.consumers[consumer];
        one.questions += 1;
        let question = Question {
            consumer,
            number: one.questions,
            want,
        };
        let patience = 300 * MILLI + one.random.below(700 * MILLI);
        one.waits = Some(Waits {
            question,
            since: self.now,
            until: self.now + patience,
        });
        if let Some(holds) = &mut one.holds {
            holds.said_at = self.now;
        }
        let node = match one.leader {
            Some(node) if !one.random.one_in(10) => node,
            Some(_) | None => one.random.position(nodes),
        };
        let delay = 100 + one.random.below(1_000);
        if self.trace.is_on() {
            self.trace.say(
                self.now,
                format_args!("consumer {consumer} asks n{} {want:?}", node + 1),
            );
        }
        if !self.is_consumer_lost(consumer) {
            self.queue
                .push(self.now + delay, Event::Question { question, node });
        }
    }

    /// By the choices of the consumer that asks: those of the others are as without it.
    pub(super) fn consumes_one_in(&mut self, question: Question, n: u64) -> bool {
        self.consumers[question.consumer].random.one_in(n)
    }

    fn is_consumer_lost(&mut self, consumer: usize) -> bool {
        let loss = self.plan.rate(Fault::ClientLoss, 1_000, 150_000);
        let random = &mut self.consumers[consumer].random;
        let is_lost = !self.is_calm && loss > 0 && random.below(1_000_000) < loss;
        if is_lost {
            self.count(Fault::ClientLoss);
        }
        is_lost
    }

    pub(super) fn still_asks(&self, question: Question) -> bool {
        let waits = self.consumers[question.consumer].waits;
        waits.is_some_and(|waits| waits.question.number == question.number)
    }

    pub(super) fn tell_consumer(&mut self, question: Question, told: Told) {
        if self.is_consumer_lost(question.consumer) {
            return;
        }
        let delay = 100 + self.consumers[question.consumer].random.below(1_000);
        self.queue
            .push(self.now + delay, Event::ConsumerHears { question, told });
    }

    pub(super) fn consumer_hears(&mut self, question: Question, told: Told) -> Verdict {
        let consumer = question.consumer;
        let (now, groups) = (self.now, self.plan.groups);
        if self.consumers[consumer].paused_until > now {
            self.queue
                .push(now + 100 * MILLI, Event::ConsumerHears { question, told });
            return Ok(());
        }
        if !self.still_asks(question) {
            return Ok(());
        }
        if self.trace.is_on() {
            self.trace
                .say(now, format_args!("consumer {consumer} is told {told:?}"));
        }
        let one = &mut self.consumers[consumer];
        let Some(waits) = one.waits.take() else {
            return Ok(());
        };
        match told {
            Told::Claimed(cursor) => {
                self.counts.claims += 1;
                one.holds = Some(Holds {
                    generation: cursor.generation,
                    taken: 0,
                    done: cursor.position,
                    acknowledged: cursor.position,
                    heard_at: waits.since,
                    said_at: waits.since,
                });
                self.subscribers[one.stream].begin_after(cursor.position, groups, now);
                self.checks.effects.acknowledged(cursor.position)?;
            }
            Told::Acknowledged(position) => {
                self.counts.positions += 1;
                if let Some(holds) = &mut one.holds {
                    holds.acknowledged = position;
                    holds.heard_at = waits.since;
                }
            }
            Told::Fenced => {
                self.counts.fenced += 1;
                one.lets_go(now);
            }
            Told::Done => one.lets_go(now),
            Told::Held => one.rests_until = now + one.random.below(SECOND),
            Told::Refused => one.leader = None,
            Told::Elsewhere(leader) => {
                let leader = leader.map(|leader| self.place_of(leader));
                self.consumers[consumer].leader = leader;
            }
        }
        Ok(())
    }

    /// A consumer stands still, or dies.
    pub(super) fn lose_consumer(&mut self, until: Micros) {
        let count = self.consumers.len();
        let holder = self.consumers.iter().position(|one| one.holds.is_some());
        let by_chance = self.nemesis.position(count);
        let one = &mut self.consumers[holder.filter(|_| by_chance > 0).unwrap_or(by_chance)];
        if one.random.one_in(4) {
            one.lets_go(self.now);
        } else {
            one.paused_until = until;
        }
    }

    /// All go on.
    pub(super) fn wake_consumers(&mut self) {
        for one in &mut self.consumers {
            one.paused_until = 0;
        }
    }

    /// The name has come to the end of the stream, where there was time for that.
    pub(super) fn finish_consumers(&self, committed: &[Seq], counter: Seq) -> Verdict {
        let effects = &self.checks.effects;
        effects.is_whole(committed)?;
        // One that died keeps the name for as long as it may be silent, from when the last leader came; by a slow clock.
        let due = HEALS_WITHIN + heard_for() * 3 / 2 + 8 * SECOND;
        let acknowledged = self.checks.cursors.now().map(|cursor| cursor.position);
        if self.consumers.is_empty()
            || self.plan.healed_until < self.plan.faults_until + due
            || acknowledged >= Some(counter)
        {
            return Ok(());
        }
        broken(
            "liveness (DESIGN 7)",
            format!("the name's position is {acknowledged:?}, the counter is {counter}"),
        )
    }
}
