//! What reads bytes of others neither panics nor reads back anything else than it wrote, whatever the bytes are. Here it
//! is tried for a moment; `scripts/fuzz` does it for as long as one likes, guided by coverage.
#![cfg(test)]

use prost::Message as _;
use rdb_proto::v1;
use rdb_tests::fuzz::request::METHODS;
use rdb_tests::fuzz::{Target, kept, run, target};
use rdb_tests::random::Random;
use rdb_tests::say;
use std::collections::BTreeSet;
use std::time::Duration;

/// For each target.
const LIMIT: Duration = Duration::from_millis(1_500);

/// No panic when it fails: other cases run beside it, and one of a thread that is not known would count as theirs.
fn withstands(name: &str) -> Result<(), String> {
    let target = target(name).unwrap();
    let inputs: Vec<Vec<u8>> = kept(target).into_iter().map(|(_, bytes)| bytes).collect();
    let outcome = run(target, &inputs, (LIMIT, Random::of_run(7)), &mut |_| {});
    say(&format!("{name}: {} inputs", outcome.executions));
    if let Some((input, problem)) = outcome.fault {
        return Err(format!(
            "{problem}\nthe input, for tests/data/fuzz/{name}: {input:?}"
        ));
    }
    if outcome.executions > u64::try_from(inputs.len()).unwrap() {
        Ok(())
    } else {
        Err("nothing but the kept inputs was tried".to_owned())
    }
}

macro_rules! withstand {
    ($($case:ident $name:literal;)*) => {
        $(#[test]
        fn $case() -> Result<(), String> {
            withstands($name)
        })*

        #[test]
        fn every_target_has_a_case() {
            let cases = BTreeSet::from([$($name),*]);
            let targets = rdb_tests::fuzz::TARGETS.iter().map(|target| target.name);
            assert_eq!(targets.collect::<BTreeSet<_>>(), cases);
        }
    };
}

withstand! {
    segments_of_a_log "segment";
    bodies_of_entries "entry";
    values_of_the_index "index";
    requests_of_every_service "request";
    messages_between_nodes "member";
    values_of_etcd "etcd";
    lines_of_an_import "import";
    what_subscribers_ask_for "filter";
    settings_of_a_server "settings";
}

/// A kept seed that no release writes any more tries little: `fuzz seeds` writes them anew.
#[test]
fn the_kept_seeds_are_what_the_product_writes() -> Result<(), String> {
    for target in rdb_tests::fuzz::TARGETS {
        let kept: Vec<(String, Vec<u8>)> = kept(target);
        for (name, bytes) in (target.seeds)() {
            let name = format!("seed-{name}");
            let found = kept.iter().find(|(kept, _)| *kept == name);
            if found.is_none_or(|(_, kept)| *kept != bytes) {
                let again = "cargo run -p rdb-tests --bin fuzz -- seeds";
                return Err(format!("{}/{name}: {again}", target.name));
            }
        }
    }
    Ok(())
}

#[test]
fn every_method_of_every_service_is_tried() {
    let described = prost_types::FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
    let mut public = BTreeSet::new();
    for file in &described.file {
        for service in &file.service {
            for method in &service.method {
                public.insert(format!(
                    "/{}.{}/{}",
                    file.package(),
                    service.name(),
                    method.name()
                ));
            }
        }
    }
    let tried = METHODS.iter().map(|method| method.path.to_owned());
    let (between_nodes, tried): (BTreeSet<_>, BTreeSet<_>) =
        tried.partition(|path| path.contains(".member."));
    assert_eq!(tried, public);
    assert_eq!(between_nodes.len(), 3, "{between_nodes:?}");
}

/// The runner itself: a fault is found, on any thread, and its input told.
#[test]
fn a_fault_is_found() {
    fn run_it(data: &[u8]) {
        let is_bad = data.starts_with(b"abc") && data.len() > 5 && data[4] > 0x80;
        // The panic of a thread that nobody waits for counts, too.
        drop(std::thread::spawn(move || assert!(!is_bad, "found it")).join());
    }
    let planted = Target {
        name: "planted",
        what: "a fault on purpose",
        run: run_it,
        seeds: Vec::new,
    };
    let inputs = [b"abcdefgh".to_vec()];
    let outcome = run(
        &planted,
        &inputs,
        (Duration::from_secs(20), Random::new(7)),
        &mut |_| {},
    );
    let (input, problem) = outcome.fault.expect("the fault is found");
    assert!(problem.contains("found it"), "{problem}");
    assert!(input.starts_with(b"abc") && input[4] > 0x80, "{input:?}");
}
