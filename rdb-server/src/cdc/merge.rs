//! Reads the logs of all seats as one sequence, in the order of seqs.
//!
//! Within a log seqs strictly increase (rule 6.3.6) and an entry's seqs are dense, so the next entry of the
//! database is the one with the lowest first seq among the seats' next entries. Below the resolved mark no seat can
//! add an entry any more: a seat that has nothing to show there has nothing there.

use super::filter::Filter;
use super::marks::Marks;
use crate::storage::{Cursor, Frame, LogReader, StorageError};
use bytes::{Bytes, BytesMut};
use rdb_proto::entry::EntryKind;
use rdb_proto::event::{self, Event, EventError};
use rdb_proto::types::{LogIndex, Seq};
use std::collections::VecDeque;
use std::sync::Arc;

/// A run of events in the order of their seqs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Wire `EventBatch`.
    pub encoded: Bytes,
    /// How many events.
    pub count: u64,
    /// Everything at or below this seq, and after the run before, is in it or did not pass the filter.
    pub last_seq: Seq,
}

/// What a merge has to offer below a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// Events; there may be more.
    Run(Run),
    /// The filter let nothing through so far; everything up to this seq was looked at, and there may be more.
    Filtered(Seq),
    /// Nothing more at or below the mark.
    End,
}

/// Position of one subscriber in all logs.
#[derive(Debug)]
pub struct Merge {
    sources: Vec<Source>,
    marks: Arc<Marks>,
    filter: Filter,
    /// Events at or below this seq are not shown.
    after: Seq,
}

#[derive(Debug)]
struct Source {
    cursor: Cursor,
    log: LogReader,
    read: VecDeque<Frame>,
}

impl Merge {
    /// Begins after `after`; `logs` in the order of the seats in `marks`.
    pub fn new(logs: &[LogReader], marks: Arc<Marks>, filter: Filter, after: Seq) -> Self {
        let source = |(seat, log): (usize, &LogReader)| Source {
            cursor: log.cursor_after(after, marks.committed(seat)),
            log: log.clone(),
            read: VecDeque::new(),
        };
        let sources = logs.iter().enumerate().map(source).collect();
        Self {
            sources,
            marks,
            filter,
            after,
        }
    }

    /// Takes events at or below `mark`, a resolved one, until a message is full.
    ///
    /// # Errors
    /// [`StorageError`] when a log cannot be read or is damaged; nothing is skipped, the merge is over.
    pub fn next(&mut self, mark: Seq, message_bytes: usize) -> Result<Merged, StorageError> {
        let mut encoded = BytesMut::new();
        let (mut count, mut looked_at, mut bytes_read) = (0, None, 0_usize);
        while encoded.len() < message_bytes && bytes_read < message_bytes.saturating_mul(4) {
            let Some((frame, log)) = self.take_lowest(mark)? else {
                break;
            };
            looked_at = Some(frame.last_seq());
            bytes_read = bytes_read.saturating_add(frame.body.len());
            if self.filter.is_open() && frame.first_seq > self.after {
                count += u64::from(frame.events);
                if encoded.is_empty() {
                    encoded.reserve(message_bytes.saturating_add(frame.body.len()));
                }
                encoded.extend_from_slice(&frame.body);
            } else {
                let selected = self.select(&frame.body);
                let (passed, events) = selected.map_err(|error| log.damaged_body(frame.index, &error))?;
                count += events;
                encoded.extend_from_slice(&passed);
            }
        }
        Ok(match looked_at {
            None => Merged::End,
            Some(seq) if count == 0 => Merged::Filtered(seq),
            Some(last_seq) => Merged::Run(Run {
                encoded: encoded.freeze(),
                count,
                last_seq,
            }),
        })
    }

