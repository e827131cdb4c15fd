//! Gives out the times at which requests are meant to begin.
//!
//! A thread of its own: the runtime's timer counts in whole milliseconds, which is longer than a request takes.

use rdb_client::clock;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Times that wait to be taken, for each client. When it is full the pacer waits, and its times still stand.
const WAITING_MAX: usize = 1 << 16;

/// A running pacer; it ends when nobody takes its times.
#[derive(Debug)]
pub(crate) struct Pacer {
    thread: JoinHandle<()>,
}

impl Pacer {
    /// Starts giving `rate` times a second, in turn to each of `clients` receivers.
    pub(crate) fn start(rate: u32, clients: u32) -> (Self, Vec<mpsc::Receiver<Instant>>) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..clients).map(|_| mpsc::channel(WAITING_MAX)).unzip();
        let interval = Duration::from_secs(1) / rate.max(1);
        let thread = thread::spawn(move || give(&senders, interval));
        (Self { thread }, receivers)
    }

    /// Ends it, once the receivers are gone.
    pub(crate) fn finish(self) {
        if self.thread.join().is_err() {
            tracing::error!("the pacer failed");
        }
    }
}

fn give(senders: &[mpsc::Sender<Instant>], interval: Duration) {
    let mut next = clock::now();
    loop {
        for sender in senders {
            loop {
                let wait = next.saturating_duration_since(clock::now());
                if wait.is_zero() {
                    break;
                }
                thread::park_timeout(wait);
            }
            if sender.blocking_send(next).is_err() {
                return;
            }
            next += interval;
        }
    }
}
