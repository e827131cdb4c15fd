//! The only way to end the process: says what broke, where, what is safe and what to do next.
//!
//! Called for what must not be survived: a failed write or sync (whose pages the kernel may already have dropped,
//! so that a second try would lie) and a broken invariant. Nothing here returns.

use std::fmt;

/// What the process ends with, as sysexits numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// A broken invariant (`EX_SOFTWARE`).
    Invariant,
    /// A failed write or sync, or files that are not what they should be (`EX_IOERR`).
    Storage,
    /// Settings that cannot be used (`EX_CONFIG`).
    Settings,
}

impl Exit {
    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Invariant => 70,
            Self::Storage => 74,
            Self::Settings => 78,
        }
    }
}

/// What the person who runs the server reads.
#[derive(Clone, Copy)]
pub struct Report<'a> {
    /// What broke.
    pub what: &'a dyn fmt::Display,
    /// Where: file and offset, or the rule.
    pub place: &'a dyn fmt::Display,
    /// What is safe.
    pub safe: &'a str,
    /// What to do next.
    pub next: &'a str,
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "fatal: {}", self.what)?;
        writeln!(f, "  where: {}", self.place)?;
        writeln!(f, "  safe:  {}", self.safe)?;
        write!(f, "  next:  {}", self.next)
    }
}

/// Ends the process after a failed write or sync.
pub fn io(report: &Report<'_>) -> ! {
    end(report, Exit::Storage)
}

/// Ends the process after a broken invariant.
pub fn invariant(report: &Report<'_>) -> ! {
    end(report, Exit::Invariant)
}

/// Makes a panic on any thread end the process: what a panic left half changed must not be used again.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("a panic without a message");
        let place: &dyn fmt::Display = match panic.location() {
            Some(location) => location,
            None => &"unknown",
        };
        invariant(&Report {
            what: &message,
            place,
            safe: "every acknowledged event is on disk, and nothing was acknowledged after the failure",
            next: "please report this with the lines before it, then start the server again",
        })
    }));
}

/// In unit tests a panic takes the place of the exit, so that a test can watch it happen.
#[cfg(test)]
fn end(report: &Report<'_>, exit: Exit) -> ! {
    panic!("exit {}: {report}", exit.code())
}

#[cfg(not(test))]
#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "this is the one place that ends the process"
)]
fn end(report: &Report<'_>, exit: Exit) -> ! {
    use std::io::Write as _;

    // A closed stderr must not keep the process alive.
    drop(writeln!(std::io::stderr(), "{report}"));
    std::process::exit(exit.code().into())
}
