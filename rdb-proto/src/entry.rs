//! Entries of a seat's log, and the byte form of their bodies.
//!
//! The kind is a number of its own, so that later releases can add kinds; a kind that a release does not know is
//! an error, never skipped.

use crate::cursor::CursorChange;
use crate::event::{EventError, StoredEvents};
use crate::types::{Epoch, LogIndex, Membership, NodeId, Seq};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// One entry of a seat's log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Dense position in the log, from 1.
    pub index: LogIndex,
    /// Epoch under which a leader appended it.
    pub epoch: Epoch,
    /// What it holds.
    pub body: EntryBody,
}

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EntryBody {
    /// First entry of an epoch: takes no number, changes no key, names the members of the leader's election.
    EpochStart(Membership),
    /// Events of one append.
    Events(Arc<StoredEvents>),
    /// A change of a named subscription: takes no number, so that acknowledging the stream does not feed it.
    Cursor(Arc<CursorChange>),
}

impl Entry {
    /// Seqs of its events, first and last; `None` when it has none.
    pub fn seqs(&self) -> Option<(Seq, Seq)> {
        match &self.body {
            EntryBody::EpochStart(_) | EntryBody::Cursor(_) => None,
            EntryBody::Events(events) => Some((events.first_seq, events.last_seq())),
        }
    }

    /// Bytes of its body in byte form: what queues and segments count.
    pub fn body_bytes(&self) -> usize {
        match &self.body {
            EntryBody::EpochStart(membership) => {
                let nodes = membership.members.len().saturating_add(membership.previous.len());
                nodes.saturating_mul(8).saturating_add(MEMBERSHIP_BYTES_MIN)
            }
            EntryBody::Events(events) => events.encoded.len(),
            EntryBody::Cursor(change) => change.encode().len(),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{} ", self.index, self.epoch)?;
        match &self.body {
            EntryBody::EpochStart(membership) => write!(f, "epoch-start config {}", membership.number),
            EntryBody::Events(events) => write!(f, "{events:?}"),
            EntryBody::Cursor(change) => write!(f, "{change}"),
        }
    }
}

/// Kind of an entry's body, as it stands on disk and on the wire between members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// [`EntryBody::EpochStart`].
    EpochStart = 1,
    /// [`EntryBody::Events`].
    Events = 2,
    /// [`EntryBody::Cursor`].
    Cursor = 3,
}

/// Bytes that are not the body of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EntryError {
    /// A kind that this release does not know.
    #[error("entry kind {0} is not known to this release")]
    UnknownKind(u8),
    /// Events that cannot be read.
    #[error(transparent)]
    Events(#[from] EventError),
    /// A membership that cannot be read.
    #[error("membership of an epoch-start entry is cut short")]
    Membership,
    /// A change of a cursor that cannot be read.
    #[error("change of a named subscription cannot be read")]
    Cursor,
}

impl EntryKind {
    /// Reads the number.
    ///
    /// # Errors
    /// [`EntryError::UnknownKind`].
    pub const fn from_number(number: u8) -> Result<Self, EntryError> {
        match number {
            1 => Ok(Self::EpochStart),
            2 => Ok(Self::Events),
            3 => Ok(Self::Cursor),
            unknown => Err(EntryError::UnknownKind(unknown)),
        }
    }

    /// The number on disk.
    pub const fn number(self) -> u8 {
        match self {
            Self::EpochStart => 1,
            Self::Events => 2,
            Self::Cursor => 3,
        }
    }
}

const MEMBERSHIP_BYTES_MIN: usize = 16;

impl EntryBody {
    /// Kind of the body.
    pub const fn kind(&self) -> EntryKind {
        match self {
            Self::EpochStart(_) => EntryKind::EpochStart,
            Self::Events(_) => EntryKind::Events,
            Self::Cursor(_) => EntryKind::Cursor,
        }
    }

