//! All of a log read from the disk and checked while it is in use (`rdb-client admin verify`).
//!
//! Every check of a read is made: the CRC of each frame, and that indexes are dense. Besides: the heads of segments are as
//! they were, epochs never fall, seqs rise, and each body is what its head says. What has no check of its own, that all
//! members of a seat have the *same* entries, is left to who compares their digests: the log is cut into blocks of a fixed
//! number of indexes, and a block's digest follows from what members share, never from where it stands on a disk.

use super::frame::frame_bytes;
use super::reader::{Cursor, Frame, LogReader};
use crate::limits::{LOG_BLOCK_BYTES, SCRUB_FORGET_BYTES, SCRUB_PAGE_BYTES, VERIFY_BLOCK_ENTRIES};
use crate::sabotage::{self, Sabotage};
use crate::storage::StorageError;
use crate::storage::error::Damage;
use crate::storage::files::as_u64;
use bytes::{BufMut as _, Bytes};
use rdb_proto::types::{Epoch, LogIndex, Seq};
use uuid::Uuid;

/// A run of entries that passed every check: as long as a block, or as far as the scrub goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// First entry.
    pub first: LogIndex,
    /// Last entry.
    pub last: LogIndex,
    /// Bytes of the bodies.
    pub bytes: u64,
    /// Follows from epoch, index, kind, seqs and body of every entry. Never to be changed: members of different
    /// releases are compared by it.
    pub digest: Bytes,
}

/// Reads a log from its first entry on, and checks it.
#[derive(Debug)]
pub struct Scrub {
    log: LogReader,
    cursor: Cursor,
    /// Where it ends; committed.
    up_to: LogIndex,
    /// The last entry that passed.
    last: LogIndex,
    /// Its epoch, and the last seq up to it.
    before: (Epoch, Seq),
    /// What was met behind it, to be told once everything before it was.
    damage: Option<StorageError>,
    open: Option<Open>,
    /// The segment that is read, by number, and up to which offset of it the system was to forget what it has in memory.
    forgotten: (u32, u64),
}

/// A block of which some entries were read.
#[derive(Debug)]
struct Open {
    first: LogIndex,
    bytes: u64,
    digest: Uuid,
}

/// Whether a block ends with this entry.
const fn ends_block(index: LogIndex) -> bool {
    index.get().is_multiple_of(VERIFY_BLOCK_ENTRIES)
}

impl Scrub {
    /// Of entries from the first to `up_to`, which must be committed.
    pub fn new(log: LogReader, up_to: LogIndex) -> Self {
        Self {
            cursor: log.cursor_at(LogIndex(1)).quietly(),
            log,
            up_to,
            last: LogIndex::ZERO,
            before: (Epoch::ZERO, Seq::ZERO),
            damage: None,
            open: None,
            forgotten: (0, 0),
        }
    }

    /// The last entry that passed; zero when there is none.
    pub const fn last(&self) -> LogIndex {
        self.last
    }

    /// Whether everything was read, and passed.
    pub fn is_done(&self) -> bool {
        self.last >= self.up_to
    }

    /// Reads on; returns how many bytes, and the blocks that are whole with them. No bytes: what comes next is not on
    /// stable storage yet. Damage is the caller's to tell: nobody else hears of it.
    ///
    /// **Blocking**: one read of 256 KiB, or of an entry when it is larger.
    ///
    /// # Errors
    /// [`StorageError::Damaged`], of the entry behind [`Scrub::last`]; [`StorageError::Io`].
    pub fn step(&mut self) -> Result<(u64, Vec<Verified>), StorageError> {
        if let Some(damage) = self.damage.take() {
            return Err(damage);
        }
        self.prepare()?;
        let mut whole = Vec::new();
        let Some(block) = self.cursor.next_block(self.up_to)? else {
            return Ok((0, whole));
        };
        let mut bytes = 0_u64;
        for frame in &block.frames {
            bytes = bytes.saturating_add(frame_bytes(frame.body.len()));
            if let Err(damage) = self.check(frame) {
                self.damage = Some(damage);
                break;
            }
            whole.extend(self.take(frame));
        }
        Ok((bytes, whole))
    }

