//! A disk on which one write or sync fails: each of 200 calls of a node at work, with each error. Whatever the node does then,
//! what it acknowledged is there when it starts again, once, and nothing that nobody wrote.
//!
//! A sync that failed and was taken for done is not noticed here: what it was to sync outlives the process.

use crate::process::{Node, Settings};
use crate::say;
use crate::shim::{Library, Shim};
use crate::time::{pause, soon};
use crate::wire::Api;
use rdb_proto::event::Event;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

/// How many there are in the full form: 200 calls, with two errors.
pub const ASKED: u64 = 400;

const CALLS: u64 = ASKED / 2;

/// Writes before a call may fail: a node that has just started makes room on its disk first, with many calls.
const WRITES_BEFORE: u64 = 10;

/// It has made room when it made no call for so many looks.
const LOOKS: u32 = 5;

/// Writes that are tried at most until the call comes that fails …
const WRITES_MAX: u64 = 2_000;

/// … and after it.
const WRITES_AFTER: u64 = 5;

/// How long a node may go on that does not end by itself.
const GRACE: Duration = Duration::from_millis(300);

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Calls that failed, one in the life of a node.
    pub tried: u64,
    /// Nodes that ended by themselves; the others went on, and were killed.
    pub ended: u64,
    /// Acknowledged events that are not there.
    pub lost: u64,
    /// Events that are there twice, or that nobody wrote.
    pub strange: u64,
    /// Nodes that did not start again.
    pub refused: u64,
}

/// Lets so many of the calls fail, evenly spread, each of another node.
///
/// # Errors
/// When there is no C compiler.
pub async fn run(asked: u64) -> io::Result<Found> {
    let library = Library::new()?;
    let mut found = Found::default();
    // Odd, so that writes and syncs, which alternate, both fail.
    let step = (ASKED / asked.max(1)) | 1;
    for n in (0..asked).map(|n| n * step % ASKED) {
        let error = if n < CALLS { Errno::IO } else { Errno::NOSPC };
        one(n % CALLS, error, &library, &mut found).await;
    }
    Ok(found)
}

/// One node, whose disk fails once, after so many calls.
async fn one(calls: u64, error: Errno, library: &Library, found: &mut Found) {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings::new(&directory.path().join("data"));
    let shim = Shim::new(&directory.path().join("shim")).unwrap();
    let node = shim.before(settings.clone(), library).start().await;
    let told = work(&node, &shim, calls, error).await;
    assert_eq!(shim.failed(), 1, "a call failed, after {calls}");
    found.tried += 1;
    found.ended += u64::from(node.ends_within(GRACE).await.is_some());
    match settings.try_start().await {
        Ok(node) => {
            let events = node.api().await.events_after(0).await.unwrap();
            told.judge(&events, found);
            node.stop().await;
        }
        Err(ended) => {
            say(&format!("{error} after {calls} calls: {}", ended.log));
            found.refused += 1;
        }
    }
}

/// Writes until the call fails, and a little longer.
async fn work(node: &Node, shim: &Shim, calls: u64, error: Errno) -> Told {
    let mut api = node.api().await;
    let mut told = Told::default();
    while told.sent < WRITES_BEFORE {
        assert!(told.write(&mut api).await, "nothing fails yet");
    }
    until_at_rest(shim).await;
    shim.fail_after(i64::try_from(calls).unwrap(), error);
    let mut after = 0;
    while told.sent < WRITES_MAX && after < WRITES_AFTER {
        let is_done = told.write(&mut api).await;
        after += u64::from(shim.failed() > 0 || !is_done);
    }
    told
}

/// Waits until a node that nobody asks anything makes no calls.
async fn until_at_rest(shim: &Shim) {
    let resting = async {
        let (mut calls, mut looks) = (shim.calls(), 0);
        while looks < LOOKS {
            pause().await;
            let now = shim.calls();
            looks = if now == calls { looks + 1 } else { 0 };
            calls = now;
        }
    };
    soon("a disk at rest", resting).await;
}

/// What a client sent, and was told.
#[derive(Debug, Default)]
struct Told {
    sent: u64,
    /// The numbers that it sent, by the seqs that it was told.
    acknowledged: BTreeMap<u64, String>,
}

impl Told {
    /// Writes an event; whether it was acknowledged. Otherwise the node has ended, or refuses, and nobody knows.
    async fn write(&mut self, api: &mut Api) -> bool {
        let payload = self.sent.to_string();
        self.sent += 1;
        let answer = api.write(&format!("k{}", self.sent % 7), &payload).await;
        answer
            .map(|result| self.acknowledged.insert(result.seq, payload))
            .is_ok()
    }

    fn judge(&self, events: &[Event], found: &mut Found) {
        let stored: BTreeMap<u64, String> = events
            .iter()
            .map(|event| {
                (
                    event.seq.get(),
                    String::from_utf8_lossy(&event.payload).into_owned(),
                )
            })
            .collect();
        let is_lost = |(seq, sent): &(&u64, &String)| stored.get(*seq) != Some(*sent);
        let lost = self.acknowledged.iter().filter(is_lost).count();
        let sent: BTreeSet<String> = (0..self.sent).map(|n| n.to_string()).collect();
        let known: BTreeSet<&String> = stored
            .values()
            .filter(|payload| sent.contains(*payload))
            .collect();
        found.lost += u64::try_from(lost).unwrap();
        found.strange += u64::try_from(events.len() - known.len()).unwrap();
    }
}
