//! Numbers that one node asks of another, which takes them in its own txn (DESIGN 6.5).

use crate::types::{Seq, Timestamp};

/// What a node asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumbersWanted {
    /// How many.
    pub count: u64,
    /// Generation of the database as the node knows it: it has no use for numbers of another one.
    pub generation: u64,
}

/// What it gets: `first` and those that follow it densely. Nobody else has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumbersGranted {
    /// The first.
    pub first: Seq,
    /// As many as were asked for.
    pub count: u64,
    /// Time of the batch; never goes back along seq.
    pub time: Timestamp,
    /// Generation that they are of.
    pub generation: u64,
}
