//! A node of RDB. Each room knows its own job and nothing of the others':
//!
//! | room | knows |
//! |---|---|
//! | [`protocol`] | the rules of a seat as a pure state machine: inputs in, effects out |
//! | [`limits`] | what the server bounds, and why by that number |
//! | [`sabotage`] | mistakes that a test build makes on purpose |
//!
//! Dependencies point inward only; `tests/tests/tidy.rs` holds that.

pub mod limits;
pub mod protocol;
pub mod sabotage;
