//! Keeps a seat's key index up with its commit index, by a worker of its own: the index is derived from the log,
//! so nothing that a client waits for waits here (except a read, which must see what was committed before it).

use crate::clock;
use crate::fatal::{self, Report};
use crate::limits::{INDEX_BATCH_ENTRIES_MAX, INDEX_LAG_ENTRIES_MAX};
use crate::storage::{KeyIndex, LogReader, StorageError, catch_up};
use crate::workers::{Work, Worker};
use rdb_proto::entry::Entry;
use rdb_proto::types::{LogIndex, SeatId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// A catch-up from the log that takes longer than this shows its progress.
const QUIET_CATCH_UP: Duration = Duration::from_secs(1);

/// What became committed: everything up to `upto`, of which the end may come along.
#[derive(Debug)]
pub(super) struct Committed {
    /// Last committed index.
    pub(super) upto: LogIndex,
    /// Committed entries that are at hand, dense, ending in `upto`; those before them are read from the log.
    pub(super) entries: Vec<Arc<Entry>>,
}

/// The seat's side of its indexer.
#[derive(Debug)]
pub(super) struct Indexer {
    worker: Worker<Committed>,
    applied: watch::Receiver<LogIndex>,
    stopping: Arc<AtomicBool>,
}

impl Indexer {
    /// Starts the worker.
    pub(super) fn start(seat: SeatId, log: LogReader, index: Arc<dyn KeyIndex>) -> std::io::Result<Self> {
        // One message a commit, of at least one entry: admission keeps fewer than this many from piling up.
        let capacity = usize::try_from(INDEX_LAG_ENTRIES_MAX)
            .unwrap_or(usize::MAX)
            .saturating_mul(2);
        let published = watch::Sender::new(index.applied());
        let applied = published.subscribe();
        let stopping = Arc::new(AtomicBool::new(false));
        let indexing = Indexing {
            seat,
            log,
            index,
            published,
            stopping: Arc::clone(&stopping),
        };
        Ok(Self {
            worker: Worker::start(format!("index-{seat}"), capacity, indexing)?,
            applied,
            stopping,
        })
    }

    /// Follows the last applied index.
    pub(super) fn applied(&self) -> watch::Receiver<LogIndex> {
        self.applied.clone()
    }

    /// Hands committed entries over. Blocks only when the seat let far more pile up than it admits.
    pub(super) fn hand_over(&self, committed: Committed) {
        // The worker ends before this handle only by a panic, which ends the process.
        self.worker.hand_over(committed);
    }

    /// Ends the worker after the batch that it is at: what is not applied then is caught up at the next start.
    pub(super) fn finish(self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.worker.finish();
    }
}

struct Indexing {
    seat: SeatId,
    log: LogReader,
    index: Arc<dyn KeyIndex>,
    published: watch::Sender<LogIndex>,
    stopping: Arc<AtomicBool>,
}

impl Work<Committed> for Indexing {
    fn perform(&mut self, first: Committed, more: &mut dyn FnMut() -> Option<Committed>) {
        let Committed {
            mut upto,
            mut entries,
        } = first;
        if self.is_stopping() {
            return;
        }
        while entries.len() < INDEX_BATCH_ENTRIES_MAX {
            let Some(next) = more() else { break };
            upto = next.upto;
            entries.extend(next.entries);
        }
        if let Err(error) = self.apply(upto, &entries) {
            fatal::io(&Report {
                what: &error,
                place: &format_args!("key index of seat {}", self.seat),
                safe: "every acknowledged event is in the log; the index is derived from it",
                next: "look at the disk, then start the server again: it rebuilds an index it cannot trust",
            });
        }
        self.published.send_replace(self.index.applied());
    }
}

impl Indexing {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn apply(&self, upto: LogIndex, entries: &[Arc<Entry>]) -> Result<(), StorageError> {
        let at_hand_from = entries.first().map_or_else(|| upto.next(), |entry| entry.index);
        if self.index.applied().next() < at_hand_from {
            self.catch_up(at_hand_from.previous())?;
        }
        if self.index.applied().next() < at_hand_from {
            return Ok(());
        }
        // After a catch-up or a restart the index may know some of them already.
        let applied = self.index.applied();
        let known = entries.partition_point(|entry| entry.index <= applied);
        self.index.apply(entries.get(known..).unwrap_or_default())
    }

    /// Applies entries from the log, up to and with `upto`.
    fn catch_up(&self, upto: LogIndex) -> Result<(), StorageError> {
        let from = self.index.applied();
        let began = clock::monotonic();
        let mut said = began;
        catch_up(&*self.index, &self.log, upto, &mut |progress| {
            let now = clock::monotonic();
            if now.saturating_duration_since(said) >= QUIET_CATCH_UP {
                said = now;
                let (done, of) = (progress.applied.since(from), progress.target.since(from));
                tracing::info!(seat = %self.seat, done, of, "building the key index from the log");
            }
        })?;
        let took = clock::monotonic().saturating_duration_since(began);
        if took > QUIET_CATCH_UP {
            tracing::info!(seat = %self.seat, entries = upto.since(from), ?took, "key index built");
        }
        Ok(())
    }
}
