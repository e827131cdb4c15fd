//! A node of RDB. Each room knows its own job and nothing of the others':
//!
//! | room | knows |
//! |---|---|
//! | [`protocol`] | the rules of a seat as a pure state machine: inputs in, effects out |
//!
//! Dependencies point inward only; `tests/tests/tidy.rs` holds that.

pub mod protocol;
