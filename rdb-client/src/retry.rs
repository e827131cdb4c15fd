//! Decides whether a failed call is made again, when, and what is told in the end.
//!
//! A write keeps its event id over all attempts, so repeating it never adds a second event. Once an attempt may
//! have been stored, *unknown* sticks: only a success, a duplicate's outcome or a refusal that will be as true of an
//! attempt that arrives later ends it. Any other last error becomes `OUTCOME_UNKNOWN`.

use crate::Error;
use crate::clock::{self, Deadline};
use crate::limits::{ATTEMPT_WORTHWHILE, RETRY_DELAY_MAX, RETRY_DELAY_MIN};
use rdb_proto::event::Expectation;
use rdb_proto::reason::{Happened, Reason};
use std::time::Duration;

/// Whether a call can change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallKind {
    Read,
    /// With what it demands of its key; of something else than a key, nothing.
    Write(Expectation),
}

/// Waits that double, drawn at random between half and all of each, so that clients do not come back in step.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self {
            next: RETRY_DELAY_MIN,
        }
    }

    pub(crate) fn next_delay(&mut self) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(RETRY_DELAY_MAX);
        let half = whole / 2;
        let half_us = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        half.saturating_add(Duration::from_micros(clock::random() % half_us))
    }

    pub(crate) const fn reset(&mut self) {
        self.next = RETRY_DELAY_MIN;
    }
}

/// What became of one call so far.
#[derive(Debug, Clone)]
pub(crate) struct Attempts {
    kind: CallKind,
    made: u32,
    is_unknown: bool,
    backoff: Backoff,
}

/// What to do after a failed attempt.
#[derive(Debug)]
pub(crate) enum Next {
    /// Call again after this long.
    Retry(Duration),
    /// Tell the caller.
    Tell(Error),
}

impl Attempts {
    pub(crate) const fn new(kind: CallKind) -> Self {
        Self {
            kind,
            made: 0,
            is_unknown: false,
            backoff: Backoff::new(),
        }
    }

    /// Attempts made so far.
    pub(crate) const fn made(&self) -> u32 {
        self.made
    }

    /// Whether an earlier attempt may have been stored: then the next one is a retry in the server's eyes.
    pub(crate) const fn is_unknown(&self) -> bool {
        self.is_unknown
    }

    pub(crate) const fn begin(&mut self) {
        self.made = self.made.saturating_add(1);
    }

    pub(crate) fn failed(&mut self, error: Error, deadline: Deadline) -> Next {
        let was_unknown = self.is_unknown;
        self.is_unknown |= self.kind != CallKind::Read && error.happened() == Happened::Maybe;
        if !error.is_transient() {
            return Next::Tell(self.verdict(error, was_unknown));
        }
        let delay = error
            .retry_after()
            .map_or_else(|| self.backoff.next_delay(), |hint| hint.min(RETRY_DELAY_MAX));
        match deadline.remaining() {
            Some(left) if left <= delay.saturating_add(ATTEMPT_WORTHWHILE) => {
                Next::Tell(self.verdict(error, was_unknown))
            }
            _ => Next::Retry(delay),
        }
    }

    fn verdict(&self, error: Error, was_unknown: bool) -> Error {
        match self.kind {
            CallKind::Read => error.of_a_read().with_attempts(self.made),
            CallKind::Write(_) if error.is_transient() && self.is_unknown => error.into_unknown(self.made),
            CallKind::Write(demanded) if was_unknown && !settles(&error, demanded) => {
                error.into_unknown(self.made)
            }
            CallKind::Write(_) => error.with_attempts(self.made),
        }
    }
}

