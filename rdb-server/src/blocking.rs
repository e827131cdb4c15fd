//! What may wait for a disk, beside tasks that must not.

use rdb_proto::simulation;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinError;

/// Reads, while the tasks that share the thread go on elsewhere: a cold disk must not hold up a write's answer.
///
/// A runtime of one thread, as in tests and simulations, has no elsewhere.
pub fn read<T>(read: impl FnOnce() -> T) -> T {
    let has_elsewhere =
        Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if has_elsewhere {
        tokio::task::block_in_place(read)
    } else {
        read()
    }
}

/// Does what may take long, on a thread for such work; in a simulation at once.
///
/// # Errors
/// A panic there.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    if simulation::world().is_some() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}
