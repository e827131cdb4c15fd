//! Cursors of named subscriptions: what changes them, in the byte form of log entries, and what each change does.
//!
//! A change is appended without being decided: it says what it rests on, and comes to nothing when that does not hold
//! once it is applied. Every member applies the same changes in the order of its log, so all hold the same cursors.

use crate::limits::SUBSCRIPTION_NAME_BYTES_MAX;
use crate::types::{FieldError, LogIndex, Seq};
use crate::v1::{self, cursor_change::Change as WireChange};
use bytes::Bytes;
use prost::Message as _;
use std::fmt;
use uuid::Uuid;

/// A change of one cursor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CursorChange {
    /// Name of the subscription; 1 to [`SUBSCRIPTION_NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// What it does.
    pub act: CursorAct,
}

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CursorAct {
    /// A consumer takes the name, from a generation that it knows of.
    Claim {
        /// The consumer.
        consumer: Uuid,
        /// The generation that it takes the place of; 0 when the name is new.
        replaces: u64,
        /// Position when the name is new.
        position: Seq,
    },
    /// The consumer of this generation has done everything up to the position.
    Acknowledge {
        /// The generation.
        generation: u64,
        /// The position.
        position: Seq,
    },
    /// The consumer of this generation lets go.
    Release {
        /// The generation.
        generation: u64,
    },
    /// An operator sets the position; nobody has the name then.
    Seek {
        /// The position.
        position: Seq,
        /// The generation that it takes the place of.
        replaces: u64,
    },
    /// The name is no more.
    Forget {
        /// The generation that it takes the place of.
        replaces: u64,
    },
}

/// Where a named subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The entry that changed it last.
    pub at: LogIndex,
    /// Rises with every claim and every seek.
    pub generation: u64,
    /// Who has it.
    pub consumer: Option<Uuid>,
    /// Everything at or below is acknowledged.
    pub position: Seq,
    /// Whether the name is no more. It is remembered for as long as entries before [`Cursor::at`] may be applied again.
    pub is_forgotten: bool,
}

impl Cursor {
    /// Whether the consumer of this generation has it.
    pub fn is_held_by(&self, generation: u64) -> bool {
        self.generation == generation && self.consumer.is_some() && !self.is_forgotten
    }
}

impl CursorChange {
    /// What a cursor is after this change, which stands at `index` of the log.
    ///
    /// A change that is applied again after later ones changes nothing.
    pub fn apply(&self, index: LogIndex, known: Option<Cursor>) -> Option<Cursor> {
        if known.is_some_and(|cursor| index <= cursor.at) {
            return known;
        }
        self.applied(index, known.filter(|cursor| !cursor.is_forgotten))
            .or(known)
    }

    /// What it makes of a cursor that is there, or of none; `None` when that is nothing.
    fn applied(&self, index: LogIndex, before: Option<Cursor>) -> Option<Cursor> {
        let of_generation = |generation: u64| before.filter(|cursor| cursor.is_held_by(generation));
        let generation = before.map_or(0, |cursor| cursor.generation);
        match self.act {
            CursorAct::Claim {
                consumer,
                replaces,
                position,
            } if replaces == generation => Some(Cursor {
                at: index,
                generation: index.get(),
                consumer: Some(consumer),
                position: before.map_or(position, |cursor| cursor.position),
                is_forgotten: false,
            }),
            CursorAct::Acknowledge { generation, position } => {
                of_generation(generation).map(|cursor| Cursor {
                    at: index,
                    position: cursor.position.max(position),
                    ..cursor
                })
            }
            CursorAct::Release { generation } => of_generation(generation).map(|cursor| Cursor {
                at: index,
                consumer: None,
                ..cursor
            }),
            CursorAct::Seek { position, replaces } if replaces == generation => before.map(|cursor| Cursor {
                at: index,
                generation: index.get(),
                consumer: None,
                position,
                ..cursor
            }),
            CursorAct::Forget { replaces } if replaces == generation => before.map(|cursor| Cursor {
                at: index,
                consumer: None,
                is_forgotten: true,
                ..cursor
            }),
            CursorAct::Claim { .. } | CursorAct::Seek { .. } | CursorAct::Forget { .. } => None,
        }
    }

