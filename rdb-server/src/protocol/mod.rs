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
//! | `message` | what members say to each other | 6.2 |
//! | `member` | what a member is in every role | 6.1 |
//! | `fencing` | who is obeyed, and stepping down | 6.3.1 |
//! | `election` | who stands, and when a leader counts as gone: pre-vote | 5 |
//! | `log` | what may follow what in the log, what is durable | 6.3.2, 6.3.3, 6.3.6 |
//! | `append` | what a member takes from a leader and acknowledges | 6.3.1 to 6.3.3 |
//! | `replication` | what a leader sends to whom, and when it gives up | 6.3.4, 6.3.7, 5 |
//! | `commit` | what is committed, quorums | 6.3.4 |
//! | `recovery` | how a seat is taken over | 6.3.5 |
//! | `repair` | what a member may do whose disk lost something | 8 |
//! | `leader` | the order in which consequences follow | |
//! | `sequencing` | which numbers an event gets | 6.5, 6.3.6 |
//! | `conditions` | whether a proposal is appended, conflicts or happened already | 6.6 |
//! | `overlay` | what decisions see beyond the key index | 6.6 |
//! | `reads` | when a read or an answer may be told: rounds | 6.3.7, 6.7 |
//! | `resolution` | how far the seat is resolved | 7 |
//! | `seen` | what a node remembers of the coordinator, and when that one is behind it | 6.5 |
//! | `guard` | whether a node may ask for numbers: a coordinator that was rolled back | 6.5 |
//! | `invariants` | what must be true after every step | 6.4 |
//! | `status` | what can be seen from outside | |

#![deny(clippy::arithmetic_side_effects)]

mod append;
#[cfg(test)]
mod cluster;
mod commit;
mod conditions;
mod effect;
mod election;
#[cfg(test)]
mod fate;
mod fencing;
#[cfg(test)]
mod fortune;
mod guard;
mod input;
mod invariants;
mod leader;
mod log;
mod member;
mod message;
mod overlay;
mod reads;
mod recovery;
mod repair;
mod replication;
mod resolution;
#[cfg(test)]
mod scripts;
mod seat;
mod seen;
mod sequencing;
mod status;
#[cfg(test)]
mod testing;

pub use effect::{Effect, Outcome, Refusal, Written};
pub use guard::{Guard, GuardEffect, GuardInput, NewGeneration, QuestionId, Told};
pub use input::{
    AllocationId, Input, KeyState, KnownEvent, LeaderKey, LogReadId, PersistTicket, Proposal, ProposalId,
    ReadId, Tick,
};
pub use log::{EpochRun, LogEnd};
pub use member::{Durable, Mark, SeatConfig};
pub use message::{Append, Message};
pub use reads::Round;
pub use seat::Seat;
pub use seen::Seen;
pub use status::{Hold, RoleName};
