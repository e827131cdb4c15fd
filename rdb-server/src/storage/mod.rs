//! Bytes on disk: a seat's log and promise, the derived key index, the data directory.
//!
//! Knows files, frames, fsync and sled; knows nothing of leaders, roles or peers. DESIGN 8.
//!
//! ```text
//! DATA_DIR/
//!   lock                       held while a server runs               data_dir.rs
//!   format.json                format version, database, directory    data_dir.rs
//!   seats/<group>.<side>/
//!     seat                     promise, durable mark, commit          seat_file.rs
//!     segment-00000001.log     entries, in frames with CRC-32C        log/
//!   seen.json                  what the node remembers of etcd      node/guarding/memory.rs
//!   index/                     sled; derived from the logs            key_index/store.rs
//!   index.json                 whether index/ may be believed         key_index/store.rs
//! ```
//!
//! | file | decides |
//! |---|---|
//! | `log/frame.rs` | what a byte of a segment means |
//! | `log/writer.rs` | when fdatasync runs; the one thread that writes a log |
//! | `log/room.rs` | how much may still be promised, and when disk is claimed ahead |
//! | `log/open.rs` | what is a torn tail (cut) and what is damage (never cut) |
//! | `log/loss.rs` | how a damaged part is given up, for other members to give it again |
//! | `log/reader.rs` | how entries are found and read back |
//! | `log/scrub.rs` | what is checked of a log while it is in use, and what members are compared by |
//! | `seat_file.rs` | what must survive besides the entries |
//! | `key_index/` | where a key stands and where its versions are; which event ids were seen |
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod data_dir;
mod error;
mod files;
mod key_index;
mod log;
mod seat_file;
#[cfg(test)]
mod test_entries;

pub use data_dir::{DataDir, FreshIds};
pub use error::{Damage, StorageError};
#[doc(hidden)]
pub use key_index::reread_index_value;
pub use key_index::{
    Direction, IndexSettings, IndexStore, Indexes, KeyIndex, KnownAt, ListedKey, Located, MemoryIndex,
    Progress, SledIndex, Standing, catch_up, entry_events,
};
pub use log::{
    Admission, Block, Cursor, Frame, LogEvent, LogReader, LogSettings, NoRoom, OnLogEvent, Opened, Scrub,
    SeatLog, Ticket, Verified,
};
