//! An operator has the logs of this node read from the disk and checked, while it serves: at a gentle rate, one seat after
//! the other.
//!
//! Damage that is found is told, and nothing else is done about it, unlike damage that a read meets: who verifies all nodes
//! at once must not end several members of one group at once. Each would come back without a part of its log, and when
//! fewer than R members are whole, nobody leads. So the operator starts a node again, once all else
//! is known to be whole.

use super::change::named;
use super::error::NodeError;
use super::handle::Handle;
use super::status::SeatState;
use crate::blocking;
use crate::clock;
use crate::limits::{VERIFY_BYTES_PER_SECOND, VERIFY_WAIT};
use crate::storage::{Scrub, Verified};
use rdb_proto::types::{LogIndex, SeatId};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// A log that is to be read, from its first entry on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Of this seat.
    pub seat: SeatId,
    /// To this entry, which some member knows to be committed.
    pub up_to: LogIndex,
}

/// What was found in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Entries that passed.
    Block(Verified),
    /// An entry that did not; nothing behind it is looked at.
    Damage {
        /// The entry.
        index: LogIndex,
        /// File, offset and what is wrong.
        what: String,
        /// Whether a start of this node finds it too, and gives the part up, to get it from others.
        is_found_at_start: bool,
    },
    /// The last that is said of the seat.
    End {
        /// The last entry that passed; zero when none did.
        last: LogIndex,
        /// Why nothing more was looked at.
        end: End,
    },
}

/// Why a log is not read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was read as far as asked for, or up to a damage.
    Done,
    /// The member does not have the rest yet.
    Behind,
    /// The member lost a part of its log, and gets it from the others.
    Repairing,
    /// This node has no member of the seat.
    NotHere,
}

/// Logs that are being read and checked. Reads only when it is asked for the next finding.
#[derive(Debug)]
pub struct Verification {
    node: Handle,
    wanted: VecDeque<Wanted>,
    reading: Option<Reading>,
    found: VecDeque<(SeatId, Finding)>,
    pace: Pace,
    /// Kept for as long as this lasts.
    _turn: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Reading {
    wanted: Wanted,
    scrub: Scrub,
    /// Whether the member lacked some of what is wanted when this began.
    is_behind: bool,
}

impl Handle {
    /// The host:port of the node with this name; `None` when it is this one.
    ///
    /// # Errors
    /// [`NodeError::UnknownNode`]; [`NodeError::OrderRefused`] when it is not live.
    pub fn elsewhere(&self, name: &str) -> Result<Option<String>, NodeError> {
        if name == self.name() {
            return Ok(None);
        }
        let cluster = self.cluster_view();
        let node = named(&cluster, name)?;
        let live = cluster.nodes.get(&node).filter(|info| info.is_live);
        let address = live.map(|info| Some(info.address.clone()));
        address.ok_or_else(|| NodeError::OrderRefused(format!("node {name} is not live")))
    }

    /// Begins to verify logs of this node, reading so many bytes a second at most; 0 leaves that to the node.
    ///
    /// # Errors
    /// [`NodeError::Overloaded`] while another verify is under way.
    pub fn verify(
        &self,
        wanted: impl IntoIterator<Item = Wanted>,
        bytes_per_second: u64,
    ) -> Result<Verification, NodeError> {
        let turn = Arc::clone(&self.shared.verifying).try_acquire_owned();
        let turn = turn.map_err(|_taken| NodeError::Overloaded("the node's list of verifies"))?;
        Ok(Verification {
            node: self.clone(),
            wanted: wanted.into_iter().collect(),
            reading: None,
            found: VecDeque::new(),
            pace: Pace::new(bytes_per_second),
            _turn: turn,
        })
    }
}

impl Verification {
    /// The next finding; `None` at the end.
    ///
    /// **Cancel safety**: none. What was being read is lost.
    ///
    /// # Errors
    /// [`NodeError::ShuttingDown`].
    pub async fn next(&mut self) -> Result<Option<(SeatId, Finding)>, NodeError> {
        let stopping = self.node.tasks().stopping();
        tokio::select! {
            biased;
            () = stopping => Err(NodeError::ShuttingDown),
            found = self.find() => Ok(found),
        }
    }

