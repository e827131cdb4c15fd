//! What storage can fail with. Every text names the file, and the offset where there is one.

use rdb_proto::reason::Reason;
use rdb_proto::types::{LogIndex, SeatId};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;
use uuid::Uuid;

/// What is wrong at the place that [`StorageError::Damaged`] names.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Damage {
    /// A frame whose bytes are not what was written.
    #[error("the frame of entry {index} is damaged, and entries up to {durable} were durable")]
    Frame {
        /// The entry that should stand there.
        index: LogIndex,
        /// Entries up to this one were on stable storage.
        durable: LogIndex,
    },
    /// A frame that was read back is not what was written.
    #[error("the frame of entry {index} does not pass its check")]
    Unreadable {
        /// The entry that should stand there.
        index: LogIndex,
    },
    /// The file ends inside a frame, which no crash can be the cause of.
    #[error("the file ends inside the frame of entry {index}")]
    CutShort {
        /// The entry.
        index: LogIndex,
    },
    /// The log ends before entries that were durable.
    #[error("the log ends at entry {last}, and entries up to {durable} were durable")]
    EndsEarly {
        /// Last entry that is there.
        last: LogIndex,
        /// Entries up to this one were on stable storage.
        durable: LogIndex,
    },
    /// A header of a segment or of the seat file that is not what was written.
    #[error("the header is damaged")]
    Header,
    /// A segment is not there.
    #[error("this segment is missing")]
    SegmentMissing,
    /// Both copies of the seat file are damaged.
    #[error("no copy of the promise is whole")]
    SeatFile,
    /// Entries were lost, and other members were to give them again.
    #[error("entries after {last} were lost, and not all of them are there again")]
    Lost {
        /// The last entry that is there.
        last: LogIndex,
    },
    /// A body that passes its check and still is not an entry.
    #[error("entry {index} cannot be decoded: {problem}")]
    Body {
        /// The entry.
        index: LogIndex,
        /// What is wrong with it.
        problem: String,
    },
}

/// A failure of storage.
#[derive(Debug, Error)]
pub enum StorageError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb phrase: `open`, `read`, `sync`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Stored data is not what was written. It is never cut and never served.
    #[error("{} is damaged at offset {offset}: {damage}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Byte offset of the first damage.
        offset: u64,
        /// What is wrong there.
        damage: Damage,
    },
    /// Written by a later release.
    #[error("{} has format version {found}, this release reads up to {supported}", file.display())]
    FormatTooNew {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this release reads.
        supported: u32,
    },
    /// A file of another database.
    #[error("{} belongs to database {found}, not to {expected}", file.display())]
    WrongDatabase {
        /// The file.
        file: PathBuf,
        /// The database that this node serves.
        expected: Uuid,
        /// The database in the file.
        found: Uuid,
    },
    /// A file of another seat.
    #[error("{} belongs to seat {found}, not to {expected}", file.display())]
    WrongSeat {
        /// The file.
        file: PathBuf,
        /// The seat of the directory.
        expected: SeatId,
        /// The seat in the file.
        found: String,
    },
    /// Another server runs on the data directory.
    #[error("data directory {} is already used by another server", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A directory that holds something else, or lost its `format.json`.
    #[error("{} is not a data directory of RDB: {problem}", path.display())]
    NotDataDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The key index cannot go on. It is derived: the next start rebuilds it from the logs.
    #[error("the key index in {} failed: {problem}", path.display())]
    Index {
        /// Its directory.
        path: PathBuf,
        /// What its engine says.
        problem: String,
    },
}

impl StorageError {
    /// Whether a start of the process finds this damage too; then the part is given up, when others have it. What the
    /// system cannot read is no damage that is known, and a body whose check passes is not looked into.
    pub const fn is_found_at_start(&self) -> bool {
        matches!(self, Self::Damaged { damage, .. } if !matches!(damage, Damage::Body { .. }))
    }

