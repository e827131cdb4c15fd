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
    },
    /// The name is no more.
    Forget,
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
}

impl CursorChange {
    /// What a cursor is after this change, which stands at `index` of the log.
    ///
    /// A change that is applied again after later ones changes nothing.
    pub fn apply(&self, index: LogIndex, before: Option<Cursor>) -> Option<Cursor> {
        let known = before.map_or(LogIndex::ZERO, |cursor| cursor.at);
        if index <= known {
            return before;
        }
        let of_generation = |generation: u64| before.filter(|cursor| cursor.generation == generation);
        let generation = before.map_or(0, |cursor| cursor.generation);
        let after = match self.act {
            CursorAct::Claim {
                consumer,
                replaces,
                position,
            } if replaces == generation => Cursor {
                at: index,
                generation: index.get(),
                consumer: Some(consumer),
                position: before.map_or(position, |cursor| cursor.position),
            },
            CursorAct::Acknowledge { generation, position } => {
                let Some(cursor) = of_generation(generation) else {
                    return before;
                };
                Cursor {
                    at: index,
                    position: cursor.position.max(position),
                    ..cursor
                }
            }
            CursorAct::Release { generation } => {
                let Some(cursor) = of_generation(generation) else {
                    return before;
                };
                Cursor {
                    at: index,
                    consumer: None,
                    ..cursor
                }
            }
            CursorAct::Seek { position } => {
                before?;
                Cursor {
                    at: index,
                    generation: index.get(),
                    consumer: None,
                    position,
                }
            }
            CursorAct::Forget => return None,
            CursorAct::Claim { .. } => return before,
        };
        Some(after)
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
            CursorAct::Seek { position } => WireChange::Seek(v1::CursorSeek {
                position: position.get(),
            }),
            CursorAct::Forget => WireChange::Forget(v1::CursorForget {}),
        };
        let change = Some(change);
        let name = self.name.clone();
        v1::CursorChange { name, change }.encode_to_vec().into()
    }

    /// Reads the byte form; `None` when the bytes are not one.
    pub fn decode(encoded: Bytes) -> Option<Self> {
        let wire = v1::CursorChange::decode(encoded).ok()?;
        check_subscription_name(&wire.name).ok()?;
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
            },
            WireChange::Forget(_) => CursorAct::Forget,
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
            CursorAct::Seek { position } => write!(f, "set to {position}"),
            CursorAct::Forget => f.write_str("forgotten"),
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
        cursor.map(|cursor: Cursor| {
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

    #[test]
    fn a_seek_fences_whoever_has_it_and_a_name_is_forgotten() {
        let seek = CursorAct::Seek { position: Seq(2) };
        let acts = [claim(1, 0), seek, acknowledge(1, 30)];
        assert_eq!(after(&acts), Some((2, false, 2)));
        assert_eq!(after(&[seek]), None, "there is no such name");
        assert_eq!(after(&[claim(1, 0), CursorAct::Forget, acknowledge(1, 9)]), None);
    }

    /// The index may apply entries again that it has applied already, with later ones before them.
    #[test]
    fn what_is_applied_again_changes_nothing() {
        let acts = [
            claim(1, 0),
            acknowledge(1, 9),
            CursorAct::Seek { position: Seq(3) },
            claim(2, 3),
            acknowledge(4, 5),
        ];
        let all = |before| {
            (1..).zip(&acts).fold(before, |cursor, (index, act)| {
                change(*act).apply(LogIndex(index), cursor)
            })
        };
        let once = all(None);
        assert_eq!(all(once), once);
    }

    #[test]
    fn a_change_reads_back() {
        let acts = [
            claim(3, 4),
            acknowledge(1, 2),
            CursorAct::Release { generation: 3 },
            CursorAct::Seek { position: Seq(9) },
            CursorAct::Forget,
        ];
        for act in acts {
            assert_eq!(CursorChange::decode(change(act).encode()), Some(change(act)));
        }
        assert_eq!(CursorChange::decode(Bytes::from_static(b"\xff")), None);
        assert_eq!(CursorChange::decode(Bytes::new()), None);
    }
}
