//! The model checker: every order in which things can happen to a few members of one seat, with the production core
//! ([`rdb_server::protocol::Seat`]) as it is, explored by [`stateright`].
//!
//! | module | what stands there |
//! |---|---|
//! | [`config`] | what a model is made of: members, budgets, where it starts |
//! | `configs` | the models that are checked |
//! | `action` | what can happen next |
//! | `node` | a node: the core, its disk (that of the simulator), what it waits for |
//! | `state`, `shared` | nodes, messages, coordinator, budgets |
//! | `ghost` | what was seen so far; the checks are those of the simulator ([`crate::sim::checks`]) |
//! | [`report`] | running a checker, and telling what came of it |
//!
//! **What is modelled.** One seat. Messages stay for ever once sent: each is delivered at any time, in any order, any
//! number of times, or never. Elections at any moment, to any member. Disk writes that take their time; crashes that
//! lose what is not synced (and a start at once: a node that is down is one to which nothing is delivered). Requests
//! for numbers in three steps: asked, given, heard of; given up in between. The counter rises by other seats' writes,
//! too. Changes of members, and a coordinator that is restored to older keys. Each as often as the budget says.
//!
//! **What is left out.** Time: no pre-vote, no giving up, no hand-over; so nothing about liveness. Learners, damaged
//! disks, torn writes of several entries. Conditions, retries and more than one event in a write. The key index has
//! applied what is committed at once. Of a message that a receiver cannot use any more, nothing is left. Which of
//! several equal logs a winner fetches from is not varied where members are told apart by nothing else. What else a
//! configuration loses (heartbeats, rejections, the time that a disk takes) stands in it.

#![allow(
    clippy::missing_docs_in_private_items,
    clippy::too_many_lines,
    clippy::unused_self,
    clippy::similar_names,
    clippy::struct_excessive_bools,
    clippy::single_match_else,
    reason = "a harness: its big matches stay in one place to be read as a table, and what belongs to the model is \
              asked of the model"
)]

mod action;
pub mod config;
mod configs;
mod ghost;
mod memory;
mod node;
pub mod report;
mod shared;
mod state;

pub use action::{Action, Delivery};
pub use configs::all;
pub use state::State;

use crate::sim::checks::Violation;
use config::{Config, Start};
use ghost::{Ghost, matching, written_by};
use memory::Memory;
use node::{Local, Node, happen};
use rdb_proto::event::{EventKind, Expectation, NewEvent};
use rdb_proto::types::{Epoch, NodeId, Seq, Timestamp};
use rdb_server::protocol::{AllocationId, Input, KeyState, Proposal, ProposalId};
use shared::Shared;
use state::{Coordinator, id, place};
use stateright::Property;
use std::collections::BTreeMap;

/// A model: a configuration, and the state in which it starts.
#[derive(Debug)]
pub struct Model {
    config: Config,
    start: State,
    known: Memory,
    /// What each node is like at the start, where that is the same for all of its kind.
    initial: Vec<Option<Shared<Node>>>,
}

impl Model {
    /// The model of a configuration.
    pub fn new(config: Config) -> Self {
        let nodes: Vec<Shared<Node>> = (1..=config.nodes())
            .map(|id| Shared::new(Node::new(&config, NodeId(id))))
            .collect();
        let start = State {
            nodes,
            packets: vec![],
            coordinator: Coordinator::default(),
            left: config.budget,
            ghost: Shared::new(Ghost::default()),
            broken: None,
        };
        let mut model = Self {
            initial: vec![],
            known: Memory::default(),
            config,
            start,
        };
        model.prelude();
        model.initial = model.start.nodes.iter().cloned().map(Some).collect();
        match model.config.start {
            Start::Fresh => {}
            Start::Led => model.initial[0] = None,
            Start::Split | Start::Deposed => model.initial.fill(None),
        }
        model
    }

