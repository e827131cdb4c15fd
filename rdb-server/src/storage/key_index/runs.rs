//! Runs: where the versions of a key are, one run for each entry that has some.
//!
//! An entry holds dense versions with dense seqs, so a run says of all of them where they are, in a few bytes. A
//! key's latest runs stand in its head; older ones in chunks of [`INDEX_CHUNK_RUNS`](crate::limits::INDEX_CHUNK_RUNS) each.
//!
//! ```text
//! head    1 if the latest event is a delete, else 0 (one byte), then runs; never empty
//! chunk   runs, exactly INDEX_CHUNK_RUNS
//! runs    first:     version, seq, index, count
//!         each next: seq - seq behind the run before, index - index of the run before, count
//! ```
//! Every number is a varint: 7 bits a byte, lowest first, the top bit set on all but the last byte.
//!
//! Keys in the tree, none of which contains a zero byte where one ends a part:
//! ```text
//! "k" collection 0 key                          head
//! "v" collection 0 key 0 version (big endian)   chunk that begins with this version
//! "m"                                           what was applied
//! "s" name of a subscription                    its cursor
//! ```

use super::{Direction, Located, Standing};
use rdb_proto::types::{KeyName, LogIndex, Seq, Version};

/// Dense versions in one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Version of the first.
    pub(super) version: Version,
    /// Seq of the first.
    pub(super) seq: Seq,
    /// The entry.
    pub(super) index: LogIndex,
    /// How many; at least 1.
    pub(super) count: u32,
}

impl Run {
    pub(super) fn last_version(&self) -> Version {
        self.version.plus(u64::from(self.count)).previous()
    }

    pub(super) fn last_seq(&self) -> Seq {
        self.seq.plus(u64::from(self.count)).previous()
    }

    /// The nth event of the run; the last one when it has no nth.
    fn nth(&self, n: u64) -> Located {
        let last = self.count.saturating_sub(1);
        let position = u32::try_from(n).unwrap_or(last).min(last);
        Located {
            version: self.version.plus(u64::from(position)),
            seq: self.seq.plus(u64::from(position)),
            index: self.index,
            position,
        }
    }

    pub(super) fn latest(&self) -> Located {
        self.nth(u64::from(self.count))
    }

    /// The last event with a seq at or before `seq`; `None` when the run begins later.
    fn at_or_before(&self, seq: Seq) -> Option<Located> {
        (self.seq <= seq).then(|| self.nth(seq.since(self.seq)))
    }
}

/// Where a key stands after `last`, its latest run.
pub(super) fn standing(last: &Run, is_deleted: bool) -> Standing {
    Standing {
        version: last.last_version(),
        seq: last.last_seq(),
        is_deleted,
    }
}

/// The last event with a seq at or before `seq` in ascending `runs`.
pub(super) fn at_or_before(runs: &[Run], seq: Seq) -> Option<Located> {
    let behind = runs.partition_point(|run| run.seq <= seq);
    runs.get(behind.checked_sub(1)?)?.at_or_before(seq)
}

/// Versions that are asked for and not found yet.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The next one, or the nearest one in the direction.
    from: Version,
    direction: Direction,
    limit: usize,
    found: Vec<Located>,
}

impl Wanted {
    pub(super) const fn new(from: Version, direction: Direction, limit: usize) -> Self {
        Self {
            from,
            direction,
            limit,
            found: Vec::new(),
        }
    }

    pub(super) const fn is_done(&self) -> bool {
        self.found.len() >= self.limit
    }

    pub(super) const fn from(&self) -> Version {
        self.from
    }

    pub(super) const fn direction(&self) -> Direction {
        self.direction
    }

    pub(super) fn into_found(self) -> Vec<Located> {
        self.found
    }

