//! What reads bytes of others, fed with bytes that nobody wrote: logs, index entries, requests, messages between nodes,
//! values of etcd, lines and settings of users.
//!
//! Each [`Target`] is one plain function of some bytes, and a panic in it is the finding. It does more than to read:
//! what can be read must come out the same when it is written and read again, and where two parts of the product read the
//! same bytes, they must agree. The same functions run in three ways:
//!
//! | how | where |
//! |---|---|
//! | over the kept inputs, and changes of them from a seed, in an ordinary build | [`run()`], `tests/tests/fuzz.rs`, `fuzz run` |
//! | guided by coverage | `scripts/fuzz`, crate `tests/fuzz` |
//! | over one file | `fuzz replay TARGET FILE` |
//!
//! Kept inputs stand in `tests/data/fuzz/<target>/`: `seed-*` are what [`seeds`](Target::seeds) makes, anything else was
//! found, and stays so that it is tried for ever.

mod entry;
mod etcd;
mod filter;
mod import;
mod index;
mod member;
mod mutate;
pub mod request;
mod run;
mod sample;
mod segment;
mod settings;

pub use mutate::Mutator;
pub use run::{Outcome, kept, kept_in, run, write_seeds};

/// One thing that reads bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, also that of its folder.
    pub name: &'static str,
    /// What it reads.
    pub what: &'static str,
    /// Reads some bytes; panics when it finds a fault.
    pub run: fn(&[u8]),
    /// Valid inputs to begin with, by name.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    segment::TARGET,
    entry::TARGET,
    index::TARGET,
    request::TARGET,
    member::TARGET,
    etcd::TARGET,
    import::TARGET,
    filter::TARGET,
    settings::TARGET,
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// A name beside its bytes.
fn named(name: &str, bytes: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
    (name.to_owned(), bytes.into())
}
