//! The rules of one seat, as a pure state machine.
//!
//! [`Input`] goes in, [`Effect`]s come out; nothing here does I/O, reads a clock, draws a random number, waits or
//! locks. The same code runs in production, in the simulator and in the model checker.
//!
//! - Effects of one step may be performed in any order. What must follow a disk write is emitted by the step that
//!   handles the completion of that write.
//! - A refusal between members is a message, a refusal to a client is an [`Outcome`]: `step` never fails. A broken
//!   invariant is a panic that names the rule.

mod effect;
mod input;

pub use effect::{Effect, Outcome, Refusal, Written};
pub use input::{AllocationId, Input, KeyState, KnownEvent, PersistTicket, Proposal, ProposalId, ReadId};
