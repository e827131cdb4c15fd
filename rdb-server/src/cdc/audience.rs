//! How many are served events here, and when it is each one's turn again: most of what a message costs does not depend on how
//! many events are in it, and writers share the machine with those who listen. Turns are spread out: an append that comes
//! while a hundred streams are served the same event would wait for all of them.
//!
//! Who has been served nothing for a while is served at once: only a stream of events is gathered. To look through events of
//! which a filter lets none pass is to be served, too, unless other seats' events wait for that. Pure: time comes from
//! outside.

use crate::limits::{AUDIENCE_FREE, LISTENER_QUIET, LISTENER_TURN, LISTENER_WAIT_MAX, STREAM_MESSAGE_BYTES};
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Those who listen at a node.
#[derive(Debug)]
pub struct Audience {
    /// By how much each of them lengthens the others' wait.
    turn: Duration,
    turns: Mutex<Turns>,
}

#[derive(Debug, Default)]
struct Turns {
    /// How many were served events lately.
    listeners: u32,
    last: Option<Instant>,
}

impl Turns {
    /// When it is the turn of one who is served events now.
    fn after(&mut self, now: Instant, turn: Duration) -> Instant {
        let beyond = self.listeners.saturating_sub(AUDIENCE_FREE);
        let wait = turn.saturating_mul(beyond).min(LISTENER_WAIT_MAX);
        let apart = wait / self.listeners.max(1);
        let earliest = now + wait;
        let next = self.last.map_or(earliest, |last| last + apart);
        // Who leaves does not give its turn back: nobody waits for more than one whole round beyond the own one.
        let next = next.clamp(earliest, earliest + wait);
        self.last = Some(next);
        next
    }
}

impl Audience {
    /// Nobody yet, at a node that has so many processors.
    pub fn on(processors: NonZero<usize>) -> Self {
        Self {
            turn: LISTENER_TURN / u32::try_from(processors.get()).unwrap_or(u32::MAX),
            turns: Mutex::default(),
        }
    }

