//! Cursors of named subscriptions: all of a seat in memory, and which of them are to be written.

use super::overlay::Overlay;
use bytes::{Buf as _, BufMut as _};
use rdb_proto::cursor::{Cursor, CursorChange};
use rdb_proto::types::{LogIndex, Seq};
use std::collections::BTreeMap;
use std::ops::Bound;
use uuid::Uuid;

/// Every cursor of a seat, by its name: there are as many as applications made, each a few bytes. Those that were forgotten
/// are among them until the next start.
pub(super) type Cursors = BTreeMap<String, Cursor>;

/// Applies a change, and notes what came of it.
pub(super) fn apply(cursors: &mut Cursors, overlay: &mut Overlay, index: LogIndex, change: &CursorChange) {
    let before = cursors.get(&change.name).copied();
    let after = change.apply(index, before);
    if let Some(cursor) = after.filter(|_| after != before) {
        cursors.insert(change.name.clone(), cursor);
        overlay.note_cursor(&change.name, cursor);
    }
}

/// A cursor whose name was not forgotten.
pub(super) fn find(cursors: &Cursors, name: &str) -> Option<Cursor> {
    cursors.get(name).copied().filter(|cursor| !cursor.is_forgotten)
}

/// The first of them after a name, ascending.
pub(super) fn list(cursors: &Cursors, after: &str, limit: usize) -> Vec<(String, Cursor)> {
    let later = cursors.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
    let there = later.filter(|(_, cursor)| !cursor.is_forgotten).take(limit);
    there.map(|(name, cursor)| (name.clone(), *cursor)).collect()
}

/// How many names were not forgotten.
pub(super) fn count(cursors: &Cursors) -> usize {
    cursors.values().filter(|cursor| !cursor.is_forgotten).count()
}

/// Layout: at u64, generation u64, position u64, 1 or 0 for forgotten or not (u8), consumer 16 bytes or nothing; little
/// endian.
pub(super) fn encode(cursor: &Cursor) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    bytes.put_u64_le(cursor.at.get());
    bytes.put_u64_le(cursor.generation);
    bytes.put_u64_le(cursor.position.get());
    bytes.put_u8(u8::from(cursor.is_forgotten));
    if let Some(consumer) = cursor.consumer {
        bytes.put_slice(consumer.as_bytes());
    }
    bytes
}

/// Reads it back; `None` for bytes that are none.
pub(super) fn decode(mut bytes: &[u8]) -> Option<Cursor> {
    let at = LogIndex(bytes.try_get_u64_le().ok()?);
    let generation = bytes.try_get_u64_le().ok()?;
    let position = Seq(bytes.try_get_u64_le().ok()?);
    let is_forgotten = bytes.try_get_u8().ok()? == 1;
    let consumer = if bytes.is_empty() {
        None
    } else {
        Some(Uuid::from_slice(bytes).ok()?)
    };
    Some(Cursor {
        at,
        generation,
        consumer,
        position,
        is_forgotten,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back() {
        for consumer in [None, Some(Uuid::from_u128(7))] {
            let cursor = Cursor {
                at: LogIndex(3),
                generation: 2,
                consumer,
                position: Seq(9),
                is_forgotten: consumer.is_none(),
            };
            let bytes = encode(&cursor);
            assert_eq!(decode(&bytes), Some(cursor));
            assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        }
    }
}
