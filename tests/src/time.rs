//! Deadlines. No case waits for a fixed time; a deadline is reached only when something is broken.
#![expect(
    clippy::disallowed_methods,
    reason = "the harness measures real processes in real time"
)]

use std::pin::Pin;
use std::time::Duration;
use tokio::time::Instant;

/// Longest wait for anything that a healthy node does at once. Generous, since the machine may be busy.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A future on the heap: the calls of a gRPC client are large.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Waits for `future` for as long as [`PATIENCE`] allows.
///
/// # Panics
/// When it takes longer; `what` stands in the message.
pub fn soon<'a, T>(what: &'a str, future: impl Future<Output = T> + Send + 'a) -> Boxed<'a, T> {
    within(PATIENCE, what, future)
}

/// Waits for `future` for at most `limit`.
///
/// # Panics
/// When it takes longer; `what` stands in the message.
pub fn within<'a, T>(
    limit: Duration,
    what: &'a str,
    future: impl Future<Output = T> + Send + 'a,
) -> Boxed<'a, T> {
    let finished = tokio::time::timeout(limit, future);
    Box::pin(async move {
        finished
            .await
            .unwrap_or_else(|_late| panic!("waited {limit:?} for {what}"))
    })
}

/// Waits for `future` for at most `limit`; `None` when it takes longer.
pub fn maybe<'a, T>(limit: Duration, future: impl Future<Output = T> + Send + 'a) -> Boxed<'a, Option<T>> {
    let finished = tokio::time::timeout(limit, future);
    Box::pin(async move { finished.await.ok() })
}

/// A short wait between two looks at something that cannot tell when it changes, such as another program's state.
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// What a patient client waits before it asks again.
pub async fn retry_pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// Measures how long something takes.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}
