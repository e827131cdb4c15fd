//! The model network between nodes, and between them and the coordinator: who reaches whom, and how long it takes.

use super::plan::{Fault, MILLI, Micros, Plan, SECOND};
use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};

/// The coordinator's place among the nodes.
pub const COORDINATOR: usize = usize::MAX;

/// The network.
#[derive(Debug)]
pub struct Network {
    random: Random,
    loss: u64,
    slow: u64,
    twice: u64,
    is_fifo: bool,
    /// Directions that are cut: from, to.
    cut: BTreeSet<(usize, usize)>,
    /// When the last message of a direction arrives.
    last: BTreeMap<(usize, usize), Micros>,
    base: Micros,
}

impl Network {
    /// As the plan has it.
    pub fn new(plan: &Plan, mut random: Random) -> Self {
        let base = 100 + random.below(1_900);
        Self {
            random,
            loss: plan.rate(Fault::Loss, 1_000, 200_000),
            slow: plan.rate(Fault::Delay, 500, 50_000),
            twice: plan.rate(Fault::Duplicate, 1_000, 200_000),
            is_fifo: !plan.has(Fault::Reorder),
            cut: BTreeSet::new(),
            last: BTreeMap::new(),
            base,
        }
    }

    /// When a message sent now arrives: never, once or twice.
    pub fn send(
        &mut self,
        now: Micros,
        from: usize,
        to: usize,
        counts: &mut BTreeMap<Fault, u64>,
    ) -> Vec<Micros> {
        if self.cut.contains(&(from, to)) {
            return vec![];
        }
        if self.random.below(1_000_000) < self.loss {
            *counts.entry(Fault::Loss).or_default() += 1;
            return vec![];
        }
        let first = self.arrival(now, from, to, counts);
        if self.random.below(1_000_000) >= self.twice {
            return vec![first];
        }
        *counts.entry(Fault::Duplicate).or_default() += 1;
        let late = self.random.below(300 * MILLI);
        vec![first, first + late]
    }

    fn arrival(&mut self, now: Micros, from: usize, to: usize, counts: &mut BTreeMap<Fault, u64>) -> Micros {
        let mut at = now + self.base / 2 + self.random.below(self.base);
        if self.random.below(1_000_000) < self.slow {
            *counts.entry(Fault::Delay).or_default() += 1;
            at += self.random.below(SECOND);
        }
        let last = self.last.entry((from, to)).or_default();
        if self.is_fifo {
            at = at.max(*last + 1);
        } else if at < *last {
            *counts.entry(Fault::Reorder).or_default() += 1;
        }
        *last = at.max(*last);
        at
    }

    /// Cuts a direction.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Heals everything, or with `for_good` also ends what else goes wrong.
    pub fn heal(&mut self, for_good: bool) {
        self.cut.clear();
        if for_good {
            (self.loss, self.slow, self.twice) = (0, 0, 0);
        }
    }

    /// Heals the two directions between a pair.
    pub fn join(&mut self, one: usize, other: usize) {
        self.cut.remove(&(one, other));
        self.cut.remove(&(other, one));
    }

    /// Whether messages go this way.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to))
    }
}
