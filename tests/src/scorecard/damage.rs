//! Every bit of a small log flipped, and the log cut at every byte: opened and read as at a start, it is refused, or
//! shows what was in it, or, where other members have it too, says that its end is missing. Never anything else.
//!
//! `tests/tests/damage.rs` does the same to real processes, for a sample: a start takes the time of a thousand of these.

use super::Form;
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::event::{EventKind, NewEvent, StoredEvents};
use rdb_proto::types::{
    Epoch, EventId, GroupId, KeyName, LogIndex, Membership, NodeId, SeatId, Seq, Side, Timestamp, Version,
};
use rdb_server::storage::{LogEvent, LogSettings, OnLogEvent, Opened, SeatLog, StorageError, Ticket};
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use tempfile::TempDir;
use uuid::Uuid;

/// How many there are in the full form.
pub const ASKED: u64 = 200_000;

const DATABASE: Uuid = Uuid::from_u128(0xdb);
const SEAT: SeatId = SeatId {
    group: GroupId(0),
    side: Side::One,
};

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Flips and cuts.
    pub tried: u64,
    /// Those after which the log was refused.
    pub refused: u64,
    /// Those after which it said that its end is missing.
    pub shortened: u64,
    /// Those that did no harm.
    pub harmless: u64,
    /// Answers that were wrong, and panics.
    pub wrong: Vec<String>,
}

/// One change of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Flip(usize, u8),
    Cut(usize),
}

/// Tries all of them, or as many as the form asks, evenly spread.
pub fn run(form: Form) -> Found {
    let specimen = Specimen::new();
    let mut all = Vec::new();
    for (file, bytes) in &specimen.files {
        if file.extension().is_some_and(|extension| extension == "log") {
            let used = bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1);
            for at in 0..used {
                all.extend((0..8).map(|bit| (file, Damage::Flip(at, bit))));
                all.push((file, Damage::Cut(at)));
            }
        }
    }
    // Each with and without other members.
    let asked = usize::try_from(form.part(ASKED)).unwrap();
    let every = (all.len() * 2 / asked).max(1);
    let mut found = Found::default();
    for (file, damage) in all.into_iter().step_by(every) {
        for is_replicated in [false, true] {
            found.tried += 1;
            let what = format!("{damage:?} of {}, replicated: {is_replicated}", file.display());
            let tried = catch_unwind(AssertUnwindSafe(|| specimen.damaged(file, damage, is_replicated)));
            match tried {
                Ok(Ok(Outcome::Refused)) => found.refused += 1,
                Ok(Ok(Outcome::Shortened)) => found.shortened += 1,
                Ok(Ok(Outcome::Harmless)) => found.harmless += 1,
                Ok(Err(wrong)) => found.wrong.push(format!("{what}: {wrong}")),
                Err(_panic) => found.wrong.push(format!("{what}: a panic")),
            }
        }
    }
    found
}

enum Outcome {
    Refused,
    Shortened,
    Harmless,
}

/// A log that was closed well, in memory.
struct Specimen {
    files: BTreeMap<PathBuf, Vec<u8>>,
    entries: Vec<Arc<Entry>>,
}

impl Specimen {
    fn new() -> Self {
        const ENTRIES: u64 = 48;
        let directory = scratch();
        let entries: Vec<Arc<Entry>> = (1..=ENTRIES).map(|n| Arc::new(entry(n))).collect();
        let (told, events) = channel();
        // Whoever listens may have gone.
        let on_event = Box::new(move |event| drop(told.send(event)));
        let (log, _) = open(directory.path(), false, on_event).unwrap();
        for (ticket, entry) in (1..).zip(&entries) {
            log.persist(Ticket(ticket), None, vec![Arc::clone(entry)]);
            while events.recv().unwrap() != LogEvent::Persisted(Ticket(ticket)) {}
        }
        log.close();
        let files = crate::files::files_below(directory.path()).into_iter();
        let name = |path: &Path| path.strip_prefix(directory.path()).unwrap().to_owned();
        Self {
            files: files
                .map(|path| (name(&path), fs::read(&path).unwrap()))
                .collect(),
            entries,
        }
    }

    fn damaged(&self, file: &Path, damage: Damage, is_replicated: bool) -> Result<Outcome, String> {
        let directory = scratch();
        for (name, bytes) in &self.files {
            let mut bytes = bytes.clone();
            if name == file {
                match damage {
                    Damage::Flip(at, bit) => bytes[at] ^= 1 << bit,
                    Damage::Cut(at) => bytes.truncate(at),
                }
            }
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        match open(directory.path(), is_replicated, Box::new(|_| {})) {
            Err(StorageError::Damaged { .. }) if !is_replicated => Ok(Outcome::Refused),
            Err(other) => Err(format!("it does not open: {other}")),
            Ok((log, opened)) => self.judge(&log, &opened),
        }
    }

    fn judge(&self, log: &SeatLog, opened: &Opened) -> Result<Outcome, String> {
        let mut cursor = log.reader().cursor_at(LogIndex(1));
        let mut read = 0;
        while let Some(block) = cursor
            .next_block(opened.last_index)
            .map_err(|error| error.to_string())?
        {
            for frame in block.frames {
                let entry = frame.decode().map_err(|error| error.to_string())?;
                if self.entries.get(read).is_none_or(|written| **written != entry) {
                    return Err(format!("it shows {entry}, which was not written there"));
                }
                read += 1;
            }
        }
        match (
            read == self.entries.len(),
            opened.damage.is_some(),
            opened.lost.is_some(),
        ) {
            (true, false, false) => Ok(Outcome::Harmless),
            (false, true, true) => Ok(Outcome::Shortened),
            _ => Err(format!(
                "it shows {read} of {} entries, and says {opened:?}",
                self.entries.len()
            )),
        }
    }
}

fn open(
    directory: &Path,
    is_replicated: bool,
    on_event: OnLogEvent,
) -> Result<(SeatLog, Opened), StorageError> {
    let settings = LogSettings {
        segment_bytes: 4096,
        ahead_bytes: 0,
        keep_free_bytes: 0,
        is_replicated,
    };
    SeatLog::open(directory, DATABASE, SEAT, settings, on_event)
}

/// In memory where there is such: nothing here is about the disk.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.unwrap()
}

fn entry(n: u64) -> Entry {
    let body = if n == 1 {
        EntryBody::EpochStart(Membership {
            number: 1,
            members: vec![NodeId(5)],
            previous: Vec::new(),
        })
    } else {
        let event = NewEvent {
            kind: EventKind::Write,
            event_type: "placed".to_owned(),
            tags: Vec::new(),
            meta: BTreeMap::new(),
            payload: format!("payload of event {n}, which is a little longer than its number")
                .repeat(2)
                .into(),
            event_id: EventId(Uuid::from_u128(u128::from(n))),
        };
        let name = KeyName::new("shop", &format!("orders/{}", n % 7)).unwrap();
        let events = StoredEvents::number(name, Seq(n), Version(n), Timestamp(n), vec![event]);
        EntryBody::Events(Arc::new(events.unwrap()))
    };
    Entry {
        index: LogIndex(n),
        epoch: Epoch {
            number: 1,
            node: NodeId(5),
        },
        body,
    }
}
