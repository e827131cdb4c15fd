//! A node's side of named subscriptions: what it asks of the core and of its index for a consumer, as `node::cursors` of
//! the server does. Who has a name, and what is written of that, the production code decides
//! ([`rdb_server::cdc::consumers`]).

use super::checks::kept::Kept;
use super::checks::{Verdict, fenced, positions};
use super::mistakes;
use super::plan::MILLI;
use super::subscriber::instant;
use super::world::{At, Event, World};
use rdb_proto::cursor::{Cursor, CursorAct, CursorChange};
use rdb_proto::types::{Epoch, LogIndex, NodeId, SeatId, Seq};
use rdb_server::cdc::consumers::{self, Owner, Tenure};
use rdb_server::protocol::{Input, Outcome, ProposalId, ReadId, Seat};
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

/// What a consumer wants of the node that leads its name's seat.
#[derive(Debug, Clone, Copy)]
pub(super) enum Want {
    Claim(Uuid),
    Acknowledge {
        generation: u64,
        seq: Seq,
    },
    Release(u64),
    /// An operator sets the position back by so much.
    Seek(u64),
}

/// What it is told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told {
    Claimed(Cursor),
    Acknowledged(Seq),
    Done,
    /// Another consumer has the name.
    Held,
    Fenced,
    Refused,
    /// Another node leads, if it is known which.
    Elsewhere(Option<NodeId>),
}

/// Which consumer asks, and the how manieth question of it that is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    pub(super) consumer: usize,
    pub(super) number: u64,
    pub(super) want: Want,
}

/// A question that a node is at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    question: Question,
    /// What was committed, and kept, when it arrived.
    since: LogIndex,
    kept: Kept,
    is_changed: bool,
    /// What the index must have applied; `None` while the core has not said.
    awaits: Option<LogIndex>,
}

impl World {
    /// A question reaches a node.
    pub(super) fn question_arrives(&mut self, question: Question, node: usize) -> Verdict {
        let at: At = (node, self.name.1);
        let leader = self.leader_seen(at);
        let is_led_here = leader == Some(self.nodes[node].id);
        let asks_anyway = self.nodes[node].members.contains_key(&at.1) && self.consumes_one_in(question, 20);
        if !self.nodes[node].is_up || !(is_led_here || asks_anyway) {
            let leader = leader.filter(|_| self.nodes[node].is_up);
            self.tell_consumer(question, Told::Elsewhere(leader));
            return Ok(());
        }
        let asked = Asked {
            question,
            since: self.checks.commits.last(at.1),
            kept: self.checks.kept,
            is_changed: false,
            awaits: None,
        };
        self.begin_question(at, asked)
    }

    fn begin_question(&mut self, at: At, asked: Asked) -> Verdict {
        if let Want::Acknowledge { generation, seq } = asked.question.want
            && consumers::moves(self.cursor_here(at), generation, seq)
        {
            // A position that is written down is one that the database has reached.
            if self.member(at).resolved.0 < seq {
                self.tell_consumer(asked.question, Told::Refused);
                return Ok(());
            }
            let position = seq;
            return self.change_name(at, asked, CursorAct::Acknowledge { generation, position });
        }
        self.read_name(at, asked)
    }

    fn read_name(&mut self, at: At, asked: Asked) -> Verdict {
        let member = self.member(at);
        member.next += 1;
        let id = member.next;
        let asked = Asked {
            is_changed: false,
            awaits: None,
            ..asked
        };
        member.questions.insert(id, asked);
        self.step(at, Input::Read(ReadId(id)))
    }

    fn change_name(&mut self, at: At, asked: Asked, act: CursorAct) -> Verdict {
        if self.now < self.nodes[at.0].full_until {
            self.tell_consumer(asked.question, Told::Refused);
            return Ok(());
        }
        let name = self.name.0.clone();
        let member = self.member(at);
        member.next += 1;
        let id = member.next;
        let change = Arc::new(CursorChange { name, act });
        let asked = Asked {
            is_changed: true,
            awaits: None,
            ..asked
        };
        member.questions.insert(id, asked);
        member.changes.insert(id, Arc::clone(&change));
        self.step(at, Input::ChangeCursors(vec![(ProposalId(id), change)]))
    }

    /// The core has confirmed a read, or committed a change; `None` when it refuses.
    pub(super) fn question_goes_on(&mut self, at: At, id: u64, awaits: Option<LogIndex>) {
        let Some(asked) = self.member(at).questions.get_mut(&id) else {
            return;
        };
        let question = asked.question;
        if let Some(index) = awaits {
            asked.awaits = Some(index);
            let life = self.nodes[at.0].life;
            self.queue.push(self.now + 1, Event::Questions { at, life });
        } else {
            self.member(at).questions.remove(&id);
            self.tell_consumer(question, Told::Refused);
        }
    }

    /// What became of a change.
    pub(super) fn name_changed(&mut self, at: At, id: u64, outcome: &Outcome) {
        let index = match outcome {
            Outcome::Changed(index) => Some(*index),
            _ => None,
        };
        self.question_goes_on(at, id, index);
    }

    /// Answers what the index is far enough for.
    pub(super) fn answer_questions(&mut self, at: At, life: u64) -> Verdict {
        if !self.lives(at.0, life) {
            return Ok(());
        }
        let member = self.member(at);
        let applied = member.index.applied();
        let is_ready = |asked: &Asked| asked.awaits.is_some_and(|index| index <= applied);
        let mut ready = vec![];
        member.questions.retain(|_, asked| {
            let is_ready = is_ready(asked);
            ready.extend(is_ready.then_some(*asked));
            !is_ready
        });
        for asked in ready {
            // The process may have died over the one before.
            if self.lives(at.0, life) {
                self.decide(at, asked)?;
            }
        }
        Ok(())
    }

