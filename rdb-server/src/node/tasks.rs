//! Every task of the node, owned: none outlives the node, and stopping waits for each.

use std::future::Future;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The node's tasks and the word to stop.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Tasks {
    /// Runs a task until it ends by itself; it should end soon after [`Tasks::stopping`].
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // The handle is not needed: the tracker counts the task, and a panic ends the process (`fatal`).
        drop(self.tracker.spawn(task));
    }

    /// For a room that owns its tasks itself: where they are counted, and what tells them to stop.
    pub fn parts(&self) -> (TaskTracker, CancellationToken) {
        (self.tracker.clone(), self.stopping.clone())
    }

    /// Completes when the node begins to stop.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stopping.clone().cancelled_owned()
    }

    /// Whether the node is stopping.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Tells every task to stop.
    pub fn stop(&self) {
        self.stopping.cancel();
        self.tracker.close();
    }

    /// Waits until every task has ended. Call [`Tasks::stop`] first.
    pub async fn ended(&self) {
        self.tracker.wait().await;
    }
}
