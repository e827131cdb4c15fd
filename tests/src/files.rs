//! Files of a data directory.

use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A new directory: one that goes when it is dropped, or one below `within`, which stays for as long as that does.
pub fn scratch(within: Option<&Path>) -> TempDir {
    let made = match within {
        Some(within) => tempfile::Builder::new().disable_cleanup(true).tempdir_in(within),
        None => tempfile::tempdir(),
    };
    made.unwrap()
}

/// All files below a directory, ascending.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The segments of all logs of a data directory, ascending.
pub fn log_segments(data_dir: &Path) -> Vec<PathBuf> {
    let mut found = files_below(&data_dir.join("seats"));
    found.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    found
}
