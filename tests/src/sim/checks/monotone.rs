//! DESIGN 6.4: `promised` never goes back on a member, also over a restart; `commit` and `resolved` never within one
//! life of its process.

use super::{Verdict, broken};
use rdb_proto::types::{Epoch, LogIndex, Seq};

const RULE: &str = "nothing goes back (DESIGN 6.4)";

/// What a member has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shown {
    /// Its promise, as told to others: durable.
    pub promised: Epoch,
    /// Its commit index.
    pub commit: LogIndex,
    /// Its mark.
    pub mark: Seq,
}

impl Shown {
    /// The member shows this now.
    ///
    /// # Errors
    /// When something went back.
    pub fn becomes(&mut self, now: Self) -> Verdict {
        if now.promised < self.promised || now.commit < self.commit || now.mark < self.mark {
            return broken(RULE, format!("a member was at {self:?} and is at {now:?}"));
        }
        *self = now;
        Ok(())
    }

    /// The process died, and starts with this durable promise.
    ///
    /// # Errors
    /// When the promise went back.
    pub fn restarts(&mut self, promised: Epoch) -> Verdict {
        if promised < self.promised {
            return broken(
                RULE,
                format!(
                    "a member had promised {} and restarts with {promised}",
                    self.promised
                ),
            );
        }
        *self = Self {
            promised,
            ..Self::default()
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{assert_broken, epoch};
    use super::*;

    #[test]
    fn rejects_what_goes_back() {
        let mut shown = Shown {
            promised: epoch(2),
            commit: LogIndex(3),
            mark: Seq(4),
        };
        shown.becomes(shown).unwrap();
        for lower in [
            Shown {
                promised: epoch(1),
                ..shown
            },
            Shown {
                commit: LogIndex(2),
                ..shown
            },
            Shown {
                mark: Seq(3),
                ..shown
            },
        ] {
            assert_broken(shown.becomes(lower), "a member was at");
        }
        assert_broken(shown.restarts(epoch(1)), "restarts with 1@1");
        shown.restarts(epoch(2)).unwrap();
        assert_eq!(shown.commit, LogIndex::ZERO);
    }
}
