//! The deterministic simulator: whole clusters of the production core ([`rdb_server::protocol::Seat`]) over model
//! network, disks, coordinator, key index and clients, from one seed. The same seed gives the same run.
//!
//! | module | what stands there |
//! |---|---|
//! | [`plan`] | what a run is made of, drawn from its seed |
//! | `world` | the cluster, the one queue, the checks after every step and at the end |
//! | `node` | the driver around the core: inputs, effects, life and death |
//! | `session` | its side of the coordinator: lease, watch, allocator |
//! | `guarding` | its guard against a coordinator that was rolled back, and that |
//! | `controller` | changes of a group's members |
//! | `client`, `subscriber`, `consumer` | who uses the database |
//! | `subscriptions` | a node's side of named subscriptions |
//! | `nemesis` | what goes wrong, and the named points at which a process dies |
//! | [`coordinator`], [`network`], [`disk`], [`index`] | models of what the core rests on |
//! | [`checks`] | one property a file |
//! | [`mistakes`] | what is done wrong on purpose |
//! | [`sweep`] | many seeds, the table, shrinking, mutants |
//!
//! A run has two parts. First faults happen, by the plan; then they stop, and within [`HEALS_WITHIN`] everything must
//! work again: every write succeeds, every mark catches up, every subscriber is at the end, and so is whoever has the name.

#![allow(
    clippy::wildcard_enum_match_arm,
    clippy::too_many_lines,
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    clippy::unused_self,
    clippy::or_fun_call,
    clippy::similar_names,
    clippy::missing_docs_in_private_items,
    reason = "a harness: faults and effects that a model does not act upon are left alone in one arm, its big \
              matches stay in one place to be read as a table, and what belongs to the world is asked of the world"
)]

pub mod checks;
mod client;
mod consumer;
mod controller;
pub mod coordinator;
pub mod disk;
mod guarding;
pub mod index;
pub mod mistakes;
mod nemesis;
pub mod network;
mod node;
pub mod plan;
pub mod queue;
mod session;
mod subscriber;
mod subscriptions;
pub mod sweep;
pub mod trace;
mod world;

pub use world::{Counts, HEALS_WITHIN};

use checks::Violation;
use plan::{Options, Plan};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use trace::Trace;
use world::World;

/// A run that is over.
#[derive(Debug)]
pub struct Run {
    /// What it was.
    pub plan: Plan,
    /// What happened in it.
    pub counts: Counts,
    /// The property that was broken, and how many steps it took.
    pub violation: Option<Violation>,
    /// Its trace, as far as one was asked for.
    pub lines: Vec<String>,
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Makes panics silent: the core's asserts are findings of a run, told with its trace.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info
            .location()
            .map(|place| format!("{}:{}", place.file(), place.line()))
            .unwrap_or_default();
        let payload = info.payload();
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        LAST_PANIC.with_borrow_mut(|last| *last = format!("{} ({place})", text.unwrap_or_default()));
    }));
}

/// What the last panic of this thread said, where [`keep_panics`] is on.
pub(crate) fn last_panic() -> String {
    LAST_PANIC.with_borrow(Clone::clone)
}

/// Runs a seed.
pub fn run(seed: u64, options: &Options, trace: Trace) -> Run {
    let plan = Plan::new(seed, options);
    let mut world = World::new(plan.clone(), trace);
    let verdict = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match verdict {
        Ok(verdict) => verdict.err(),
        Err(_) => Some(Violation {
            rule: "assertion in the core",
            what: last_panic(),
        }),
    };
    Run {
        plan,
        counts: world.counts,
        violation,
        lines: world.trace.into_lines(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_run() {
        for seed in [1, 2, 3] {
            let options = Options {
                faults_for: Some(5 * plan::SECOND),
                ..Options::default()
            };
            let trace = || run(seed, &options, Trace::whole()).lines;
            let (first, second) = (trace(), trace());
            assert!(first.len() > 1_000, "something happens");
            assert!(first == second, "seed {seed} gives another run the second time");
        }
    }
}
