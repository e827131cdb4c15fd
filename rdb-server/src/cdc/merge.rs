//! Reads the logs of all seats as one sequence, in the order of seqs.
//!
//! Within a log seqs strictly increase (rule 6.3.6) and an entry's seqs are dense, so the next entry of the
//! database is the one with the lowest first seq among the seats' next entries. Below the resolved mark no seat can
//! add an entry any more: a seat that has nothing to show there has nothing there.

use super::marks::Marks;
use super::seat::SeatSource;
use super::selection::Selection;
use crate::sabotage::{self, Sabotage};
use crate::storage::{Cursor, Frame, StorageError};
use bytes::{Bytes, BytesMut};
use rdb_proto::entry::EntryKind;
use rdb_proto::event::push_to_batch;
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

/// Up to where a merge may take entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Those whose seqs are at or below a resolved mark: all seats' together are one order.
    Resolved(Seq),
    /// Those up to a committed index, of a merge of one seat: its log is in the order of seqs without a mark.
    Committed(LogIndex),
}

/// What a merge has to offer up to a bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// Events; there may be more.
    Run(Run),
    /// The filter let nothing through so far; everything up to this seq was looked at, and there may be more.
    Filtered(Seq),
    /// Nothing more up to the bound.
    End,
}

/// Position of one subscriber in the logs of some seats.
#[derive(Debug)]
pub struct Merge {
    sources: Vec<Source>,
    marks: Arc<Marks>,
    selection: Selection,
    /// Events at or below this seq are not shown.
    after: Seq,
    /// Events of the entry taken last that found no place in a message yet.
    left_over: VecDeque<(Seq, Bytes)>,
}

#[derive(Debug)]
struct Source {
    cursor: Cursor,
    seat: SeatSource,
    read: VecDeque<Frame>,
}

impl Merge {
    /// Begins after `after`.
    pub fn new(seats: Vec<SeatSource>, marks: Arc<Marks>, selection: Selection, after: Seq) -> Self {
        let source = |seat: SeatSource| Source {
            cursor: seat.log.cursor_after(after, marks.committed(seat.position)),
            seat,
            read: VecDeque::new(),
        };
        Self {
            sources: seats.into_iter().map(source).collect(),
            marks,
            selection,
            after,
            left_over: VecDeque::new(),
        }
    }

