//! Libraries that stand between a program and its machine: compiled by the system's C compiler, loaded before the program.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// Compiles the source of such a library.
///
/// # Errors
/// When there is no C compiler, or it does not compile.
pub fn compile(source: &str, library: &Path) -> io::Result<()> {
    let mut compiling = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-x", "c", "-", "-o"])
        .arg(library)
        .stdin(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = compiling.stdin.take() {
        stdin.write_all(source.as_bytes())?;
    }
    let compiled = compiling.wait()?;
    if compiled.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("cc: {compiled}")))
    }
}
