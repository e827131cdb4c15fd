//! The rules of one seat, as a pure state machine.
//!
//! [`Input`] goes in, [`Effect`]s come out; nothing here does I/O, reads a clock, draws a random number, waits or
//! locks. The same code runs in production, in the simulator and in the model checker.
//!
//! - Effects of one step may be performed in any order. What must follow a disk write is emitted by the step that
//!   handles the completion of that write.
//! - A refusal between members is a message, a refusal to a client is an [`Outcome`]: [`Seat::step`] never fails. A
//!   broken invariant is a panic that names the rule.
//!
//! | file | decides | rules |
//! |---|---|---|
//! | `seat` | which rule an input is for | |
//! | `member` | what a member is in every role | 6.1 |
//! | `fencing` | who is obeyed, and stepping down | 6.3.1 |
//! | `append` | what may follow what in the log, what is durable | 6.3.2, 6.3.3, 6.3.6 |
//! | `commit` | what is committed, quorums | 6.3.4 |
//! | `recovery` | how a seat is taken over | 6.3.5 |
//! | `leader` | the order in which consequences follow | |
//! | `sequencing` | which numbers an event gets | 6.5, 6.3.6 |
//! | `conditions` | whether a proposal is appended, conflicts or happened already | 6.6 |
//! | `overlay` | what decisions see beyond the key index | 6.6 |
//! | `reads` | when a read or an answer may be told: rounds | 6.3.7, 6.7 |
//! | `resolution` | how far the seat is resolved | 7 |
//! | `invariants` | what must be true after every step | 6.4 |
//! | `status` | what can be seen from outside | |

#![deny(clippy::arithmetic_side_effects)]

mod append;
mod commit;
mod conditions;
mod effect;
mod fencing;
#[cfg(test)]
mod fortune;
mod input;
mod invariants;
mod leader;
mod member;
mod overlay;
mod reads;
mod recovery;
mod resolution;
#[cfg(test)]
mod scripts;
mod seat;
mod sequencing;
mod status;
#[cfg(test)]
mod testing;

pub use append::{EpochRun, LogEnd};
pub use effect::{Effect, Outcome, Refusal, Written};
pub use input::{
    AllocationId, Input, KeyState, KnownEvent, PersistTicket, Proposal, ProposalId, ReadId, Tick,
};
pub use member::{Durable, Mark, SeatConfig};
pub use seat::Seat;
pub use status::RoleName;
