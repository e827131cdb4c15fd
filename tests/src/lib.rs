//! What the cases in `tests/tests/` are made of.
//!
//! | module | what stands there |
//! |---|---|
//! | [`process`] | real `rdb-server` processes: start, wait until ready, stop, kill |
//! | [`files`], [`disk`] | files of a data directory; disks that can lose their power |
//! | [`shim`], [`preload`] | what stands between a node and its machine: failing disks, jumping clocks |
//! | [`etcd`], [`cluster`] | a real etcd, and whole clusters around it |
//! | [`lan`], [`failover`] | machines that can be cut off from each other; how long a lost leader is felt |
//! | [`torture`] | whole clusters under one fault after the other, drawn from a seed |
//! | [`command`] | the `rdb-client` binary and what it answered |
//! | [`wire`] | raw gRPC, so that cases do not depend on the client library |
//! | [`workload`] | clients that write under load and keep an exact record of what they sent and were told |
//! | [`checkers`] | one promise a file, judged from that record and from the change stream |
//! | [`mutations`] | the named mutation for each promise, and the case that must go red under it |
//! | [`sim`] | whole clusters of the core in one thread, from one seed |
//! | [`whole`] | whole clusters of server and client as they are, in one thread, from one seed |
//! | [`fuzz`] | bytes that nobody wrote, for everything that reads bytes of others |
//! | [`model`] | a few members of a seat, in every order of what can happen |
//! | [`model_etcd`] | an etcd that is a part of the test, and what holds it to the real one |
//! | [`scorecard`] | what all of it comes to, beside the figures that are asked |
//! | [`steps`] | what a server does for every event, step by step, to be timed and counted |
//! | [`random`], [`time`], [`arguments`] | seeded choices; deadlines; words of a command line |
//!
//! Nothing here waits for a fixed time: a case waits for an event, under a deadline that only a fault reaches.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness fails its test by a panic that says where"
)]
#![allow(
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    clippy::return_self_not_must_use,
    clippy::allow_attributes,
    reason = "every helper of a harness may fail its test, and some are called only to do so"
)]

pub mod arguments;
pub mod authority;
pub mod checkers;
pub mod cluster;
pub mod command;
pub mod disk;
pub mod etcd;
pub mod failover;
pub mod files;
pub mod fuzz;
pub mod lan;
pub mod machine;
pub mod model;
pub mod model_etcd;
pub mod mutations;
pub mod preload;
pub mod process;
pub mod random;
pub mod relay;
pub mod scorecard;
pub mod shim;
pub mod sim;
pub mod steps;
pub mod time;
pub mod torture;
pub mod whole;
pub mod wire;
pub mod workload;

/// Says a line on the terminal, also when the test runner keeps a passing test's output to itself.
pub fn say(line: &str) {
    use std::io::Write as _;
    // Nobody may be reading any more; the test does not depend on it.
    drop(writeln!(std::io::stderr(), "    {line}"));
}
