//! Other members' messages: what they may cost, and who is gone.

use super::SeatDriver;
use crate::protocol::{Input, Message};
use crate::storage::{NoRoom, SeatLog};
use crate::transport::SeatMail;
use rdb_proto::entry::Entry;
use rdb_proto::types::NodeId;
use std::sync::Arc;

impl SeatDriver {
    pub(super) fn on_mail(&mut self, mail: SeatMail) {
        match mail {
            SeatMail::Unreachable(node) => self.inputs.push_back(Input::Unreachable(node)),
            SeatMail::Message { from, message } => self.on_message(from, message),
        }
    }

    /// Entries need room in the log. A full disk refuses them and lets the rest through: this member goes on to
    /// answer as far as it has the log, and the leader sends them again.
    fn on_message(&mut self, from: NodeId, mut message: Message) {
        let bytes: u64 = entries_in(&message)
            .iter()
            .map(|entry| SeatLog::bytes_on_disk(entry.body_bytes()))
            .sum();
        let admission = if bytes == 0 {
            None
        } else {
            match self.parts.log.admit(bytes) {
                Ok(admission) => Some(admission),
                Err(NoRoom::Soon) => {
                    self.is_room_awaited = true;
                    self.stalled_mail = Some(SeatMail::Message { from, message });
                    return;
                }
                Err(NoRoom::DiskFull { .. }) => {
                    self.refused_bytes = Some(bytes);
                    let Message::Append(append) = &mut message else {
                        return;
                    };
                    append.entries.clear();
                    None
                }
            }
        };
        self.inputs.push_back(Input::Received { from, message });
        // Its writes are charged for while it is stepped; until then the room is spoken for.
        self.step_all();
        drop(admission);
    }
}

/// The entries that a message asks this member to write.
fn entries_in(message: &Message) -> &[Arc<Entry>] {
    match message {
        Message::Append(append) => &append.entries,
        Message::Fetched { entries, .. } => entries,
        Message::Fence { .. }
        | Message::FenceAck { .. }
        | Message::Fetch { .. }
        | Message::AppendAck { .. }
        | Message::Mismatch { .. }
        | Message::Reject { .. }
        | Message::PreVote { .. }
        | Message::PreVoteAnswer { .. } => &[],
    }
}