    /// Takes what is wanted out of ascending `runs`, in the direction that is wanted.
    pub(super) fn take(&mut self, runs: &[Run]) {
        match self.direction {
            Direction::Forward => {
                let skip = runs.partition_point(|run| run.last_version() < self.from);
                for run in runs.iter().skip(skip) {
                    let first = self.from.since(run.version);
                    for n in first..u64::from(run.count) {
                        if self.is_done() {
                            return;
                        }
                        self.push(run.nth(n));
                    }
                }
            }
            Direction::Backward => {
                let keep = runs.partition_point(|run| run.version <= self.from);
                for run in runs.iter().take(keep).rev() {
                    let last = self.from.min(run.last_version()).since(run.version);
                    for n in (0..=last).rev() {
                        if self.is_done() {
                            return;
                        }
                        self.push(run.nth(n));
                    }
                }
            }
        }
    }

    fn push(&mut self, located: Located) {
        self.found.push(located);
        self.from = match self.direction {
            Direction::Forward => located.version.next(),
            Direction::Backward => located.version.previous(),
        };
    }
}

/// A key's latest runs, as they stand in sled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) is_deleted: bool,
    /// Ascending; never empty.
    pub(super) runs: Vec<Run>,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.is_deleted)];
        encode_runs(&self.runs, &mut bytes);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (flag, runs) = bytes.split_first()?;
        let runs = decode_runs(runs)?;
        let is_deleted = match flag {
            0 => false,
            1 => true,
            _ => return None,
        };
        (!runs.is_empty()).then_some(Self { is_deleted, runs })
    }
}

pub(super) fn encode_runs(runs: &[Run], bytes: &mut Vec<u8>) {
    let mut before: Option<&Run> = None;
    for run in runs {
        match before {
            None => {
                put(bytes, run.version.get());
                put(bytes, run.seq.get());
                put(bytes, run.index.get());
            }
            Some(before) => {
                assert_eq!(run.version, before.last_version().next(), "versions are dense");
                put(bytes, run.seq.since(before.last_seq().next()));
                put(bytes, run.index.since(before.index));
            }
        }
        put(bytes, u64::from(run.count));
        before = Some(run);
    }
}

/// Reads runs; `None` when the bytes are none.
pub(super) fn decode_runs(mut bytes: &[u8]) -> Option<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    while !bytes.is_empty() {
        let (version, seq, index) = match runs.last() {
            None => (
                Version(get(&mut bytes)?),
                Seq(get(&mut bytes)?),
                LogIndex(get(&mut bytes)?),
            ),
            Some(before) => (
                before.last_version().next(),
                Seq(before.last_seq().next().get().checked_add(get(&mut bytes)?)?),
                LogIndex(before.index.get().checked_add(get(&mut bytes)?)?),
            ),
        };
        let count = u32::try_from(get(&mut bytes)?).ok().filter(|count| *count > 0)?;
        // No arithmetic on it can overflow later.
        version.get().checked_add(u64::from(count))?;
        seq.get().checked_add(u64::from(count))?;
        runs.push(Run {
            version,
            seq,
            index,
            count,
        });
    }
    Some(runs)
}