    /// Makes the error of a system call on `path`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// The reason that a client is told when a call meets this error.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Io { .. } | Self::Damaged { .. } | Self::FormatTooNew { .. } | Self::WrongSeat { .. } => {
                Reason::DataDamaged
            }
            Self::WrongDatabase { .. } => Reason::WrongDatabase,
            Self::InUse { .. } | Self::NotDataDirectory { .. } | Self::Index { .. } => Reason::Bug,
        }
    }

    /// Facts for programs: `file` and `byte_offset` where there are any.
    pub fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Damaged { file, offset, .. } => {
                vec![
                    ("file", file.display().to_string()),
                    ("byte_offset", offset.to_string()),
                ]
            }
            Self::Io { path, .. } => vec![("file", path.display().to_string())],
            Self::FormatTooNew { .. }
            | Self::WrongDatabase { .. }
            | Self::WrongSeat { .. }
            | Self::InUse { .. }
            | Self::NotDataDirectory { .. }
            | Self::Index { .. } => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_proto::types::{GroupId, Side};

    /// What an operator reads: file first, offset where there is one, no advice.
    #[test]
    #[expect(clippy::too_many_lines, reason = "one line of text for each error")]
    fn every_error_names_its_place() {
        let file = || PathBuf::from("/data/x");
        let damaged = |damage| StorageError::Damaged {
            file: file(),
            offset: 9,
            damage,
        };
        let (index, durable, last) = (LogIndex(5), LogIndex(7), LogIndex(4));
        let seat = SeatId {
            group: GroupId(1),
            side: Side::One,
        };
        let texts = [
            (
                StorageError::io("read", &file())(io::Error::other("boom")),
                "cannot read /data/x: boom",
            ),
            (
                damaged(Damage::Frame { index, durable }),
                "/data/x is damaged at offset 9: the frame of entry 5 is damaged, and entries up to 7 were durable",
            ),
            (
                damaged(Damage::Unreadable { index }),
                "/data/x is damaged at offset 9: the frame of entry 5 does not pass its check",
            ),
            (
                damaged(Damage::CutShort { index }),
                "/data/x is damaged at offset 9: the file ends inside the frame of entry 5",
            ),
            (
                damaged(Damage::EndsEarly { last, durable }),
                "/data/x is damaged at offset 9: the log ends at entry 4, and entries up to 7 were durable",
            ),
            (
                damaged(Damage::Header),
                "/data/x is damaged at offset 9: the header is damaged",
            ),
            (
                damaged(Damage::SegmentMissing),
                "/data/x is damaged at offset 9: this segment is missing",
            ),
            (
                damaged(Damage::SeatFile),
                "/data/x is damaged at offset 9: no copy of the promise is whole",
            ),
            (
                damaged(Damage::Body {
                    index,
                    problem: "boom".to_owned(),
                }),
                "/data/x is damaged at offset 9: entry 5 cannot be decoded: boom",
            ),
            (
                StorageError::FormatTooNew {
                    file: file(),
                    found: 2,
                    supported: 1,
                },
                "/data/x has format version 2, this release reads up to 1",
            ),
            (
                StorageError::WrongDatabase {
                    file: file(),
                    expected: Uuid::from_u128(1),
                    found: Uuid::from_u128(2),
                },
                "/data/x belongs to database 00000000-0000-0000-0000-000000000002, \
                 not to 00000000-0000-0000-0000-000000000001",
            ),
            (
                StorageError::WrongSeat {
                    file: file(),
                    expected: seat,
                    found: "0.0".to_owned(),
                },
                "/data/x belongs to seat 0.0, not to 1.1",
            ),
            (
                StorageError::InUse { path: file() },
                "data directory /data/x is already used by another server",
            ),
            (
                StorageError::NotDataDirectory {
                    path: file(),
                    problem: "boom".to_owned(),
                },
                "/data/x is not a data directory of RDB: boom",
            ),
            (
                StorageError::Index {
                    path: file(),
                    problem: "boom".to_owned(),
                },
                "the key index in /data/x failed: boom",
            ),
        ];
        for (error, text) in texts {
            assert_eq!(error.to_string(), text);
        }
    }
}
