//! A world of several members for the tests: their seats, disks and key indexes, and the network between them, moved
//! by one-line commands.
//!
//! | command | what happens |
//! |---|---|
//! | `cluster 3 writes 2` | three members, with ids from 1 |
//! | `1 won 1`, `2 tick`, … | a command of [`super::testing`] at one member |
//! | `deliver 1->2`, `deliver all` | what is under way arrives, in order; of all, until nothing is under way |
//! | `drop 1->2` | what is under way is lost |
//! | `persist 1` | every promise and write of the member becomes durable |
//! | `index 1` | its key index applies what is committed |
//! | `settle` | all of the above, everywhere, until nothing is left; only what comes of it is told |
//! | `at 700` | the clock shows this |
//! | `membership 2: 1 2 4 previous 1 2 3` | what a winner is told from now on |
//!
//! The answer of a command is its effects, one line each, with the member before it.

use super::testing::World;
use super::{Effect, Input, Message, Seat, SeatConfig, Tick};
use rdb_proto::types::{Membership, NodeId};
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) worlds: BTreeMap<NodeId, World>,
    pub(super) network: VecDeque<(NodeId, NodeId, Message)>,
}

impl Cluster {
    pub(super) fn parse(command: &str) -> Self {
        let words: Vec<&str> = command.split(' ').collect();
        Self::new(words[1].parse().unwrap(), words[3].parse().unwrap())
    }

    pub(super) fn new(members: u64, writes: usize) -> Self {
        let membership = Membership {
            number: 1,
            members: (1..=members).map(NodeId).collect(),
            previous: vec![],
        };
        let world = |node: NodeId| {
            let config = SeatConfig {
                recent_bytes_max: 0,
                ..SeatConfig::new(node, writes)
            };
            (node, World::of(config, membership.clone()))
        };
        let worlds = membership.members.iter().map(|node| world(*node)).collect();
        Self {
            worlds,
            network: VecDeque::new(),
        }
    }

    pub(super) fn seat(&self, node: u64) -> &Seat {
        &self.worlds[&NodeId(node)].seat
    }

    pub(super) fn run(&mut self, command: &str) -> Vec<String> {
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        match verb {
            "deliver" if rest == "all" => self.deliver_all(),
            "deliver" => self.deliver(link(rest)),
            "drop" => {
                let link = link(rest);
                self.network.retain(|(from, to, _)| (*from, *to) != link);
                vec![]
            }
            "persist" => self.persist(NodeId(rest.parse().unwrap())),
            "index" => self.index(NodeId(rest.parse().unwrap())),
            "settle" => self.settle(),
            "at" => {
                for world in self.worlds.values_mut() {
                    world.now = Tick(rest.parse().unwrap());
                }
                vec![]
            }
            "membership" => {
                self.set_membership(rest);
                vec![]
            }
            node => self.command(NodeId(node.parse().unwrap_or_else(|_| panic!("{command}"))), rest),
        }
    }

    /// A member that is new to the cluster begins with an empty disk.
    fn set_membership(&mut self, text: &str) {
        let (number, nodes) = text.split_once(": ").unwrap();
        let (members, previous) = nodes.split_once(" previous ").unwrap_or((nodes, ""));
        let nodes = |text: &str| {
            text.split_whitespace()
                .map(|node| NodeId(node.parse().unwrap()))
                .collect::<Vec<_>>()
        };
        let membership = Membership {
            number: number.parse().unwrap(),
            members: nodes(members),
            previous: nodes(previous),
        };
        let config = self.worlds.values().next().unwrap().seat.member.config;
        for node in &membership.members {
            let config = SeatConfig { me: *node, ..config };
            self.worlds
                .entry(*node)
                .or_insert_with(|| World::of(config, membership.clone()));
        }
        for world in self.worlds.values_mut() {
            world.membership = membership.clone();
        }
    }

    fn command(&mut self, node: NodeId, command: &str) -> Vec<String> {
        let world = self.worlds.get_mut(&node).unwrap();
        if command == "restart" {
            world.restart();
            return vec![];
        }
        if command.starts_with("rot ") {
            world.rot(command);
            return vec![];
        }
        let input = world.parse(command);
        self.told(node, input)
    }

    fn told(&mut self, node: NodeId, input: Input) -> Vec<String> {
        let effects = self.step(node, input);
        effects.iter().map(|effect| format!("{node}: {effect}")).collect()
    }

    pub(super) fn step(&mut self, node: NodeId, input: Input) -> Vec<Effect> {
        let effects = self.worlds.get_mut(&node).unwrap().step(input);
        for effect in &effects {
            if let Effect::Send { to, message } = effect {
                self.network.push_back((node, *to, message.clone()));
            }
        }
        effects
    }

    fn deliver(&mut self, link: (NodeId, NodeId)) -> Vec<String> {
        let (now, later) = std::mem::take(&mut self.network)
            .into_iter()
            .partition(|(from, to, _)| (*from, *to) == link);
        self.network = later;
        let now: VecDeque<_> = now;
        now.into_iter()
            .flat_map(|(from, to, message)| self.told(to, Input::Received { from, message }))
            .collect()
    }

    fn deliver_all(&mut self) -> Vec<String> {
        let mut lines = vec![];
        while let Some((from, to, message)) = self.network.pop_front() {
            if self.worlds.contains_key(&to) {
                lines.extend(self.told(to, Input::Received { from, message }));
            }
            assert!(lines.len() < 10_000, "the members never stop talking");
        }
        lines
    }

    fn persist(&mut self, node: NodeId) -> Vec<String> {
        let mut lines = vec![];
        let world = &self.worlds[&node];
        let promise = world.promises.back().copied().map(Input::PromisePersisted);
        let write = world.writes.back().map(|write| Input::Persisted(write.ticket));
        for input in promise.into_iter().chain(write) {
            lines.extend(self.told(node, input));
        }
        lines
    }

    fn index(&mut self, node: NodeId) -> Vec<String> {
        let world = self.worlds.get_mut(&node).unwrap();
        let input = world.apply_index(world.seat.commit());
        self.told(node, input)
    }

    fn settle(&mut self) -> Vec<String> {
        let nodes: Vec<NodeId> = self.worlds.keys().copied().collect();
        let mut lines = vec![];
        loop {
            let before = lines.len();
            for node in &nodes {
                lines.extend(self.persist(*node));
                let world = &self.worlds[node];
                if world.index.applied < world.seat.commit() {
                    lines.extend(self.index(*node));
                    lines.push(String::new());
                }
                if !self.worlds[node].log_reads.is_empty() {
                    lines.extend(self.command(*node, "log-read"));
                }
            }
            lines.extend(self.deliver_all());
            assert!(lines.len() < 10_000, "the members never stop talking");
            if lines.len() == before {
                break;
            }
        }
        let is_news = |line: &String| {
            let is_of_the_way = line.contains(": send to") || line.contains(": persist");
            !line.is_empty() && !is_of_the_way
        };
        lines.into_iter().filter(is_news).collect()
    }
}

fn link(text: &str) -> (NodeId, NodeId) {
    let (from, to) = text.split_once("->").unwrap();
    (NodeId(from.parse().unwrap()), NodeId(to.parse().unwrap()))
}
