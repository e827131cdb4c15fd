//! The Rust client of RDB.
//!
//! ```no_run
//! # async fn example() -> Result<(), rdb_client::Error> {
//! use rdb_client::{Client, Expectation, Filter, KeyName, Message, NewEvent, Seq, Start};
//!
//! let client = Client::connect(["127.0.0.1:2048"])?;
//! let deep = KeyName::new("default", "Deep")?;
//! let receipt = client.write(&deep, NewEvent::new("First write"), Expectation::Any).await?;
//! println!("version {} at seq {}", receipt.stored.version, receipt.stored.seq);
//!
//! let mut changes = client.subscribe(Start::After(Seq::ZERO), Filter::default());
//! while let Message::Opened { .. } | Message::Events(_) = changes.next().await? {}
//! # Ok(())
//! # }
//! ```
//!
//! | module | what it decides |
//! |---|---|
//! | `connect` | connections; the loop that calls again |
//! | `etcd` | which nodes there are, by etcd (feature `etcd`, on by default) |
//! | `route` | which node is called: the one that leads the key, or any |
//! | `retry` | whether a failed call is made again, and what is told in the end |
//! | `write` | writes, appends and deletes, with one event id for all attempts |
//! | `append_each` | appends of all callers over one stream to a node |
//! | `append_stream` | many appends under way on one stream |
//! | `json_lines` | events of the command line's files |
//! | `read` | reads, history, lists of keys |
//! | `subscribe` | the change stream, over lost connections |
//! | `handed_out` | what of it came before, when it is in the order of keys |
//! | `status` | what the database looks like |
//! | `admin` | seats moved, nodes drained and forgotten |
//! | `verify` | logs read from disk and checked |
//! | `error` | what a failure says, and whether anything happened |
//!
//! Nothing of gRPC shows in this interface, so that the wire can change without breaking callers.

mod admin;
mod append_each;
mod append_stream;
#[doc(hidden)]
pub mod clock;
mod connect;
mod consumer;
mod error;
#[cfg(feature = "etcd")]
mod etcd;
mod handed_out;
#[doc(hidden)]
pub mod json_lines;
pub mod limits;
mod read;
mod retry;
mod route;
mod status;
mod subscribe;
#[doc(hidden)]
pub mod tasks;
mod verify;
mod write;

pub use admin::{EtcdRestored, MemberMove};
pub use append_stream::{Appender, AppenderOptions, PendingAppend};
pub use connect::Client;
pub use consumer::{Consumer, ConsumerOptions, SubscriptionStatus};
pub use error::Error;
#[cfg(feature = "etcd")]
pub use etcd::{EtcdOptions, node_addresses};
pub use rdb_proto::event::{Change, Event, EventKind, EventRef, Expectation};
pub use rdb_proto::reason::{Happened, Reason};
pub use rdb_proto::types::{Collection, EventId, Key, KeyName, Seq, Timestamp, Version};
pub use read::{
    Consistency, History, HistoryOptions, KeyPage, KeyState, KeyThen, ReadAnswer, ReadOptions, Snapshot,
};
pub use status::{GroupStatus, HeldMark, MemberProgress, NodeStatus, SeatStatus, SlotRange, Status};
pub use subscribe::{EventBatch, Filter, Message, Order, Start, Subscription};
pub use verify::{Finding, FindingKind, Findings, VerifiedBlock, VerifyEnd, VerifySeat};
pub use write::{NewEvent, Receipt, Stored, derived_event_id};
