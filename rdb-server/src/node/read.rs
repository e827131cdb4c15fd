//! Reads: how fresh an answer must be, what the key index knows, and the events from the log.

use super::error::NodeError;
use super::handle::{Handle, SeatHandle, not_taken};
use super::history::HistoryPages;
use super::request::{At, Found, HistoryRange, KeyRange};
use super::seat_driver::Command;
use crate::cdc::SeatsMark;
use crate::clock;
use crate::limits::RESOLVE_WAIT;
use crate::protocol::KeyState;
use crate::storage::{Located, LogReader, Standing, StorageError};
use bytes::Bytes;
use rdb_proto::event::{Event, EventKind};
use rdb_proto::types::{Key, KeyName, LogIndex, SeatId, Seq, Version};
use std::sync::Arc;
use tokio::sync::oneshot;

impl Handle {
    /// Reads the latest event of a key.
    ///
    /// # Errors
    /// [`NodeError::KeyNotFound`], [`NodeError::SeqAhead`], a refusal of the seat, or [`NodeError::Storage`].
    pub async fn read(&self, name: &KeyName, at: At) -> Result<Found, NodeError> {
        self.read_with_version(name, at).await.map(|(found, _)| found)
    }

    /// The same, with the event's version.
    pub(super) async fn read_with_version(
        &self,
        name: &KeyName,
        at: At,
    ) -> Result<(Found, Version), NodeError> {
        let seat = self.here(name)?;
        let as_of = self.catch_up(&seat, at).await?;
        let located = match at {
            At::Latest | At::Local => seat.index.latest(name)?,
            At::Seq(seq) => seat.index.at_or_before(name, seq)?,
        };
        let not_found = |current| NodeError::KeyNotFound {
            name: name.clone(),
            current,
        };
        let located = located.ok_or_else(|| not_found(KeyState::default()))?;
        // An event of a large append must not keep all of it in memory for as long as the client takes to read.
        let encoded = Bytes::copy_from_slice(&located.read(&seat.log)?);
        let event = decode(&seat.log, located, &encoded)?;
        if event.kind == EventKind::Delete {
            let state = KeyState {
                version: event.version,
                seq: event.seq,
                is_deleted: true,
            };
            return Err(not_found(state));
        }
        let found = Found {
            encoded,
            as_of: as_of.max(event.seq),
        };
        Ok((found, event.version))
    }

    /// Reads events of a key in the order of their versions, page by page.
    ///
    /// # Errors
    /// [`NodeError::KeyNotFound`] when it was never written, a refusal of the seat, or [`NodeError::Storage`].
    pub async fn history(&self, range: HistoryRange, at: At) -> Result<HistoryPages, NodeError> {
        let seat = self.here(&range.name)?;
        self.catch_up(&seat, at).await?;
        if seat.index.latest(&range.name)?.is_none() {
            return Err(NodeError::KeyNotFound {
                name: range.name,
                current: KeyState::default(),
            });
        }
        Ok(HistoryPages::new(
            Arc::clone(&seat.index),
            seat.log.clone(),
            range,
        ))
    }

    /// Lists keys of these seats in byte order, with where they stand; deleted ones too.
    ///
    /// # Errors
    /// A refusal of a seat, or [`NodeError::Storage`].
    pub async fn keys(
        &self,
        range: &KeyRange,
        seats: impl IntoIterator<Item = SeatId> + Send,
        at: At,
    ) -> Result<Vec<(Key, KeyState)>, NodeError> {
        let after = (!range.after.is_empty()).then_some(range.after.as_str());
        let mut keys = Vec::new();
        for id in seats {
            let seat = self.member_here(id)?;
            self.catch_up(&seat, at).await?;
            let listed = seat
                .index
                .keys(&range.collection, &range.prefix, after, range.limit)?;
            keys.extend(
                listed
                    .into_iter()
                    .map(|key| (key.name.key, state_of(key.standing))),
            );
        }
        keys.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        keys.truncate(range.limit);
        Ok(keys)
    }

    /// The member that has a key's events.
    fn here(&self, name: &KeyName) -> Result<Arc<SeatHandle>, NodeError> {
        self.member_here(self.seat_of(name.slot()))
    }

    /// Waits until the seat's index shows what `at` asks for; returns how far the answer is complete.
    pub(super) async fn catch_up(&self, seat: &SeatHandle, at: At) -> Result<Seq, NodeError> {
        let resolved = seat.view.borrow().resolved;
        let (index, as_of) = match at {
            At::Local => (self.shared.marks.committed(seat.position), resolved),
            At::Latest => (self.confirm(seat).await?, resolved),
            At::Seq(seq) => {
                let mark = self.shared.marks.watch_seats([seat.position].into_iter());
                self.resolved_up_to(seq, mark).await?;
                (self.shared.marks.committed(seat.position), seq)
            }
        };
        let mut applied = seat.applied.clone();
        applied
            .wait_for(|applied| *applied >= index)
            .await
            .map_err(|_closed| NodeError::ShuttingDown)?;
        Ok(as_of)
    }

    /// Refuses a seq above `resolved` that was not handed out. This node may not have heard of the newest ones yet, so the
    /// counter itself decides. Returns whether it could be read: while it cannot, only a mark can tell.
    ///
    /// # Errors
    /// [`NodeError::SeqAhead`].
    pub async fn check_handed_out(&self, seq: Seq, resolved: Seq) -> Result<bool, NodeError> {
        if seq <= resolved || seq <= self.counter() {
            return Ok(true);
        }
        match self.shared.coordinator.latest().await {
            Ok(latest) if seq > latest => Err(NodeError::SeqAhead { seq, resolved }),
            latest => Ok(latest.is_ok()),
        }
    }

    /// Waits for seats to be resolved up to `seq`, when that was handed out: whoever was just told a seq may ask for it
    /// before the mark has followed.
    pub(super) async fn resolved_up_to(&self, seq: Seq, mut mark: SeatsMark) -> Result<(), NodeError> {
        let now = mark.clone();
        // Mostly the mark is there before the counter could be asked.
        tokio::select! {
            biased;
            reached = mark.reached(seq) => return reached.map_err(|_closed| NodeError::ShuttingDown),
            checked = self.check_handed_out(seq, now.seq()) => checked.map(drop)?,
        }
        let waited = tokio::select! {
            waited = clock::within(RESOLVE_WAIT, mark.reached(seq)) => waited,
            () = self.shared.tasks.stopping() => return Err(NodeError::ShuttingDown),
        };
        let late = || NodeError::NotResolved {
            seq,
            resolved: now.seq(),
        };
        waited
            .ok_or_else(late)?
            .map_err(|_closed| NodeError::ShuttingDown)
    }

    /// Asks the seat's leader up to which entry a linearizable read must see.
    async fn confirm(&self, seat: &SeatHandle) -> Result<LogIndex, NodeError> {
        let (reply, confirmed) = oneshot::channel();
        seat.commands
            .try_send(Command::Read(reply))
            .map_err(|error| not_taken(&error))?;
        confirmed.await.map_err(|_gone| NodeError::ShuttingDown)?
    }
}

const fn state_of(standing: Standing) -> KeyState {
    KeyState {
        version: standing.version,
        seq: standing.seq,
        is_deleted: standing.is_deleted,
    }
}

fn decode(log: &LogReader, located: Located, encoded: &Bytes) -> Result<Event, StorageError> {
    Event::decode(encoded).map_err(|error| log.damaged_body(located.index, &error))
}
