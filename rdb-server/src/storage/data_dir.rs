//! The data directory: made once, locked while a server runs, refused when it is not ours.
//!
//! `format.json` is the first file that is made and the first that is read: a directory written by a later release
//! is refused before anything else in it is looked at.

use super::StorageError;
use super::files::{free_bytes, make_directory, replace_file};
use rdb_proto::types::SeatId;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Version of the layout of the directory.
const FORMAT_VERSION: u32 = 1;

const FORMAT_FILE: &str = "format.json";
const LOCK_FILE: &str = "lock";
const SEATS: &str = "seats";

/// Ids for a directory that does not exist yet. Ignored when it does.
#[derive(Debug, Clone, Copy)]
pub struct FreshIds {
    /// Id of the database.
    pub database: Uuid,
    /// Id of this directory: an emptied disk comes back as another directory (DESIGN 5).
    pub directory: Uuid,
}

/// What `format.json` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Format {
    format_version: u32,
    database_id: Uuid,
    directory_id: Uuid,
}

/// The one field that every release writes, and the only one that is read of a later release's file.
#[derive(Deserialize)]
struct FormatVersion {
    format_version: u32,
}

/// A locked data directory. The lock is released when this is dropped, or when the process ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    format: Format,
    was_created: bool,
    _lock: File,
}

impl DataDir {
    /// Opens a data directory, or makes it with `fresh` ids when there is none.
    ///
    /// # Errors
    /// [`StorageError::InUse`], [`StorageError::FormatTooNew`], [`StorageError::NotDataDirectory`], or
    /// [`StorageError::Io`] (a directory that cannot be written).
    pub fn open(path: &Path, fresh: FreshIds) -> Result<Self, StorageError> {
        make_directory(path)?;
        // Once before the lock, so that not even that is put into a directory that is not ours.
        read_format(path)?;
        let lock = lock_in(path)?;
        let found = read_format(path)?;
        let format = match found {
            Some(format) => format,
            None => write_format(path, fresh)?,
        };
        Ok(Self {
            path: path.to_owned(),
            format,
            was_created: found.is_none(),
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Id of the database that it belongs to.
    pub const fn database(&self) -> Uuid {
        self.format.database_id
    }

    /// Id of this directory.
    pub const fn directory(&self) -> Uuid {
        self.format.directory_id
    }

    /// Whether this start made it.
    pub const fn was_created(&self) -> bool {
        self.was_created
    }

    /// Where a seat's log and promise are.
    pub fn seat_path(&self, seat: SeatId) -> PathBuf {
        self.path.join(SEATS).join(seat.to_string())
    }

    /// Seats that have a directory here, ascending.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn seats(&self) -> Result<Vec<SeatId>, StorageError> {
        let path = self.path.join(SEATS);
        let mut seats: Vec<SeatId> = match names_in(&path) {
            Ok(names) => names.iter().filter_map(|name| SeatId::parse(name)).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(StorageError::io("list", &path)(error)),
        };
        seats.sort_unstable();
        Ok(seats)
    }

    /// A small file of the node in the directory; `None` when it was never written.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io("read", &path)(error)),
        }
    }

    /// Replaces such a file, durably and at once.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn keep_note(&self, name: &str, content: &[u8]) -> Result<(), StorageError> {
        replace_file(&self.path.join(name), content)
    }

    /// Bytes that the file system has left.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn free_bytes(&self) -> Result<u64, StorageError> {
        free_bytes(&self.path).map_err(StorageError::io("look at", &self.path))
    }
}

/// Takes the lock, which is the file's and not the path's: it goes with the process, however that ends.
fn lock_in(directory: &Path) -> Result<File, StorageError> {
    let path = directory.join(LOCK_FILE);
    let open = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let lock = open.map_err(StorageError::io("write to", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StorageError::InUse {
            path: directory.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(StorageError::io("lock", &path)(error)),
    }
}

/// Reads `format.json`; `None` in a directory that is as good as empty.
fn read_format(directory: &Path) -> Result<Option<Format>, StorageError> {
    let path = directory.join(FORMAT_FILE);
    let refuse = |problem: String| StorageError::NotDataDirectory {
        path: directory.to_owned(),
        problem,
    };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match stranger_in(directory)? {
                Some(name) => Err(refuse(format!("it holds {name}, and no {FORMAT_FILE}"))),
                None => Ok(None),
            };
        }
        Err(error) => return Err(StorageError::io("read", &path)(error)),
    };
    let unreadable = |error: serde_json::Error| refuse(format!("{FORMAT_FILE} cannot be read: {error}"));
    let version: FormatVersion = serde_json::from_slice(&text).map_err(unreadable)?;
    if version.format_version > FORMAT_VERSION {
        return Err(StorageError::FormatTooNew {
            file: path,
            found: version.format_version,
            supported: FORMAT_VERSION,
        });
    }
    serde_json::from_slice(&text).map(Some).map_err(unreadable)
}