fn put(bytes: &mut Vec<u8>, mut n: u64) {
    loop {
        let low = n.to_le_bytes().first().map_or(0, |byte| byte & 0x7f);
        n >>= 7;
        if n == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn get(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

/// `collection 0 key`: the name of a key everywhere in the index. Neither part can contain a zero byte.
pub(super) fn name_bytes(collection: &str, key: &str) -> Vec<u8> {
    [collection.as_bytes(), &[0], key.as_bytes()].concat()
}

/// Reads [`name_bytes`] back.
pub(super) fn name_of(bytes: &[u8]) -> Option<KeyName> {
    let (collection, key) = str::from_utf8(bytes).ok()?.split_once('\0')?;
    KeyName::new(collection, key).ok()
}

pub(super) const META_KEY: &[u8] = b"m";

/// What the keys of cursors begin with.
pub(super) const CURSOR_PREFIX: &[u8] = b"s";

pub(super) fn cursor_key(name: &str) -> Vec<u8> {
    [CURSOR_PREFIX, name.as_bytes()].concat()
}

pub(super) fn head_key(name: &[u8]) -> Vec<u8> {
    [b"k", name].concat()
}

/// Key of the chunk of `name` that begins with `version`.
pub(super) fn chunk_key(name: &[u8], version: Version) -> Vec<u8> {
    [b"v", name, &[0], &version.get().to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn runs(shape: &[(u64, u64, u32)]) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (seq_gap, index_gap, count) in shape {
            let before = runs.last();
            runs.push(Run {
                version: before.map_or(Version(1), |run| run.last_version().next()),
                seq: Seq(before.map_or(0, |run| run.last_seq().get()) + 1 + seq_gap),
                index: LogIndex(before.map_or(0, |run| run.index.get()) + 1 + index_gap),
                count: *count,
            });
        }
        runs
    }

    proptest! {
        #[test]
        fn round_trip_of_runs(
            shape in prop::collection::vec((0..u64::from(u32::MAX), 0..1_u64 << 40, 1..2000_u32), 1..80),
            is_deleted: bool,
        ) {
            let head = Head { is_deleted, runs: runs(&shape) };
            prop_assert_eq!(Head::decode(&head.encode()), Some(head));
        }

        #[test]
        fn rejects_or_reads_any_bytes_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some(head) = Head::decode(&bytes) {
                prop_assert!(!head.runs.is_empty());
            }
        }

        #[test]
        fn what_is_wanted_is_taken_from_any_split_of_the_runs(
            shape in prop::collection::vec((0..3_u64, 0..3_u64, 1..4_u32), 1..12),
            split in 0..12_usize,
            from in 0..40_u64,
            limit in 0..40_usize,
            forward: bool,
        ) {
            let runs = runs(&shape);
            let all: Vec<Located> = runs
                .iter()
                .flat_map(|run| (0..u64::from(run.count)).map(|n| run.nth(n)))
                .collect();
            let (older, newer) = runs.split_at(split.min(runs.len()));
            let direction = if forward { Direction::Forward } else { Direction::Backward };
            let mut wanted = Wanted::new(Version(from), direction, limit);
            let (first, second) = if forward { (older, newer) } else { (newer, older) };
            wanted.take(first);
            wanted.take(second);
            let expected: Vec<Located> = if forward {
                all.iter().filter(|it| it.version >= Version(from)).take(limit).copied().collect()
            } else {
                all.iter().rev().filter(|it| it.version <= Version(from)).take(limit).copied().collect()
            };
            prop_assert_eq!(wanted.into_found(), expected);
            for seq in 0..60 {
                let expected = all.iter().rev().find(|it| it.seq <= Seq(seq)).copied();
                prop_assert_eq!(at_or_before(&runs, Seq(seq)), expected);
            }
        }
    }

    /// The bytes of existing indexes, which a changed encoding would misread: raise `INDEX_FORMAT_VERSION` with it.
    #[test]
    fn a_run_of_one_event_takes_a_few_bytes() {
        let head = Head {
            is_deleted: true,
            runs: runs(&[(299, 0, 1), (1, 0, 3)]),
        };
        assert_eq!(head.encode(), [1, 1, 0xac, 2, 1, 1, 1, 1, 3]);
    }

    #[test]
    fn names_read_back_and_sort_by_collection_then_key() {
        let name = KeyName::new("a.b", "ü/1").unwrap();
        let bytes = name_bytes(name.collection.as_str(), name.key.as_str());
        assert_eq!(name_of(&bytes), Some(name));
        assert!(name_bytes("a", "z") < name_bytes("a.b", "a"));
        assert_eq!(name_of(b"no zero"), None);
        let chunk = |key, version| chunk_key(&name_bytes("c", key), Version(version));
        assert!(chunk("k", 2) < chunk("k", 256));
        assert!(chunk("k", u64::MAX) < chunk("k2", 1));
    }
}
