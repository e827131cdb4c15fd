//! A node of RDB. Each room knows its own job and nothing of the others':
//!
//! | room | knows |
//! |---|---|
//! | [`protocol`] | the rules of a seat as a pure state machine: inputs in, effects out |
//! | [`storage`] | files, frames, fsync, the key index |
//! | [`coordination`] | who leads, and which number is next |
//! | [`transport`] | messages between nodes; moves them and judges nothing |
//! | [`cdc`] | the order of the change stream, marks and filters |
//! | [`node`] | all of the above: tasks, channels, start and stop |
//! | [`api`] | gRPC and HTTP to words and back; decides nothing |
//! | [`settings`], [`limits`], [`clock`], [`blocking`], [`workers`], [`fatal`], [`sabotage`] | leaves that every room may use |
//!
//! Dependencies point inward only; `tests/tests/tidy.rs` holds that.

pub mod api;
pub mod blocking;
pub mod cdc;
pub mod clock;
pub mod coordination;
pub mod fatal;
pub mod limits;
pub mod node;
pub mod protocol;
pub mod sabotage;
pub mod serve;
pub mod settings;
pub mod storage;
pub mod transport;
pub mod workers;
