//! Reads that may wait for a disk, on threads that run other tasks too.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Reads, while the tasks that share the thread go on elsewhere: a cold disk must not hold up a write's answer.
///
/// A runtime of one thread, as in tests, has no elsewhere.
pub fn read<T>(read: impl FnOnce() -> T) -> T {
    let has_elsewhere =
        Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if has_elsewhere {
        tokio::task::block_in_place(read)
    } else {
        read()
    }
}