    /// Byte form. For events this is the wire `EventBatch`, shared and not copied.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::EpochStart(membership) => encode_membership(membership),
            Self::Events(events) => events.encoded.clone(),
            Self::Cursor(change) => change.encode(),
        }
    }

    /// Reads the byte form.
    ///
    /// # Errors
    /// [`EntryError`] when the bytes are not a body of that kind.
    pub fn decode(kind: EntryKind, encoded: Bytes) -> Result<Self, EntryError> {
        match kind {
            EntryKind::EpochStart => decode_membership(encoded).map(Self::EpochStart),
            EntryKind::Events => Ok(Self::Events(Arc::new(StoredEvents::decode(encoded)?))),
            EntryKind::Cursor => {
                let change = CursorChange::decode(encoded).ok_or(EntryError::Cursor)?;
                Ok(Self::Cursor(Arc::new(change)))
            }
        }
    }
}

/// Layout: number u64, members u32, previous u32, then that many node ids u64; little endian.
fn encode_membership(membership: &Membership) -> Bytes {
    let count = |nodes: &[NodeId]| u32::try_from(nodes.len()).unwrap_or(u32::MAX);
    let mut bytes = BytesMut::new();
    bytes.put_u64_le(membership.number);
    bytes.put_u32_le(count(&membership.members));
    bytes.put_u32_le(count(&membership.previous));
    for node in membership.members.iter().chain(&membership.previous) {
        bytes.put_u64_le(node.0);
    }
    bytes.freeze()
}

fn decode_membership(mut bytes: Bytes) -> Result<Membership, EntryError> {
    let number = bytes.try_get_u64_le().map_err(|_short| EntryError::Membership)?;
    let members = bytes.try_get_u32_le().map_err(|_short| EntryError::Membership)?;
    let previous = bytes.try_get_u32_le().map_err(|_short| EntryError::Membership)?;
    let mut nodes = |count: u32| -> Result<Vec<NodeId>, EntryError> {
        let node = |_| {
            bytes
                .try_get_u64_le()
                .map(NodeId)
                .map_err(|_short| EntryError::Membership)
        };
        (0..count).map(node).collect()
    };
    let membership = Membership {
        number,
        members: nodes(members)?,
        previous: nodes(previous)?,
    };
    if bytes.has_remaining() {
        Err(EntryError::Membership)
    } else {
        Ok(membership)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::CursorAct;

    #[test]
    fn round_trip_of_an_epoch_start() {
        let membership = Membership {
            number: 3,
            members: vec![NodeId(1), NodeId(2)],
            previous: vec![NodeId(9)],
        };
        let body = EntryBody::EpochStart(membership);
        assert_eq!(
            EntryBody::decode(EntryKind::EpochStart, body.encode()).unwrap(),
            body
        );
    }

    #[test]
    fn rejects_memberships_cut_short_or_with_a_tail() {
        let body = EntryBody::EpochStart(Membership {
            number: 3,
            members: vec![NodeId(1)],
            previous: vec![],
        });
        let bytes = body.encode();
        for length in 0..bytes.len() {
            assert_eq!(
                EntryBody::decode(EntryKind::EpochStart, bytes.slice(..length)),
                Err(EntryError::Membership)
            );
        }
        let longer: Bytes = [bytes.as_ref(), b"x"].concat().into();
        assert_eq!(
            EntryBody::decode(EntryKind::EpochStart, longer),
            Err(EntryError::Membership)
        );
    }

    #[test]
    fn the_size_of_a_body_is_foreseen() {
        let membership = Membership {
            number: 3,
            members: vec![NodeId(1), NodeId(2)],
            previous: vec![NodeId(9)],
        };
        let change = CursorChange {
            name: "mails".to_owned(),
            act: CursorAct::Acknowledge {
                generation: 3,
                position: Seq(700),
            },
        };
        for body in [
            EntryBody::EpochStart(membership),
            EntryBody::Cursor(Arc::new(change)),
        ] {
            let entry = Entry {
                index: LogIndex(1),
                epoch: Epoch::ZERO,
                body,
            };
            assert_eq!(entry.body_bytes(), entry.body.encode().len());
        }
    }

    #[test]
    fn an_unknown_kind_is_an_error() {
        assert_eq!(EntryKind::from_number(9), Err(EntryError::UnknownKind(9)));
        for kind in [EntryKind::EpochStart, EntryKind::Events, EntryKind::Cursor] {
            assert_eq!(EntryKind::from_number(kind.number()), Ok(kind));
        }
    }
}
