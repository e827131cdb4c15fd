//! Work that blocks and is done in order, off the tasks: each by a thread of its own. In a simulation, which has one
//! thread, a task does it after a moment of simulated time.

use crate::clock;
use crate::fatal::{self, Report};
use rdb_proto::simulation;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// Most that a simulated worker waits before it begins, as a disk would let it wait.
const SIMULATED_DELAY_US: u64 = 4_000;

/// What a worker does.
pub trait Work<T>: Send + 'static {
    /// Does what was handed over, and as much of what waits behind it (`more`) as is done better together.
    fn perform(&mut self, first: T, more: &mut dyn FnMut() -> Option<T>);

    /// How long nothing may come before [`Work::rest`]; `None` when there is nothing to do then.
    fn rests_after(&self) -> Option<Duration> {
        None
    }

    /// Nothing came for a while.
    fn rest(&mut self) {}

    /// Everything was done, and nothing more will come.
    fn end(&mut self) {}
}

/// The way to a worker. When it is dropped, the worker does what waits and ends; in a simulation, where that is how a
/// process dies, it drops what waits.
pub struct Worker<T>(Kind<T>);

enum Kind<T> {
    /// The sender is gone once the thread is to end.
    Thread(Option<SyncSender<T>>, Option<JoinHandle<()>>),
    Task(
        Arc<Desk<T>>,
        #[expect(dead_code, reason = "ends with the handle")] AbortOnDropHandle<()>,
    ),
}

impl<T> fmt::Debug for Worker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Worker<T> {
    /// Starts one, for which at most `capacity` wait.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn start(name: String, capacity: usize, work: impl Work<T>) -> io::Result<Self> {
        if simulation::world().is_some() {
            return Ok(Self::simulated(work));
        }
        let (sender, receiver) = sync_channel(capacity);
        let thread = start(name, move || run(work, &receiver))?;
        Ok(Self(Kind::Thread(Some(sender), Some(thread))))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "in place of a thread, and it ends with its handle"
    )]
    fn simulated(work: impl Work<T>) -> Self {
        let desk = Arc::new(Desk {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                work: Box::new(work),
            }),
            handed_over: Notify::new(),
        });
        let task = tokio::spawn(simulate(Arc::clone(&desk)));
        Self(Kind::Task(desk, AbortOnDropHandle::new(task)))
    }

    /// Hands work over. False when the worker has ended, which only a panic makes it do.
    ///
    /// **Blocking**: only when as many wait as may.
    pub fn hand_over(&self, work: T) -> bool {
        match &self.0 {
            Kind::Thread(sender, _) => sender.as_ref().is_some_and(|sender| sender.send(work).is_ok()),
            Kind::Task(desk, _) => {
                desk.state().waiting.push_back(work);
                desk.handed_over.notify_one();
                true
            }
        }
    }

    /// Whether a panic ended it.
    #[cfg(test)]
    pub fn has_ended(&self) -> bool {
        matches!(&self.0, Kind::Thread(_, Some(thread)) if thread.is_finished())
    }

    /// Has everything done that was handed over, and ends the worker.
    ///
    /// **Blocking**: until then.
    pub fn finish(self) {
        if let Kind::Task(desk, _) = &self.0 {
            let mut state = desk.state();
            state.perform_all();
            state.work.end();
        }
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        if let Kind::Thread(sender, thread) = &mut self.0 {
            drop(sender.take());
            // A panic was reported where it happened.
            drop(thread.take().map(JoinHandle::join));
        }
    }
}

/// Starts a thread. A panic in it is a broken invariant, and nothing goes on without it.
///
/// # Errors
/// When the system starts none.
pub fn start(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let place = name.clone();
    Builder::new().name(name).spawn(move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            fatal::invariant(&Report {
                what: &text.unwrap_or("a thread panicked"),
                place: &place,
                safe: "every acknowledged event is on disk",
                next: "start the server again, and report this with its trace",
            });
        }
    })
}

/// A worker's thread.
fn run<T>(mut work: impl Work<T>, waiting: &Receiver<T>) {
    while let Some(first) = receive(&mut work, waiting) {
        work.perform(first, &mut || waiting.try_recv().ok());
    }
    work.end();
}

fn receive<T>(work: &mut impl Work<T>, waiting: &Receiver<T>) -> Option<T> {
    if let Some(limit) = work.rests_after() {
        match waiting.recv_timeout(limit) {
            Ok(next) => return Some(next),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => work.rest(),
        }
    }
    waiting.recv().ok()
}

/// Where work waits for a simulated worker.
struct Desk<T> {
    state: Mutex<State<T>>,
    handed_over: Notify,
}

struct State<T> {
    waiting: VecDeque<T>,
    work: Box<dyn Work<T>>,
}

impl<T: 'static> Desk<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: 'static> State<T> {
    fn perform_all(&mut self) {
        while let Some(first) = self.waiting.pop_front() {
            self.work.perform(first, &mut || self.waiting.pop_front());
        }
    }
}

/// A simulated worker's task.
#[expect(clippy::infinite_loop, reason = "it is aborted with its handle")]
async fn simulate<T: 'static>(desk: Arc<Desk<T>>) {
    loop {
        let limit = desk.state().work.rests_after();
        let limit = limit.unwrap_or(Duration::MAX);
        if clock::within(limit, desk.handed_over.notified()).await.is_none() {
            desk.state().work.rest();
            continue;
        }
        clock::sleep(Duration::from_micros(clock::random_u64() % SIMULATED_DELAY_US)).await;
        desk.state().perform_all();
    }
}