    /// Byte form.
    pub fn encode(&self) -> Bytes {
        let change = match self.act {
            CursorAct::Claim {
                consumer,
                replaces,
                position,
            } => WireChange::Claim(v1::CursorClaim {
                consumer: consumer.as_bytes().to_vec().into(),
                replaces,
                position: position.get(),
            }),
            CursorAct::Acknowledge { generation, position } => {
                WireChange::Acknowledge(v1::CursorAcknowledge {
                    generation,
                    position: position.get(),
                })
            }
            CursorAct::Release { generation } => WireChange::Release(v1::CursorRelease { generation }),
            CursorAct::Seek { position, replaces } => WireChange::Seek(v1::CursorSeek {
                position: position.get(),
                replaces,
            }),
            CursorAct::Forget { replaces } => WireChange::Forget(v1::CursorForget { replaces }),
        };
        let change = Some(change);
        let name = self.name.clone();
        v1::CursorChange { name, change }.encode_to_vec().into()
    }

    /// Reads the byte form; `None` when the bytes are not one.
    pub fn decode(encoded: Bytes) -> Option<Self> {
        let wire = v1::CursorChange::decode(encoded).ok()?;
        let act = match wire.change? {
            WireChange::Claim(claim) => CursorAct::Claim {
                consumer: Uuid::from_slice(&claim.consumer).ok()?,
                replaces: claim.replaces,
                position: Seq(claim.position),
            },
            WireChange::Acknowledge(acknowledge) => CursorAct::Acknowledge {
                generation: acknowledge.generation,
                position: Seq(acknowledge.position),
            },
            WireChange::Release(release) => CursorAct::Release {
                generation: release.generation,
            },
            WireChange::Seek(seek) => CursorAct::Seek {
                position: Seq(seek.position),
                replaces: seek.replaces,
            },
            WireChange::Forget(forget) => CursorAct::Forget {
                replaces: forget.replaces,
            },
        };
        Some(Self { name: wire.name, act })
    }
}

/// Refuses what cannot be the name of a subscription.
///
/// # Errors
/// [`FieldError`] for field `name`.
pub fn check_subscription_name(name: &str) -> Result<(), FieldError> {
    FieldError::check_limit("name", name.len(), SUBSCRIPTION_NAME_BYTES_MAX, "bytes")?;
    if name.is_empty() || name.chars().any(char::is_control) {
        let problem = "must be at least one character, and no control characters";
        return Err(FieldError::invalid("name", problem));
    }
    Ok(())
}

