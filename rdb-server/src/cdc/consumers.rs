//! Who has a named subscription: what a consumer's request comes to where the cursor stands, and who was heard lately.
//!
//! Decides only. Cursors change by entries of a seat's log ([`rdb_proto::cursor`]). Who was heard is known to the seat's
//! leader alone, and a new leader gives everybody the whole time again.

use crate::limits::CONSUMER_HEARD_FOR;
use crate::sabotage::{self, Sabotage};
use rdb_proto::cursor::{Cursor, CursorAct};
use rdb_proto::types::{Epoch, Seq};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A consumer's time with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenure {
    /// Of the claim.
    pub generation: u64,
    /// Under which the seat is led: under another one the consumer may have been heard elsewhere.
    pub epoch: Epoch,
}

/// When the consumers of the names that are led here were last heard.
#[derive(Debug, Default)]
pub struct Heard(BTreeMap<String, (Tenure, Instant)>);

impl Heard {
    /// The consumer of a name is heard.
    pub fn hear(&mut self, name: &str, tenure: Tenure, now: Instant) {
        self.0.insert(name.to_owned(), (tenure, now));
    }

    /// Nobody has the name any more.
    pub fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// For how long the consumer may still be silent; `None` when it was not heard in this tenure.
    pub fn left(&self, name: &str, tenure: Tenure, now: Instant) -> Option<Duration> {
        let (_, at) = self.0.get(name).filter(|(heard, _)| *heard == tenure)?;
        Some(CONSUMER_HEARD_FOR.saturating_sub(now.saturating_duration_since(*at)))
    }

    /// The same. One that was never heard here may have been elsewhere just now.
    pub fn left_or_whole(&mut self, name: &str, tenure: Tenure, now: Instant) -> Duration {
        self.left(name, tenure, now).unwrap_or_else(|| {
            self.hear(name, tenure, now);
            CONSUMER_HEARD_FOR
        })
    }
}

/// Whom a name belongs to, for one that claims it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The one that claims it.
    Itself(Cursor),
    /// Another one.
    Another {
        /// Which.
        consumer: Uuid,
        /// Of its claim.
        generation: u64,
    },
    /// Nobody.
    Nobody,
}

/// Whom a name belongs to, for a consumer that claims it.
pub fn owner(cursor: Option<Cursor>, claims: Uuid) -> Owner {
    let held = cursor.and_then(|cursor| Some((cursor, cursor.consumer?)));
    match held {
        Some((cursor, consumer)) if consumer == claims => Owner::Itself(cursor),
        Some((cursor, consumer)) => Owner::Another {
            consumer,
            generation: cursor.generation,
        },
        None => Owner::Nobody,
    }
}

/// The change that takes a name from where it stands; `position` counts when it is new.
pub fn claim(cursor: Option<Cursor>, consumer: Uuid, position: Seq) -> CursorAct {
    CursorAct::Claim {
        consumer,
        replaces: cursor.map_or(0, |cursor| cursor.generation),
        position,
    }
}

/// Whether an acknowledgement moves the position: what would come to nothing is not written down.
pub fn moves(cursor: Option<Cursor>, generation: u64, seq: Seq) -> bool {
    cursor.is_some_and(|cursor| cursor.is_held_by(generation) && cursor.position < seq)
}

/// Whether the consumer of a generation is told that it has the name; else it is fenced.
pub fn has(cursor: Cursor, generation: u64) -> bool {
    cursor.is_held_by(generation) || sabotage::is(Sabotage::ConsumerUnfenced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_proto::types::{LogIndex, NodeId};

    const NAME: &str = "mails";

    const fn tenure(generation: u64, number: u64) -> Tenure {
        let node = NodeId(1);
        Tenure {
            generation,
            epoch: Epoch { number, node },
        }
    }

    #[test]
    fn under_another_leader_or_claim_a_consumer_has_the_whole_time_again() {
        let begun = crate::clock::monotonic();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut heard = Heard::default();
        heard.hear(NAME, tenure(1, 1), begun);
        let left = CONSUMER_HEARD_FOR.saturating_sub(Duration::from_secs(1));
        assert_eq!(heard.left(NAME, tenure(1, 1), after(1)), Some(left));
        assert_eq!(heard.left(NAME, tenure(1, 2), after(1)), None);
        assert_eq!(heard.left(NAME, tenure(2, 1), after(1)), None);
        assert_eq!(
            heard.left_or_whole(NAME, tenure(1, 2), after(2)),
            CONSUMER_HEARD_FOR
        );
        assert_eq!(
            heard.left(NAME, tenure(1, 2), after(60)),
            Some(Duration::ZERO),
            "it is silent"
        );
        heard.forget(NAME);
        assert_eq!(heard.left(NAME, tenure(1, 2), after(2)), None);
    }

    #[test]
    fn a_name_belongs_to_whoever_claimed_it_last() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let cursor = Cursor {
            at: LogIndex(4),
            generation: 3,
            consumer: Some(one),
            position: Seq(7),
            is_forgotten: false,
        };
        let released = Cursor {
            consumer: None,
            ..cursor
        };
        assert_eq!(owner(Some(cursor), one), Owner::Itself(cursor));
        let another = Owner::Another {
            consumer: one,
            generation: 3,
        };
        assert_eq!(owner(Some(cursor), other), another);
        assert_eq!(owner(Some(released), one), Owner::Nobody);
        assert_eq!(owner(None, one), Owner::Nobody);
        let moved = [(3, 8), (3, 7), (2, 8)].map(|(by, to)| moves(Some(cursor), by, Seq(to)));
        assert_eq!(moved, [true, false, false]);
        assert!(has(cursor, 3) && !has(cursor, 2) && !has(released, 3));
    }
}
