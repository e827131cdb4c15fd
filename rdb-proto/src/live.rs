//! What a node says of itself in etcd for as long as it lives: by it nodes find each other, and clients find nodes.
//!
//! The value under `/rdb/{database}/live/{node}` is this record as JSON.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Format of the record, and of every other value in etcd, that this release reads and writes.
pub const FORMAT: u32 = 1;

/// What the keys of the live nodes of a database begin with.
pub fn prefix(database: &str) -> String {
    format!("/rdb/{database}/live/")
}

/// A node that holds its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the node.
    pub name: String,
    /// Where others reach it: host:port of gRPC.
    pub address: String,
    /// Release of the server.
    pub release: String,
    /// This start of its process.
    pub incarnation: Uuid,
}
