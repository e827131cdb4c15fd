//! What the machine does to a case: limits of time are judged only where it was there.
#![expect(
    clippy::disallowed_methods,
    reason = "it measures the machine, so it waits and looks at the clock as the machine does"
)]

use crate::say;
use std::fs::File;
use std::io::{Result, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A machine that stands still for this part of a limit is too busy to judge by the limit: what is judged takes several
/// steps, and each of them may meet such a moment.
const SHARE: u32 = 10;

/// Watches, from a thread of its own, how late a short wait ends and how long a few bytes take to the disk.
#[derive(Debug)]
pub struct Machine {
    worst_us: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

impl Machine {
    /// Watches from now on, until it is dropped.
    pub fn watch() -> Self {
        let (worst_us, is_over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (worst, over) = (Arc::clone(&worst_us), Arc::clone(&is_over));
        thread::spawn(move || look(&worst, &over).unwrap());
        Self { worst_us, is_over }
    }

    /// For how long the machine stood still, at most.
    pub fn worst(&self) -> Duration {
        Duration::from_micros(self.worst_us.load(Ordering::Relaxed))
    }

    /// Whether it stood still for so long that what is done within `limit` on a machine that is there may take longer.
    ///
    /// Says so, and of what it cannot be judged.
    pub fn is_too_busy(&self, what: &str, limit: Duration) -> bool {
        let worst = self.worst();
        let is_too_busy = worst >= limit / SHARE;
        if is_too_busy {
            say(&format!(
                "not judged: {what}, on a machine that stood still for {worst:?}"
            ));
        }
        is_too_busy
    }

    /// Something took so long, and must take less than `limit` on a machine that has time for it.
    ///
    /// # Panics
    /// When it took longer, though the machine was there.
    pub fn judge(&self, what: &str, took: Duration, limit: Duration) {
        if took < limit {
            return;
        }
        let found = format!("{what} took {took:?}, not less than {limit:?}");
        assert!(
            self.is_too_busy(&found, limit),
            "{found}; the machine stood still for {:?} at most",
            self.worst()
        );
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn look(worst_us: &AtomicU64, is_over: &AtomicBool) -> Result<()> {
    let mut file: File = tempfile::tempfile()?;
    while !is_over.load(Ordering::Relaxed) {
        let since = Instant::now();
        thread::sleep(LOOK_EVERY);
        file.write_all(b"here")?;
        file.sync_data()?;
        let late = since.elapsed().saturating_sub(LOOK_EVERY);
        let late = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        worst_us.fetch_max(late, Ordering::Relaxed);
    }
    Ok(())
}