    /// Its configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// What happens before the start.
    fn prelude(&mut self) {
        let everybody: Vec<NodeId> = (0..self.start.nodes.len()).map(id).collect();
        let (first, second) = (everybody[0], everybody[1]);
        let others = &everybody[1..];
        match self.config.start {
            Start::Fresh => return,
            Start::Led => {
                self.elected(first);
                self.settle(&everybody);
            }
            Start::Deposed => {
                self.elected(first);
                self.settle(&everybody);
                self.start.packets.clear();
                self.elected(second);
                let (n, w) = (everybody.len(), self.config.writes);
                self.settle(&others[..w.max(n - w + 1)]);
            }
            Start::Split => {
                self.elected(first);
                self.settle(&everybody);
                self.start.left.writes += 1;
                for action in [
                    Action::Write(first),
                    Action::Take(first, 1),
                    Action::Answer(first, 1),
                ] {
                    self.does(&action);
                }
                self.settle(&[first]);
                self.start.packets.clear();
                self.elected(second);
                self.settle_promises(others);
                self.settle(&[second]);
            }
        }
        self.start.packets.clear();
    }

    fn does(&mut self, action: &Action) -> bool {
        let Some(next) = self.next(&self.start, action) else {
            return false;
        };
        assert!(next.broken.is_none(), "prelude: {:?}", next.broken);
        self.start = next;
        true
    }

    fn elected(&mut self, node: NodeId) {
        self.start.left.elections += 1;
        self.does(&Action::Elect(node));
        if self.config.has_late_wins {
            self.does(&Action::Win(node));
        }
    }

    /// Delivers everything among some nodes, until nothing changes any more.
    fn settle(&mut self, among: &[NodeId]) {
        loop {
            let mut actions = vec![];
            let packets = self.start.packets.iter();
            let inside = packets.filter(|packet| among.contains(&packet.to) && among.contains(&packet.from));
            actions.extend(inside.map(|packet| Action::Deliver(Delivery(packet.clone()))));
            for node in among {
                actions.extend([Action::SyncPromise(*node), Action::SyncLog(*node)]);
            }
            let mut is_moving = false;
            for action in &actions {
                is_moving |= self.does(action);
            }
            if !is_moving {
                return;
            }
        }
    }

    /// Delivers what is needed for the promises among some nodes, and nothing of what follows.
    fn settle_promises(&mut self, among: &[NodeId]) {
        let mut is_moving = true;
        while is_moving {
            is_moving = false;
            for node in among {
                is_moving |= self.does(&Action::SyncPromise(*node));
            }
            for packet in self.start.packets.clone() {
                let is_promise = matches!(
                    packet.message,
                    rdb_server::protocol::Message::Fence { .. }
                        | rdb_server::protocol::Message::FenceAck { .. }
                );
                if is_promise && among.contains(&packet.to) {
                    is_moving |= self.does(&Action::Deliver(Delivery(packet)));
                }
            }
        }
    }

    /// What an action leads to; `None` where it changes nothing.
    fn next(&self, state: &State, action: &Action) -> Option<State> {
        let mut next = state.clone();
        let Some((node, local)) = self.begin(&mut next, action) else {
            return Some(next);
        };
        let is_spent = next != *state;
        let has_changed = self.happens(&mut next, node, local);
        (has_changed || (is_spent && !matches!(action, Action::Restart(..) | Action::Tick(_))))
            .then_some(next)
    }