    fn turns<T>(&self, ask: impl FnOnce(&mut Turns) -> T) -> T {
        // A panic while the lock was held left numbers that are no worse than others.
        ask(&mut self.turns.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One who listens: one of the audience from when it is served events until it is quiet.
#[derive(Debug)]
pub(super) struct Listener {
    audience: Arc<Audience>,
    served: Option<Served>,
}

#[derive(Debug, Clone, Copy)]
struct Served {
    at: Instant,
    next: Instant,
}

impl Listener {
    pub(super) const fn of(audience: Arc<Audience>) -> Self {
        Self {
            audience,
            served: None,
        }
    }

    /// Notes that events were looked through, and so many bytes of them are sent. A message that is well filled has been
    /// gathered already: the next one need not be. Nor need what is sent without a turn: the rest of one, or what has been
    /// there for long.
    pub(super) fn serve(&mut self, bytes: usize, is_turn: bool, now: Instant) {
        let is_full = bytes >= STREAM_MESSAGE_BYTES / 2;
        let known = self.served.map(|served| served.next);
        let turn = self.audience.turn;
        let next = self.audience.turns(|turns| {
            turns.listeners += u32::from(known.is_none());
            match known {
                _ if is_full => now,
                _ if is_turn => turns.after(now, turn),
                known => known.unwrap_or(now),
            }
        });
        self.served = Some(Served { at: now, next });
    }

    /// To be asked now and then: whoever was served nothing for long is not counted any more.
    pub(super) fn look(&mut self, now: Instant) {
        let is_quiet = |served: &mut Served| now.saturating_duration_since(served.at) >= LISTENER_QUIET;
        if self.served.take_if(is_quiet).is_some() {
            self.leave();
        }
    }

    /// How long until it is this one's turn again.
    pub(super) fn rest(&self, now: Instant) -> Duration {
        self.served.map_or(Duration::ZERO, |served| {
            served.next.saturating_duration_since(now)
        })
    }

    fn leave(&self) {
        self.audience.turns(|turns| turns.listeners -= 1);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.served.is_some() {
            self.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// So many, at a node with four processors, who were served a little now.
    fn listeners(count: u32, now: Instant) -> Vec<Listener> {
        let audience = Arc::new(Audience::on(NonZero::new(4).unwrap()));
        let mut all: Vec<Listener> = (0..count).map(|_| Listener::of(Arc::clone(&audience))).collect();
        serve(&mut all, now);
        all
    }

    fn serve(all: &mut [Listener], now: Instant) {
        for one in all {
            one.serve(100, true, now);
        }
    }

    /// Serves each when it is its turn, as long as there are events: who was served, and when.
    fn take_turns(all: &mut [Listener], mut now: Instant, end: Instant) -> Vec<(usize, Instant)> {
        let mut served = Vec::new();
        while now < end {
            for (n, one) in all.iter_mut().enumerate() {
                if one.rest(now).is_zero() {
                    one.serve(100, true, now);
                    served.push((n, now));
                }
            }
            now += Duration::from_micros(50);
        }
        served
    }

    #[test]
    fn the_more_are_served_events_the_longer_these_are_gathered() {
        let now = clock::monotonic();
        for (count, turns) in [(1, 0), (AUDIENCE_FREE, 0), (AUDIENCE_FREE + 40, 40)] {
            let wait = LISTENER_TURN * turns / 4;
            let mut all = listeners(count, now);
            take_turns(&mut all, now, now + wait * 4);
            all[0].serve(100, true, now + wait * 4);
            let rest = all[0].rest(now + wait * 4);
            assert!(wait <= rest && rest <= wait * 2, "{rest:?} of {count}");
            let new = Listener::of(Arc::clone(&all[0].audience));
            assert_eq!(new.rest(now), Duration::ZERO, "nothing was served yet");
            all.truncate(1);
            serve(&mut all, now + wait * 8);
            assert_eq!(
                all[0].rest(now + wait * 8),
                Duration::ZERO,
                "the others have left"
            );
        }
        let rests = listeners(100_000, now);
        let longest = rests.iter().map(|one| one.rest(now)).max().unwrap();
        let bounds = LISTENER_WAIT_MAX..=LISTENER_WAIT_MAX * 2;
        assert!(bounds.contains(&longest), "{longest:?}");
    }

    #[test]
    fn turns_are_spread_out() {
        let now = clock::monotonic();
        let mut all = listeners(100, now);
        let served = take_turns(&mut all, now, now + Duration::from_secs(1));
        let (_, steady) = served.split_at(200);
        for (n, (_, at)) in steady.iter().enumerate() {
            let within = Duration::from_millis(1);
            let together = steady[n..].iter().take_while(|(_, other)| *other < *at + within);
            assert!(together.count() <= 6, "too many at {:?}", *at - now);
        }
        let turns = |n| steady.iter().filter(|(who, _)| *who == n).count();
        let (least, most) = ((0..100).map(turns).min(), (0..100).map(turns).max());
        assert!(
            least >= Some(35) && most <= Some(45),
            "{least:?} to {most:?} turns"
        );
    }

    #[test]
    fn who_catches_up_takes_nobodys_turn() {
        let now = clock::monotonic();
        let mut all = listeners(100, now);
        let mut catching_up = Listener::of(Arc::clone(&all[0].audience));
        let first = all[99].rest(now);
        for _ in 0..10_000 {
            catching_up.serve(100, false, now);
        }
        assert_eq!(catching_up.rest(now), Duration::ZERO);
        all[0].serve(100, true, now);
        assert!(all[0].rest(now) <= first + LISTENER_TURN / 2);
        let rest = all[0].rest(now);
        all[0].serve(100, false, now);
        assert_eq!(all[0].rest(now), rest, "the rest of a turn is no other turn");
    }

    #[test]
    fn a_message_that_is_full_is_followed_by_the_next() {
        let now = clock::monotonic();
        let mut all = listeners(100, now);
        all[0].serve(STREAM_MESSAGE_BYTES, true, now);
        assert_eq!(all[0].rest(now), Duration::ZERO);
    }

    #[test]
    fn whoever_is_quiet_does_not_count() {
        let now = clock::monotonic();
        let mut all = listeners(AUDIENCE_FREE + 40, now);
        let later = now + LISTENER_QUIET;
        all[0].serve(100, true, later);
        for one in &mut all {
            one.look(later);
        }
        all[0].serve(100, true, later);
        assert_eq!(all[0].rest(later), Duration::ZERO);
        serve(&mut all, later);
        all[0].serve(100, true, later);
        assert!(all[0].rest(later) >= LISTENER_TURN * 40 / 4);
    }
}
