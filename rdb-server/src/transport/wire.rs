//! Messages of members in wire form and back.

use crate::protocol::{Append, LogEnd, Mark, Message, Round};
use bytes::Bytes;
use rdb_proto::entry::{Entry, EntryBody, EntryError, EntryKind};
use rdb_proto::member as wire;
use rdb_proto::member::letter::Message as WireMessage;
use rdb_proto::types::{Epoch, GroupId, LogIndex, Membership, NodeId, SeatId, Seq, Side};
use std::sync::Arc;
use thiserror::Error;

/// A letter that cannot be read: the sender is of another release, or there is a fault in one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum LetterError {
    #[error("the field {0} is missing")]
    Missing(&'static str),
    #[error("a seat has side {0}")]
    Side(u32),
    #[error("an entry's kind is {0}")]
    Kind(u32),
    #[error(transparent)]
    Entry(#[from] EntryError),
}

/// A seat's message as a letter.
pub(super) fn to_wire(seat: SeatId, message: Message) -> wire::Letter {
    wire::Letter {
        group: seat.group.0,
        side: seat.side.number(),
        message: Some(message_to_wire(message)),
    }
}

/// A letter as a seat's message.
pub(super) fn from_wire(letter: wire::Letter) -> Result<(SeatId, Message), LetterError> {
    let side = Side::BOTH.into_iter().find(|side| side.number() == letter.side);
    let seat = SeatId {
        group: GroupId(letter.group),
        side: side.ok_or(LetterError::Side(letter.side))?,
    };
    let message = letter.message.ok_or(LetterError::Missing("message"))?;
    Ok((seat, message_from_wire(message)?))
}

/// Bytes of the entries that a letter carries: what queues count, besides the letters.
pub(super) fn entry_bytes(letter: &wire::Letter) -> usize {
    let bytes = |entries: &[wire::Entry]| entries.iter().map(|entry| entry.body.len()).sum();
    match &letter.message {
        Some(WireMessage::Append(append)) => bytes(&append.entries),
        Some(WireMessage::Fetched(fetched)) => bytes(&fetched.entries),
        Some(_) | None => 0,
    }
}

fn message_to_wire(message: Message) -> WireMessage {
    match message {
        Message::Fence { epoch, config } => WireMessage::Fence(wire::Fence {
            epoch: Some(epoch_to_wire(epoch)),
            config,
        }),
        Message::FenceAck {
            epoch,
            end,
            commit,
            membership,
        } => WireMessage::FenceAck(wire::FenceAck {
            epoch: Some(epoch_to_wire(epoch)),
            end: Some(end_to_wire(end)),
            commit: commit.get(),
            membership: Some(membership_to_wire(membership)),
        }),
        Message::Fetch { epoch, prev, last } => WireMessage::Fetch(wire::Fetch {
            epoch: Some(epoch_to_wire(epoch)),
            prev: Some(end_to_wire(prev)),
            last: last.get(),
        }),
        Message::Fetched { epoch, prev, entries } => WireMessage::Fetched(wire::Fetched {
            epoch: Some(epoch_to_wire(epoch)),
            prev: Some(end_to_wire(prev)),
            entries: entries.iter().map(|entry| entry_to_wire(entry)).collect(),
        }),
        Message::Append(append) => WireMessage::Append(append_to_wire(&append)),
        Message::AppendAck {
            epoch,
            round,
            matched,
        } => WireMessage::AppendAck(wire::AppendAck {
            epoch: Some(epoch_to_wire(epoch)),
            round: round.0,
            matched: matched.get(),
        }),
        Message::Mismatch { epoch, refused, hint } => WireMessage::Mismatch(wire::Mismatch {
            epoch: Some(epoch_to_wire(epoch)),
            refused: Some(end_to_wire(refused)),
            hint: Some(end_to_wire(hint)),
        }),
        Message::Reject {
            epoch,
            promised,
            membership,
        } => WireMessage::Reject(wire::Reject {
            epoch: Some(epoch_to_wire(epoch)),
            promised: Some(epoch_to_wire(promised)),
            membership: Some(membership_to_wire(membership)),
        }),
        Message::PreVote { leader, attempt } => WireMessage::PreVote(wire::PreVote {
            leader: Some(epoch_to_wire(leader)),
            attempt,
        }),
        Message::PreVoteAnswer {
            leader,
            attempt,
            is_unheard,
        } => WireMessage::PreVoteAnswer(wire::PreVoteAnswer {
            leader: Some(epoch_to_wire(leader)),
            attempt,
            is_unheard,
        }),
    }
}

fn message_from_wire(message: WireMessage) -> Result<Message, LetterError> {
    Ok(match message {
        WireMessage::Fence(fence) => Message::Fence {
            epoch: epoch(fence.epoch)?,
            config: fence.config,
        },
        WireMessage::FenceAck(ack) => Message::FenceAck {
            epoch: epoch(ack.epoch)?,
            end: end(ack.end)?,
            commit: LogIndex(ack.commit),
            membership: membership(ack.membership)?,
        },
        WireMessage::Fetch(fetch) => Message::Fetch {
            epoch: epoch(fetch.epoch)?,
            prev: end(fetch.prev)?,
            last: LogIndex(fetch.last),
        },
        WireMessage::Fetched(fetched) => Message::Fetched {
            epoch: epoch(fetched.epoch)?,
            prev: end(fetched.prev)?,
            entries: entries(fetched.entries)?,
        },
        WireMessage::Append(append) => Message::Append(append_from_wire(append)?),
        WireMessage::AppendAck(ack) => Message::AppendAck {
            epoch: epoch(ack.epoch)?,
            round: Round(ack.round),
            matched: LogIndex(ack.matched),
        },
        WireMessage::Mismatch(mismatch) => Message::Mismatch {
            epoch: epoch(mismatch.epoch)?,
            refused: end(mismatch.refused)?,
            hint: end(mismatch.hint)?,
        },
        WireMessage::Reject(reject) => Message::Reject {
            epoch: epoch(reject.epoch)?,
            promised: epoch(reject.promised)?,
            membership: membership(reject.membership)?,
        },
        WireMessage::PreVote(question) => Message::PreVote {
            leader: epoch(question.leader)?,
            attempt: question.attempt,
        },
        WireMessage::PreVoteAnswer(answer) => Message::PreVoteAnswer {
            leader: epoch(answer.leader)?,
            attempt: answer.attempt,
            is_unheard: answer.is_unheard,
        },
    })
}

fn append_to_wire(append: &Append) -> wire::Append {
    wire::Append {
        epoch: Some(epoch_to_wire(append.epoch)),
        config: append.config,
        round: append.round.0,
        prev: Some(end_to_wire(append.prev)),
        entries: append.entries.iter().map(|entry| entry_to_wire(entry)).collect(),
        commit: append.commit.get(),
        mark_seq: append.mark.seq.get(),
        mark_commit: append.mark.commit.get(),
    }
}

fn append_from_wire(append: wire::Append) -> Result<Append, LetterError> {
    Ok(Append {
        epoch: epoch(append.epoch)?,
        config: append.config,
        round: Round(append.round),
        prev: end(append.prev)?,
        entries: entries(append.entries)?,
        commit: LogIndex(append.commit),
        mark: Mark {
            seq: Seq(append.mark_seq),
            commit: LogIndex(append.mark_commit),
        },
    })
}

fn entry_to_wire(entry: &Entry) -> wire::Entry {
    wire::Entry {
        index: entry.index.get(),
        epoch: Some(epoch_to_wire(entry.epoch)),
        kind: u32::from(entry.body.kind().number()),
        body: entry.body.encode(),
    }
}

fn entries(entries: Vec<wire::Entry>) -> Result<Vec<Arc<Entry>>, LetterError> {
    let read = |entry: wire::Entry| {
        let kind = u8::try_from(entry.kind).map_err(|_large| LetterError::Kind(entry.kind))?;
        let kind = EntryKind::from_number(kind)?;
        Ok(Arc::new(Entry {
            index: LogIndex(entry.index),
            epoch: epoch(entry.epoch)?,
            // Its memory is that of the whole batch; the log keeps entries for members that lag.
            body: EntryBody::decode(kind, Bytes::copy_from_slice(&entry.body))?,
        }))
    };
    entries.into_iter().map(read).collect()
}

const fn epoch_to_wire(epoch: Epoch) -> wire::Epoch {
    wire::Epoch {
        number: epoch.number,
        node: epoch.node.0,
    }
}

fn epoch(epoch: Option<wire::Epoch>) -> Result<Epoch, LetterError> {
    let epoch = epoch.ok_or(LetterError::Missing("epoch"))?;
    Ok(Epoch {
        number: epoch.number,
        node: NodeId(epoch.node),
    })
}

const fn end_to_wire(end: LogEnd) -> wire::LogEnd {
    wire::LogEnd {
        epoch: Some(epoch_to_wire(end.epoch)),
        index: end.index.get(),
    }
}

fn end(end: Option<wire::LogEnd>) -> Result<LogEnd, LetterError> {
    let end = end.ok_or(LetterError::Missing("end"))?;
    Ok(LogEnd {
        epoch: epoch(end.epoch)?,
        index: LogIndex(end.index),
    })
}

fn membership_to_wire(membership: Membership) -> wire::Membership {
    let numbers = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect();
    wire::Membership {
        number: membership.number,
        members: numbers(membership.members),
        previous: numbers(membership.previous),
    }
}

fn membership(membership: Option<wire::Membership>) -> Result<Membership, LetterError> {
    let membership = membership.ok_or(LetterError::Missing("membership"))?;
    let nodes = |numbers: Vec<u64>| numbers.into_iter().map(NodeId).collect();
    Ok(Membership {
        number: membership.number,
        members: nodes(membership.members),
        previous: nodes(membership.previous),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    const EPOCH: Epoch = Epoch {
        number: 7,
        node: NodeId(u64::MAX),
    };
    const END: LogEnd = LogEnd {
        epoch: EPOCH,
        index: LogIndex(41),
    };

    fn members() -> Membership {
        Membership {
            number: 3,
            members: vec![NodeId(1), NodeId(2)],
            previous: vec![NodeId(9)],
        }
    }

    fn entry() -> Arc<Entry> {
        Arc::new(Entry {
            index: LogIndex(42),
            epoch: EPOCH,
            body: EntryBody::EpochStart(members()),
        })
    }

    fn every_message() -> Vec<Message> {
        let (epoch, leader, prev, round) = (EPOCH, EPOCH, END, Round(5));
        vec![
            Message::Fence { epoch, config: 3 },
            Message::FenceAck {
                epoch,
                end: END,
                commit: LogIndex(40),
                membership: members(),
            },
            Message::Fetch {
                epoch,
                prev,
                last: LogIndex(60),
            },
            Message::Fetched {
                epoch,
                prev,
                entries: vec![entry()],
            },
            Message::Append(Append {
                epoch,
                config: 3,
                round,
                prev,
                entries: vec![entry(), entry()],
                commit: LogIndex(39),
                mark: Mark {
                    seq: Seq(17),
                    commit: LogIndex(38),
                },
            }),
            Message::AppendAck {
                epoch,
                round,
                matched: LogIndex(42),
            },
            Message::Mismatch {
                epoch,
                refused: END,
                hint: LogEnd::default(),
            },
            Message::Reject {
                epoch,
                promised: EPOCH,
                membership: Membership::default(),
            },
            Message::PreVote { leader, attempt: 2 },
            Message::PreVoteAnswer {
                leader,
                attempt: 2,
                is_unheard: true,
            },
        ]
    }

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        let seat = SeatId {
            group: GroupId(5),
            side: Side::One,
        };
        for message in every_message() {
            let bytes = to_wire(seat, message.clone()).encode_to_vec();
            let letter = wire::Letter::decode(bytes.as_slice()).unwrap();
            assert_eq!(from_wire(letter), Ok((seat, message)));
        }
    }

    #[test]
    fn a_letter_that_lacks_something_is_an_error() {
        for message in every_message() {
            let seat = SeatId {
                group: GroupId(0),
                side: Side::Zero,
            };
            let bytes = to_wire(seat, message).encode_to_vec();
            for cut in 0..bytes.len() {
                // Red when it panics: what comes over the network can be anything.
                drop(wire::Letter::decode(&bytes[..cut]).map(from_wire));
            }
        }
        let empty = wire::Letter::default();
        assert_eq!(from_wire(empty), Err(LetterError::Missing("message")));
    }
}
