//! Other members' messages: what they may cost, and who is gone.

use super::SeatDriver;
use crate::limits::STALLED_MAIL_MAX;
use crate::protocol::{Input, Message};
use crate::storage::{NoRoom, SeatLog};
use crate::transport::SeatMail;
use rdb_proto::types::NodeId;

impl SeatDriver {
    pub(super) fn on_mail(&mut self, mail: SeatMail) {
        match mail {
            SeatMail::Unreachable(node) => self.inputs.push_back(Input::Unreachable(node)),
            SeatMail::Message { from, message } => self.on_message(from, message),
        }
    }

    /// Entries need room in the log, and an index that is not far behind; what has none is always taken, so that a
    /// member that is slow goes on to hear its leader and to answer.
    fn on_message(&mut self, from: NodeId, mut message: Message) {
        let entries = message.entries();
        if entries.is_empty() {
            self.inputs.push_back(Input::Received { from, message });
            return;
        }
        if !self.may_take() {
            self.stall(from, message);
            return;
        }
        let bytes = entries
            .iter()
            .map(|entry| SeatLog::bytes_on_disk(entry.body_bytes()))
            .sum();
        match self.parts.log.admit(bytes) {
            Ok(admission) => {
                self.inputs.push_back(Input::Received { from, message });
                // Its writes are charged for while it is stepped; until then the room is spoken for.
                self.step_all();
                drop(admission);
            }
            Err(NoRoom::Soon) => {
                self.is_room_awaited = true;
                self.stall(from, message);
            }
            // A full disk takes no entries: this member goes on to say how far it has the log. What follows entries
            // that it refused is not even answered, or the leader would send them again for each answer.
            Err(NoRoom::DiskFull { .. }) => {
                self.refused_bytes = Some(bytes);
                if let Message::Append(append) = &mut message
                    && append.prev.index <= self.parts.seat.log_end().index
                {
                    append.entries.clear();
                    self.inputs.push_back(Input::Received { from, message });
                }
            }
        }
    }

    fn stall(&mut self, from: NodeId, message: Message) {
        if self.stalled_mail.len() < STALLED_MAIL_MAX {
            self.stalled_mail.push_back(SeatMail::Message { from, message });
        }
    }

    /// Takes the messages that waited; whether there were any.
    pub(super) fn take_stalled_mail(&mut self) -> bool {
        let stalled = std::mem::take(&mut self.stalled_mail);
        let is_any = !stalled.is_empty();
        for mail in stalled {
            self.on_mail(mail);
        }
        is_any
    }
}