    async fn find(&mut self) -> Option<(SeatId, Finding)> {
        loop {
            if let Some(found) = self.found.pop_front() {
                return Some(found);
            }
            self.reading = if let Some(reading) = self.reading.take() {
                self.read(reading).await
            } else {
                let wanted = self.wanted.pop_front()?;
                self.begin(wanted).await
            };
        }
    }

    fn end(&mut self, seat: SeatId, last: LogIndex, end: End) {
        self.found.push_back((seat, Finding::End { last, end }));
    }

    async fn begin(&mut self, wanted: Wanted) -> Option<Reading> {
        let Some(member) = self.node.member(wanted.seat) else {
            self.end(wanted.seat, LogIndex::ZERO, End::NotHere);
            return None;
        };
        let is_damaged = member.view.borrow().state == SeatState::Damaged;
        if is_damaged {
            self.end(wanted.seat, LogIndex::ZERO, End::Repairing);
            return None;
        }
        // What is committed elsewhere comes with the next message of the leader, to a member that is well.
        let marks = &self.node.shared.marks;
        if marks.committed(member.position) < wanted.up_to {
            let has_all = marks.committed_beyond(member.position, wanted.up_to.previous());
            clock::within(VERIFY_WAIT, has_all).await;
        }
        let committed = marks.committed(member.position);
        Some(Reading {
            wanted,
            scrub: Scrub::new(member.log.clone(), committed.min(wanted.up_to)),
            is_behind: committed < wanted.up_to,
        })
    }

    /// Reads on; returns what is to be gone on with.
    async fn read(&mut self, mut reading: Reading) -> Option<Reading> {
        let seat = reading.wanted.seat;
        if reading.scrub.is_done() {
            let end = if reading.is_behind { End::Behind } else { End::Done };
            self.end(seat, reading.scrub.last(), end);
            return None;
        }
        self.pace.wait().await;
        match blocking::read(|| reading.scrub.step()) {
            // Not met: what is committed here is on stable storage here.
            Ok((0, _)) => {
                self.end(seat, reading.scrub.last(), End::Behind);
                None
            }
            Ok((bytes, whole)) => {
                self.pace.took(bytes);
                self.found
                    .extend(whole.into_iter().map(|block| (seat, Finding::Block(block))));
                Some(reading)
            }
            Err(error) => {
                let last = reading.scrub.last();
                let damage = Finding::Damage {
                    index: last.next(),
                    what: error.to_string(),
                    is_found_at_start: error.is_found_at_start(),
                };
                tracing::error!(%seat, index = %last.next(), damage = %error, "a verify found damage");
                self.found.push_back((seat, damage));
                self.end(seat, last, End::Done);
                None
            }
        }
    }
}

/// Spreads reads over time. Time that nobody asked for a finding is not made up for.
#[derive(Debug)]
struct Pace {
    bytes_per_second: u64,
    next: Instant,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: match bytes_per_second {
                0 => VERIFY_BYTES_PER_SECOND,
                asked => asked,
            },
            next: clock::monotonic(),
        }
    }

    /// Gives way to others in any case: whoever asks may be gone, or the node may be stopping.
    async fn wait(&self) {
        let left = self.next.saturating_duration_since(clock::monotonic());
        if left.is_zero() {
            tokio::task::yield_now().await;
        } else {
            clock::sleep(left).await;
        }
    }

    fn took(&mut self, bytes: u64) {
        let micros = bytes.saturating_mul(1_000_000) / self.bytes_per_second;
        let earliest = self.next.max(clock::monotonic());
        self.next = earliest
            .checked_add(Duration::from_micros(micros))
            .unwrap_or(earliest);
    }
}
