//! Several keys as of one seq (DESIGN 6.7), on nodes alone and in a cluster.
#![cfg(test)]

use rdb_proto::event::Event;
use rdb_proto::limits::SNAPSHOT_KEYS_MAX;
use rdb_proto::reason::Reason;
use rdb_tests::cluster::Cluster;
use rdb_tests::process::Node;
use rdb_tests::say;
use rdb_tests::time::{PATIENCE, Stopwatch};
use rdb_tests::wire::{Api, assert_reason};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::task::JoinSet;

/// Transfers of each pair that are looked at, at least.
const WRITES_LOOKED_AT: u64 = 25;

/// Snapshots that are taken, at least.
const ROUNDS: usize = 40;

fn number(event: Option<&Event>) -> u64 {
    event.map_or(0, |event| {
        std::str::from_utf8(&event.payload).unwrap().parse().unwrap()
    })
}

/// Moves value from one key to another: n to the first, then n to the second, one step after the other.
async fn transfers(mut api: Api, keys: [String; 2], done: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        for key in &keys {
            api.write(key, &n.to_string()).await.unwrap();
        }
        done.store(n, Ordering::SeqCst);
    }
}

/// Pairs of keys on seats of four groups: the second key of a pair is written after the first. Whatever node is asked,
/// in whatever order of keys, the first is at most one ahead and never behind, and nothing that was acknowledged before
/// is missing.
///
/// Red when each key is read for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_snapshot_sees_a_write_without_the_one_before_it() {
    let cluster = Cluster::start(3, &[("SHARD_GROUPS", "4")]).await;
    cluster.until_led(false).await;
    let stop = Arc::<AtomicBool>::default();
    let mut writers = JoinSet::new();
    let pairs: Vec<[String; 2]> = (0..4).map(|n| [format!("from{n}"), format!("to{n}")]).collect();
    let mut done = Vec::new();
    for (n, pair) in pairs.iter().enumerate() {
        let written = Arc::<AtomicU64>::default();
        let api = cluster.api(n % 3).await;
        writers.spawn(transfers(
            api,
            pair.clone(),
            Arc::clone(&written),
            Arc::clone(&stop),
        ));
        done.push(written);
    }
    // Between the first keys of all pairs and the second ones many others are read: time enough for writes.
    let others = (2 * pairs.len()..SNAPSHOT_KEYS_MAX).map(|n| format!("never{n}"));
    let firsts = pairs.iter().map(|[from, _]| from.clone());
    let seconds = pairs.iter().map(|[_, to]| to.clone());
    let keys: Vec<String> = firsts.chain(others).chain(seconds).collect();
    let mut seen = vec![0; pairs.len()];
    // On a slow disk there are few writes in many rounds, and only a write can be seen torn.
    let watch = Stopwatch::start();
    for round in 0.. {
        let fewest = seen.iter().min().copied().unwrap_or_default();
        let is_too_slow = fewest > 0 && watch.elapsed() > PATIENCE;
        if round >= ROUNDS && (fewest >= WRITES_LOOKED_AT || is_too_slow) {
            say(&format!(
                "{round} snapshots, and {fewest} transfers of each pair or more"
            ));
            break;
        }
        assert!(writers.try_join_next().is_none(), "the writers are at work");
        let mut api = cluster.api(round % 3).await;
        let is_turned = round % 2 == 1;
        let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        if is_turned {
            keys.reverse();
        }
        let before: Vec<u64> = done.iter().map(|done| done.load(Ordering::SeqCst)).collect();
        let (_, mut answers) = api.snapshot(&keys, None).await.unwrap();
        assert_eq!(answers.len(), keys.len());
        if is_turned {
            answers.reverse();
        }
        let (firsts, seconds) = (&answers[..pairs.len()], &answers[answers.len() - pairs.len()..]);
        for (n, (from, to)) in firsts.iter().zip(seconds).enumerate() {
            let (from, to) = (number(from.0.as_ref()), number(to.0.as_ref()));
            assert!(from == to || from == to + 1, "torn: {from} and {to}");
            assert!(
                to >= before[n],
                "{to} is older than {}, acknowledged before",
                before[n]
            );
            seen[n] = to;
        }
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
}

/// What is there, what is deleted, what never was, and what was then, of a node alone and of each of a cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_says_what_was_there_and_what_was_not() {
    let data = tempfile::tempdir().unwrap();
    let alone = Node::start(data.path()).await;
    says_what_was_there(vec![alone.api().await]).await;
    let cluster = Cluster::start(3, &[("SHARD_GROUPS", "4")]).await;
    cluster.until_led(false).await;
    let mut apis = Vec::new();
    for n in 0..3 {
        apis.push(cluster.api(n).await);
    }
    says_what_was_there(apis).await;
}

async fn says_what_was_there(mut apis: Vec<Api>) {
    let first = apis[0].write("a", "1").await.unwrap().seq;
    apis[0].write("b", "2").await.unwrap();
    apis[0].write("a", "3").await.unwrap();
    let last = apis[0].delete("b").await.unwrap().seq;
    let keys = ["never", "b", "a", "a"];
    for api in &mut apis {
        let (seq, now) = api.snapshot(&keys, None).await.unwrap();
        assert!(seq >= last);
        let numbers = |answers: &[(Option<Event>, u64)]| {
            let number = |(event, version): &(Option<Event>, u64)| (number(event.as_ref()), *version);
            answers.iter().map(number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&now), [(0, 0), (0, 2), (3, 2), (3, 2)]);
        let (seq, then) = api.snapshot(&keys, Some(first)).await.unwrap();
        assert_eq!(seq, first);
        assert_eq!(numbers(&then), [(0, 0), (0, 0), (1, 1), (1, 1)]);
        assert_reason(api.snapshot(&keys, Some(last + 1_000)).await, Reason::SeqAhead);
        assert_reason(api.snapshot(&[], None).await, Reason::FieldInvalid);
        let many = vec!["a"; SNAPSHOT_KEYS_MAX + 1];
        assert_reason(api.snapshot(&many, None).await, Reason::LimitExceeded);
    }
}

/// More than fits a message comes in parts, all of them as of the seq of the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_does_not_fit_a_message_comes_in_parts() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path()).await;
    let mut api = node.api().await;
    let large = "x".repeat(3 << 20);
    for key in 0..5 {
        api.write(&format!("k{key}"), &large).await.unwrap();
    }
    let keys = ["k0", "k1", "k2", "k3", "k4"];
    let (seq, first) = api.snapshot(&keys, None).await.unwrap();
    assert!(
        !first.is_empty() && first.len() < keys.len(),
        "{} of them",
        first.len()
    );
    api.write("k4", "later").await.unwrap();
    let (again, rest) = api.snapshot(&keys[first.len()..], Some(seq)).await.unwrap();
    assert_eq!((again, first.len() + rest.len()), (seq, keys.len()));
    let (last, version) = rest.last().unwrap();
    assert_eq!((last.as_ref().unwrap().payload.len(), *version), (large.len(), 1));
}
