//! The only place that starts tasks: each has an owner, and ends with it.

use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};

/// A running task. Dropping it stops the task.
#[derive(Debug)]
pub struct Task<T>(JoinHandle<T>);

/// Starts `work` on the runtime.
pub fn spawn<F>(work: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "this is tasks.rs")]
    Task(tokio::spawn(work))
}

/// Starts `work` on another runtime, or the same.
pub(crate) fn spawn_on<F>(runtime: &Handle, work: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Task(runtime.spawn(work))
}

impl<T> Future for Task<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
