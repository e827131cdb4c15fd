//! Real clusters broken on purpose, the quick form (DESIGN 3): `torture`, a tool of these tests, does it for as long as
//! one likes, with more faults.
#![cfg(test)]

use rdb_tests::random::Random;
use rdb_tests::say;
use rdb_tests::time::within;
use std::time::Duration;
use tokio::process::Command;

/// Exit code of the tool when this machine cannot do what was asked for.
const NOTHING_RUN: i32 = 3;

/// Far more than it takes: the tool has deadlines of its own, and cleans up after itself when one has passed.
const LONGEST: Duration = Duration::from_mins(4);

/// Lets the tool have one fault strike so many times. It has a table of mounts and a network of its own.
async fn strike(fault: &str, rounds: u64, seed: u64) {
    let rounds = rounds.to_string();
    let seed = Random::of_run(seed).next().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_torture"));
    command.args(["--only", fault, "--rounds", &rounds, "--seed", &seed]);
    let ended = within(LONGEST, fault, command.kill_on_drop(true).output()).await;
    let ended = ended.unwrap();
    let (report, log) = (
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr),
    );
    say(&log);
    say(&report);
    let is_not_run = ended.status.code() == Some(NOTHING_RUN);
    assert!(ended.status.success() || is_not_run, "see above");
}

/// Nodes die by SIGKILL: one, both leaders, a majority, all, all again while they start. What was acknowledged is there,
/// once, in order; reads are linearizable; every node shows its follower the same stream without a gap.
///
/// Red when a leader is recovered from too few members, or counts what is not written.
#[tokio::test]
async fn nodes_that_are_killed_lose_nothing() {
    strike("kill", 5, 71).await;
}

/// One write or sync of a node fails, while it runs or starts: it ends or goes on, and what it acknowledged is there.
///
/// Red when a failed write is acknowledged. Needs `cc`.
#[tokio::test]
async fn nodes_whose_disks_fail_lose_nothing() {
    strike("disk", 3, 73).await;
}

/// Members of an etcd of three die or stand still, a majority is left: nothing is lost, and writes go on.
///
/// Red when all nodes ask one member only. Other seeds draw an etcd of one member, too.
#[tokio::test]
async fn an_etcd_that_loses_members_harms_nothing() {
    strike("etcd", 3, 88).await;
}

/// Clocks jump by up to a day, and back: nothing depends on them but the times of events, which never go back.
///
/// Red when an event's time is that of its node's clock. Needs `cc`.
#[tokio::test]
async fn clocks_that_jump_harm_nothing() {
    strike("clock", 3, 74).await;
}

/// All nodes lose power at once, and with it everything that they had not synced.
///
/// Red when an acknowledgement does not wait for the disk. Needs root, `mkfs.ext4`, loop devices and `python3`.
#[tokio::test]
async fn nodes_that_lose_power_at_once_lose_nothing() {
    strike("power", 4, 72).await;
}
