//! What a server does for every event does not become far more without being noticed. Counted, not timed: counts are the same
//! on a busy machine.
#![cfg(test)]

use rdb_tests::process::binary;
use rdb_tests::say;
use rdb_tests::steps::{Counted, count, kept};

/// Red when a step takes half as many instructions again as `target/debug/steps count --keep` wrote to `tests/steps.txt`.
#[test]
fn no_step_takes_far_more_instructions_than_it_did() {
    let counts = match count(&binary("steps")).unwrap() {
        Counted::All(counts) => counts,
        Counted::NotRun(why) => return say(&format!("not run: {why}")),
    };
    let kept = kept().unwrap();
    assert_eq!(
        counts.len(),
        kept.len(),
        "what is kept is of the steps that there are"
    );
    for count in counts {
        let percent = count.percent(&kept);
        say(&format!(
            "{:>9} {} ({percent:?} % of what was kept)",
            count.instructions, count.step.name
        ));
        assert!(
            !count.is_too_much(&kept),
            "{} takes {} instructions, {percent:?} % of what was kept",
            count.step.name,
            count.instructions
        );
    }
}
