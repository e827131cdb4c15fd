//! The key indexes of a node: on its disk, or in a simulation, where sled and its threads have no place, in memory.

use super::{IndexSettings, IndexStore, KeyIndex, MemoryIndex};
use crate::storage::{DataDir, LogReader, StorageError};
use rdb_proto::simulation;
use rdb_proto::types::{LogIndex, SeatId};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub enum Indexes {
    /// What a node has.
    OnDisk(IndexStore),
    /// What a simulated node has: empty at each start, and caught up from the log.
    InMemory(IndexSettings),
}

impl Indexes {
    /// Opens what there is of them.
    ///
    /// **Blocking**.
    ///
    /// # Errors
    /// As [`IndexStore::open`].
    pub fn open(data_dir: &DataDir, settings: IndexSettings) -> Result<Self, StorageError> {
        if simulation::world().is_some() {
            return Ok(Self::InMemory(settings));
        }
        IndexStore::open(data_dir, settings).map(Self::OnDisk)
    }

    /// The index of one seat: see [`IndexStore::seat`].
    ///
    /// **Blocking**: reads the end of the log.
    ///
    /// # Errors
    /// As [`IndexStore::seat`].
    pub fn seat(
        &self,
        seat: SeatId,
        reader: &LogReader,
        last_index: LogIndex,
    ) -> Result<Arc<dyn KeyIndex>, StorageError> {
        Ok(match self {
            Self::OnDisk(store) => store.seat(seat, reader, last_index)?,
            Self::InMemory(settings) => Arc::new(MemoryIndex::new(settings.event_id_window)),
        })
    }

    /// See [`IndexStore::close`].
    ///
    /// # Errors
    /// As [`IndexStore::close`].
    pub fn close(self) -> Result<(), StorageError> {
        match self {
            Self::OnDisk(store) => store.close(),
            Self::InMemory(_) => Ok(()),
        }
    }
}