/// Refusals that prove that no attempt was stored, and that none will be: given after the server has looked for the event
/// id, and as true of an earlier attempt that is still on its way, through a node that could not reach the leader, and
/// arrives later. A key that has gone past the version which was demanded never comes back to it; one that is there may be
/// deleted by then, and one that is not may be written. `FIELD_INVALID` or `DISK_FULL` come before the look, and
/// `RETRY_TOO_OLD` says that it found nothing *any more*. (`EVENT_ID_REUSED` proves it for as long as ids are remembered.)
fn settles(error: &Error, demanded: Expectation) -> bool {
    let is_past = |version| error.current_version().is_some_and(|current| current > version);
    match demanded {
        Expectation::Exact(version) if error.reason() == Some(Reason::VersionConflict) => is_past(version),
        Expectation::Exact(_) | Expectation::Absent | Expectation::Exists | Expectation::Any => {
            error.reason() == Some(Reason::EventIdReused)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_proto::types::Version;
    use tonic::Status;

    fn told(next: Next) -> Error {
        match next {
            Next::Tell(error) => error,
            Next::Retry(delay) => panic!("retried after {delay:?}"),
        }
    }

    fn write_that(demands: Expectation) -> Attempts {
        let mut attempts = Attempts::new(CallKind::Write(demands));
        attempts.begin();
        attempts
    }

    fn write() -> Attempts {
        write_that(Expectation::Any)
    }

    fn reset_connection() -> Error {
        Error::from_status(&Status::unavailable("reset"), "n1:2048")
    }

    /// The first attempt may be under way still: what is refused now may be done when it arrives.
    #[test]
    fn unknown_sticks_until_a_refusal_that_holds_for_attempts_that_arrive_later() {
        use Expectation::{Absent, Any, Exact, Exists};
        let at = |version: u64| Error::conflict(Version(version));
        let no = |reason| Error::new(reason, "no");
        for (demanded, last, stays_unknown) in [
            (Exact(Version(3)), at(4), false),
            (Exact(Version(3)), at(2), true),
            (Absent, at(4), true),
            (Exists, at(4), true),
            (Exists, no(Reason::KeyNotFound), true),
            (Any, no(Reason::EventIdReused), false),
            (Exact(Version(3)), no(Reason::EventIdReused), false),
            (Any, no(Reason::DiskFull), true),
            (Any, no(Reason::RetryTooOld), true),
            (Any, no(Reason::FieldInvalid), true),
        ] {
            let what = format!("{demanded:?}, {last}");
            let mut attempts = write_that(demanded);
            let broken = attempts.failed(reset_connection(), Deadline::NEVER);
            assert!(matches!(broken, Next::Retry(_)));
            attempts.begin();
            let error = told(attempts.failed(last.clone(), Deadline::NEVER));
            assert_eq!(error.happened() == Happened::Maybe, stays_unknown, "{what}");
            let is_unknown = error.reason() == Some(Reason::OutcomeUnknown);
            assert_eq!(is_unknown, stays_unknown, "{what}");
            assert_eq!(error.attempts(), 2);
            // Without an attempt before it, each is what it says.
            let first = told(write_that(demanded).failed(last, Deadline::NEVER));
            assert_ne!(first.reason(), Some(Reason::OutcomeUnknown), "{what}");
        }
    }

    #[test]
    fn at_the_deadline_a_seat_that_was_vacant_throughout_is_told_as_such() {
        let over = Deadline::after(Some(Duration::ZERO));
        let error = told(write().failed(Error::new(Reason::SeatVacant, "vacant"), over));
        assert_eq!(
            (error.reason(), error.happened()),
            (Some(Reason::SeatVacant), Happened::No)
        );
    }

    #[test]
    fn at_the_deadline_a_broken_connection_leaves_a_write_unknown_and_a_read_not() {
        let over = Deadline::after(Some(Duration::ZERO));
        let error = told(write().failed(reset_connection(), over));
        assert_eq!(error.reason(), Some(Reason::OutcomeUnknown));
        let mut read = Attempts::new(CallKind::Read);
        read.begin();
        let error = told(read.failed(reset_connection(), over));
        assert_eq!((error.reason(), error.happened()), (None, Happened::No));
    }

    #[test]
    fn a_blind_retry_is_not_a_retry_in_the_servers_eyes() {
        let mut attempts = write();
        let next = attempts.failed(Error::new(Reason::SeatVacant, "vacant"), Deadline::NEVER);
        assert!(matches!(next, Next::Retry(_)));
        assert!(!attempts.is_unknown());
    }

    #[test]
    fn back_off_doubles_up_to_its_limit_and_starts_again_after_progress() {
        let mut backoff = Backoff::new();
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            longest = backoff.next_delay();
            assert!(longest <= RETRY_DELAY_MAX);
        }
        assert!(longest >= RETRY_DELAY_MAX / 2);
        backoff.reset();
        assert!(backoff.next_delay() <= RETRY_DELAY_MIN);
    }
}
