//! Where appends wait on their way through the seat that leads their keys, for the metric `append_wait`.
//!
//! Appends that go together wait together: each step is noted once for all of them, with the time of the one that waited
//! longest. What never comes out of a step, since the epoch was lost, is not noted there.

use super::super::telemetry::{Step, Telemetry};
use crate::protocol::{AllocationId, PersistTicket};
use rdb_proto::types::LogIndex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Batches followed at a time in each step, the newest ones: retries and conflicts never come out of the first.
const FOLLOWED_MAX: usize = 1_024;

/// Appends between two steps.
#[derive(Debug)]
pub(super) struct Waits {
    telemetry: Arc<Telemetry>,
    /// When each batch was taken that has not asked for numbers.
    taken: VecDeque<Instant>,
    asked: VecDeque<(AllocationId, Instant)>,
    writing: VecDeque<Writing>,
}

/// Entries that are not committed.
#[derive(Debug)]
struct Writing {
    ticket: PersistTicket,
    last: LogIndex,
    begun: Instant,
    durable: Option<Instant>,
}

impl Waits {
    pub(super) const fn new(telemetry: Arc<Telemetry>) -> Self {
        Self {
            telemetry,
            taken: VecDeque::new(),
            asked: VecDeque::new(),
            writing: VecDeque::new(),
        }
    }

    /// The seat took appends, of which the first arrived then.
    pub(super) fn taken(&mut self, arrived: Instant, now: Instant) {
        self.telemetry
            .waited(Step::Queue, now.saturating_duration_since(arrived));
        follow(&mut self.taken, now);
    }

    /// Numbers are asked for, for all that was decided.
    pub(super) fn asked(&mut self, request: AllocationId, now: Instant) {
        if let Some(taken) = self.taken.drain(..).next() {
            self.telemetry
                .waited(Step::Decide, now.saturating_duration_since(taken));
        }
        follow(&mut self.asked, (request, now));
    }

    /// Numbers came, or never will.
    pub(super) fn answered(&mut self, request: AllocationId, are_there: bool, now: Instant) {
        let Some(found) = self.asked.iter().position(|(asked, _)| *asked == request) else {
            return;
        };
        if let Some((_, asked)) = self.asked.remove(found).filter(|_| are_there) {
            self.telemetry
                .waited(Step::Numbers, now.saturating_duration_since(asked));
        }
    }

    /// The log was handed entries that end here.
    pub(super) fn handed_over(&mut self, ticket: PersistTicket, last: LogIndex, now: Instant) {
        let writing = Writing {
            ticket,
            last,
            begun: now,
            durable: None,
        };
        follow(&mut self.writing, writing);
    }

    /// What was handed over up to this ticket is durable here.
    pub(super) fn durable(&mut self, ticket: PersistTicket, now: Instant) {
        for writing in &mut self.writing {
            if writing.ticket <= ticket && writing.durable.is_none() {
                writing.durable = Some(now);
            }
        }
    }

    /// Entries up to here are committed. Other members may have been faster than this one's disk.
    pub(super) fn committed(&mut self, index: LogIndex, now: Instant) {
        while let Some(writing) = self.writing.pop_front_if(|writing| writing.last <= index) {
            let durable = writing.durable.unwrap_or(now);
            self.telemetry
                .waited(Step::Disk, durable.saturating_duration_since(writing.begun));
            self.telemetry
                .waited(Step::Members, now.saturating_duration_since(durable));
        }
    }
}

fn follow<T>(batches: &mut VecDeque<T>, batch: T) {
    if batches.len() >= FOLLOWED_MAX {
        batches.pop_front();
    }
    batches.push_back(batch);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::time::Duration;

    fn waits() -> Waits {
        Waits::new(Arc::new(Telemetry::new()))
    }

    /// How often each step was noted, and its milliseconds.
    fn noted(waits: &Waits) -> [(u64, u64); 5] {
        let text = waits.telemetry.text();
        let value = |of: &str, step: &str| -> f64 {
            let name = format!("rdb_append_wait_seconds_{of}{{step=\"{step}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&name));
            line.map_or(0.0, |value| value.parse().unwrap())
        };
        ["Queue", "Decide", "Numbers", "Disk", "Members"].map(|step| {
            let milliseconds = Duration::from_secs_f64(value("sum", step))
                .as_micros()
                .div_ceil(1_000);
            let count = Duration::from_secs_f64(value("count", step)).as_secs();
            (count, u64::try_from(milliseconds).unwrap())
        })
    }

    #[test]
    fn each_step_is_noted_once_for_those_that_go_together() {
        let mut waits = waits();
        let began = clock::monotonic();
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        waits.taken(at(0), at(1));
        waits.taken(at(2), at(2));
        waits.asked(AllocationId(1), at(3));
        assert_eq!(noted(&waits), [(2, 1), (1, 2), (0, 0), (0, 0), (0, 0)]);
        waits.answered(AllocationId(1), true, at(7));
        waits.handed_over(PersistTicket(4), LogIndex(9), at(7));
        waits.durable(PersistTicket(4), at(15));
        waits.committed(LogIndex(8), at(20));
        assert_eq!(noted(&waits), [(2, 1), (1, 2), (1, 4), (0, 0), (0, 0)]);
        waits.committed(LogIndex(9), at(31));
        assert_eq!(noted(&waits), [(2, 1), (1, 2), (1, 4), (1, 8), (1, 16)]);
    }

    #[test]
    fn members_that_are_faster_than_the_own_disk_are_not_waited_for() {
        let mut waits = waits();
        let now = clock::monotonic();
        waits.handed_over(PersistTicket(1), LogIndex(5), now);
        waits.committed(LogIndex(5), now + Duration::from_millis(3));
        assert_eq!(noted(&waits), [(0, 0), (0, 0), (0, 0), (1, 3), (1, 0)]);
    }

    #[test]
    fn what_never_comes_out_is_not_noted_and_takes_no_more_memory() {
        let mut waits = waits();
        let now = clock::monotonic();
        for n in 0..5_000 {
            waits.taken(now, now);
            waits.handed_over(PersistTicket(n), LogIndex(n), now);
        }
        waits.asked(AllocationId(1), now);
        waits.answered(AllocationId(1), false, now);
        waits.answered(AllocationId(2), true, now);
        assert_eq!(waits.writing.len(), FOLLOWED_MAX);
        assert_eq!(noted(&waits).map(|(count, _)| count), [5_000, 1, 0, 0, 0]);
    }
}