fn write_format(directory: &Path, fresh: FreshIds) -> Result<Format, StorageError> {
    let format = Format {
        format_version: FORMAT_VERSION,
        database_id: fresh.database,
        directory_id: fresh.directory,
    };
    let path = directory.join(FORMAT_FILE);
    let text = serde_json::to_vec_pretty(&format).map_err(io::Error::from);
    let mut text = text.map_err(StorageError::io("write", &path))?;
    text.push(b'\n');
    replace_file(&path, &text)?;
    Ok(format)
}

/// A name that no fresh directory has.
fn stranger_in(directory: &Path) -> Result<Option<String>, StorageError> {
    let names = names_in(directory).map_err(StorageError::io("list", directory))?;
    let is_strange = |name: &String| {
        let is_known = [LOCK_FILE, "format.new", "lost+found"].contains(&name.as_str());
        !is_known && !name.starts_with('.')
    };
    Ok(names.into_iter().find(is_strange))
}

fn names_in(directory: &Path) -> io::Result<Vec<String>> {
    let name = |found: io::Result<fs::DirEntry>| Ok(found?.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = fs::read_dir(directory)?.map(name).collect::<io::Result<_>>()?;
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::test_entries::scratch;
    use rdb_proto::types::{GroupId, Side};

    fn fresh(n: u128) -> FreshIds {
        FreshIds {
            database: Uuid::from_u128(n),
            directory: Uuid::from_u128(n + 1),
        }
    }

    #[test]
    fn a_directory_keeps_its_ids() {
        let directory = scratch();
        let path = directory.path().join("a/b");
        let made = DataDir::open(&path, fresh(10)).unwrap();
        assert!(made.was_created());
        drop(made);
        let again = DataDir::open(&path, fresh(20)).unwrap();
        assert!(!again.was_created());
        assert_eq!(again.database(), Uuid::from_u128(10));
        assert_eq!(again.directory(), Uuid::from_u128(11));
        assert!(again.free_bytes().unwrap() > 0);
    }

    #[test]
    fn a_second_server_on_the_directory_is_refused() {
        let directory = scratch();
        let first = DataDir::open(directory.path(), fresh(1)).unwrap();
        let second = DataDir::open(directory.path(), fresh(1)).unwrap_err();
        assert!(matches!(second, StorageError::InUse { .. }), "{second}");
        drop(first);
        assert!(DataDir::open(directory.path(), fresh(1)).is_ok());
    }

    #[test]
    fn a_directory_of_a_later_release_is_refused() {
        let directory = scratch();
        let text = r#"{"format_version": 2, "whatever": "comes"}"#;
        fs::write(directory.path().join(FORMAT_FILE), text).unwrap();
        let error = DataDir::open(directory.path(), fresh(1)).unwrap_err();
        assert!(
            matches!(error, StorageError::FormatTooNew { found: 2, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_directory_of_something_else_is_refused_and_left_alone() {
        for (name, text) in [
            ("seats", "a lost format.json"),
            ("photo.jpg", "x"),
            (FORMAT_FILE, "{}"),
        ] {
            let directory = scratch();
            fs::write(directory.path().join(name), text).unwrap();
            let error = DataDir::open(directory.path(), fresh(1)).unwrap_err();
            assert!(
                matches!(error, StorageError::NotDataDirectory { .. }),
                "{name}: {error}"
            );
            assert!(!error.to_string().contains('\n'));
        }
        let empty_disk = scratch();
        fs::create_dir(empty_disk.path().join("lost+found")).unwrap();
        assert!(DataDir::open(empty_disk.path(), fresh(1)).is_ok());
    }

    #[test]
    fn a_path_that_is_a_file_is_one_clear_line() {
        let directory = scratch();
        let path = directory.path().join("file");
        fs::write(&path, "x").unwrap();
        let error = DataDir::open(&path, fresh(1)).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot create directory"),
            "{error}"
        );
    }

    #[test]
    fn seats_are_found_by_their_directories() {
        let directory = scratch();
        let data_dir = DataDir::open(directory.path(), fresh(1)).unwrap();
        assert_eq!(data_dir.seats().unwrap(), []);
        let seat = |group, side| SeatId {
            group: GroupId(group),
            side,
        };
        for seat in [seat(10, Side::Zero), seat(2, Side::One)] {
            fs::create_dir_all(data_dir.seat_path(seat)).unwrap();
        }
        fs::create_dir_all(directory.path().join("seats/other")).unwrap();
        assert_eq!(
            data_dir.seats().unwrap(),
            [seat(2, Side::One), seat(10, Side::Zero)]
        );
    }
}