    /// Takes events up to the bound, until a message is full.
    ///
    /// # Errors
    /// [`StorageError`] when a log cannot be read or is damaged; nothing is skipped, the merge is over.
    pub fn next(&mut self, bound: Bound, message_bytes: usize) -> Result<Merged, StorageError> {
        let mut encoded = BytesMut::new();
        let (mut count, mut looked_at, mut bytes_read) = (0_u64, None, 0_usize);
        // What was taken of an entry is shown, however much was read for it: a mark must not pass it.
        while encoded.len() < message_bytes
            && (bytes_read < message_bytes.saturating_mul(4) || !self.left_over.is_empty())
        {
            if let Some((seq, event)) = self.left_over.pop_front() {
                push_to_batch(&mut encoded, &event);
                count = count.saturating_add(1);
                // The entry's other events may not have passed: with the last that did, all of it was looked at.
                looked_at = looked_at.max(Some(seq));
                continue;
            }
            let Some((frame, seat)) = self.take_lowest(bound)? else {
                break;
            };
            bytes_read = bytes_read.saturating_add(frame.body.len());
            if self.selection.takes_whole(&frame, self.after) {
                looked_at = Some(frame.last_seq());
                count = count.saturating_add(u64::from(frame.events));
                if encoded.is_empty() {
                    encoded.reserve(message_bytes.saturating_add(frame.body.len()));
                }
                encoded.extend_from_slice(&frame.body);
                continue;
            }
            let Some(source) = self.sources.get(seat) else {
                break;
            };
            self.selection
                .pass(&frame, self.after, &source.seat, &mut self.left_over)?;
            if self.left_over.is_empty() {
                looked_at = Some(frame.last_seq());
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

    /// Takes the entry with the lowest seqs, when all of it is within the bound.
    fn take_lowest(&mut self, bound: Bound) -> Result<Option<(Frame, usize)>, StorageError> {
        let mut lowest: Option<(usize, Seq, bool)> = None;
        for (seat, source) in self.sources.iter_mut().enumerate() {
            let Some(frame) = source.peek(&self.marks)? else {
                continue;
            };
            let is_lower = |first_seq| frame.first_seq < first_seq && !sabotage::is(Sabotage::MergeBySeat);
            if lowest.is_none_or(|(_, first_seq, _)| is_lower(first_seq)) {
                let is_within = match bound {
                    Bound::Resolved(mark) => frame.last_seq() <= mark,
                    Bound::Committed(index) => frame.index <= index,
                };
                lowest = Some((seat, frame.first_seq, is_within));
            }
        }
        let Some((seat, _, true)) = lowest else {
            return Ok(None);
        };
        let Some(source) = self.sources.get_mut(seat) else {
            return Ok(None);
        };
        Ok(source.read.pop_front().map(|frame| (frame, seat)))
    }

    /// Seq before the first event that was not shown yet, when that stands at or below `mark`: an entry is shown
    /// as a whole, so a mark in its middle must be held back.
    ///
    /// # Errors
    /// [`StorageError`] when a log cannot be read.
    pub fn shown_up_to(&mut self, mark: Seq) -> Result<Seq, StorageError> {
        let mut shown = match self.left_over.front() {
            Some((seq, _)) => mark.min(seq.previous()),
            None => mark,
        };
        for source in &mut self.sources {
            if let Some(frame) = source.peek(&self.marks)? {
                shown = shown.min(frame.first_seq.previous());
            }
        }
        Ok(shown)
    }
}

impl Source {
    /// The next entry with events, among those committed.
    fn peek(&mut self, marks: &Marks) -> Result<Option<&Frame>, StorageError> {
        let committed = marks.committed(self.seat.position);
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
    use crate::cdc::{Audience, Filter, Message, Order, Seats, Start, Subscription};
    use crate::limits::MARK_INTERVAL_MAX;
    use crate::storage::{LogEvent, LogSettings, MemoryIndex, SeatLog, Ticket, catch_up};
    use futures::FutureExt as _;
    use rdb_proto::entry::{Entry, EntryBody};
    use rdb_proto::event::{Change, EventKind, NewEvent, StoredEvents, decode_batch, split_batch};
    use rdb_proto::types::{
        Epoch, EventId, GroupId, KeyName, LogIndex, Membership, NodeId, SeatId, Side, Timestamp, Version,
    };
    use std::collections::BTreeMap;
    use std::num::NonZero;
    use std::sync::mpsc;
    use tokio::sync::watch;
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
        let stored = StoredEvents::number(
            name,
            Seq(first_seq),
            Version(1),
            Timestamp(10 * first_seq),
            events,
        )
        .unwrap();
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
            let selection = Selection {
                filter,
                ..Selection::default()
            };
            self.merge_of(selection, after)
        }

        fn merge_of(&self, selection: Selection, after: u64) -> Merge {
            let source = |(position, log): (usize, &SeatLog)| {
                let index = MemoryIndex::new(10);
                let committed = self.marks.committed(position);
                catch_up(&index, &log.reader(), committed, &mut |_| {}).unwrap();
                SeatSource {
                    position,
                    log: log.reader(),
                    index: Arc::new(index),
                    applied: watch::channel(committed).1,
                }
            };
            let seats = self.logs.iter().enumerate().map(source).collect();
            Merge::new(seats, Arc::clone(&self.marks), selection, Seq(after))
        }

        fn seqs(&self, filter: Filter, after: u64, mark: u64) -> Vec<u64> {
            seqs_of(self.merge(filter, after), mark)
        }
    }

    fn seqs_of(mut merge: Merge, mark: u64) -> Vec<u64> {
        let mut seqs = Vec::new();
        loop {
            match merge.next(Bound::Resolved(Seq(mark)), 100).unwrap() {
                Merged::Run(run) => {
                    let events = decode_batch(&run.encoded).unwrap();
                    assert_eq!(run.count, u64::try_from(events.len()).unwrap());
                    seqs.extend(events.iter().map(|event| event.seq.get()));
                }
                Merged::Filtered(_) => {}
                Merged::End => return seqs,
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
        assert_eq!(merge.next(Bound::Resolved(Seq(4)), 100).unwrap(), Merged::End);
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

    /// Red when the seam is moved by one: an event on the wrong side of it is missing, or comes twice.
    #[test]
    fn a_snapshot_shows_what_keys_hold_and_then_every_event() {
        // Keys: one with 1; one with 4 and 5; one with 2 and 3; one with 6, 7 and 8.
        let world = World::new([&[(1, 1), (4, 2)], &[(2, 2), (6, 3)]]);
        let expected: [(u64, &[u64]); 4] = [
            (5, &[1, 3, 5, 6, 7, 8]),
            (4, &[1, 3, 4, 5, 6, 7, 8]),
            (7, &[1, 3, 5, 7, 8]),
            (8, &[1, 3, 5, 8]),
        ];
        for (snapshot, seqs) in expected {
            for after in [0, 1, 3, 4, 7] {
                let selection = Selection {
                    snapshot: Seq(snapshot),
                    ..Selection::default()
                };
                let rest: Vec<u64> = seqs.iter().copied().filter(|seq| *seq > after).collect();
                let shown = seqs_of(world.merge_of(selection, after), 8);
                assert_eq!(shown, rest, "snapshot {snapshot}, after {after}");
            }
        }
    }

    #[test]
    fn each_event_comes_with_the_one_before_it_of_its_key() {
        let world = World::new([&[(1, 1), (4, 2)], &[(2, 2), (6, 3)]]);
        let selection = Selection {
            with_before: true,
            ..Selection::default()
        };
        let mut merge = world.merge_of(selection, 0);
        let mut pairs = Vec::new();
        while let Merged::Run(run) = merge.next(Bound::Resolved(Seq(8)), 100).unwrap() {
            for encoded in split_batch(run.encoded).unwrap() {
                let change = Change::decode(&encoded).unwrap();
                let before = change.before.map_or(0, |before| before.seq.get());
                pairs.push((change.event.seq.get(), before));
            }
        }
        let expected = [(1, 0), (2, 0), (3, 2), (4, 0), (5, 4), (6, 0), (7, 6), (8, 7)];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn a_time_is_found_in_any_log() {
        let world = World::new([&[(1, 1), (4, 2), (9, 1)], &[]]);
        let merge = world.merge(Filter::default(), 0);
        let commit = LogIndex(4);
        let seat = |n: usize| &merge.sources[n].seat;
        // The time of an event here is its first seq's tenfold.
        for (time, first) in [
            (0, Some(1)),
            (10, Some(1)),
            (11, Some(4)),
            (40, Some(4)),
            (90, Some(9)),
            (91, None),
        ] {
            let found = seat(0).first_at(Timestamp(time), commit).unwrap();
            assert_eq!(found, first.map(Seq), "time {time}");
        }
        assert_eq!(seat(1).first_at(Timestamp(0), LogIndex(1)).unwrap(), None);
    }

    /// Red when the bytes that were read for an entry end a message before what passed of it is in one.
    #[test]
    fn a_mark_never_passes_what_was_taken_of_a_large_entry() {
        let world = World::new([&[(1, 3), (9, 1)], &[(4, 2)]]);
        for after in 0..=9 {
            let selection = Selection {
                with_before: true,
                ..Selection::default()
            };
            let mut merge = world.merge_of(selection, after);
            let mut seqs = Vec::new();
            // A message of one byte: every entry is far larger than what may be read for one.
            while let Merged::Run(run) = merge.next(Bound::Resolved(Seq(9)), 1).unwrap() {
                seqs.extend(
                    decode_batch(&run.encoded)
                        .unwrap()
                        .iter()
                        .map(|event| event.seq.get()),
                );
                assert_eq!(seqs.last(), Some(&run.last_seq.get()));
                let shown = merge.shown_up_to(Seq(9)).unwrap();
                let rest = (1..=9).find(|seq| *seq > run.last_seq.get() && ![6, 7, 8].contains(seq));
                assert_eq!(shown.get(), rest.map_or(9, |next| next - 1), "after {after}");
            }
            let expected: Vec<u64> = [1, 2, 3, 4, 5, 9]
                .into_iter()
                .filter(|seq| *seq > after)
                .collect();
            assert_eq!(seqs, expected, "after {after}");
        }
    }

    /// DESIGN 7. Red when a seat whose keys alone are in order waits for a mark, or when several do not.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn one_seat_by_keys_is_shown_as_it_commits_and_several_by_their_marks() {
        let world = World::new([&[(1, 1), (4, 2)], &[(2, 2)]]);
        let shown = |order, seats: usize| {
            let selection = Selection {
                order,
                ..Selection::default()
            };
            let sources = world.merge(Filter::default(), 0).sources.into_iter().take(seats);
            let seats = Seats::new(
                sources.map(|source| source.seat).collect(),
                Arc::clone(&world.marks),
                Arc::new(Audience::on(NonZero::<usize>::MIN)),
            );
            let start = Start::After(Seq::ZERO);
            let mut stream = Subscription::new(seats, selection, start, MARK_INTERVAL_MAX).unwrap();
            let mut shown = Vec::new();
            while let Some(message) = stream.next().now_or_never() {
                if let Message::Changes(run) = message.unwrap() {
                    let events = decode_batch(&run.encoded).unwrap();
                    shown.extend(events.iter().map(|event| event.seq.get()));
                }
            }
            (shown, stream.position())
        };
        let before_any_mark = (Vec::new(), Seq::ZERO);
        assert_eq!(shown(Order::Seqs, 1), before_any_mark);
        assert_eq!(shown(Order::Keys, 2), before_any_mark);
        assert_eq!(shown(Order::Keys, 1), (vec![1, 4, 5], Seq(5)));
        world.marks.resolve(0, Seq(9));
        assert_eq!(shown(Order::Keys, 1), (vec![1, 4, 5], Seq(9)));
    }

    /// DESIGN 7. Red when the end of what is resolved counts as the end of what there was, and when it does before anybody
    /// has told where that is.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn it_has_caught_up_when_everything_that_was_there_was_sent() {
        let world = World::new([&[(1, 1), (4, 2)], &[(2, 2)]]);
        let sources = world.merge(Filter::default(), 0).sources.into_iter();
        let seats = Seats::new(
            sources.map(|source| source.seat).collect(),
            Arc::clone(&world.marks),
            Arc::new(Audience::on(NonZero::<usize>::MIN)),
        );
        let start = Start::After(Seq::ZERO);
        let mut stream = Subscription::new(seats, Selection::default(), start, MARK_INTERVAL_MAX).unwrap();
        let resolve = |mark| (0..2).for_each(|seat| world.marks.resolve(seat, Seq(mark)));
        let caught_up = |stream: &mut Subscription| {
            let mut at = Vec::new();
            while let Some(message) = stream.next().now_or_never() {
                if let Message::CaughtUp(seq) = message.unwrap() {
                    at.push(seq);
                }
            }
            (at, stream.position())
        };
        resolve(3);
        assert_eq!(
            caught_up(&mut stream),
            (vec![], Seq(3)),
            "what there is, is not known"
        );
        stream.catch_up_with(Seq(5));
        assert_eq!(caught_up(&mut stream), (vec![], Seq(3)));
        resolve(4);
        assert_eq!(caught_up(&mut stream), (vec![], Seq(3)), "4 and 5 are one entry");
        resolve(5);
        assert_eq!(caught_up(&mut stream), (vec![Seq(5)], Seq(5)));
        resolve(6);
        assert_eq!(caught_up(&mut stream), (vec![], Seq(6)), "once");
    }

    /// Red when a stream does not wait for its turn, or does when few others are served events; and when those whose filter
    /// lets nothing pass do not count, or do not wait.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn live_events_are_gathered_when_many_are_served_them() {
        let nothing = || Filter {
            types: vec!["neither".to_owned()],
            ..Filter::default()
        };
        for (others, of_others, is_gathered) in [
            (1, Filter::default(), false),
            (500, Filter::default(), true),
            (500, nothing(), true),
        ] {
            let world = World::new([&[(1, 1), (4, 2)], &[(2, 2), (6, 1)]]);
            let audience = Arc::new(Audience::on(NonZero::<usize>::MIN));
            let subscribe = |filter: &Filter| {
                let sources = world.merge(Filter::default(), 0).sources.into_iter();
                let seats = Seats::new(
                    sources.map(|source| source.seat).collect(),
                    Arc::clone(&world.marks),
                    Arc::clone(&audience),
                );
                let selection = Selection {
                    filter: filter.clone(),
                    ..Selection::default()
                };
                let start = Start::After(Seq::ZERO);
                let mut stream = Subscription::new(seats, selection, start, MARK_INTERVAL_MAX).unwrap();
                stream.catch_up_with(Seq::ZERO);
                stream
            };
            let resolve = |mark| (0..2).for_each(|seat| world.marks.resolve(seat, Seq(mark)));
            let at_once = |stream: &mut Subscription| {
                let mut seqs = Vec::new();
                // Once more after it has given others their turn, which it does when nothing has passed.
                for _ in 0..2 {
                    while let Some(message) = stream.next().now_or_never() {
                        if let Message::Changes(run) = message.unwrap() {
                            seqs.push(run.last_seq.get());
                        }
                    }
                }
                seqs
            };
            let mut next = subscribe(&Filter::default());
            let mut streams: Vec<Subscription> = (0..others).map(|_| subscribe(&of_others)).collect();
            // What was there before, and the first live event: nobody has had a turn yet.
            for mark in [1, 3] {
                resolve(mark);
                let shown: &[u64] = if of_others.is_open() { &[mark] } else { &[] };
                for stream in &mut streams {
                    assert_eq!(at_once(stream), shown);
                }
                assert_eq!(at_once(&mut next), [mark]);
            }
            resolve(5);
            let mut other = streams.pop().unwrap();
            at_once(&mut other);
            assert_eq!(other.position(), if is_gathered { Seq(3) } else { Seq(5) });
            if is_gathered {
                assert_eq!(at_once(&mut next), Vec::<u64>::new());
                resolve(6);
                let Message::Changes(run) = next.next().await.unwrap() else {
                    panic!("events come next");
                };
                assert_eq!((run.count, run.last_seq), (3, Seq(6)));
            } else {
                assert_eq!(at_once(&mut next), [5]);
            }
        }
    }

    #[test]
    fn what_is_committed_later_is_shown_later() {
        let world = World::new([&[(1, 1)], &[]]);
        let mut merge = world.merge(Filter::default(), 0);
        assert!(matches!(
            merge.next(Bound::Resolved(Seq(1)), 100).unwrap(),
            Merged::Run(Run { last_seq: Seq(1), .. })
        ));
        assert_eq!(merge.next(Bound::Resolved(Seq(5)), 100).unwrap(), Merged::End);
    }
}
