//! DESIGN 3, "Linearizable": there is an order of a key's operations that agrees with real time and in which each
//! does what its client was told. Found by search (Wing and Gong, with Lowe's memory of states), without a look at
//! seqs or at the stream: the oracle beside the linear-time checkers, which believe what the database says of itself.
//!
//! An operation without an answer may have happened at any time after it was sent, or never.

use super::{Verdict, broken};
use rdb_proto::event::{EventKind, Expectation};
use rdb_proto::types::Version;
use std::collections::BTreeSet;

const RULE: &str = "linearizability of a key (DESIGN 3)";

/// Longest history that is searched. The search is exponential at worst; real histories are far from it.
pub const OPERATIONS_MAX: usize = 400;

const STEPS_MAX: usize = 200_000;

/// What a client wanted, and was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A write of so many events.
    Write {
        /// What it demanded.
        expect: Expectation,
        /// How many.
        events: u64,
        /// What they do.
        kind: EventKind,
        /// The version of its first event; `None` when that was not told.
        told: Option<Version>,
    },
    /// A write that conflicted with this version.
    Conflict {
        /// What it demanded.
        expect: Expectation,
        /// The version that it met.
        current: Version,
    },
    /// A read that found this version; `None` when the key did not exist.
    Read(Option<Version>),
}

/// An operation on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Before it was sent.
    pub sent: u64,
    /// After it was answered; `u64::MAX` when it was not.
    pub answered: u64,
    /// What it was.
    pub call: Call,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    version: u64,
    is_deleted: bool,
}

impl State {
    const fn exists(self) -> bool {
        self.version > 0 && !self.is_deleted
    }

    const fn allows(self, expect: Expectation) -> bool {
        match expect {
            Expectation::Any => true,
            Expectation::Absent => !self.exists(),
            Expectation::Exists => self.exists(),
            Expectation::Exact(version) => version.get() == self.version,
        }
    }

    fn after(self, call: &Call) -> Option<Self> {
        match call {
            Call::Write {
                expect,
                events,
                kind,
                told,
            } => {
                let is_told = told.is_none_or(|told| told.get() == self.version + 1);
                (self.allows(*expect) && is_told).then_some(Self {
                    version: self.version + events,
                    is_deleted: *kind == EventKind::Delete,
                })
            }
            Call::Conflict { expect, current } => {
                (!self.allows(*expect) && current.get() == self.version).then_some(self)
            }
            Call::Read(found) => {
                let is_found = if self.exists() {
                    *found == Some(Version(self.version))
                } else {
                    found.is_none()
                };
                is_found.then_some(self)
            }
        }
    }
}

/// Searches for an order.
///
/// # Errors
/// When there is none.
pub fn check(key: &str, spans: &[Span]) -> Verdict {
    let mut spans: Vec<&Span> = spans.iter().collect();
    spans.sort_by_key(|span| (span.sent, span.answered));
    if spans.len() > OPERATIONS_MAX {
        return Ok(());
    }
    let mut search = Search {
        spans: &spans,
        done: vec![false; spans.len()],
        seen: BTreeSet::new(),
        steps: 0,
        furthest: 0,
    };
    let start = State {
        version: 0,
        is_deleted: false,
    };
    if search.go(start, 0) || search.steps >= STEPS_MAX {
        return Ok(());
    }
    let stuck = spans[search.furthest.min(spans.len() - 1)];
    broken(
        RULE,
        format!(
            "the {} operations on {key:?} have no order; none gets past {stuck:?}",
            spans.len()
        ),
    )
}

struct Search<'a> {
    spans: &'a [&'a Span],
    done: Vec<bool>,
    seen: BTreeSet<(Vec<bool>, State)>,
    steps: usize,
    furthest: usize,
}

impl Search<'_> {
    /// Whether the operations that are not done have an order from this state. All before `first` are done.
    fn go(&mut self, state: State, mut first: usize) -> bool {
        while self.done.get(first).is_some_and(|done| *done) {
            first += 1;
        }
        self.furthest = self.furthest.max(first);
        let left = || {
            self.spans
                .iter()
                .zip(&self.done)
                .skip(first)
                .filter(|(_, done)| !**done)
        };
        let Some(earliest) = left().map(|(span, _)| span.answered).min() else {
            return true;
        };
        if earliest == u64::MAX {
            return true;
        }
        self.steps += 1;
        if self.steps >= STEPS_MAX || !self.seen.insert((self.done[first..].to_vec(), state)) {
            return false;
        }
        for n in first..self.spans.len() {
            let span = self.spans[n];
            if span.sent > earliest {
                break;
            }
            if self.done[n] {
                continue;
            }
            let Some(after) = span.call_after(state) else {
                continue;
            };
            self.done[n] = true;
            if self.go(after, first) {
                return true;
            }
            self.done[n] = false;
        }
        false
    }
}

impl Span {
    fn call_after(&self, state: State) -> Option<State> {
        state.after(&self.call)
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::assert_broken;
    use super::*;

    fn write(sent: u64, answered: u64, expect: Expectation, told: Option<u64>) -> Span {
        let call = Call::Write {
            expect,
            events: 1,
            kind: EventKind::Write,
            told: told.map(Version),
        };
        Span { sent, answered, call }
    }

    fn read(sent: u64, answered: u64, found: Option<u64>) -> Span {
        Span {
            sent,
            answered,
            call: Call::Read(found.map(Version)),
        }
    }

    const ANY: Expectation = Expectation::Any;

    #[test]
    fn accepts_what_has_an_order() {
        let spans = [
            write(1, 5, ANY, Some(2)),
            write(2, 4, Expectation::Absent, Some(1)),
            read(3, 6, None),
            write(7, u64::MAX, ANY, None),
            read(8, 9, Some(2)),
            read(10, 11, Some(3)),
        ];
        check("a", &spans).unwrap();
    }

    #[test]
    fn rejects_a_stale_read_a_lost_write_and_a_write_done_twice() {
        let stale = [write(1, 2, ANY, Some(1)), read(3, 4, None)];
        assert_broken(check("a", &stale), "have no order");
        let lost = [write(1, 2, ANY, Some(1)), write(3, 4, ANY, Some(1))];
        assert_broken(check("a", &lost), "have no order");
        let twice = [write(1, 2, ANY, Some(1)), read(3, 4, Some(2))];
        assert_broken(check("a", &twice), "have no order");
        let back = [
            write(1, u64::MAX, ANY, None),
            read(3, 4, Some(1)),
            read(5, 6, None),
        ];
        assert_broken(check("a", &back), "have no order");
    }

    #[test]
    fn rejects_a_conflict_that_was_none() {
        let call = Call::Conflict {
            expect: Expectation::Absent,
            current: Version(1),
        };
        let conflict = Span {
            sent: 1,
            answered: 2,
            call,
        };
        assert_broken(
            check("a", &[conflict, write(3, 4, ANY, Some(1))]),
            "have no order",
        );
    }
}
