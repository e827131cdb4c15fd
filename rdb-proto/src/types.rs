//! A newtype for every number and name that has a meaning, so that the wrong program does not compile.

use crate::limits::{COLLECTION_BYTES_MAX, KEY_BYTES_MAX, SLOTS};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;
use uuid::Uuid;

/// A field of a request that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FieldError {
    /// Too long, too large or too many.
    #[error("{field} has {actual} {unit}, the limit is {limit}")]
    Limit {
        /// Name of the field, as on the wire.
        field: &'static str,
        /// The limit.
        limit: usize,
        /// What the caller sent.
        actual: usize,
        /// What is counted: `bytes`, `events`, `tags`.
        unit: &'static str,
    },
    /// Not a value that this field can have.
    #[error("{field} {problem}")]
    Invalid {
        /// Name of the field, as on the wire.
        field: &'static str,
        /// What is wrong with it, as the rest of a sentence that begins with the field.
        problem: String,
    },
}

impl FieldError {
    /// Makes the error for a value that the field cannot have.
    pub fn invalid(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid {
            field,
            problem: problem.into(),
        }
    }

    /// Refuses `actual` when it exceeds `limit`.
    ///
    /// # Errors
    /// [`FieldError::Limit`] when it does.
    pub fn check_limit(
        field: &'static str,
        actual: usize,
        limit: usize,
        unit: &'static str,
    ) -> Result<(), Self> {
        if actual > limit {
            Err(Self::Limit {
                field,
                limit,
                actual,
                unit,
            })
        } else {
            Ok(())
        }
    }

    /// Name of the field.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Limit { field, .. } | Self::Invalid { field, .. } => field,
        }
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// Before the first.
            pub const ZERO: Self = Self(0);

            /// The number as it stands on the wire.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The number after this one.
            ///
            /// # Panics
            /// At `u64::MAX`, which no database reaches.
            #[must_use]
            pub const fn next(self) -> Self {
                self.plus(1)
            }

            /// The number `n` after this one.
            ///
            /// # Panics
            /// Beyond `u64::MAX`, which no database reaches.
            #[must_use]
            pub const fn plus(self, n: u64) -> Self {
                match self.0.checked_add(n) {
                    Some(sum) => Self(sum),
                    None => overflow(),
                }
            }

            /// The number before this one; of zero, zero.
            #[must_use]
            pub const fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }

            /// How far this number is after `earlier`; 0 when it is not.
            pub const fn since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

#[expect(
    clippy::panic,
    reason = "2^64 events or entries are out of reach of any machine"
)]
const fn overflow() -> ! {
    panic!("a sequence passed 2^64")
}

number! {
    /// Global sequence number of an event, from 1; 0 means "before the first".
    Seq
}
number! {
    /// Dense position of an entry in a seat's log, from 1; 0 means "before the first".
    LogIndex
}
number! {
    /// Dense position of an event within its key, from 1; 0 means "never written".
    Version
}
number! {
    /// Microseconds since 1970-01-01 UTC.
    Timestamp
}

/// Random, unique id of a node. 0 is nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// The right under which a seat is led: compared by number, then by node.
///
/// The node is part of it so that an etcd restored from a backup, which may grant a number twice, cannot make
/// two leaders with one epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch {
    /// Strictly increasing over the life of the database; 0 means never led.
    pub number: u64,
    /// The node that won it.
    pub node: NodeId,
}

impl Epoch {
    /// Lower than every epoch that was ever granted.
    pub const ZERO: Self = Self {
        number: 0,
        node: NodeId(0),
    };
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.number, self.node)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Number of a replica set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupId(pub u32);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which of the two leader positions of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Seat 0.
    Zero,
    /// Seat 1.
    One,
}

impl Side {
    /// Both, in order.
    pub const BOTH: [Self; 2] = [Self::Zero, Self::One];

    /// 0 or 1.
    pub const fn number(self) -> u32 {
        match self {
            Self::Zero => 0,
            Self::One => 1,
        }
    }

    /// The side with this number; `None` when there is none.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Zero),
            1 => Some(Self::One),
            _ => None,
        }
    }
}

/// One of the two leader positions of a group. Each seat leads one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeatId {
    /// The group.
    pub group: GroupId,
    /// Which seat of the group.
    pub side: Side,
}

impl SeatId {
    /// Reads a seat as it is displayed, such as `3.0`; `None` when it is anything else.
    pub fn parse(name: &str) -> Option<Self> {
        let (group, side) = name.split_once('.')?;
        Self::from_parts(group, side)
    }

    /// Reads the numbers of group and side, each as it is displayed.
    pub fn from_parts(group: &str, side: &str) -> Option<Self> {
        let side = Side::BOTH
            .into_iter()
            .find(|one| one.number().to_string() == side)?;
        let group = GroupId(group.parse().ok()?);
        Some(Self { group, side })
    }
}

impl fmt::Display for SeatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.group, self.side.number())
    }
}

/// Members of a group, under the number of the change that made them so.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Membership {
    /// Rises by one with every change ("config version" in etcd); 0 means not known yet.
    pub number: u64,
    /// The members, ascending.
    pub members: Vec<NodeId>,
    /// Members before the change that is under way, ascending; empty when none is.
    pub previous: Vec<NodeId>,
}

impl Membership {
    /// Members and previous members, each once, in no particular order.
    pub fn everybody(&self) -> impl Iterator<Item = NodeId> {
        let leaving = self.previous.iter().filter(|node| !self.members.contains(node));
        self.members.iter().chain(leaving).copied()
    }
}