impl fmt::Display for CursorChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cursor {} ", self.name)?;
        match self.act {
            CursorAct::Claim { replaces, .. } => write!(f, "claimed from {replaces}"),
            CursorAct::Acknowledge { generation, position } => write!(f, "at {position} by {generation}"),
            CursorAct::Release { generation } => write!(f, "released by {generation}"),
            CursorAct::Seek { position, replaces } => write!(f, "set to {position} from {replaces}"),
            CursorAct::Forget { replaces } => write!(f, "forgotten from {replaces}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "mails";

    fn change(act: CursorAct) -> CursorChange {
        let name = NAME.to_owned();
        CursorChange { name, act }
    }

    fn claim(consumer: u128, replaces: u64) -> CursorAct {
        CursorAct::Claim {
            consumer: Uuid::from_u128(consumer),
            replaces,
            position: Seq(7),
        }
    }

    fn acknowledge(generation: u64, position: u64) -> CursorAct {
        CursorAct::Acknowledge {
            generation,
            position: Seq(position),
        }
    }

    /// After these changes, at the indexes 1, 2, …: generation, whether somebody has it, position.
    fn after(acts: &[CursorAct]) -> Option<(u64, bool, u64)> {
        let cursor = (1..).zip(acts).fold(None, |cursor, (index, act)| {
            change(*act).apply(LogIndex(index), cursor)
        });
        let cursor = cursor.filter(|cursor: &Cursor| !cursor.is_forgotten);
        cursor.map(|cursor| {
            (
                cursor.generation,
                cursor.consumer.is_some(),
                cursor.position.get(),
            )
        })
    }

    #[test]
    fn whoever_was_replaced_moves_nothing() {
        assert_eq!(after(&[claim(1, 0)]), Some((1, true, 7)));
        assert_eq!(after(&[claim(1, 0), acknowledge(1, 9)]), Some((1, true, 9)));
        assert_eq!(
            after(&[claim(1, 0), acknowledge(1, 9), acknowledge(1, 8)]),
            Some((1, true, 9))
        );
        let replaced = [claim(1, 0), claim(2, 1), acknowledge(1, 30), acknowledge(2, 11)];
        assert_eq!(after(&replaced), Some((2, true, 11)));
        assert_eq!(
            after(&[claim(1, 0), claim(2, 1), claim(3, 1)]),
            Some((2, true, 7)),
            "of two that replace one, the first does"
        );
        let released = [claim(1, 0), CursorAct::Release { generation: 1 }];
        assert_eq!(after(&released), Some((1, false, 7)));
    }

    fn seek(position: u64, replaces: u64) -> CursorAct {
        CursorAct::Seek {
            position: Seq(position),
            replaces,
        }
    }

    #[test]
    fn a_seek_fences_whoever_has_it_and_a_name_is_forgotten() {
        let acts = [claim(1, 0), seek(2, 1), acknowledge(1, 30)];
        assert_eq!(after(&acts), Some((2, false, 2)));
        assert_eq!(after(&[seek(2, 0)]), None, "there is no such name");
        let forget = CursorAct::Forget { replaces: 1 };
        assert_eq!(after(&[claim(1, 0), forget, acknowledge(1, 9)]), None);
        let repeated = [claim(1, 0), forget, claim(2, 0), forget, seek(9, 1)];
        assert_eq!(
            after(&repeated),
            Some((3, true, 7)),
            "what is repeated late changes nothing"
        );
        let released = [
            claim(1, 0),
            CursorAct::Release { generation: 1 },
            acknowledge(1, 9),
        ];
        assert_eq!(
            after(&released),
            Some((1, false, 7)),
            "whoever let go moves nothing"
        );
    }

    /// The index may apply entries again that it has applied already, with later ones before them: from any earlier entry
    /// on, whatever it knows by then.
    #[test]
    fn what_is_applied_again_changes_nothing() {
        const LENGTH: u64 = 5;
        let kinds = |n: u64, index: u64| match n {
            0 => claim(1, index.saturating_sub(2)),
            1 => claim(2, 0),
            2 => acknowledge(index.saturating_sub(1), 10 + index),
            3 => seek(index, index.saturating_sub(1)),
            4 => CursorAct::Forget {
                replaces: index.saturating_sub(1),
            },
            _ => CursorAct::Release {
                generation: index.saturating_sub(2),
            },
        };
        for number in 0..6_u64.pow(5) {
            let act = |index: u64| kinds(number / 6_u64.pow(u32::try_from(index).unwrap() - 1) % 6, index);
            let apply = |from: u64, upto: u64, before: Option<Cursor>| {
                (from..=upto).fold(before, |cursor, index| {
                    change(act(index)).apply(LogIndex(index), cursor)
                })
            };
            let whole = apply(1, LENGTH, None);
            for known in 0..=LENGTH {
                let state = apply(1, known, None);
                for from in 1..=known + 1 {
                    assert_eq!(
                        apply(from, LENGTH, state),
                        whole,
                        "{number}: known to {known}, again from {from}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_change_reads_back() {
        let acts = [
            claim(3, 4),
            acknowledge(1, 2),
            CursorAct::Release { generation: 3 },
            seek(9, 4),
            CursorAct::Forget { replaces: 8 },
        ];
        for act in acts {
            assert_eq!(CursorChange::decode(change(act).encode()), Some(change(act)));
        }
        assert_eq!(CursorChange::decode(Bytes::from_static(b"\xff")), None);
        assert_eq!(CursorChange::decode(Bytes::new()), None);
    }
}
