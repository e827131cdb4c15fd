//! A key's history, page by page: versions from the index, events from the log.

use super::error::NodeError;
use super::request::HistoryRange;
use crate::blocking;
use crate::limits::{HISTORY_PAGE_VERSIONS, STREAM_MESSAGE_BYTES};
use crate::storage::{Direction, KeyIndex, Located, LogReader, entry_events};
use bytes::Bytes;
use rdb_proto::event;
use rdb_proto::types::{LogIndex, Version};
use std::collections::VecDeque;
use std::sync::Arc;

/// What is left of a history that somebody reads.
#[derive(Debug)]
pub struct HistoryPages {
    index: Arc<dyn KeyIndex>,
    log: LogReader,
    range: HistoryRange,
    located: VecDeque<Located>,
    /// The entry read last: the next version often stands in it too.
    entry: (LogIndex, Vec<Bytes>),
    is_over: bool,
}

impl HistoryPages {
    pub(super) fn new(index: Arc<dyn KeyIndex>, log: LogReader, mut range: HistoryRange) -> Self {
        if range.is_backwards && range.from == Version::ZERO {
            range.from = Version(u64::MAX);
        }
        Self {
            index,
            log,
            range,
            located: VecDeque::new(),
            entry: (LogIndex::ZERO, Vec::new()),
            is_over: false,
        }
    }

    /// The next events as a wire `EventBatch`, in the order asked for; `None` at the end.
    ///
    /// # Errors
    /// [`NodeError::Storage`].
    pub fn next_page(&mut self) -> Result<Option<Bytes>, NodeError> {
        blocking::read(|| self.read_page())
    }

    fn read_page(&mut self) -> Result<Option<Bytes>, NodeError> {
        let mut events = Vec::new();
        let mut bytes = 0_usize;
        while bytes < STREAM_MESSAGE_BYTES && self.range.limit > 0 {
            let Some(located) = self.next_located()? else {
                break;
            };
            if self.entry.0 != located.index {
                self.entry = (located.index, entry_events(&self.log, located.index)?);
            }
            let event = located.pick(&self.log, &self.entry.1)?;
            bytes = bytes.saturating_add(event.len());
            events.push(event.clone());
            self.range.limit = self.range.limit.saturating_sub(1);
        }
        if events.is_empty() {
            return Ok(None);
        }
        Ok(Some(event::join_batch(&events)))
    }

    fn next_located(&mut self) -> Result<Option<Located>, NodeError> {
        if self.located.is_empty() && !self.is_over {
            self.locate()?;
        }
        Ok(self.located.pop_front())
    }

    fn locate(&mut self) -> Result<(), NodeError> {
        let direction = if self.range.is_backwards {
            Direction::Backward
        } else {
            Direction::Forward
        };
        let page = self.index.versions(
            &self.range.name,
            self.range.from,
            direction,
            HISTORY_PAGE_VERSIONS,
        )?;
        self.is_over = page.len() < HISTORY_PAGE_VERSIONS;
        if let Some(last) = page.last() {
            self.is_over |= self.range.is_backwards && last.version == Version(1);
            self.range.from = if self.range.is_backwards {
                last.version.previous()
            } else {
                last.version.next()
            };
        }
        self.located = page.into();
        Ok(())
    }
}
