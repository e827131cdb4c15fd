//! The scorecard: each promise, how it is tried, how often, and what was seen. `scripts/scorecard` prints it.
//!
//! It tries nothing that no tool tries: it starts the tools ([`tools`]), reads their numbers and puts them beside the
//! figures that are asked. Three things only are tried here, since no tool counts them: [`damage`], [`failing`] and
//! [`retries`].
//!
//! A row is **held** when nothing was seen that must not be and it was tried as often as is asked; **short** when nothing
//! was seen, in fewer tries; **broken** when something was seen. What cannot be run is **not run**, with the reason, and
//! never counts as held.

pub mod damage;
pub mod failing;
pub mod retries;
pub mod rows;
pub mod tools;

use serde_json::{Value, json};
use std::fmt;

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A tenth, in minutes.
    Quick,
    /// All, in a night.
    Full,
}

impl Form {
    /// A figure of the full form, in this one.
    pub const fn part(self, full: u64) -> u64 {
        match self {
            Self::Quick => full / 10,
            Self::Full => full,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }
}

/// So many of something, and how many are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// What is counted.
    pub what: &'static str,
    /// How many there were.
    pub done: u64,
    /// How many there are to be.
    pub asked: u64,
}

/// What a row comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As promised, as often as is asked.
    Held,
    /// As promised, in fewer tries.
    Short,
    /// Not as promised.
    Broken,
    /// Why it was not tried.
    NotRun(String),
}

/// One promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What is promised.
    pub promise: &'static str,
    /// By what it is tried.
    pub how: String,
    /// How often.
    pub counts: Vec<Count>,
    /// What was seen.
    pub seen: String,
    /// What is asked, besides how often.
    pub figure: &'static str,
    /// What it comes to.
    pub verdict: Verdict,
}

impl Row {
    /// Of something that was tried.
    pub fn tried(
        (promise, figure): (&'static str, &'static str),
        how: impl Into<String>,
        counts: Vec<Count>,
        (is_broken, seen): (bool, String),
    ) -> Self {
        let is_short = counts.iter().any(|count| count.done < count.asked);
        let verdict = match (is_broken, is_short) {
            (true, _) => Verdict::Broken,
            (false, true) => Verdict::Short,
            (false, false) => Verdict::Held,
        };
        Self {
            promise,
            how: how.into(),
            counts,
            seen,
            figure,
            verdict,
        }
    }

    /// Of something that was not.
    pub fn not_run(
        (promise, figure): (&'static str, &'static str),
        how: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self {
            promise,
            how: how.into(),
            counts: Vec::new(),
            seen: String::new(),
            figure,
            verdict: Verdict::NotRun(why.into()),
        }
    }
}

/// All rows, and of what.
#[derive(Debug, Clone)]
pub struct Card {
    /// The form.
    pub form: Form,
    /// When it was run, UTC.
    pub date: String,
    /// Of which commit.
    pub commit: String,
    /// On what machine.
    pub machine: String,
    /// The rows.
    pub rows: Vec<Row>,
}

impl Card {
    /// Whether no promise was broken.
    pub fn is_clean(&self) -> bool {
        self.rows.iter().all(|row| row.verdict != Verdict::Broken)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let count = |count: &Count| json!({"what": count.what, "done": count.done, "asked": count.asked});
        let row = |row: &Row| {
            let (verdict, reason) = match &row.verdict {
                Verdict::Held => ("held", None),
                Verdict::Short => ("short", None),
                Verdict::Broken => ("broken", None),
                Verdict::NotRun(why) => ("not run", Some(why)),
            };
            json!({
                "promise": row.promise,
                "how": row.how,
                "counts": row.counts.iter().map(count).collect::<Vec<_>>(),
                "seen": row.seen,
                "figure": row.figure,
                "verdict": verdict,
                "reason": reason,
            })
        };
        json!({
            "form": self.form.name(),
            "date": self.date,
            "commit": self.commit,
            "machine": self.machine,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// The table, in Markdown.
impl fmt::Display for Card {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            form,
            date,
            commit,
            machine,
            rows,
        } = self;
        writeln!(out, "{date}, commit {commit}, {} form, {machine}\n", form.name())?;
        writeln!(
            out,
            "| promise | how it is tried | how often | what was seen | asked | |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|")?;
        for row in rows {
            let list = |number: fn(&Count) -> u64| {
                let counts = row
                    .counts
                    .iter()
                    .map(|count| format!("{} {}", digits(number(count)), count.what));
                counts.collect::<Vec<_>>().join(", ")
            };
            let asked = [row.figure.to_owned(), list(|count| count.asked)];
            let asked = asked
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join("; ");
            let verdict = match &row.verdict {
                Verdict::Held => "held".to_owned(),
                Verdict::Short => "**short**".to_owned(),
                Verdict::Broken => "**broken**".to_owned(),
                Verdict::NotRun(why) => format!("not run: {}", one_cell(why)),
            };
            let (how, often, seen) = (&row.how, list(|count| count.done), one_cell(&row.seen));
            writeln!(
                out,
                "| {} | {how} | {often} | {seen} | {asked} | {verdict} |",
                row.promise
            )?;
        }
        Ok(())
    }
}

/// A number with commas, as people read it.
fn digits(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Text that cannot break the table, and is not longer than a few lines.
fn one_cell(text: &str) -> String {
    const LONGEST: usize = 300;
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.replace('|', "/").chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(done: u64) -> Vec<Count> {
        vec![Count {
            what: "kills",
            done,
            asked: 30,
        }]
    }

    #[test]
    fn a_row_is_held_short_broken_or_not_run() {
        let promise = ("nothing is lost", "0 lost");
        let row =
            |done, is_broken| Row::tried(promise, "torture", count(done), (is_broken, "0 lost".to_owned()));
        let rows = vec![
            row(30, false),
            row(29, false),
            row(30, true),
            Row::not_run(promise, "torture", "no | loop\ndevices"),
        ];
        let verdicts: Vec<_> = rows.iter().map(|row| row.verdict.clone()).collect();
        assert_eq!(verdicts[..3], [Verdict::Held, Verdict::Short, Verdict::Broken]);
        let card = Card {
            form: Form::Quick,
            date: "2026-11-22".to_owned(),
            commit: "abc".to_owned(),
            machine: "2 cores".to_owned(),
            rows,
        };
        assert!(!card.is_clean());
        let table = card.to_string();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines[4],
            "| nothing is lost | torture | 30 kills | 0 lost | 0 lost; 30 kills | held |"
        );
        assert!(lines[5].ends_with("| **short** |"), "{table}");
        assert!(lines[6].ends_with("| **broken** |"), "{table}");
        assert!(lines[7].ends_with("| not run: no / loop devices |"), "{table}");
        assert_eq!(card.json()["rows"][3]["verdict"], "not run");
    }

    #[test]
    fn large_numbers_are_easy_to_read() {
        let texts = [7, 999, 1_000, 100_000, 12_345_678].map(digits);
        assert_eq!(texts, ["7", "999", "1,000", "100,000", "12,345,678"]);
    }
}