    fn decide(&mut self, at: At, asked: Asked) -> Verdict {
        let cursor = self.cursor_here(at);
        let applied = self.member(at).index.applied();
        self.checks.cursors.applied(at.1, applied, cursor)?;
        match asked.question.want {
            Want::Claim(consumer) => match consumers::owner(cursor, consumer) {
                Owner::Itself(cursor) => {
                    self.checks.kept.claimed(&asked.kept, cursor)?;
                    self.hear_consumer(at, cursor.generation);
                    self.tell_consumer(asked.question, Told::Claimed(cursor));
                }
                // Another claim came first.
                _ if asked.is_changed => return self.read_name(at, asked),
                Owner::Another { generation, .. } if self.is_to_wait(at, generation) => {
                    self.tell_consumer(asked.question, Told::Held);
                }
                Owner::Another { .. } | Owner::Nobody => {
                    let act = consumers::claim(cursor, consumer, Seq::ZERO);
                    return self.change_name(at, asked, act);
                }
            },
            Want::Acknowledge { generation, seq } => {
                let Some(cursor) = cursor.filter(|cursor| consumers::has(*cursor, generation)) else {
                    self.tell_consumer(asked.question, Told::Fenced);
                    return Ok(());
                };
                if !asked.is_changed && cursor.position < seq {
                    // The index was behind: now it is not. Who has given up does not ask again.
                    if self.still_asks(asked.question) {
                        return self.begin_question(at, asked);
                    }
                    return Ok(());
                }
                let states = self.checks.cursors.since(asked.since);
                fenced::check_told(generation, cursor.position, states)?;
                self.checks.kept.told(generation, cursor.position);
                self.hear_consumer(at, generation);
                self.tell_consumer(asked.question, Told::Acknowledged(cursor.position));
            }
            Want::Release(generation) => {
                let is_held = cursor.is_some_and(|cursor| cursor.is_held_by(generation));
                if is_held && !asked.is_changed {
                    return self.change_name(at, asked, CursorAct::Release { generation });
                }
                self.forget(at, asked.is_changed);
                self.tell_consumer(asked.question, Told::Done);
            }
            Want::Seek(back) => {
                if let Some(cursor) = cursor.filter(|_| !asked.is_changed) {
                    let act = CursorAct::Seek {
                        position: Seq(cursor.position.get().saturating_sub(back)),
                        replaces: cursor.generation,
                    };
                    return self.change_name(at, asked, act);
                }
                let is_free = cursor.is_some_and(|cursor| cursor.consumer.is_none());
                self.forget(at, is_free);
                self.tell_consumer(asked.question, Told::Done);
            }
        }
        Ok(())
    }

    /// Where the name stands, as far as this member has applied.
    fn cursor_here(&self, at: At) -> Option<Cursor> {
        let member = &self.nodes[at.0].members[&at.1];
        member.index.cursor(&self.name.0)
    }

    fn tenure(&self, at: At, generation: u64) -> Tenure {
        let seat = self.nodes[at.0].members[&at.1].seat.as_ref();
        let epoch = seat
            .and_then(Seat::leader)
            .map_or(Epoch::ZERO, |(_, epoch)| epoch);
        Tenure { generation, epoch }
    }

    fn clock_of(&self, node: usize) -> Instant {
        instant(self.nodes[node].tick(self.now).0 * MILLI)
    }

    fn hear_consumer(&mut self, at: At, generation: u64) {
        let (tenure, now) = (self.tenure(at, generation), self.clock_of(at.0));
        self.nodes[at.0].heard.hear(&self.name.0, tenure, now);
    }

    fn forget(&mut self, at: At, is_free: bool) {
        if is_free {
            self.nodes[at.0].heard.forget(&self.name.0);
        }
    }

    /// Whether the consumer of a generation may still be there.
    fn is_to_wait(&mut self, at: At, generation: u64) -> bool {
        let (tenure, now) = (self.tenure(at, generation), self.clock_of(at.0));
        let heard = &mut self.nodes[at.0].heard;
        !heard.left_or_whole(&self.name.0, tenure, now).is_zero()
    }

    /// What a consumer said long ago, as a leader whose index is behind writes it down once more: it comes to nothing.
    pub(super) fn late_acknowledgement(&mut self, seat: SeatId) -> Option<CursorChange> {
        let states = self.checks.cursors.since(LogIndex::ZERO);
        let random = &mut self.consumers.first_mut()?.random;
        if seat != self.name.1 || states.is_empty() || random.one_in(2) {
            return None;
        }
        let Cursor {
            generation, position, ..
        } = states[random.position(states.len())];
        Some(CursorChange {
            name: self.name.0.clone(),
            act: CursorAct::Acknowledge { generation, position },
        })
    }

    /// An entry of the name's seat that nobody knew to be committed is.
    pub(super) fn cursor_committed(&mut self, index: LogIndex, change: &CursorChange) -> Verdict {
        if change.name != self.name.0 {
            return Ok(());
        }
        let before = self.checks.cursors.now();
        let after = mistakes::applied(self.plan.mistake, change, index, before);
        fenced::check_change(before, change, after)?;
        positions::check(before, change, after)?;
        self.checks.cursors.becomes(after);
        let Some(cursor) = after.filter(|_| after != before) else {
            return Ok(());
        };
        if matches!(change.act, CursorAct::Seek { .. }) {
            self.checks.kept.sought(cursor);
        }
        self.checks.effects.acknowledged(cursor.position)
    }
}
