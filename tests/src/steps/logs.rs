//! Logs as readers read them: blocks of one, and several as the one sequence of the change stream.

use super::Run;
use super::codec::{EPOCH, stored};
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::types::{GroupId, LogIndex, Membership, SeatId, Seq, Side};
use rdb_server::cdc::merge::Merged;
use rdb_server::cdc::{Bound, Filter, Marks, Merge, SeatSource, Selection};
use rdb_server::limits::STREAM_MESSAGE_BYTES;
use rdb_server::storage::{LogEvent, LogSettings, MemoryIndex, SeatLog, Ticket};
use std::hint::black_box;
use std::sync::{Arc, mpsc};
use tempfile::TempDir;
use tokio::sync::watch;
use uuid::Uuid;

/// Events of each log, one an entry.
pub(super) const EVENTS: usize = 500;

/// The logs of a group's two seats, whose events take turns.
struct Logs {
    seats: Vec<SeatLog>,
    marks: Arc<Marks>,
    last_seq: Seq,
    /// Goes last: what is claimed ahead is claimed in it.
    _directory: TempDir,
}

impl Logs {
    fn written() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let marks = Arc::new(Marks::new(2));
        let count = u64::try_from(EVENTS).unwrap();
        let settings = LogSettings {
            segment_bytes: 4 << 20,
            ahead_bytes: 1 << 20,
            ..LogSettings::default()
        };
        let seats = (0..).zip(Side::BOTH).map(|(position, side)| {
            let seat = SeatId {
                group: GroupId(0),
                side,
            };
            let (report, reports) = mpsc::sync_channel(8);
            let on_event = Box::new(move |event| {
                if matches!(event, LogEvent::Persisted(_)) {
                    report.send(()).unwrap();
                }
            });
            let path = directory.path().join(seat.to_string());
            let (log, _) =
                SeatLog::open(&path, Uuid::from_u128(1), seat, settings.clone(), on_event).unwrap();
            log.promise(EPOCH, 1);
            let start = EntryBody::EpochStart(Membership::default());
            let events = (0..count).map(|n| EntryBody::Events(Arc::new(stored(2 * n + position + 1, 1))));
            let entries: Vec<_> = (1..)
                .map(LogIndex)
                .zip([start].into_iter().chain(events))
                .map(|(index, body)| {
                    Arc::new(Entry {
                        index,
                        epoch: EPOCH,
                        body,
                    })
                })
                .collect();
            let last = entries.last().unwrap().index;
            log.persist(Ticket(1), None, entries);
            reports.recv().unwrap();
            marks.commit(usize::try_from(position).unwrap(), last);
            log
        });
        let seats = seats.collect();
        Self {
            _directory: directory,
            seats,
            marks,
            last_seq: Seq(2 * count),
        }
    }

    fn merge(&self, selection: &Selection) -> Merge {
        let source = |(position, log): (usize, &SeatLog)| SeatSource {
            position,
            log: log.reader(),
            index: Arc::new(MemoryIndex::new(1)),
            applied: watch::channel(LogIndex::ZERO).1,
        };
        let sources = self.seats.iter().enumerate().map(source).collect();
        Merge::new(sources, Arc::clone(&self.marks), selection.clone(), Seq::ZERO)
    }
}

/// All of a log, as whoever catches up reads it.
pub(super) fn read() -> Run {
    let logs = Logs::written();
    let last = logs.marks.committed(0);
    Box::new(move || {
        let mut cursor = logs.seats[0].reader().cursor_at(LogIndex(1));
        let mut read = 0;
        while let Some(block) = cursor.next_block(last).unwrap() {
            read += black_box(block.frames).len();
        }
        assert_eq!(read, EVENTS + 1);
    })
}

/// A subscriber of everything.
pub(super) fn merge() -> Run {
    merged(Selection::default(), 2 * EVENTS)
}

/// A subscriber of one event in eight.
pub(super) fn filter() -> Run {
    let filter = Filter {
        collections: vec!["shop".to_owned()],
        types: vec!["placed".to_owned()],
        ..Filter::default()
    };
    let selection = Selection {
        filter,
        ..Selection::default()
    };
    merged(selection, 2 * EVENTS / 8)
}

fn merged(selection: Selection, expected: usize) -> Run {
    let logs = Logs::written();
    let bound = Bound::Resolved(logs.last_seq);
    let expected = u64::try_from(expected).unwrap();
    Box::new(move || {
        let mut merge = logs.merge(&selection);
        let mut events = 0;
        loop {
            match merge.next(bound, STREAM_MESSAGE_BYTES).unwrap() {
                Merged::Run(run) => events += black_box(run).count,
                Merged::Filtered(_) => {}
                Merged::End => break,
            }
        }
        assert_eq!(events, expected);
    })
}
