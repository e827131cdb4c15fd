//! Running a checker to a bound, and telling what came of it.

use super::config::Config;
use super::{Model, State};
use stateright::{Checker, HasDiscoveries, Model as _};
use std::fmt;
use std::time::{Duration, Instant};

/// How far a checker goes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Steps from the start.
    pub depth: Option<usize>,
    /// States that are generated, repeated ones too.
    pub states: Option<usize>,
    /// How long.
    pub time: Duration,
    /// Threads that explore.
    pub threads: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Of which configuration.
    pub config: Config,
    /// States that were generated, repeated ones too.
    pub states: usize,
    /// Different ones.
    pub unique: usize,
    /// Steps to the farthest.
    pub depth: usize,
    /// Whether there is no further state.
    pub is_exhausted: bool,
    /// How long it took.
    pub took: Duration,
    /// What was reached that must be reachable for the properties to say anything.
    pub reached: Vec<&'static str>,
    /// The rule that was broken, and the steps that lead there.
    pub violation: Option<Counterexample>,
}

/// Steps that break a rule.
#[derive(Debug)]
pub struct Counterexample {
    /// The rule.
    pub rule: &'static str,
    /// What was seen instead.
    pub what: String,
    /// How many steps it takes.
    pub steps: usize,
    /// One line a step, those that are indented say what the node did.
    pub lines: Vec<String>,
}

/// Explores a configuration, breadth first.
#[expect(clippy::disallowed_methods, reason = "a bound in real time")]
pub fn check(config: Config, bounds: Bounds) -> Report {
    let begun = Instant::now();
    let mut builder = Model::new(config.clone())
        .checker()
        .threads(bounds.threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .timeout(bounds.time);
    if let Some(depth) = bounds.depth {
        builder = builder.target_max_depth(depth);
    }
    if let Some(states) = bounds.states {
        builder = builder.target_state_count(states);
    }
    let checker = builder.spawn_bfs().join();
    let took = begun.elapsed();
    let violation = violation(&checker);
    let is_bound = bounds.depth.is_some_and(|depth| checker.max_depth() >= depth)
        || bounds
            .states
            .is_some_and(|states| checker.state_count() >= states)
        || took >= bounds.time;
    let reached = [
        "an event is committed",
        "two epochs are committed",
        "a mark is told",
    ]
    .into_iter()
    .filter(|name| checker.discovery(name).is_some())
    .collect();
    Report {
        states: checker.state_count(),
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        is_exhausted: !is_bound && violation.is_none(),
        took,
        reached,
        violation,
        config,
    }
}

fn violation(checker: &impl Checker<Model>) -> Option<Counterexample> {
    let model = checker.model();
    let path = checker
        .discoveries()
        .into_values()
        .filter(|path| path.last_state().broken().is_some())
        .min_by_key(|path| path.clone().into_vec().len())?;
    let (rule, what) = path.last_state().broken()?.clone();
    let steps: Vec<(State, _)> = path.into_vec();
    let lines = steps
        .iter()
        .filter_map(|(state, action)| action.as_ref().map(|action| model.tell(state, action)))
        .flatten()
        .collect();
    Some(Counterexample {
        rule,
        what,
        steps: steps.len() - 1,
        lines,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match (&self.violation, self.is_exhausted) {
            (Some(_), _) => "VIOLATED",
            (None, true) => "exhausted, holds",
            (None, false) => "bounded, holds so far",
        };
        write!(
            f,
            "{}; {} unique states ({} generated), depth {}, {:.1} s: {end}",
            self.config,
            self.unique,
            self.states,
            self.depth,
            self.took.as_secs_f64()
        )?;
        if let Some(Counterexample {
            rule,
            what,
            steps,
            lines,
        }) = &self.violation
        {
            writeln!(f, "\n{rule}: {what}, in {steps} steps")?;
            lines.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        Ok(())
    }
}
