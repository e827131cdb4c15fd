//! How to go on with a subscription that ended: the command line of this run, from where it came to.

use crate::write::shell_word;
use rdb_client::Seq;

/// Flags that say where to begin, and whether a value follows.
const STARTS: [(&str, bool); 5] = [
    ("--from", true),
    ("--from-now", false),
    ("--from-time", true),
    ("--snapshot", false),
    ("--snapshot-of", true),
];
/// Never repeated where others may read it; the environment has it, too.
const SECRET: (&str, bool) = ("--etcd-password", true);
const LIMIT: (&str, bool) = ("--limit", true);

/// Where a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The last seq that was shown, or marked.
    pub(crate) seq: Seq,
    /// Up to here it is a snapshot; [`Seq::ZERO`] without one.
    pub(crate) snapshot: Seq,
    /// Events that are still to come of those that were asked for.
    pub(crate) left: Option<u64>,
}

/// The command line that goes on, from the words of this run after the name of the program.
pub(crate) fn command(words: &[String], place: Place) -> String {
    let mut line = vec!["rdb-client".to_owned()];
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (name, has_value_within) = match word.split_once('=') {
            Some((name, _)) => (name, true),
            None => (word.as_str(), false),
        };
        let mut dropped = STARTS.iter().chain([&SECRET, &LIMIT]);
        match dropped.find(|(flag, _)| *flag == name) {
            Some((_, true)) if !has_value_within => drop(words.next()),
            Some(_) => {}
            None => line.push(shell_word(word)),
        }
    }
    let mut add = |flag: &str, number: u64| line.push(format!("{flag} {number}"));
    if let Some(left) = place.left {
        add("--limit", left);
    }
    if place.snapshot > place.seq {
        add("--snapshot-of", place.snapshot.get());
    }
    add("--from", place.seq.get());
    line.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes_on(words: &str, seq: u64, snapshot: u64, left: Option<u64>) -> String {
        let words: Vec<String> = words.split('|').map(str::to_owned).collect();
        let place = Place {
            seq: Seq(seq),
            snapshot: Seq(snapshot),
            left,
        };
        command(&words, place)
    }

    #[test]
    fn everything_but_the_start_stays_as_it_was_given() {
        assert_eq!(
            goes_on(
                "--server|a:1|subscribe|--from|5|--prefix=orders/|--type|quarry blast|--resolved",
                9,
                0,
                None
            ),
            "rdb-client --server a:1 subscribe --prefix=orders/ --type 'quarry blast' --resolved --from 9"
        );
        assert_eq!(
            goes_on("subscribe|-k|it's", 9, 0, None),
            r"rdb-client subscribe -k 'it'\''s' --from 9"
        );
        for start in ["--from=5", "--from-now", "--from-time|2h", "--from-time=2h"] {
            let words = format!("subscribe|{start}|--tag|x");
            assert_eq!(
                goes_on(&words, 9, 0, None),
                "rdb-client subscribe --tag x --from 9"
            );
        }
    }

    #[test]
    fn a_snapshot_is_gone_on_with_until_it_is_over() {
        let in_the_middle = "rdb-client subscribe --snapshot-of 20 --from 9";
        assert_eq!(goes_on("subscribe|--snapshot", 9, 20, None), in_the_middle);
        assert_eq!(
            goes_on("subscribe|--snapshot-of|20|--from|3", 9, 20, None),
            in_the_middle
        );
        assert_eq!(
            goes_on("subscribe|--snapshot", 20, 20, None),
            "rdb-client subscribe --from 20"
        );
    }

    #[test]
    fn a_limit_is_what_is_left_of_it_and_a_password_is_not_repeated() {
        assert_eq!(
            goes_on("subscribe|--limit|10|--etcd-password|secret", 9, 0, Some(4)),
            "rdb-client subscribe --limit 4 --from 9"
        );
    }
}
