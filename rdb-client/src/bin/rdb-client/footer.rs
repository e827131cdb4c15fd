//! The line at the bottom of a terminal while a stream is followed: how fast, how far, and whether it is well.

use rdb_client::{EventBatch, Message, Seq, Timestamp};
use std::time::{Duration, Instant};

/// A rate is of so long a time at least.
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// What the line is made of.
#[derive(Debug)]
pub(crate) struct Footer {
    state: State,
    mark: Option<Seq>,
    /// Time of the last event.
    at: Option<Timestamp>,
    rate: Rate,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Connecting,
    CatchingUp,
    CaughtUp,
    FellBehind,
    /// No connection, and why.
    Interrupted(String),
}

/// Events a second, over the last second or so.
#[derive(Debug)]
struct Rate {
    since: Instant,
    count: u64,
    per_second: Option<u64>,
}

impl Footer {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            state: State::Connecting,
            mark: None,
            at: None,
            rate: Rate {
                since: now,
                count: 0,
                per_second: None,
            },
        }
    }

    /// Takes in what the stream says.
    pub(crate) fn hear(&mut self, message: &Message) {
        match message {
            Message::Opened { .. } => self.state = State::CatchingUp,
            Message::Events(batch) => self.events(batch),
            Message::Resolved { seq, .. } => self.mark = self.mark.max(Some(*seq)),
            Message::CaughtUp { seq } => {
                self.mark = self.mark.max(Some(*seq));
                self.state = State::CaughtUp;
            }
            Message::FellBehind { .. } => self.state = State::FellBehind,
            Message::Interrupted(error) => self.state = State::Interrupted(error.to_string()),
        }
    }

    fn events(&mut self, batch: &EventBatch) {
        self.rate.count = self.rate.count.saturating_add(batch.count());
    }

    /// The stream came to an event of this time.
    pub(crate) const fn came_to(&mut self, time: Timestamp) {
        self.at = Some(time);
    }

    /// The line. `wall` is what the clock on the wall says.
    pub(crate) fn text(&mut self, now: Instant, wall: Timestamp) -> String {
        let mut parts = Vec::new();
        if let Some(rate) = self.rate.at(now) {
            parts.push(format!("{} events/s", grouped(rate)));
        }
        if let Some(mark) = self.mark {
            parts.push(format!("mark {mark}"));
        }
        let behind = || {
            let behind = self.at.map(|at| wall.get().saturating_sub(at.get()) / 1_000_000);
            behind.map_or_else(String::new, |seconds| format!(", {} behind", coarse(seconds)))
        };
        parts.push(match &self.state {
            State::Connecting => "connecting".to_owned(),
            State::CatchingUp => format!("catching up{}", behind()),
            State::CaughtUp => "caught up".to_owned(),
            State::FellBehind => format!("slower than the writers{}", behind()),
            State::Interrupted(error) => format!("interrupted, trying again: {error}"),
        });
        parts.join(" · ")
    }
}

impl Rate {
    fn at(&mut self, now: Instant) -> Option<u64> {
        let passed = now.saturating_duration_since(self.since);
        if passed >= RATE_WINDOW {
            let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
            self.per_second = self.count.saturating_mul(1_000).checked_div(millis);
            self.since = now;
            self.count = 0;
        }
        self.per_second
    }
}

/// The two largest units: nobody reads the seconds of a day.
fn coarse(seconds: u64) -> String {
    let unit = match seconds {
        0..3_600 => 1,
        3_600..86_400 => 60,
        86_400.. => 3_600,
    };
    humantime::format_duration(Duration::from_secs(seconds - seconds % unit)).to_string()
}

/// A number with its digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (left, digit) in (0..digits.len()).rev().zip(digits.chars()) {
        text.push(digit);
        if left > 0 && left % 3 == 0 {
            text.push(',');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_client::clock;

    const SECOND: Duration = Duration::from_secs(1);
    const WALL: Timestamp = Timestamp(1_795_210_200_000_000);

    fn opened() -> Message {
        Message::Opened {
            database_id: String::new(),
            after: Seq::ZERO,
        }
    }

    #[test]
    fn it_says_how_far_behind_until_it_is_caught_up() {
        let start = clock::now();
        let mut footer = Footer::new(start);
        assert_eq!(footer.text(start, WALL), "connecting");
        footer.hear(&opened());
        assert_eq!(footer.text(start, WALL), "catching up");
        footer.came_to(Timestamp(WALL.get() - 7_384_000_000));
        footer.hear(&Message::Resolved {
            seq: Seq(8_123),
            changes: 0,
        });
        assert_eq!(footer.text(start, WALL), "mark 8123 · catching up, 2h 3m behind");
        footer.hear(&Message::CaughtUp { seq: Seq(8_125) });
        assert_eq!(footer.text(start, WALL), "mark 8125 · caught up");
        footer.hear(&Message::FellBehind { seq: Seq(9_000) });
        footer.came_to(Timestamp(WALL.get() - 2_900_000));
        assert_eq!(
            footer.text(start, WALL),
            "mark 8125 · slower than the writers, 2s behind"
        );
    }

    #[test]
    fn the_rate_is_of_the_last_second_or_so() {
        let start = clock::now();
        let mut footer = Footer::new(start);
        footer.rate.count = 2_469;
        assert_eq!(footer.text(start + SECOND / 2, WALL), "connecting");
        assert_eq!(
            footer.text(start + SECOND * 2, WALL),
            "1,234 events/s · connecting"
        );
        assert_eq!(
            footer.text(start + SECOND * 2 + SECOND / 2, WALL),
            "1,234 events/s · connecting"
        );
        assert_eq!(footer.text(start + SECOND * 3, WALL), "0 events/s · connecting");
    }

    #[test]
    fn numbers_are_told_as_people_read_them() {
        let told = [0, 999, 1_000, 1_234_567].map(grouped);
        assert_eq!(told, ["0", "999", "1,000", "1,234,567"]);
        let told = [0, 59, 3_599, 3_661, 90_061].map(coarse);
        assert_eq!(told, ["0s", "59s", "59m 59s", "1h 1m", "1day 1h"]);
    }
}
