//! What makes a run the same each time: it begins in a process whose entropy and clock follow from the seed, without the
//! environment of whoever starts it.

use crate::preload::compile;
use std::io;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// In the environment of a process whose entropy was taken away.
const SEED: &str = "RDB_WHOLE_SEED";
/// Name of the library that stands in for the system's entropy and clock.
const LIBRARY: &str = "entropy.so";
/// Files there are in memory, where the system has such a place.
const MEMORY: &str = "/dev/shm";

/// Where runs are: the library that they begin with, and their files. Removed when it is dropped, also the files of a
/// run that was ended.
#[derive(Debug)]
pub struct Place {
    files: TempDir,
    // In a directory of its own: nothing can be loaded from some places in memory.
    library: TempDir,
}

impl Place {
    /// Compiles the library that stands in for the system's entropy and clock.
    ///
    /// # Errors
    /// When there is no C compiler, or it does not compile.
    pub fn new() -> io::Result<Self> {
        let builder = || tempfile::Builder::new().prefix("rdb-whole-").to_owned();
        let in_memory = builder().tempdir_in(MEMORY);
        let files = in_memory.or_else(|_none| builder().tempdir())?;
        let library = builder().tempdir()?;
        compile(include_str!("entropy.c"), &library.path().join(LIBRARY))?;
        Ok(Self { files, library })
    }

    /// A program in a process that is the same each time.
    pub fn command(&self, program: &Path, seed: u64) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("LD_PRELOAD", self.library.path().join(LIBRARY))
            .env("TMPDIR", self.files.path())
            .env(SEED, seed.to_string());
        command
    }
}

/// Whether this process is one that is the same each time.
pub fn is_same_each_time() -> bool {
    std::env::var_os(SEED).is_some()
}
