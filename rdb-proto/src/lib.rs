//! The vocabulary of RDB, shared by server and client, and how both reach the machine that they run on.
//!
//! | module | what stands there |
//! |---|---|
//! | [`types`] | a newtype for every number and name with a meaning |
//! | [`event`] | events as clients hand them in and as the log keeps them |
//! | `fields` | the wire form of events, read without building messages |
//! | [`entry`] | entries of a seat's log |
//! | [`glance`] | what an index needs of an entry, without building the events |
//! | [`limits`] | what is too big or too many, for both sides |
//! | [`live`] | what a node says of itself in etcd, by which clients find it |
//! | [`numbers`] | numbers that one node asks of another |
//! | [`reason`] | the closed list of error reasons: code, whether anything happened, what to do |
//! | [`convert`] | wire types to words and back |
//! | [`cursor`] | cursors of named subscriptions, and what changes them |
//! | [`v1`] | the generated gRPC code |
//! | [`member`] | the generated gRPC code of what nodes say to each other |
//! | [`network`] | how connections are made |
//! | [`simulation`] | what a simulation puts in the place of network, time of day, chance and threads |

pub mod convert;
pub mod cursor;
pub mod entry;
pub mod event;
mod fields;
pub mod glance;
pub mod limits;
pub mod live;
pub mod member;
pub mod network;
pub mod numbers;
pub mod reason;
pub mod simulation;
pub mod types;
pub mod v1;
