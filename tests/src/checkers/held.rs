//! DESIGN 6.7 and 7: a snapshot shows what keys hold as of one seq, all of them as of the same.

use super::{Verdict, Violation};
use rdb_proto::event::{Event, EventKind};
use rdb_proto::types::{KeyName, Seq};
use std::collections::BTreeMap;

const RULE: &str = "snapshots (DESIGN 6.7, 7)";

/// The latest event of each key that was not deleted, as of a seq, in the order of their seqs.
pub fn held(all: &[Event], as_of: Seq) -> Vec<Event> {
    let mut latest = BTreeMap::new();
    for event in all.iter().filter(|event| event.seq <= as_of) {
        latest.insert(&event.name, event);
    }
    let mut held: Vec<Event> = latest.into_values().cloned().collect();
    held.retain(|event| event.kind == EventKind::Write);
    held.sort_by_key(|event| event.seq);
    held
}

/// What a stream showed that began with a snapshot.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Seq of the snapshot.
    pub as_of: Seq,
    /// A mark at or above it.
    pub upto: Seq,
    /// All that came up to that mark.
    pub events: Vec<Event>,
}

impl Shown {
    /// Judges it against everything that is stored.
    ///
    /// # Errors
    /// The first event that is missing, repeated or should not have come.
    pub fn judge(&self, all: &[Event]) -> Verdict {
        let is_after = |event: &&Event| event.seq > self.as_of && event.seq <= self.upto;
        let mut expected = held(all, self.as_of);
        expected.extend(all.iter().filter(is_after).cloned());
        let differ = self
            .events
            .iter()
            .zip(&expected)
            .find(|(seen, wanted)| seen != wanted);
        let (as_of, seen, wanted) = (self.as_of, self.events.len(), expected.len());
        match differ {
            Some((seen, wanted)) => {
                let what = format!(
                    "as of {as_of}: seq {} comes where seq {} belongs",
                    seen.seq, wanted.seq
                );
                Violation::of(RULE, what)
            }
            None if seen != wanted => {
                let upto = self.upto;
                let what = format!("as of {as_of}, up to {upto}: {seen} events came, {wanted} belong there");
                Violation::of(RULE, what)
            }
            None => Ok(()),
        }
    }
}

/// What some keys were said to hold as of one seq.
#[derive(Debug, Clone)]
pub struct KeysThen {
    /// That seq.
    pub as_of: Seq,
    /// Each key, and its latest event; `None` when it had none, or was deleted.
    pub keys: Vec<(KeyName, Option<Event>)>,
}

impl KeysThen {
    /// Judges it against everything that is stored.
    ///
    /// # Errors
    /// The first key that held something else.
    pub fn judge(&self, all: &[Event]) -> Verdict {
        let (as_of, held) = (self.as_of, held(all, self.as_of));
        for (name, seen) in &self.keys {
            let wanted = held.iter().find(|event| event.name == *name);
            if wanted != seen.as_ref() {
                let seq = |event: Option<&Event>| event.map(|event| event.seq);
                let (seen, wanted) = (seq(seen.as_ref()), seq(wanted));
                let what = format!("as of {as_of}: {name} showed {seen:?}, it held {wanted:?}");
                return Violation::of(RULE, what);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::example::{assert_violated, run};

    #[test]
    fn rejects_what_is_not_of_one_moment() {
        let (_, all) = run();
        let last = all.last().unwrap().seq;
        let middle = all[all.len() / 2].seq;
        let mut events = held(&all, middle);
        events.extend(all.iter().filter(|event| event.seq > middle).cloned());
        let shown = Shown {
            as_of: middle,
            upto: last,
            events,
        };
        shown.judge(&all).unwrap();
        for as_of in [Seq(middle.get() - 1), Seq(middle.get() + 1)] {
            let moved = Shown {
                as_of,
                ..shown.clone()
            };
            assert_violated(moved.judge(&all), "as of");
        }
        let mut cut = shown;
        cut.events.pop();
        assert_violated(cut.judge(&all), "events came");
    }

    #[test]
    fn rejects_keys_that_held_something_else() {
        let (_, all) = run();
        let last = all.last().unwrap().seq;
        let now = held(&all, last);
        let keys = now.iter().map(|event| (event.name.clone(), Some(event.clone())));
        let mut then = KeysThen {
            as_of: last,
            keys: keys.collect(),
        };
        then.judge(&all).unwrap();
        then.keys[0].1 = None;
        assert_violated(then.judge(&all), "it held");
    }
}
