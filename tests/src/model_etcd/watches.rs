//! Watches: who is told of which changes.

use super::keys::{Keys, Span};
use super::state::header;
use etcd_client::WatchFilterType;
use etcd_client::proto::{PbEvent, PbWatchResponse};
use std::collections::BTreeMap;

/// A stream of watches of one client.
pub type StreamId = u64;

/// What somebody wants to watch.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its id, or 0: the next one of the stream.
    pub id: i64,
    /// First key.
    pub key: Vec<u8>,
    /// As ranges end.
    pub end: Vec<u8>,
    /// Revision of the first change; 0: what comes from now on.
    pub from: i64,
    /// With what keys held before.
    pub with_before: bool,
    /// Kinds of changes that are not told.
    pub without: Vec<WatchFilterType>,
}

#[derive(Debug, Clone)]
struct Watch {
    span: Span,
    from: i64,
    with_before: bool,
    without: Vec<WatchFilterType>,
}

impl Watch {
    /// What it is told of these changes.
    fn told(&self, keys: &Keys, events: &[PbEvent]) -> Vec<PbEvent> {
        let told = events.iter().filter(|event| self.is_told(event));
        let told = told.map(|event| PbEvent {
            prev_kv: self.with_before.then(|| keys.before(event)).flatten(),
            ..event.clone()
        });
        told.collect()
    }

    fn is_told(&self, event: &PbEvent) -> bool {
        let kind = match event.r#type {
            0 => WatchFilterType::NoPut,
            _ => WatchFilterType::NoDelete,
        };
        let is_meant = event
            .kv
            .as_ref()
            .is_some_and(|kv| kv.mod_revision >= self.from && self.span.contains(&kv.key));
        is_meant && !self.without.contains(&kind)
    }
}

#[derive(Debug, Clone, Default)]
struct Stream {
    next: i64,
    /// Nothing: it ended by a compaction, and its id is taken for as long as nobody cancels it.
    watches: BTreeMap<i64, Option<Watch>>,
}

/// See the module. What is told waits until somebody takes it.
#[derive(Debug, Clone, Default)]
pub struct Watches {
    streams: BTreeMap<StreamId, Stream>,
    told: Vec<(StreamId, PbWatchResponse)>,
}

impl Watches {
    /// What is to be told since this was asked for last.
    pub fn take(&mut self) -> Vec<(StreamId, PbWatchResponse)> {
        std::mem::take(&mut self.told)
    }

    fn tell(&mut self, stream: StreamId, revision: i64, response: PbWatchResponse) {
        let response = PbWatchResponse {
            header: Some(header(revision)),
            ..response
        };
        self.told.push((stream, response));
    }

    /// Begins a watch, and tells what it has missed.
    pub fn create(&mut self, keys: &Keys, stream: StreamId, wanted: Wanted) {
        let revision = keys.revision();
        let watch = Watch {
            span: if wanted.key.is_empty() {
                Span::new(&[0], &wanted.end)
            } else {
                Span::new(&wanted.key, &wanted.end)
            },
            from: if wanted.from == 0 {
                revision + 1
            } else {
                wanted.from
            },
            with_before: wanted.with_before,
            without: wanted.without,
        };
        let created = PbWatchResponse {
            created: true,
            ..PbWatchResponse::default()
        };
        let refused = |why: &str| PbWatchResponse {
            watch_id: -1,
            canceled: true,
            cancel_reason: why.to_owned(),
            ..created.clone()
        };
        let of = self.streams.entry(stream).or_default();
        let answer = match &watch.span {
            Span::Between(first, end) if first >= end => Err(refused("mvcc: watcher range is empty")),
            Span::Between(..) | Span::One(_) | Span::From(_)
                if wanted.id != 0 && of.watches.contains_key(&wanted.id) =>
            {
                Err(refused("mvcc: duplicate watch ID provided on the WatchStream"))
            }
            Span::Between(..) | Span::One(_) | Span::From(_) => Ok(of.free_id(wanted.id)),
        };
        let id = match answer {
            Ok(id) => id,
            Err(refused) => return self.tell(stream, revision, refused),
        };
        let is_in_the_past = watch.from <= revision;
        let missed = watch.told(keys, &keys.since(&watch.span, watch.from));
        let is_compacted = is_in_the_past && watch.from < keys.compacted();
        of.watches.insert(id, (!is_compacted).then_some(watch));
        self.tell(
            stream,
            revision,
            PbWatchResponse {
                watch_id: id,
                ..created
            },
        );
        let later = |events, compact_revision: i64| PbWatchResponse {
            watch_id: id,
            canceled: compact_revision != 0,
            compact_revision,
            events,
            ..PbWatchResponse::default()
        };
        if is_compacted {
            self.tell(stream, 0, later(Vec::new(), keys.compacted()));
        } else if !missed.is_empty() {
            self.tell(stream, revision, later(missed, 0));
        }
    }

    /// Ends a watch, if there is such.
    pub fn cancel(&mut self, keys: &Keys, stream: StreamId, id: i64) {
        let of = self.streams.entry(stream).or_default();
        if of.watches.remove(&id).is_some() {
            let response = PbWatchResponse {
                watch_id: id,
                canceled: true,
                ..PbWatchResponse::default()
            };
            self.tell(stream, keys.revision(), response);
        }
    }

    /// Tells how far the keys have come.
    pub fn progress(&mut self, keys: &Keys, stream: StreamId) {
        let response = PbWatchResponse {
            watch_id: -1,
            ..PbWatchResponse::default()
        };
        self.tell(stream, keys.revision(), response);
    }

    /// Forgets a stream.
    pub fn close(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    /// Tells the changes of a transaction.
    pub fn changed(&mut self, keys: &Keys, events: &[PbEvent]) {
        let mut told = Vec::new();
        for (stream, of) in &self.streams {
            for (id, watch) in &of.watches {
                let told_to = |watch: &Watch| watch.told(keys, events);
                let events = watch.as_ref().map_or_else(Vec::new, told_to);
                if !events.is_empty() {
                    told.push((*stream, *id, events));
                }
            }
        }
        for (stream, watch_id, events) in told {
            let response = PbWatchResponse {
                watch_id,
                events,
                ..PbWatchResponse::default()
            };
            self.tell(stream, keys.revision(), response);
        }
    }
}

impl Stream {
    fn free_id(&mut self, wanted: i64) -> i64 {
        if wanted != 0 {
            return wanted;
        }
        while self.watches.contains_key(&self.next) {
            self.next += 1;
        }
        self.next += 1;
        self.next - 1
    }
}