    /// What has to do with the coordinator, a client or a budget. Returns what happens to a node then.
    fn begin(&self, next: &mut State, action: &Action) -> Option<(NodeId, Local)> {
        let input = match action {
            Action::Deliver(Delivery(packet)) => return Some((packet.to, Local::Deliver(packet.clone()))),
            Action::SyncPromise(node) => return Some((*node, Local::SyncPromise)),
            Action::SyncLog(node) => return Some((*node, Local::SyncLog)),
            Action::Restart(node, is_noted) => {
                next.left.crashes -= 1;
                let (is_noted, holder) = (*is_noted, next.coordinator.holder);
                return Some((*node, Local::Restart { is_noted, holder }));
            }
            Action::Tick(node) => {
                next.left.ticks -= 1;
                (*node, Input::Tick)
            }
            Action::Elect(node) => {
                next.left.elections -= 1;
                let coordinator = &mut next.coordinator;
                coordinator.number += 1;
                let epoch = Epoch {
                    number: coordinator.number,
                    node: *node,
                };
                coordinator.holder = Some(epoch);
                let membership = self.config.members[coordinator.stage].clone();
                if !self.config.has_late_wins {
                    return Some((*node, Local::Input(Input::Won { epoch, membership })));
                }
                self.change(next, *node, |node| node.wins.push((epoch, membership)));
                return None;
            }
            Action::Win(node) => {
                let (epoch, membership) = next.node(*node).wins.first().cloned()?;
                self.change(next, *node, |node| drop(node.wins.remove(0)));
                (*node, Input::Won { epoch, membership })
            }
            Action::Write(node) => {
                let left = next.left.writes;
                next.left.writes -= 1;
                let proposal = self.note(next, |ghost| ghost.write(left));
                let as_of = next.node(*node).seat.indexed();
                (*node, Input::Propose(vec![write(proposal, as_of)]))
            }
            Action::Read(node) => {
                let left = next.left.reads;
                next.left.reads -= 1;
                (*node, Input::Read(self.note(next, |ghost| ghost.read(left))))
            }
            Action::Take(node, request) => {
                let first = next.coordinator.counter.next();
                let mut count = 0;
                self.change(next, *node, |node| {
                    for ask in node.asks.iter_mut().filter(|ask| ask.request.0 == *request) {
                        ask.first = Some(first);
                        count = ask.count;
                    }
                });
                let counter = next.coordinator.counter.plus(count);
                next.coordinator.counter = counter;
                self.note(next, |ghost| ghost.give(counter));
                return None;
            }
            Action::Answer(node, request) => {
                let mut given = Seq::ZERO;
                self.change(next, *node, |node| {
                    node.asks.retain(|ask| {
                        let is_it = ask.request.0 == *request;
                        given = if is_it {
                            ask.first.unwrap_or_default()
                        } else {
                            given
                        };
                        !is_it
                    });
                });
                let request = AllocationId(*request);
                let (first, time) = (given, Timestamp(1));
                (*node, Input::Allocated { request, first, time })
            }
            Action::Void(node, request) => {
                next.left.voids -= 1;
                self.change(next, *node, |node| {
                    let asks = node.asks.iter_mut();
                    asks.filter(|ask| ask.request.0 == *request)
                        .for_each(|ask| ask.is_void = true);
                });
                let request = AllocationId(*request);
                (*node, Input::AllocationVoid { request })
            }
            Action::Foreign => {
                next.left.foreign -= 1;
                let counter = next.coordinator.counter.next();
                next.coordinator.counter = counter;
                self.note(next, |ghost| ghost.foreign(counter));
                return None;
            }
            Action::Look(node) => {
                next.left.looks -= 1;
                (*node, Input::CounterObserved(next.coordinator.counter))
            }
            Action::Change => {
                next.left.changes -= 1;
                next.coordinator.stage += 1;
                return None;
            }
            Action::OlderMembers => {
                next.left.older_members -= 1;
                next.coordinator.stage = 0;
                return None;
            }
            Action::OlderEpoch => {
                next.left.older_epochs -= 1;
                next.coordinator.number -= 1;
                next.coordinator.holder = None;
                return None;
            }
            Action::OlderCounter => {
                next.left.older_counter -= 1;
                next.coordinator.counter = next.coordinator.counter.previous();
                return None;
            }
        };
        let (node, input) = input;
        Some((node, Local::Input(input)))
    }

    fn note<T>(&self, next: &mut State, note: impl FnOnce(&mut Ghost) -> T) -> T {
        let mut ghost = Ghost::clone(&next.ghost);
        let told = note(&mut ghost);
        next.ghost = Shared::new(ghost);
        told
    }

    fn change(&self, next: &mut State, node: NodeId, change: impl FnOnce(&mut Node)) {
        let mut changed = Node::clone(next.node(node));
        change(&mut changed);
        next.nodes[place(node)] = Shared::new(changed);
    }

    /// Lets something happen to a node, and judges what it showed. Returns whether that changed anything.
    fn happens(&self, next: &mut State, at: NodeId, what: Local) -> bool {
        let before = next.node(at).clone();
        let happened = self.known.happen(&self.config, at, &before, what);
        let has_moved = happened.node != before;
        if !has_moved && happened.sent.is_empty() && happened.seen.is_empty() {
            return false;
        }
        let packets = next.packets.len();
        next.nodes[place(at)] = happened.node.clone();
        for packet in &happened.sent {
            next.send(packet.clone());
        }
        let verdict = self.judge(next, at, &happened.seen, happened.has_written);
        if let Err(Violation { rule, what }) = verdict {
            next.broken = Some((rule, what));
            return true;
        }
        let has_changed = has_moved || next.packets.len() != packets;
        next.bury(self.config.has_rejects);
        has_changed
    }

