//! What a model is made of: members, what may go wrong and how often, and where it starts.

use rdb_proto::types::{Membership, NodeId};
use std::fmt;

/// How often each thing may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// Elections: to any member, at any time.
    pub elections: u8,
    /// Writes of one event, at any leader that takes them.
    pub writes: u8,
    /// Numbers that the other seats of the database take, and acknowledge at once.
    pub foreign: u8,
    /// Looks of a member at the counter.
    pub looks: u8,
    /// Linearizable reads at a leader.
    pub reads: u8,
    /// Heartbeats of a leader or winner.
    pub ticks: u8,
    /// Crashes, each with the start after it.
    pub crashes: u8,
    /// Requests for numbers that are given up.
    pub voids: u8,
    /// Changes of the members key.
    pub changes: u8,
    /// The coordinator is restored to an older members key.
    pub older_members: u8,
    /// The coordinator is restored to an epoch number of one less.
    pub older_epochs: u8,
    /// The coordinator is restored to a counter of one less.
    pub older_counter: u8,
}

/// Where a model starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With empty disks.
    Fresh,
    /// The first member leads the first epoch, everybody has its epoch-start, and knows that it is committed.
    Led,
    /// As before, and then the first member has written an event that nobody else has, and the second has won the
    /// next epoch with the promise of the last, and nobody else has its epoch-start.
    Split,
    /// As with `Led`, and then the second member leads the next epoch with as few of the others as it takes, and
    /// neither the first nor the last has heard of it.
    Deposed,
}

/// A model.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// W.
    pub writes: usize,
    /// The members key, as it is changed: each by a transaction that compares the one before.
    pub members: Vec<Membership>,
    /// What may happen.
    pub budget: Budget,
    /// Where it starts.
    pub start: Start,
    /// A promise is durable in the step that makes it.
    pub is_promise_at_once: bool,
    /// A log entry is durable in the step that writes it.
    pub is_log_at_once: bool,
    /// A grant takes its time to the winner, so that a later one may be there first.
    pub has_late_wins: bool,
    /// Messages without entries get through: rounds, marks and commits. Else they are all lost.
    pub has_heartbeats: bool,
    /// Rejections get through. Else they are all lost.
    pub has_rejects: bool,
    /// A leader that is given a number that it cannot use stops, as a member should whose coordinator went back.
    pub is_stop_expected: bool,
}

/// A membership of these nodes.
pub(super) fn membership(number: u64, members: &[u64], previous: &[u64]) -> Membership {
    let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
    Membership {
        number,
        members: nodes(members),
        previous: nodes(previous),
    }
}

impl Config {
    /// Nothing happens to these members yet.
    pub(super) fn of(name: &'static str, purpose: &'static str, nodes: u64, writes: usize) -> Self {
        let ids: Vec<u64> = (1..=nodes).collect();
        Self {
            name,
            purpose,
            writes,
            members: vec![membership(1, &ids, &[])],
            budget: Budget::default(),
            start: Start::Fresh,
            is_promise_at_once: true,
            is_log_at_once: false,
            has_late_wins: false,
            has_heartbeats: false,
            has_rejects: false,
            is_stop_expected: false,
        }
    }

    /// How many nodes there are, members ever.
    pub fn nodes(&self) -> u64 {
        let everybody = self.members.iter().flat_map(Membership::everybody);
        everybody.map(|node| node.0).max().unwrap_or(0)
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.members[0].members.len();
        write!(f, "{}: N={n} W={}", self.name, self.writes)?;
        let Budget {
            elections,
            writes,
            foreign,
            looks,
            reads,
            ticks,
            crashes,
            voids,
            changes,
            older_members,
            older_epochs,
            older_counter,
        } = self.budget;
        for (count, what) in [
            (elections, "elections"),
            (writes, "writes"),
            (foreign, "foreign numbers"),
            (looks, "looks at the counter"),
            (reads, "reads"),
            (ticks, "heartbeats"),
            (crashes, "crashes"),
            (voids, "void requests"),
            (changes, "changes of members"),
            (older_members, "older members keys"),
            (older_epochs, "older epochs"),
            (older_counter, "older counters"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}
