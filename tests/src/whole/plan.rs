//! What a run is made of, drawn from its seed.

use super::nemesis::Fault;
use crate::random::Random;
use std::fmt;
use std::time::Duration;

/// See the module.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Everything else follows from it.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// `SHARD_GROUPS`.
    pub groups: u32,
    /// Clients that write and read.
    pub writers: usize,
    /// How long everything goes wrong.
    pub storm: Duration,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Longest time that a message takes on a quiet network.
    pub latency: Duration,
    pub(super) random: Random,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let nodes = if random.one_in(4) { 5 } else { 3 };
        let mut faults = Fault::ALL.to_vec();
        // A few kinds show more when they are not drowned by the others.
        let kinds = 1 + random.position(faults.len());
        while faults.len() > kinds {
            faults.remove(random.position(faults.len()));
        }
        Self {
            seed,
            nodes,
            groups: if random.one_in(3) { 2 } else { 1 },
            writers: 2 + random.position(3),
            storm: Duration::from_secs(45 + random.below(40)),
            faults,
            latency: Duration::from_millis(*[1, 2, 5, 20].get(random.position(4)).unwrap_or(&1)),
            random,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            nodes,
            groups,
            writers,
            storm,
            faults,
            latency,
            ..
        } = self;
        let faults: Vec<&str> = faults.iter().map(|fault| fault.name()).collect();
        let faults = faults.join(",");
        write!(
            f,
            "{nodes} nodes, {groups} groups, {writers} writers, latency up to {latency:?}, {storm:?} of {faults}"
        )
    }
}
