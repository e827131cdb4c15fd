//! What stands between a node and its machine, so that the machine can be told to misbehave while the node runs: one write or
//! sync of its files fails, or its clock is off.
//!
//! What goes around the C library never fails here: claims of room (`fallocate`), names of files, and what sled writes back
//! early (`sync_file_range`).

use crate::preload::compile;
use crate::process::Settings;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The library that nodes begin with.
#[derive(Debug)]
pub struct Library(TempDir);

impl Library {
    /// Compiles it.
    ///
    /// # Errors
    /// When there is no C compiler, or it does not compile.
    pub fn new() -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("rdb-shim-").tempdir()?;
        let library = Self(directory);
        compile(include_str!("shim.c"), &library.path())?;
        Ok(library)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("shim.so")
    }
}

/// What stands before one node. The node may end and start again: it counts on.
#[derive(Debug)]
pub struct Shim {
    file: File,
    path: PathBuf,
}

/// Numbers of the file, as `shim.c` has them.
const CLOCK: u64 = 0;
const FAIL_AT: u64 = 1;
const ERROR: u64 = 2;
const CALLS: u64 = 3;
const FAILED: u64 = 4;
const LOOKS: u64 = 5;
const NUMBERS: u64 = 6;

const NUMBER_BYTES: u64 = 8;

impl Shim {
    /// One that does nothing yet; what it is told stands in this file.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        file.set_len(NUMBERS * NUMBER_BYTES)?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Has it stand before a node.
    #[must_use]
    pub fn before(&self, settings: Settings, library: &Library) -> Settings {
        settings
            .with("LD_PRELOAD", &library.path().to_string_lossy())
            .with("RDB_SHIM", &self.path.to_string_lossy())
    }

    /// The write or sync after so many others fails, once; with 0 the next.
    pub fn fail_after(&self, calls: i64, error: Errno) {
        self.tell(ERROR, i64::from(error.raw_os_error()));
        self.tell(FAIL_AT, self.calls() + calls + 1);
    }

    /// No more call fails.
    pub fn fail_no_more(&self) {
        self.tell(FAIL_AT, 0);
    }

    /// Writes and syncs so far.
    pub fn calls(&self) -> i64 {
        self.told(CALLS)
    }

    /// How many of them failed because it was told so.
    pub fn failed(&self) -> i64 {
        self.told(FAILED)
    }

    /// The node sees another time of day from now on: later by so much, or earlier.
    pub fn set_clock(&self, later: Duration, earlier: Duration) {
        let us = |time: Duration| i64::try_from(time.as_micros()).expect("it is less than millennia");
        self.tell(CLOCK, us(later) - us(earlier));
    }

    /// How often the node has seen a time of day that is off.
    pub fn looks(&self) -> i64 {
        self.told(LOOKS)
    }

    fn tell(&self, number: u64, value: i64) {
        let told = self
            .file
            .write_all_at(&value.to_ne_bytes(), number * NUMBER_BYTES);
        told.expect("a small file can be written");
    }

    fn told(&self, number: u64) -> i64 {
        let mut value = [0; 8];
        let read = self.file.read_exact_at(&mut value, number * NUMBER_BYTES);
        read.expect("a small file can be read");
        i64::from_ne_bytes(value)
    }
}
