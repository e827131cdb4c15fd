//! Several keys as of one seq (rule 6.7): strictly serializable, since the seq is read after the request arrived, and
//! every seat answers once nothing at or below it can be added any more.

use super::error::NodeError;
use super::handle::Handle;
use super::request::At;
use crate::sabotage::{self, Sabotage};
use bytes::Bytes;
use rdb_proto::types::{KeyName, Seq, Version};

/// What a key was at a seq.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyThen {
    /// Its latest event in wire form; `None` when it had none, or was deleted.
    pub encoded: Option<Bytes>,
    /// Version of that event or of the delete; [`Version::ZERO`] when it was never written.
    pub version: Version,
}

impl Handle {
    /// A seq that is at or above every event acknowledged before this call.
    ///
    /// # Errors
    /// [`NodeError::CounterUnread`].
    pub async fn latest_seq(&self) -> Result<Seq, NodeError> {
        let latest = self.shared.coordinator.latest().await;
        latest.map_err(NodeError::CounterUnread)
    }

    /// A key of which this node has a member, as of a seq that was handed out.
    ///
    /// # Errors
    /// [`NodeError::SeqAhead`] when the seat is not resolved that far in time; as for every read.
    pub async fn read_then(&self, name: &KeyName, seq: Seq) -> Result<KeyThen, NodeError> {
        let at = if sabotage::is(Sabotage::SnapshotTorn) {
            At::Local
        } else {
            At::Seq(seq)
        };
        match self.read_with_version(name, at).await {
            Ok((found, version)) => Ok(KeyThen {
                encoded: Some(found.encoded),
                version,
            }),
            Err(NodeError::KeyNotFound { current, .. }) => Ok(KeyThen {
                encoded: None,
                version: current.version,
            }),
            Err(error) => Err(error),
        }
    }
}
