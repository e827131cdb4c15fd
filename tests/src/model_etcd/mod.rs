//! A model of etcd 3.4, as far as the product uses it, for tests that need an etcd which is a part of them: one that is
//! the same each time, goes wrong when it is told to, and has no clock of its own.
//!
//! | file | what stands there |
//! |---|---|
//! | [`keys`] | keys at every revision since the last compaction |
//! | [`txn`] | what may be in a transaction, and what it does |
//! | [`leases`] | leases and their ends |
//! | [`watches`] | who is told of which changes |
//! | [`refusal`] | why something is refused, in etcd's words |
//! | [`state`] | all of these as one state, with the time as an input |
//! | [`served`] | the same behind etcd's interface, and calls that go wrong |
//! | [`differential`], [`drawn`], [`operation`], [`followed`] | the same random operations on the model and on a real etcd |
//!
//! Not modelled: several members, users, alarms, and what the product does not ask for (order and bounds of a range,
//! puts that keep a value or a lease, progress that nobody asked for). What is not modelled is refused.

pub mod differential;
pub mod drawn;
pub mod followed;
pub mod keys;
pub mod leases;
pub mod operation;
pub mod refusal;
pub mod served;
pub mod state;
pub mod txn;
pub mod watches;
