//! What was seen so far, and must stay true: the properties of DESIGN 6.4 that need memory. The checks are those of the
//! simulator.

use super::node::{SEAT, Seen};
use crate::sim::checks::commits::Commits;
use crate::sim::checks::marks::Marks;
use crate::sim::checks::{Verdict, Violation, acknowledged, fresh};
use rdb_proto::entry::Entry;
use rdb_proto::types::{Epoch, EventId, KeyName, LogIndex, Seq};
use rdb_server::protocol::{ProposalId, ReadId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Ghost {
    commits: Commits,
    marks: Marks,
    led: BTreeSet<Epoch>,
    /// Highest number whose write was acknowledged, in this seat or another.
    acknowledged: Seq,
    /// That, as it was when each write arrived.
    writes: BTreeMap<u64, Seq>,
    /// How far the seat was committed when each read arrived.
    reads: BTreeMap<u64, LogIndex>,
    foreign: BTreeSet<Seq>,
    /// Highest number that was ever given.
    given: Seq,
}

pub(super) const LEADERS: &str = "one leader for each epoch (DESIGN 6.4)";
pub(super) const SEQS: &str = "unique seqs (DESIGN 6.4)";
pub(super) const REAL_TIME: &str = "seq order is real-time order (DESIGN 6.5)";
pub(super) const MATCHING: &str = "log matching (DESIGN 6.4)";

fn broken<T>(rule: &'static str, what: String) -> Result<T, Violation> {
    Err(Violation { rule, what })
}

/// Key and event id of a write: each has its own.
pub(super) fn written_by(proposal: u64) -> (KeyName, EventId) {
    let name = KeyName::new("", &format!("k{proposal}")).unwrap();
    (name, EventId(Uuid::from_u128(proposal.into())))
}

impl Ghost {
    /// Names a write that arrives now.
    pub(super) fn write(&mut self, left: u8) -> ProposalId {
        let proposal = u64::from(left);
        self.writes.insert(proposal, self.acknowledged);
        ProposalId(proposal)
    }

    /// Names a read that arrives now.
    pub(super) fn read(&mut self, left: u8) -> ReadId {
        let read = u64::from(left);
        self.reads.insert(read, self.commits.last(SEAT));
        ReadId(read)
    }

    /// The coordinator gave numbers up to this one.
    pub(super) fn give(&mut self, last: Seq) {
        self.given = self.given.max(last);
    }

    /// Another seat writes.
    pub(super) fn foreign(&mut self, seq: Seq) {
        self.foreign.insert(seq);
        self.acknowledged = self.acknowledged.max(seq);
    }

    /// Entries that are committed.
    pub(super) fn committed(&self) -> &[Arc<Entry>] {
        self.commits.log(SEAT)
    }

    /// Whether a mark was told.
    pub(super) fn has_mark(&self) -> bool {
        self.marks != Marks::default()
    }

    /// Judges what a node showed. `durable` says on how many disks an entry is.
    pub(super) fn see(&mut self, seen: &Seen, writes: usize, durable: &dyn Fn(&Entry) -> usize) -> Verdict {
        match seen {
            Seen::Leads(epoch, log) => {
                if !self.led.insert(*epoch) {
                    return broken(LEADERS, format!("{epoch} is led under a second time"));
                }
                self.commits.recovered(SEAT, *epoch, log)
            }
            Seen::Committed(promised, entries) => {
                let known = self.committed().len();
                let added = self.commits.committed(SEAT, *promised, entries)?;
                let new = self.committed()[known..].to_vec();
                for entry in &new {
                    self.marks.committed(SEAT, entry)?;
                    self.numbered(entry)?;
                }
                match new.last() {
                    Some(last) if added > 0 => self.commits.durable_on(SEAT, durable(last), writes),
                    Some(_) | None => Ok(()),
                }
            }
            Seen::Truncated(from, commit) => self.commits.truncates(SEAT, *from, *commit),
            Seen::Resolved(mark, commit) => {
                let committed = self.commits.log(SEAT);
                self.marks.told(SEAT, *mark, *commit, committed)
            }
            Seen::Replied(proposal, written) => {
                let (name, event) = written_by(proposal.0);
                let told = [(event, written.first_seq, written.first_version)];
                acknowledged::check(SEAT, self.committed(), &name, told.into_iter())?;
                let floor = self.writes.remove(&proposal.0).unwrap_or_default();
                let seq = written.first_seq;
                self.acknowledged = self.acknowledged.max(seq);
                if seq > floor {
                    return Ok(());
                }
                let what = format!("a write that came after {floor} was acknowledged got {seq}");
                broken(REAL_TIME, what)
            }
            Seen::Read(read, index) => {
                let committed = self.reads.remove(&read.0).unwrap_or_default();
                fresh::check(SEAT, committed, *index)
            }
            Seen::Broken(rule, what) => broken(rule, what.clone()),
        }
    }

    /// A number is used once, ascends along the log, and was given.
    fn numbered(&self, entry: &Entry) -> Verdict {
        let Some((first, last)) = entry.seqs() else {
            return Ok(());
        };
        let before = self.committed().iter().filter(|other| other.index < entry.index);
        let before = before
            .filter_map(|other| other.seqs())
            .map(|(_, last)| last)
            .max();
        if before.is_some_and(|before| before >= first) {
            return broken(
                SEQS,
                format!("{entry} stands behind {}", before.unwrap_or_default()),
            );
        }
        if last > self.given || self.foreign.contains(&first) {
            return broken(SEQS, format!("{entry} has a number that it was not given"));
        }
        Ok(())
    }
}

/// Two logs with an entry of one index and epoch are the same up to it.
pub(super) fn matching(one: &[Arc<Entry>], other: &[Arc<Entry>]) -> Verdict {
    let shared = one
        .iter()
        .zip(other)
        .rposition(|(one, other)| one.epoch == other.epoch)
        .map_or(0, |last| last + 1);
    for (one, other) in one.iter().zip(other).take(shared) {
        if !Arc::ptr_eq(one, other) && one != other {
            return broken(MATCHING, format!("{one} is written here, and {other} elsewhere"));
        }
    }
    Ok(())
}
