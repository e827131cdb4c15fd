//! When each version of a key can have come into being: no promise of its own, but what two checkers rest on.
//!
//! A version is there at the latest when its write was acknowledged, and not before its write was sent. So at any
//! moment a key is at some version between two bounds, and an answer must name one of these.

use crate::workload::{History, Tick};
use rdb_proto::event::{Event, EventKind};
use rdb_proto::types::{EventId, Version};
use std::collections::HashMap;
use std::ops::RangeInclusive;

/// The versions of every key.
#[derive(Debug)]
pub struct Timeline<'a> {
    keys: HashMap<&'a str, Vec<Point>>,
}

/// One version of a key.
#[derive(Debug, Clone, Copy)]
struct Point {
    sent: Tick,
    /// No later than this: its own acknowledgement, or that of a later version.
    there_at: Option<Tick>,
    is_delete: bool,
}

impl<'a> Timeline<'a> {
    /// Puts record and stream together. The stream has dense versions ([`super::versions`]).
    pub fn new(history: &History, stream: &'a [Event]) -> Self {
        let mut moments: HashMap<EventId, (Tick, Option<Tick>)> = HashMap::new();
        for operation in &history.operations {
            let moment = (operation.sent, operation.acknowledged_at());
            moments.extend(operation.events.iter().map(|sent| (sent.event_id, moment)));
        }
        let mut keys: HashMap<&str, Vec<Point>> = HashMap::new();
        for event in stream {
            let (sent, there_at) = moments.get(&event.event_id).copied().unwrap_or_default();
            keys.entry(event.name.key.as_str()).or_default().push(Point {
                sent,
                there_at,
                is_delete: event.kind == EventKind::Delete,
            });
        }
        for points in keys.values_mut() {
            let mut there_at = None;
            for point in points.iter_mut().rev() {
                there_at = [point.there_at, there_at].into_iter().flatten().min();
                point.there_at = there_at;
            }
        }
        Self { keys }
    }

    /// Versions at which a key can have been at some moment between `sent` and `answered`.
    pub fn possible(&self, key: &str, sent: Tick, answered: Tick) -> RangeInclusive<u64> {
        let points = self.keys.get(key).map_or(&[][..], Vec::as_slice);
        let lowest = points.partition_point(|point| point.there_at.is_some_and(|at| at < sent));
        // A version is possible only when all before it are.
        let highest = points
            .iter()
            .position(|point| point.sent >= answered)
            .unwrap_or(points.len());
        u64::try_from(lowest).unwrap()..=u64::try_from(highest).unwrap()
    }

    /// Whether a key exists when it is at this version.
    pub fn exists(&self, key: &str, version: Version) -> bool {
        let before = usize::try_from(version.previous().get()).unwrap();
        let points = self.keys.get(key).map_or(&[][..], Vec::as_slice);
        version != Version::ZERO && points.get(before).is_some_and(|point| !point.is_delete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::example::run;

    #[test]
    fn a_version_is_possible_from_its_sending_and_certain_from_its_acknowledgement() {
        let (history, stream) = run();
        let timeline = Timeline::new(&history, &stream);
        let possible = |key, sent, answered| timeline.possible(key, Tick(sent), Tick(answered));
        assert_eq!(possible("a", 0, 0), 0..=0);
        assert_eq!(possible("a", 1, 2), 0..=1, "under way");
        assert_eq!(possible("a", 3, 4), 1..=1, "acknowledged at 2");
        assert_eq!(possible("a", 11, 14), 1..=3);
        assert_eq!(
            possible("b", 30, 31),
            3..=4,
            "its last write was never acknowledged"
        );
        assert_eq!(possible("none", 0, 99), 0..=0);
    }

    #[test]
    fn a_key_exists_when_its_version_is_a_write() {
        let (history, stream) = run();
        let timeline = Timeline::new(&history, &stream);
        let exists: Vec<bool> = (0..=4)
            .map(|version| timeline.exists("a", Version(version)))
            .collect();
        assert_eq!(exists, [false, true, false, true, false]);
    }
}