    /// Takes the entry with the lowest seqs, when all of them are at or below the mark.
    fn take_lowest(&mut self, mark: Seq) -> Result<Option<(Frame, LogReader)>, StorageError> {
        let mut lowest: Option<(usize, Seq, Seq)> = None;
        for (seat, source) in self.sources.iter_mut().enumerate() {
            let Some(frame) = source.peek(self.marks.committed(seat))? else {
                continue;
            };
            if lowest.is_none_or(|(_, first_seq, _)| frame.first_seq < first_seq) {
                lowest = Some((seat, frame.first_seq, frame.last_seq()));
            }
        }
        let Some((seat, _, last_seq)) = lowest else {
            return Ok(None);
        };
        if last_seq > mark {
            return Ok(None);
        }
        let Some(source) = self.sources.get_mut(seat) else {
            return Ok(None);
        };
        Ok(source.read.pop_front().map(|frame| (frame, source.log.clone())))
    }

    /// Seq before the first event that was not shown yet, when that stands at or below `mark`: an entry is shown
    /// as a whole, so a mark in its middle must be held back.
    ///
    /// # Errors
    /// [`StorageError`] when a log cannot be read.
    pub fn shown_up_to(&mut self, mark: Seq) -> Result<Seq, StorageError> {
        let mut shown = mark;
        for (seat, source) in self.sources.iter_mut().enumerate() {
            if let Some(frame) = source.peek(self.marks.committed(seat))? {
                shown = shown.min(frame.first_seq.previous());
            }
        }
        Ok(shown)
    }

    /// The events of an entry that pass the filter and come after the start, still encoded, and their number.
    fn select(&self, body: &Bytes) -> Result<(Bytes, u64), EventError> {
        let mut passed = Vec::new();
        for encoded in event::split_batch(body.clone())? {
            let event = Event::decode(encoded.clone())?;
            if event.seq > self.after && self.filter.matches(&event) {
                passed.push(encoded);
            }
        }
        let count = u64::try_from(passed.len()).unwrap_or(u64::MAX);
        Ok((event::join_batch(&passed)?, count))
    }
}

