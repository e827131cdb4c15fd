//! What happened, one line each. Lines are only made when somebody wants them: a run is repeated with its trace when it
//! fails, since the same seed gives the same run.

use super::plan::Micros;
use std::collections::VecDeque;
use std::fmt;

/// What becomes of the lines.
#[derive(Debug, Default)]
pub enum Trace {
    /// Nothing.
    #[default]
    Off,
    /// The last ones are kept.
    Tail(VecDeque<String>, usize),
    /// All are kept.
    Whole(Vec<String>),
}

impl Trace {
    /// Keeps the last `count` lines.
    pub const fn tail(count: usize) -> Self {
        Self::Tail(VecDeque::new(), count)
    }

    /// Keeps every line.
    pub const fn whole() -> Self {
        Self::Whole(Vec::new())
    }

    /// Whether lines are wanted.
    pub const fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }

    /// Adds a line.
    pub fn say(&mut self, now: Micros, line: fmt::Arguments<'_>) {
        let timed = || format!("{:>4}.{:06} {line}", now / 1_000_000, now % 1_000_000);
        match self {
            Self::Off => {}
            Self::Tail(lines, most) => {
                if lines.len() == *most {
                    lines.pop_front();
                }
                lines.push_back(timed());
            }
            Self::Whole(lines) => lines.push(timed()),
        }
    }

    /// The lines.
    pub fn into_lines(self) -> Vec<String> {
        match self {
            Self::Off => vec![],
            Self::Tail(lines, _) => lines.into(),
            Self::Whole(lines) => lines,
        }
    }
}
