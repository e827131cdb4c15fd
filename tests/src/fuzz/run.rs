//! Runs a target over its kept inputs and over changes of them, in an ordinary build.

use super::{Mutator, TARGETS, Target};
use crate::random::Random;
use crate::time::Stopwatch;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How many inputs were tried.
    pub executions: u64,
    /// How long that took.
    pub took: Duration,
    /// The input that something panicked at, and what it said.
    pub fault: Option<(Vec<u8>, String)>,
}

/// The kept inputs of a target, by name.
pub fn kept(target: &Target) -> Vec<(String, Vec<u8>)> {
    kept_in(&root().join(target.name))
}

/// Inputs in a folder, by name.
pub fn kept_in(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let paths = crate::files::files_below(folder).into_iter();
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    paths
        .map(|path| (name(&path), fs::read(&path).unwrap()))
        .collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fuzz")
}

/// Writes the seeds of all targets to where they are kept. What was found stays.
pub fn write_seeds() {
    for target in TARGETS {
        let folder = root().join(target.name);
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in (target.seeds)() {
            fs::write(folder.join(format!("seed-{name}")), bytes).unwrap();
        }
    }
}

/// Tries every input, then changes of them for as long as the limit allows, and stops at the first fault.
///
/// The same seed makes the same inputs; only how many of them there is time for differs. `trace` is told each input
/// before it is tried: what ends the process leaves nothing else behind.
pub fn run(
    target: &Target,
    inputs: &[Vec<u8>],
    (limit, random): (Duration, Random),
    trace: &mut dyn FnMut(&[u8]),
) -> Outcome {
    /// Between two looks at the time.
    const EXECUTIONS: u64 = 16;

    // A panic on a thread of the product is told apart from others only when one target runs at a time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    listen();
    let mut mutator = Mutator::new(inputs, random);
    let watch = Stopwatch::start();
    let mut outcome = Outcome {
        executions: 0,
        took: Duration::ZERO,
        fault: None,
    };
    let mut kept = inputs.iter();
    loop {
        let input = match kept.next() {
            Some(input) => input.clone(),
            None if outcome.executions.is_multiple_of(EXECUTIONS) && watch.elapsed() >= limit => break,
            None => mutator.next_input(),
        };
        trace(&input);
        outcome.executions += 1;
        if let Some(problem) = fault_of(target, &input) {
            outcome.fault = Some((input, problem));
            break;
        }
    }
    outcome.took = watch.elapsed();
    outcome
}

/// What any thread said at a panic.
static SAID: Mutex<Option<String>> = Mutex::new(None);

fn fault_of(target: &Target, input: &[u8]) -> Option<String> {
    let panicked = catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err();
    let said = SAID.lock().unwrap_or_else(PoisonError::into_inner).take();
    said.or_else(|| panicked.then(|| "a panic that said nothing".to_owned()))
}

/// Keeps what is said at a panic, on whatever thread, and goes on as before.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
            said.get_or_insert_with(|| panic.to_string());
            drop(said);
            usual(panic);
        }));
    });
}
