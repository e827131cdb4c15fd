//! How a client's request becomes a proposal: room in the log first, then what the key index knows.

use super::super::Append;
use super::super::error::NodeError;
use super::{AppendCommand, Command, SeatDriver, Waiting, answer};
use crate::clock;
use crate::protocol::{Input, KeyState, KnownEvent, Outcome, Proposal, ProposalId, ReadId};
use crate::storage::{KeyIndex, NoRoom, SeatLog, StorageError};
use rdb_proto::cursor::CursorChange;
use std::sync::Arc;
use tokio::sync::oneshot;

impl SeatDriver {
    /// Takes what waited for room; whether anything did.
    pub(super) fn take_stalled(&mut self) -> bool {
        let stalled = std::mem::take(&mut self.stalled);
        let is_any = !stalled.is_empty();
        self.take(stalled.into_iter().map(Command::Append));
        is_any | self.take_stalled_mail()
    }

    /// Turns commands into inputs, in their order.
    pub(super) fn take(&mut self, commands: impl IntoIterator<Item = Command>) {
        let (mut proposals, mut changes) = (Vec::new(), Vec::new());
        let (taken, mut first_arrived) = (clock::monotonic(), None);
        for command in commands {
            match command {
                Command::Append(command) if self.is_room_awaited => self.stalled.push_back(command),
                Command::Append(command) => {
                    first_arrived.get_or_insert(command.arrived);
                    proposals.extend(self.propose(command));
                }
                Command::Read(reply) => {
                    let read = ReadId(self.name());
                    self.reads.insert(read, reply);
                    self.inputs.push_back(Input::Read(read));
                }
                Command::ChangeCursor { change, reply } => changes.extend(self.change_cursor(change, reply)),
                Command::HandOver(to) => self.hand_over(to),
            }
        }
        if let Some(arrived) = first_arrived.filter(|_| !proposals.is_empty()) {
            self.waits.taken(arrived, taken);
            self.inputs.push_back(Input::Propose(proposals));
        }
        if !changes.is_empty() {
            self.inputs.push_back(Input::ChangeCursors(changes));
        }
    }

    /// A change of a cursor; refused when the log has no room for it, for whoever asks does so again and again.
    fn change_cursor(
        &mut self,
        change: Arc<CursorChange>,
        reply: oneshot::Sender<Result<Outcome, NodeError>>,
    ) -> Option<(ProposalId, Arc<CursorChange>)> {
        let bytes = SeatLog::bytes_on_disk(change.encode().len());
        let refused = match self.parts.log.admit(bytes) {
            Ok(admission) => {
                let id = ProposalId(self.name());
                let waiting = Waiting {
                    reply,
                    _admission: admission,
                    _permit: None,
                };
                self.appends.insert(id, waiting);
                return Some((id, change));
            }
            Err(NoRoom::Soon) => NodeError::Overloaded("the log of the seat"),
            Err(NoRoom::DiskFull { free_bytes, .. }) => self.disk_full(bytes, free_bytes),
        };
        answer(reply, Err(refused));
        None
    }

    fn disk_full(&mut self, bytes: u64, free_bytes: u64) -> NodeError {
        self.refused_bytes = Some(bytes);
        NodeError::DiskFull {
            path: self.parts.data_dir.clone(),
            free_bytes,
        }
    }

    /// A proposal with what the index knows; `None` when it was refused or has to wait for room.
    fn propose(&mut self, command: AppendCommand) -> Option<Proposal> {
        let bytes = SeatLog::bytes_on_disk(command.append.body_bytes());
        let admission = match self.parts.log.admit(bytes) {
            Ok(admission) => admission,
            Err(NoRoom::Soon) => {
                self.is_room_awaited = true;
                self.stalled.push_back(command);
                return None;
            }
            Err(NoRoom::DiskFull { free_bytes, .. }) => {
                answer(command.reply, Err(self.disk_full(bytes, free_bytes)));
                return None;
            }
        };
        let AppendCommand {
            append,
            reply,
            permit,
            ..
        } = command;
        let id = ProposalId(self.name());
        match look_up(&*self.parts.index, id, append) {
            Ok(proposal) => {
                self.appends.insert(
                    id,
                    Waiting {
                        reply,
                        _admission: admission,
                        _permit: Some(permit),
                    },
                );
                Some(proposal)
            }
            Err(error) => {
                answer(reply, Err(error.into()));
                None
            }
        }
    }
}

fn look_up(index: &dyn KeyIndex, id: ProposalId, append: Append) -> Result<Proposal, StorageError> {
    // Read first: what is applied while the rest is looked up only makes the answers newer than `as_of` says.
    let as_of = index.applied();
    let standing = index.standing(&append.name)?;
    let known = append.events.iter().filter_map(|event| {
        let known = index.known(&event.event_id, &append.name)?;
        Some(KnownEvent {
            event_id: event.event_id,
            seq: known.seq,
            version: known.version,
            is_same_key: known.is_same_key,
        })
    });
    Ok(Proposal {
        id,
        known: known.collect(),
        name: append.name,
        expect: append.expect,
        events: append.events,
        retried_since: append.retried_since,
        as_of,
        committed: KeyState {
            version: standing.version,
            seq: standing.seq,
            is_deleted: standing.is_deleted,
        },
        remembered_from: index.remembered_from(),
    })
}
