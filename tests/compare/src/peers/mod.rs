//! The databases that are compared: one file each, with its server's settings and its own client.

pub mod bare;
mod etcd;
mod nats;
mod postgres;
pub mod rdb;
mod redis;
mod umadb;

use crate::peer::Peer;
use crate::servers::Servers;
use crate::work::Work;
use anyhow::Result;
use futures::future::LocalBoxFuture;

/// Starts a database.
pub type Start = for<'a> fn(&'a mut Servers) -> LocalBoxFuture<'a, Result<Box<dyn Peer>>>;

/// One database in one setting.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Name for `--peers`.
    pub peer: &'static str,
    /// Name in the tables.
    pub title: &'static str,
    /// The setting, in the database's own words.
    pub setting: &'static str,
    /// Whether an acknowledged event is on stable storage, so that it survives a loss of power.
    pub survives_power_loss: bool,
    /// 3 when it is one of those whose events are kept by several nodes, else 1.
    pub nodes: u16,
    /// How the work is done with it, for whoever wants to know whether that is fair.
    pub how: &'static str,
    /// Why it cannot do a work; `None` when it can.
    pub lacks: fn(Work) -> Option<&'static str>,
    /// What runs, with its release.
    pub version: fn() -> Result<String>,
    /// Why it cannot be had here; `None` when it can.
    pub missing: fn() -> Option<String>,
    /// Starts it, on new data.
    pub start: Start,
}

/// All of them. Those of RDB come first: the others are compared with them.
pub fn all() -> Vec<Entry> {
    let mut all = Vec::new();
    all.extend(rdb::ENTRIES);
    all.extend(umadb::ENTRIES);
    all.extend(postgres::ENTRIES);
    all.extend(redis::ENTRIES);
    all.extend(etcd::ENTRIES);
    all.extend(nats::ENTRIES);
    all.extend(bare::ENTRIES);
    all
}

/// Nothing is missing.
fn nothing() -> Option<String> {
    None
}

/// It can do every work.
fn can_all(_work: Work) -> Option<&'static str> {
    None
}