    fn judge(
        &self,
        next: &mut State,
        at: NodeId,
        seen: &[node::Seen],
        has_written: bool,
    ) -> Result<(), Violation> {
        if !seen.is_empty() {
            let mut ghost = Ghost::clone(&next.ghost);
            let nodes = &next.nodes;
            let durable = |entry: &rdb_proto::entry::Entry| {
                let has = |node: &&Shared<Node>| {
                    let disk = &node.disk;
                    disk.durable() >= entry.index
                        && disk.entry(entry.index).is_some_and(|own| **own == *entry)
                };
                nodes.iter().filter(has).count()
            };
            for one in seen {
                ghost.see(one, self.config.writes, &durable)?;
            }
            next.ghost = Shared::new(ghost);
        }
        if has_written {
            let log = next.node(at).disk.log();
            let others = next
                .nodes
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != place(at));
            for (_, other) in others {
                matching(log, other.disk.log())?;
            }
        }
        Ok(())
    }

    /// An action as it is told: with what the node was given and wants done.
    pub(crate) fn tell(&self, state: &State, action: &Action) -> Vec<String> {
        let mut lines = vec![action.to_string()];
        let mut next = state.clone();
        if let Some((node, local)) = self.begin(&mut next, action) {
            let happened = happen(&self.config, node, next.node(node), local, true);
            lines.extend(happened.lines.into_iter().map(|line| format!("    {line}")));
        }
        lines
    }
}

fn write(id: ProposalId, as_of: rdb_proto::types::LogIndex) -> Proposal {
    let (name, event_id) = written_by(id.0);
    Proposal {
        id,
        name,
        expect: Expectation::Any,
        events: vec![NewEvent {
            kind: EventKind::Write,
            event_type: String::new(),
            tags: vec![],
            meta: BTreeMap::new(),
            payload: bytes::Bytes::new(),
            event_id,
        }],
        retried_since: None,
        as_of,
        committed: KeyState::default(),
        known: vec![],
        remembered_from: Seq::ZERO,
    }
}

macro_rules! always {
    ($($rule:expr),* $(,)?) => {
        vec![$(Property::<Model>::always($rule, |_, state| {
            state.broken.as_ref().is_none_or(|(rule, _)| *rule != $rule)
        })),*]
    };
}

impl stateright::Model for Model {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start.clone()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.choices(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.next(state, &action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = always![
            ghost::LEADERS,
            ghost::SEQS,
            ghost::REAL_TIME,
            ghost::MATCHING,
            node::ASSERTION,
            "committed entries (DESIGN 6.4)",
            "acknowledged is committed (DESIGN 6.4)",
            "resolved marks (DESIGN 6.4, 7)",
            "nothing goes back (DESIGN 6.4)",
            "told is durable (DESIGN 6.1, 6.3.3)",
            "fresh reads (DESIGN 6.3.7, 6.7)",
        ];
        properties.push(Property::<Self>::sometimes(
            "an event is committed",
            |_, state| state.ghost.committed().iter().any(|entry| entry.seqs().is_some()),
        ));
        properties.push(Property::<Self>::sometimes(
            "two epochs are committed",
            |_, state| {
                let epochs = state.ghost.committed().iter().map(|entry| entry.epoch);
                epochs.collect::<std::collections::BTreeSet<_>>().len() > 1
            },
        ));
        properties.push(Property::<Self>::sometimes("a mark is told", |_, state| {
            state.ghost.has_mark()
        }));
        properties
    }
}

impl State {
    /// The rule that is broken, and how.
    pub fn broken(&self) -> Option<&(&'static str, String)> {
        self.broken.as_ref()
    }

    /// How many messages may still be delivered.
    pub fn messages(&self) -> usize {
        self.packets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_kept_once() {
        let model = Model::new(all().remove(0));
        let mut state = model.start.clone();
        let message = rdb_server::protocol::Message::Fence {
            epoch: Epoch {
                number: 1,
                node: NodeId(1),
            },
            config: 1,
        };
        for _ in 0..2 {
            state.send(Shared::new(state::Packet {
                from: NodeId(1),
                to: NodeId(2),
                message: message.clone(),
            }));
        }
        assert_eq!(state.messages(), 1);
    }
}