/// A part of the key space; every slot belongs to one seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// Name of a set of keys: 1 to 128 ASCII letters, digits, `.`, `_` or `-`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Collection(Arc<str>);

impl Collection {
    /// The collection that is meant when none is given.
    pub const DEFAULT: &'static str = "default";

    /// Checks a name. The empty name means [`Collection::DEFAULT`].
    ///
    /// # Errors
    /// [`FieldError`] for field `collection`.
    pub fn new(name: &str) -> Result<Self, FieldError> {
        FieldError::check_limit("collection", name.len(), COLLECTION_BYTES_MAX, "bytes")?;
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !name.bytes().all(is_plain) {
            let problem = format!("must be of letters, digits, `.`, `_` and `-`, not {name:?}");
            return Err(FieldError::invalid("collection", problem));
        }
        Ok(Self(if name.is_empty() { Self::DEFAULT } else { name }.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the collection that is meant when none is given.
    pub fn is_default(&self) -> bool {
        &*self.0 == Self::DEFAULT
    }
}

impl Default for Collection {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Key of an entity: 1 to 1,024 bytes of UTF-8 without control characters. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Checks a key.
    ///
    /// # Errors
    /// [`FieldError`] for field `key`.
    pub fn new(key: &str) -> Result<Self, FieldError> {
        FieldError::check_limit("key", key.len(), KEY_BYTES_MAX, "bytes")?;
        if key.is_empty() {
            return Err(FieldError::invalid("key", "must not be empty"));
        }
        // Of ASCII, bytes tell as much as characters, and sooner: names of events that are read go through here.
        let is_plain = key.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let control = || key.chars().find(|c| c.is_control());
        if !is_plain && let Some(control) = control() {
            let problem = format!("must not contain the control character {control:?}");
            return Err(FieldError::invalid("key", problem));
        }
        Ok(Self(key.into()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key with its collection: what versions are counted for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName {
    /// The collection.
    pub collection: Collection,
    /// The key within it.
    pub key: Key,
}

impl KeyName {
    /// Checks both parts.
    ///
    /// # Errors
    /// [`FieldError`] for field `collection` or `key`.
    pub fn new(collection: &str, key: &str) -> Result<Self, FieldError> {
        Ok(Self {
            collection: Collection::new(collection)?,
            key: Key::new(key)?,
        })
    }

    /// The slot that the key is hashed to: CRC-32C of collection, a zero byte and key, modulo [`SLOTS`].
    ///
    /// Part of the on-disk format: servers and clients of every release must agree on it.
    pub fn slot(&self) -> Slot {
        let crc = crc32c::crc32c(self.collection.as_str().as_bytes());
        let crc = crc32c::crc32c_append(crc, &[0]);
        let crc = crc32c::crc32c_append(crc, self.key.as_str().as_bytes());
        let slot = crc % u32::from(SLOTS);
        Slot(u16::try_from(slot).unwrap_or_default())
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.collection, self.key)
    }
}

/// UUID of an event: what makes a retry recognisable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub Uuid);

impl EventId {
    /// Reads 16 bytes.
    ///
    /// # Errors
    /// [`FieldError`] for field `event_id`: another length, or the nil UUID.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FieldError> {
        let uuid = Uuid::from_slice(bytes).map_err(|error| {
            FieldError::invalid("event_id", format!("must be a UUID of 16 bytes: {error}"))
        })?;
        if uuid.is_nil() {
            return Err(FieldError::invalid("event_id", "must not be the nil UUID"));
        }
        Ok(Self(uuid))
    }

    /// The 16 bytes as on the wire.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_compared_by_number_then_node() {
        let epoch = |number, node| Epoch {
            number,
            node: NodeId(node),
        };
        assert!(epoch(2, 1) > epoch(1, 9));
        assert!(epoch(2, 2) > epoch(2, 1));
    }

    #[test]
    fn a_key_is_refused_with_field_limit_and_actual_value() {
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        let error = Key::new(&long).unwrap_err();
        assert_eq!(error.to_string(), "key has 1025 bytes, the limit is 1024");
        assert_eq!(Key::new("").unwrap_err().to_string(), "key must not be empty");
        assert_eq!(
            Key::new("a\0b").unwrap_err().to_string(),
            "key must not contain the control character '\\0'"
        );
        for control in ["\u{7f}", "ü\u{85}"] {
            assert!(Key::new(control).is_err(), "{control:?}");
        }
        assert!(Key::new(&"k".repeat(KEY_BYTES_MAX)).is_ok());
        assert!(Key::new(" ~ü/東京").is_ok());
    }

    #[test]
    fn the_empty_collection_is_the_default_one() {
        assert!(Collection::new("").unwrap().is_default());
        assert!(Collection::new("a b").is_err());
        assert!(Collection::new(&"c".repeat(COLLECTION_BYTES_MAX + 1)).is_err());
    }

    /// Slots decide where a key's events are: a change of the hash would orphan every stored event.
    #[test]
    fn slots_never_change() {
        let slot = |key: &str| KeyName::new("default", key).unwrap().slot().0;
        assert_eq!([slot("Deep"), slot("orders/17"), slot("ü")], [873, 610, 841]);
    }

    #[test]
    fn an_event_id_is_sixteen_bytes_and_not_nil() {
        assert!(EventId::from_bytes(&[1; 15]).is_err());
        assert!(EventId::from_bytes(&[0; 16]).is_err());
        assert!(EventId::from_bytes(&[1; 16]).is_ok());
    }
}
