//! A disk on which one write or sync fails: each of the first calls of a node, with each error. Whatever the node does then,
//! what it acknowledged is there when it starts again, once, and nothing that nobody wrote.

use crate::process::{Node, Settings};
use crate::say;
use crate::shim::{Library, Shim};
use crate::wire::Api;
use rdb_proto::event::Event;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

/// How many there are in the full form: the first 200 calls, with two errors.
pub const ASKED: u64 = 400;

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
    for n in 0..asked {
        let call = n * ASKED / asked / 2;
        let error = if n % 2 == 0 { Errno::IO } else { Errno::NOSPC };
        one(call, error, &library, &mut found).await;
    }
    Ok(found)
}

/// One node, whose disk fails once, after so many calls.
async fn one(calls: u64, error: Errno, library: &Library, found: &mut Found) {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings::new(&directory.path().join("data"));
    let shim = Shim::new(&directory.path().join("shim")).unwrap();
    shim.fail_after(i64::try_from(calls).unwrap(), error);
    let mut told = Told::default();
    let has_ended = match shim.before(settings.clone(), library).try_start().await {
        Ok(node) => {
            told = write(&node, &shim).await;
            node.ends_within(GRACE).await.is_some()
        }
        Err(_ended) => true,
    };
    assert_eq!(shim.failed(), 1, "a call failed, after {calls}");
    found.tried += 1;
    found.ended += u64::from(has_ended);
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

/// What a client sent, and was told.
#[derive(Debug, Default)]
struct Told {
    sent: u64,
    /// The numbers that it sent, by the seqs that it was told.
    acknowledged: BTreeMap<u64, String>,
}

impl Told {
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

/// Writes one event after the other until a call has failed, and a few more.
async fn write(node: &Node, shim: &Shim) -> Told {
    let mut told = Told::default();
    let Ok(mut api) = Api::try_connect(node.grpc).await else {
        return told;
    };
    let mut after = 0;
    while told.sent < WRITES_MAX && after < WRITES_AFTER {
        after += u64::from(shim.failed() > 0);
        let payload = told.sent.to_string();
        told.sent += 1;
        match api.write(&format!("k{}", told.sent % 7), &payload).await {
            Ok(result) => drop(told.acknowledged.insert(result.seq, payload)),
            // It has ended, or refuses: whether it wrote is not known.
            Err(_refusal) => after += 1,
        }
    }
    told
}
