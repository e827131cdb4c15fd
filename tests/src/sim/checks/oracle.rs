//! DESIGN 3, "Linearizable": there is an order of a key's operations that agrees with real time and in which each
//! does what its client was told. Found by search (Wing and Gong, with Lowe's memory of states), without a look at
//! seqs or at the stream: the oracle beside the linear-time checkers, which believe what the database says of itself.
//!
//! An operation without an answer may have happened at any time after it was sent, or never.

use super::{Violation, broken};
use rdb_proto::event::{EventKind, Expectation};
use rdb_proto::types::Version;
use std::collections::BTreeSet;

const RULE: &str = "linearizability of a key (DESIGN 3)";

/// After so many steps a search is given up. It is exponential at worst; real histories are far from it.
const STEPS_MAX: usize = 50_000;

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

/// Searches for an order. Returns whether the search came to an end; what is given up is not judged.
///
/// # Errors
/// When there is none.
pub fn check(key: &str, spans: &[Span]) -> Result<bool, Violation> {
    let mut spans: Vec<&Span> = spans.iter().collect();
    spans.sort_by_key(|span| (span.sent, span.answered));
    let mut search = Search {
        spans: &spans,
        ahead: BTreeSet::new(),
        seen: BTreeSet::new(),
        furthest: 0,
    };
    match search.run() {
        Found::Order => Ok(true),
        Found::TooMuch => Ok(false),
        Found::None => {
            let stuck = spans[search.furthest.min(spans.len() - 1)];
            let what = format!(
                "the {} operations on {key:?} have no order; none gets past {stuck:?}",
                spans.len()
            );
            broken(RULE, what)
        }
    }
}

enum Found {
    Order,
    None,
    TooMuch,
}

struct Search<'a> {
    spans: &'a [&'a Span],
    /// Those that are done.
    ahead: BTreeSet<usize>,
    /// From where the search went on in vain: all before the first are done, and these ahead of it.
    seen: BTreeSet<(usize, Vec<usize>, State)>,
    furthest: usize,
}

/// A point of the search: where it stands, and what can be next.
struct Point {
    state: State,
    first: usize,
    next: std::vec::IntoIter<usize>,
    /// What was done last, to come here.
    last: Option<usize>,
}

impl Search<'_> {
    fn run(&mut self) -> Found {
        let start = State {
            version: 0,
            is_deleted: false,
        };
        let mut points = Vec::new();
        let mut go = Some((start, 0, None));
        for _ in 0..STEPS_MAX {
            if let Some((state, first, last)) = go.take() {
                let (first, next) = self.next_from(first);
                if next.is_empty() {
                    return Found::Order;
                }
                let ahead = self.ahead.range(first..).copied().collect();
                let is_new = self.seen.insert((first, ahead, state));
                let next = if is_new { next } else { vec![] }.into_iter();
                points.push(Point {
                    state,
                    first,
                    next,
                    last,
                });
            }
            let Some(point) = points.last_mut() else {
                return Found::None;
            };
            let (state, first) = (point.state, point.first);
            let spans = self.spans;
            let step = point
                .next
                .find_map(|n| state.after(&spans[n].call).map(|after| (after, n)));
            if let Some((after, n)) = step {
                self.ahead.insert(n);
                go = Some((after, first, Some(n)));
            } else {
                let last = points.pop().and_then(|point| point.last);
                last.map(|n| self.ahead.remove(&n));
            }
        }
        Found::TooMuch
    }

    /// The first that is not done, and all that can be the next: those that began before any of the others was answered.
    /// None when nothing is left that was answered.
    fn next_from(&mut self, mut first: usize) -> (usize, Vec<usize>) {
        while self.ahead.contains(&first) {
            first += 1;
        }
        self.furthest = self.furthest.max(first);
        let mut earliest = u64::MAX;
        let mut next = Vec::new();
        for (n, span) in self.spans.iter().enumerate().skip(first) {
            if span.sent > earliest {
                break;
            }
            if !self.ahead.contains(&n) {
                earliest = earliest.min(span.answered);
                next.push(n);
            }
        }
        next.retain(|n| earliest < u64::MAX && self.spans[*n].sent <= earliest);
        // What nobody was told of happened only where the others cannot do without it.
        next.sort_by_key(|n| self.spans[*n].answered);
        (first, next)
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
        assert!(check("a", &spans).unwrap());
    }

    #[test]
    fn a_long_history_is_searched_to_its_end() {
        let pair = |n: u64| {
            let at = 10 * n;
            [write(at, at + 8, ANY, Some(n)), read(at + 1, at + 9, Some(n))]
        };
        let mut spans: Vec<Span> = (1..=3_000).flat_map(pair).collect();
        spans.push(write(15, u64::MAX, Expectation::Absent, None));
        assert!(check("a", &spans).unwrap());
        spans.push(read(40_000, 40_001, Some(2_999)));
        assert_broken(check("a", &spans), "have no order");
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
