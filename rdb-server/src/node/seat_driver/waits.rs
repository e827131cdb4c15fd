//! Where appends wait on their way through the seat that leads their keys, for the metric `append_wait`.
//!
//! Appends that get their numbers together wait together: each step is noted once for all of them, with the time of the one
//! that waited longest. What gets no numbers (a retry, a conflict, a refusal) is not noted, nor is what comes after an epoch
//! was lost.

use super::super::telemetry::{Step, Telemetry};
use crate::protocol::{AllocationId, PersistTicket};
use rdb_proto::types::LogIndex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Batches followed at a time in each step, the newest ones.
const FOLLOWED_MAX: usize = 1_024;

/// Appends between two steps.
#[derive(Debug)]
pub(super) struct Waits {
    telemetry: Arc<Telemetry>,
    /// What has not asked for numbers, as it was taken.
    taken: VecDeque<Taken>,
    asked: Option<(AllocationId, Instant)>,
    /// Numbers came, and the entries that they are for come next.
    is_numbered: bool,
    writing: VecDeque<Writing>,
}

#[derive(Debug, Clone, Copy)]
struct Taken {
    /// The first of them.
    arrived: Instant,
    at: Instant,
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
            asked: None,
            is_numbered: false,
            writing: VecDeque::new(),
        }
    }

    /// The seat took appends, of which the first arrived then.
    pub(super) fn taken(&mut self, arrived: Instant, now: Instant) {
        follow(&mut self.taken, Taken { arrived, at: now });
    }

    /// Numbers are asked for. Of what was taken, the last may have to wait for the next time.
    pub(super) fn asked(&mut self, request: AllocationId, now: Instant) {
        if let Some(first) = self.taken.front().copied() {
            self.note(Step::Queue, first.arrived, first.at);
            self.note(Step::Decide, first.at, now);
        }
        let last = self.taken.pop_back();
        self.taken.clear();
        self.taken.extend(last);
        self.asked = Some((request, now));
    }

    /// Everything that was taken is decided.
    pub(super) fn none_waits(&mut self) {
        self.taken.clear();
    }

    /// Numbers came, or never will.
    pub(super) fn answered(&mut self, request: AllocationId, are_there: bool, now: Instant) {
        if let Some((_, asked)) = self.asked.take_if(|(asked, _)| *asked == request) {
            self.is_numbered = are_there;
            if are_there {
                self.note(Step::Numbers, asked, now);
            }
        }
    }

    /// The log was handed entries that end here. Those that a new leader found are nobody's appends.
    pub(super) fn handed_over(&mut self, ticket: PersistTicket, last: LogIndex, now: Instant) {
        if std::mem::take(&mut self.is_numbered) {
            let writing = Writing {
                ticket,
                last,
                begun: now,
                durable: None,
            };
            follow(&mut self.writing, writing);
        }
    }

    /// What was handed over up to this ticket is durable here.
    pub(super) fn durable(&mut self, ticket: PersistTicket, now: Instant) {
        let newest_first = self.writing.iter_mut().rev();
        let not_durable = newest_first.take_while(|writing| writing.durable.is_none());
        for writing in not_durable.filter(|writing| writing.ticket <= ticket) {
            writing.durable = Some(now);
        }
    }

    /// Entries up to here are committed.
    pub(super) fn committed(&mut self, index: LogIndex, now: Instant) {
        while let Some(writing) = self.writing.pop_front_if(|writing| writing.last <= index) {
            if let Some(durable) = writing.durable {
                self.note(Step::Disk, writing.begun, durable);
                self.note(Step::Members, durable, now);
            }
        }
    }

    /// The seat is not led here.
    pub(super) fn forget(&mut self) {
        self.taken.clear();
        self.asked = None;
        self.is_numbered = false;
        self.writing.clear();
    }

    fn note(&self, step: Step, from: Instant, to: Instant) {
        self.telemetry.waited(step, to.saturating_duration_since(from));
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

    /// Milliseconds from some beginning.
    struct Clock(Instant);

    impl Clock {
        fn at(&self, milliseconds: u64) -> Instant {
            self.0 + Duration::from_millis(milliseconds)
        }
    }

    fn waits() -> (Waits, Clock) {
        (Waits::new(Arc::new(Telemetry::new())), Clock(clock::monotonic()))
    }

    /// How often each step was noted, and its milliseconds.
    fn noted(waits: &Waits) -> [(u64, u64); 5] {
        let text = waits.telemetry.text();
        let value = |of: &str, step: &str| {
            let name = format!("rdb_append_wait_seconds_{of}{{step=\"{step}\"}} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&name));
            value.unwrap_or("0").to_owned()
        };
        ["Queue", "Decide", "Numbers", "Disk", "Members"].map(|step| {
            let sum = Duration::from_secs_f64(value("sum", step).parse().unwrap());
            let milliseconds = sum.as_micros().div_ceil(1_000);
            let count = value("count", step).parse().unwrap();
            (count, u64::try_from(milliseconds).unwrap())
        })
    }

    const NONE: (u64, u64) = (0, 0);

    #[test]
    fn each_step_is_noted_once_for_those_that_go_together() {
        let (mut waits, clock) = waits();
        waits.taken(clock.at(0), clock.at(1));
        waits.taken(clock.at(2), clock.at(2));
        waits.asked(AllocationId(1), clock.at(3));
        assert_eq!(noted(&waits), [(1, 1), (1, 2), NONE, NONE, NONE]);
        waits.answered(AllocationId(1), true, clock.at(7));
        waits.handed_over(PersistTicket(4), LogIndex(9), clock.at(7));
        waits.durable(PersistTicket(4), clock.at(15));
        waits.durable(PersistTicket(5), clock.at(16));
        waits.committed(LogIndex(8), clock.at(20));
        assert_eq!(noted(&waits), [(1, 1), (1, 2), (1, 4), NONE, NONE]);
        waits.committed(LogIndex(9), clock.at(31));
        assert_eq!(noted(&waits), [(1, 1), (1, 2), (1, 4), (1, 8), (1, 16)]);
    }

    #[test]
    fn what_gets_no_numbers_is_not_noted_with_what_comes_later() {
        let (mut waits, clock) = waits();
        waits.taken(clock.at(0), clock.at(0));
        waits.none_waits();
        waits.taken(clock.at(5_000), clock.at(5_000));
        waits.asked(AllocationId(1), clock.at(5_001));
        assert_eq!(noted(&waits), [(1, 0), (1, 1), NONE, NONE, NONE]);
        waits.answered(AllocationId(1), false, clock.at(5_002));
        waits.handed_over(PersistTicket(1), LogIndex(1), clock.at(5_003));
        waits.durable(PersistTicket(1), clock.at(5_004));
        waits.committed(LogIndex(1), clock.at(5_005));
        assert_eq!(noted(&waits), [(1, 0), (1, 1), NONE, NONE, NONE]);
    }

    #[test]
    fn what_did_not_fit_goes_on_waiting() {
        let (mut waits, clock) = waits();
        waits.taken(clock.at(0), clock.at(0));
        waits.taken(clock.at(1), clock.at(1));
        waits.asked(AllocationId(1), clock.at(2));
        waits.answered(AllocationId(1), true, clock.at(4));
        waits.asked(AllocationId(2), clock.at(4));
        assert_eq!(noted(&waits), [(2, 0), (2, 5), (1, 2), NONE, NONE]);
    }

    #[test]
    fn an_epoch_that_was_lost_is_forgotten() {
        let (mut waits, clock) = waits();
        waits.taken(clock.at(0), clock.at(0));
        waits.asked(AllocationId(1), clock.at(0));
        waits.answered(AllocationId(1), true, clock.at(0));
        waits.handed_over(PersistTicket(1), LogIndex(100), clock.at(0));
        waits.durable(PersistTicket(1), clock.at(1));
        waits.taken(clock.at(2), clock.at(2));
        waits.forget();
        waits.committed(LogIndex(100), clock.at(9_000));
        // What a new leader found in the log is not its clients' writing.
        waits.handed_over(PersistTicket(2), LogIndex(101), clock.at(9_000));
        waits.durable(PersistTicket(2), clock.at(9_001));
        waits.committed(LogIndex(101), clock.at(9_002));
        assert_eq!(noted(&waits), [(1, 0), (1, 0), (1, 0), NONE, NONE]);
    }

    #[test]
    fn no_more_is_followed_than_fits() {
        let (mut waits, clock) = waits();
        for n in 0..5_000 {
            waits.taken(clock.at(n), clock.at(n));
        }
        assert_eq!(waits.taken.len(), FOLLOWED_MAX);
    }
}
