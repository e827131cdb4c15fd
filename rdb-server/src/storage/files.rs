//! The few system calls that the files of this room share.

use super::StorageError;
use rustix::buffer::spare_capacity;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, also after a thread panicked while it held it: every state here is whole between statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the names in a directory durable: without this a file made in it may be gone after a power cut, whatever
/// was synced in the file itself.
pub(super) fn sync_directory(path: &Path) -> Result<(), StorageError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(StorageError::io("sync directory", path))
}

/// Makes a directory, and its name durable, when it is not there.
pub(super) fn make_directory(path: &Path) -> Result<(), StorageError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or_else(|| Path::new("."));
    if !parent.exists() {
        make_directory(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => sync_directory(parent),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(StorageError::io("create directory", path)(error)),
    }
}

/// Replaces a small file at once: after a crash there is the old one or the new one, never a part.
pub(super) fn replace_file(path: &Path, content: &[u8]) -> Result<(), StorageError> {
    let fresh = path.with_extension("new");
    let write = || -> io::Result<()> {
        let file = File::create(&fresh)?;
        file.write_all_at(content, 0)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().map_err(StorageError::io("write", path))?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Reads up to `length` bytes at `offset` onto the end of `buffer`, less only at the end of the file.
pub(super) fn read_onto(file: &File, buffer: &mut Vec<u8>, offset: u64, length: usize) -> io::Result<()> {
    let end = buffer.len().saturating_add(length);
    let start = buffer.len();
    buffer.reserve_exact(length);
    while buffer.len() < end {
        let done = u64::try_from(buffer.len().saturating_sub(start)).unwrap_or(u64::MAX);
        // The buffer's spare memory is read into as it is: filling it with zeros first would cost as much as
        // checking what is read.
        let read = match rustix::io::pread(file, spare_capacity(buffer), offset.saturating_add(done)) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if read == 0 {
            break;
        }
    }
    // The vector may have had more spare memory than was asked for.
    buffer.truncate(end);
    Ok(())
}

/// Whether every byte is zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Whole blocks are compared at once: every start reads all space that is claimed ahead.
    const ZEROS: &[u8] = &[0; 4096];
    bytes.chunks(ZEROS.len()).all(|block| ZEROS.starts_with(block))
}

/// Bytes that the file system of `path` has left for this process.
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// `n` as a length in memory. All callers have bounded it far below any machine's address space.
pub(super) fn as_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// `n` as an offset on disk.
pub(super) fn as_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