    /// Has the system read what comes next from the disk, in strides that are long beside what it reads ahead, and checks
    /// the head of a segment where one begins.
    fn prepare(&mut self) -> Result<(), StorageError> {
        let Some((segment, offset)) = self.cursor.locate() else {
            return Ok(());
        };
        let number = segment.file.number;
        let is_next = self.forgotten.0 != number;
        if !is_next && offset < self.forgotten.1 {
            return Ok(());
        }
        // Whole pages only are forgotten, so a stride begins before the one in which the last one ended.
        let from = if is_next {
            0
        } else {
            offset.saturating_sub(offset % SCRUB_PAGE_BYTES)
        };
        // Not beyond the end: whoever writes into a part of a page has it in memory. So the last page of a segment may be
        // read from there.
        let stride = offset.saturating_add(SCRUB_FORGET_BYTES);
        // The last read of a stride goes beyond it.
        let to = stride.saturating_add(as_u64(LOG_BLOCK_BYTES)).min(segment.end());
        segment.file.forget_cached(from, to);
        self.forgotten = (number, stride.min(to));
        if !is_next {
            return Ok(());
        }
        let head = segment.file.head()?;
        if head.is_some_and(|head| segment.seed.is_of(&head)) {
            Ok(())
        } else {
            Err(StorageError::Damaged {
                file: segment.file.path.clone(),
                offset: 0,
                damage: Damage::Header,
            })
        }
    }

    /// What is checked beside each frame's own check.
    fn check(&mut self, frame: &Frame) -> Result<(), StorageError> {
        let (epoch, seq) = self.before;
        if frame.epoch < epoch {
            let problem = format!("its epoch {} is below {epoch} before it", frame.epoch);
            return Err(self.log.damaged_body(frame.index, &problem));
        }
        if frame.events > 0 && frame.first_seq <= seq {
            let problem = format!("its seq {} is not above {seq} before it", frame.first_seq);
            return Err(self.log.damaged_body(frame.index, &problem));
        }
        let decoded = frame.decode();
        let entry = decoded.map_err(|error| self.log.damaged_body(frame.index, &error))?;
        let said = (frame.events > 0).then(|| (frame.first_seq, frame.last_seq()));
        if entry.seqs() != said {
            let problem = "its events have other seqs than its head says";
            return Err(self.log.damaged_body(frame.index, &problem));
        }
        self.last = frame.index;
        self.before = (frame.epoch, seq.max(frame.last_seq()));
        Ok(())
    }

    /// Adds an entry to its block; returns the block when it ends here.
    fn take(&mut self, frame: &Frame) -> Option<Verified> {
        let mut open = self.open.take().unwrap_or(Open {
            first: frame.index,
            bytes: 0,
            digest: Uuid::nil(),
        });
        open.digest = extended(open.digest, frame);
        open.bytes = open.bytes.saturating_add(as_u64(frame.body.len()));
        if !ends_block(frame.index) && frame.index < self.up_to {
            self.open = Some(open);
            return None;
        }
        Some(Verified {
            first: open.first,
            last: frame.index,
            bytes: open.bytes,
            digest: Bytes::copy_from_slice(open.digest.as_bytes()),
        })
    }
}

/// A digest with one more entry in it. A version 5 UUID is 122 bits of SHA-1: more than is needed to tell logs apart
/// that nobody made to look alike.
fn extended(digest: Uuid, frame: &Frame) -> Uuid {
    let mut head = Vec::with_capacity(64);
    head.put_u64_le(frame.index.get());
    head.put_u64_le(frame.epoch.number);
    head.put_u64_le(frame.epoch.node.0);
    head.put_u8(frame.kind.number());
    head.put_u64_le(frame.first_seq.get());
    head.put_u32_le(frame.events);
    head.put_u64_le(as_u64(frame.body.len()));
    let digest = Uuid::new_v5(&digest, &head);
    if sabotage::is(Sabotage::VerifyByHeads) {
        return digest;
    }
    Uuid::new_v5(&digest, &frame.body)
}
