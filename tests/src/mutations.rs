//! Named mutations: for each promise a fault, built into the server behind its feature `sabotage`, that must turn a
//! case red. `scripts/sabotage` builds that server and holds the table to its word.

/// A fault in the server, and what must notice it.
#[derive(Debug, Clone, Copy)]
pub struct Mutation {
    /// Value of `RDB_SABOTAGE`.
    pub name: &'static str,
    /// The promise that it breaks.
    pub promise: &'static str,
    /// Test binary that must go red.
    pub test: &'static str,
    /// Case of that binary that must go red.
    pub case: &'static str,
}

/// All of them.
pub const MUTATIONS: &[Mutation] = &[];