impl Source {
    /// The next entry with events, among those committed.
    fn peek(&mut self, committed: LogIndex) -> Result<Option<&Frame>, StorageError> {
        while self.read.is_empty() {
            let Some(block) = self.cursor.next_block(committed)? else {
                return Ok(None);
            };
            self.read.extend(
                block
                    .frames
                    .into_iter()
                    .filter(|frame| frame.kind == EntryKind::Events),
            );
        }
        Ok(self.read.front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{LogEvent, LogSettings, SeatLog, Ticket};
    use rdb_proto::entry::{Entry, EntryBody};
    use rdb_proto::event::{EventKind, NewEvent, StoredEvents, decode_batch};
    use rdb_proto::types::{
        Epoch, EventId, GroupId, KeyName, Membership, NodeId, SeatId, Side, Timestamp, Version,
    };
    use std::collections::BTreeMap;
    use std::sync::mpsc;
    use uuid::Uuid;

    const EPOCH: Epoch = Epoch {
        number: 1,
        node: NodeId(1),
    };

    /// Two logs, whose entries are given as (first seq, number of events).
    struct World {
        _directory: tempfile::TempDir,
        logs: Vec<SeatLog>,
        marks: Arc<Marks>,
    }

    fn entry(index: u64, first_seq: u64, count: u64) -> Arc<Entry> {
        let event = |n: u64| NewEvent {
            kind: EventKind::Write,
            event_type: if (first_seq + n).is_multiple_of(2) {
                "even"
            } else {
                "odd"
            }
            .to_owned(),
            tags: Vec::new(),
            meta: BTreeMap::new(),
            payload: Bytes::new(),
            event_id: EventId(Uuid::from_u128(u128::from(first_seq + n))),
        };
        let name = KeyName::new("", &format!("key {index}")).unwrap();
        let events = (0..count).map(event).collect();
        let stored = StoredEvents::number(name, Seq(first_seq), Version(1), Timestamp(1), events).unwrap();
        Arc::new(Entry {
            index: LogIndex(index),
            epoch: EPOCH,
            body: EntryBody::Events(Arc::new(stored)),
        })
    }

    fn start() -> Arc<Entry> {
        let body = EntryBody::EpochStart(Membership::default());
        Arc::new(Entry {
            index: LogIndex(1),
            epoch: EPOCH,
            body,
        })
    }

    impl World {
        fn new(seats: [&[(u64, u64)]; 2]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let marks = Arc::new(Marks::new(2));
            let write = |(position, entries): (usize, &[(u64, u64)])| {
                let seat = SeatId {
                    group: GroupId(0),
                    side: Side::BOTH[position],
                };
                let (report, reports) = mpsc::channel();
                let on_event = Box::new(move |event| {
                    if matches!(event, LogEvent::Persisted(_)) {
                        report.send(()).unwrap();
                    }
                });
                let path = directory.path().join(seat.to_string());
                let settings = LogSettings::default();
                let (log, _) = SeatLog::open(&path, Uuid::from_u128(1), seat, settings, on_event).unwrap();
                log.promise(EPOCH, 1);
                let entries = (2..)
                    .zip(entries)
                    .map(|(index, &(seq, count))| entry(index, seq, count));
                let entries: Vec<_> = [start()].into_iter().chain(entries).collect();
                let last = entries.last().unwrap().index;
                log.persist(Ticket(1), None, entries);
                reports.recv().unwrap();
                marks.commit(position, last);
                log
            };
            let logs = seats.into_iter().enumerate().map(write).collect();
            Self {
                _directory: directory,
                logs,
                marks,
            }
        }

        fn merge(&self, filter: Filter, after: u64) -> Merge {
            let readers: Vec<_> = self.logs.iter().map(SeatLog::reader).collect();
            Merge::new(&readers, Arc::clone(&self.marks), filter, Seq(after))
        }

        fn seqs(&self, filter: Filter, after: u64, mark: u64) -> Vec<u64> {
            let mut merge = self.merge(filter, after);
            let mut seqs = Vec::new();
            loop {
                match merge.next(Seq(mark), 100).unwrap() {
                    Merged::Run(run) => {
                        let events = decode_batch(run.encoded).unwrap();
                        assert_eq!(run.count, u64::try_from(events.len()).unwrap());
                        seqs.extend(events.iter().map(|event| event.seq.get()));
                    }
                    Merged::Filtered(_) => {}
                    Merged::End => return seqs,
                }
            }
        }
    }

    /// DESIGN 7. Red when the order of the logs decides instead of the seqs.
    #[test]
    fn the_logs_are_read_as_one_sequence_from_any_start() {
        let world = World::new([&[(1, 1), (4, 2), (9, 1)], &[(2, 2), (6, 3)]]);
        for after in 0..=9 {
            let expected: Vec<u64> = (after + 1..=9).collect();
            assert_eq!(world.seqs(Filter::default(), after, 9), expected, "after {after}");
        }
    }

    #[test]
    fn nothing_above_the_mark_is_shown_and_an_entry_is_shown_whole() {
        let world = World::new([&[(1, 1), (4, 2)], &[(2, 2), (6, 3)]]);
        assert_eq!(world.seqs(Filter::default(), 0, 3), [1, 2, 3]);
        assert_eq!(
            world.seqs(Filter::default(), 0, 4),
            [1, 2, 3],
            "5 belongs to the entry of 4"
        );
        let mut merge = world.merge(Filter::default(), 3);
        assert_eq!(merge.next(Seq(4), 100).unwrap(), Merged::End);
        assert_eq!(
            merge.shown_up_to(Seq(4)).unwrap(),
            Seq(3),
            "a mark of 4 would say that 4 was shown"
        );
    }

    #[test]
    fn a_filter_takes_events_out_of_entries() {
        let world = World::new([&[(1, 1), (4, 2)], &[(2, 2), (6, 3)]]);
        let even = Filter {
            types: vec!["even".to_owned()],
            ..Filter::default()
        };
        assert_eq!(world.seqs(even.clone(), 0, 8), [2, 4, 6, 8]);
        assert_eq!(world.seqs(even, 6, 8), [8]);
    }

    #[test]
    fn what_is_committed_later_is_shown_later() {
        let world = World::new([&[(1, 1)], &[]]);
        let mut merge = world.merge(Filter::default(), 0);
        assert!(matches!(
            merge.next(Seq(1), 100).unwrap(),
            Merged::Run(Run { last_seq: Seq(1), .. })
        ));
        assert_eq!(merge.next(Seq(5), 100).unwrap(), Merged::End);
    }
}
