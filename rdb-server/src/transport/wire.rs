//! Messages as they are written: [`Message`] to the types of `member.proto` and back.
//!
//! The bodies of entries are shared, not copied, in both directions.

use crate::limits::{ENTRY_WEIGHT_MIN, MESSAGE_WEIGHT_MIN};
use crate::protocol::{Append, LogEnd, Mark, Message, Round, Seen};
use rdb_proto::entry::{Entry, EntryBody, EntryError, EntryKind};
use rdb_proto::member as wire;
use rdb_proto::member::seat_message::Message as Wire;
use rdb_proto::types::{Epoch, GroupId, LogIndex, Membership, NodeId, SeatId, Seq, Side, Timestamp};
use std::sync::Arc;
use thiserror::Error;

/// Why a message of another node cannot be read. It is dropped; the stream goes on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TransportError {
    /// A part that every message of its kind has.
    #[error("a message of a member lacks its {0}")]
    Missing(&'static str),
    /// Of a later release.
    #[error("a message of a member is of a kind that this release does not know")]
    UnknownMessage,
    /// Neither 0 nor 1.
    #[error("a message of a member is for side {0} of a group, which has sides 0 and 1")]
    UnknownSide(u32),
    /// The kind of an entry is not a number that a kind can have.
    #[error("a message of a member holds an entry of kind {0}, which no release knows")]
    UnknownKind(u32),
    /// The body of an entry.
    #[error("a message of a member holds an entry that cannot be read: {0}")]
    Entry(#[from] EntryError),
}

/// Bytes that a message counts with: about what it takes on the wire, and not less than what it takes in memory
/// without what it shares.
pub(super) fn weight(message: &Message) -> usize {
    let of_entry = |entry: &Arc<Entry>| entry.body_bytes().saturating_add(ENTRY_WEIGHT_MIN);
    let of_entries: usize = message.entries().iter().map(of_entry).sum();
    of_entries.saturating_add(MESSAGE_WEIGHT_MIN)
}

/// Writes a message to a seat.
pub fn to_wire(seat: SeatId, message: Message) -> wire::SeatMessage {
    wire::SeatMessage {
        group: seat.group.0,
        side: seat.side.number(),
        message: Some(message_to_wire(message)),
    }
}

fn message_to_wire(message: Message) -> Wire {
    match message {
        Message::Fence { epoch, config } => Wire::Fence(wire::Fence {
            epoch: epoch_to_wire(epoch),
            config,
        }),
        Message::FenceAck {
            epoch,
            end,
            commit,
            membership,
        } => Wire::FenceAck(wire::FenceAck {
            epoch: epoch_to_wire(epoch),
            end: end_to_wire(end),
            commit: commit.get(),
            membership: membership_to_wire(&membership),
        }),
        Message::Fetch { epoch, prev, last } => Wire::Fetch(wire::Fetch {
            epoch: epoch_to_wire(epoch),
            prev: end_to_wire(prev),
            last: last.get(),
        }),
        Message::Fetched { epoch, prev, entries } => Wire::Fetched(wire::Fetched {
            epoch: epoch_to_wire(epoch),
            prev: end_to_wire(prev),
            entries: entries_to_wire(&entries),
        }),
        Message::Append(append) => Wire::Append(append_to_wire(&append)),
        Message::AppendAck {
            epoch,
            round,
            matched,
        } => Wire::AppendAck(wire::AppendAck {
            epoch: epoch_to_wire(epoch),
            round: round.0,
            matched: matched.get(),
        }),
        Message::Mismatch { epoch, refused, hint } => Wire::Mismatch(wire::Mismatch {
            epoch: epoch_to_wire(epoch),
            refused: end_to_wire(refused),
            hint: end_to_wire(hint),
        }),
        Message::Reject {
            epoch,
            promised,
            membership,
        } => Wire::Reject(wire::Reject {
            epoch: epoch_to_wire(epoch),
            promised: epoch_to_wire(promised),
            membership: membership_to_wire(&membership),
        }),
        Message::PreVote { leader, attempt } => Wire::PreVote(wire::PreVote {
            leader: epoch_to_wire(leader),
            attempt,
        }),
        Message::PreVoteAnswer {
            leader,
            attempt,
            is_unheard,
        } => Wire::PreVoteAnswer(wire::PreVoteAnswer {
            leader: epoch_to_wire(leader),
            attempt,
            is_unheard,
        }),
    }
}

fn append_to_wire(append: &Append) -> wire::Append {
    wire::Append {
        epoch: epoch_to_wire(append.epoch),
        config: append.config,
        round: append.round.0,
        prev: end_to_wire(append.prev),
        entries: entries_to_wire(&append.entries),
        commit: append.commit.get(),
        mark_seq: append.mark.seq.get(),
        mark_commit: append.mark.commit.get(),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the wire has it optional")]
const fn epoch_to_wire(epoch: Epoch) -> Option<wire::Epoch> {
    Some(wire::Epoch {
        number: epoch.number,
        node: epoch.node.0,
    })
}

#[expect(clippy::unnecessary_wraps, reason = "the wire has it optional")]
const fn end_to_wire(end: LogEnd) -> Option<wire::LogEnd> {
    Some(wire::LogEnd {
        epoch: epoch_to_wire(end.epoch),
        index: end.index.get(),
    })
}

#[expect(clippy::unnecessary_wraps, reason = "the wire has it optional")]
fn membership_to_wire(membership: &Membership) -> Option<wire::Membership> {
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    Some(wire::Membership {
        number: membership.number,
        members: numbers(&membership.members),
        previous: numbers(&membership.previous),
    })
}

fn entries_to_wire(entries: &[Arc<Entry>]) -> Vec<wire::Entry> {
    let entry = |entry: &Arc<Entry>| wire::Entry {
        index: entry.index.get(),
        epoch: epoch_to_wire(entry.epoch),
        kind: entry.body.kind().number().into(),
        body: entry.body.encode(),
    };
    entries.iter().map(entry).collect()
}

/// Reads a message to a seat.
///
/// # Errors
/// [`TransportError`] when it is not one that this release knows.
pub fn from_wire(wire: wire::SeatMessage) -> Result<(SeatId, Message), TransportError> {
    let seat = SeatId {
        group: GroupId(wire.group),
        side: Side::from_number(wire.side).ok_or(TransportError::UnknownSide(wire.side))?,
    };
    let message = wire.message.ok_or(TransportError::UnknownMessage)?;
    Ok((seat, message_from_wire(message)?))
}

fn message_from_wire(message: Wire) -> Result<Message, TransportError> {
    Ok(match message {
        Wire::Fence(fence) => Message::Fence {
            epoch: epoch(fence.epoch)?,
            config: fence.config,
        },
        Wire::FenceAck(ack) => Message::FenceAck {
            epoch: epoch(ack.epoch)?,
            end: end(ack.end)?,
            commit: LogIndex(ack.commit),
            membership: membership(ack.membership)?,
        },
        Wire::Fetch(fetch) => Message::Fetch {
            epoch: epoch(fetch.epoch)?,
            prev: end(fetch.prev)?,
            last: LogIndex(fetch.last),
        },
        Wire::Fetched(fetched) => Message::Fetched {
            epoch: epoch(fetched.epoch)?,
            prev: end(fetched.prev)?,
            entries: entries(fetched.entries)?,
        },
        Wire::Append(wire) => Message::Append(append(wire)?),
        Wire::AppendAck(ack) => Message::AppendAck {
            epoch: epoch(ack.epoch)?,
            round: Round(ack.round),
            matched: LogIndex(ack.matched),
        },
        Wire::Mismatch(mismatch) => Message::Mismatch {
            epoch: epoch(mismatch.epoch)?,
            refused: end(mismatch.refused)?,
            hint: end(mismatch.hint)?,
        },
        Wire::Reject(reject) => Message::Reject {
            epoch: epoch(reject.epoch)?,
            promised: epoch(reject.promised)?,
            membership: membership(reject.membership)?,
        },
        Wire::PreVote(question) => Message::PreVote {
            leader: epoch(question.leader)?,
            attempt: question.attempt,
        },
        Wire::PreVoteAnswer(answer) => Message::PreVoteAnswer {
            leader: epoch(answer.leader)?,
            attempt: answer.attempt,
            is_unheard: answer.is_unheard,
        },
    })
}

fn append(wire: wire::Append) -> Result<Append, TransportError> {
    Ok(Append {
        epoch: epoch(wire.epoch)?,
        config: wire.config,
        round: Round(wire.round),
        prev: end(wire.prev)?,
        entries: entries(wire.entries)?,
        commit: LogIndex(wire.commit),
        mark: Mark {
            seq: Seq(wire.mark_seq),
            commit: LogIndex(wire.mark_commit),
        },
    })
}

fn epoch(wire: Option<wire::Epoch>) -> Result<Epoch, TransportError> {
    let wire = wire.ok_or(TransportError::Missing("epoch"))?;
    Ok(Epoch {
        number: wire.number,
        node: NodeId(wire.node),
    })
}

fn end(wire: Option<wire::LogEnd>) -> Result<LogEnd, TransportError> {
    let wire = wire.ok_or(TransportError::Missing("place in the log"))?;
    Ok(LogEnd {
        epoch: epoch(wire.epoch)?,
        index: LogIndex(wire.index),
    })
}

fn membership(wire: Option<wire::Membership>) -> Result<Membership, TransportError> {
    let wire = wire.ok_or(TransportError::Missing("membership"))?;
    let nodes = |numbers: Vec<u64>| numbers.into_iter().map(NodeId).collect();
    Ok(Membership {
        number: wire.number,
        members: nodes(wire.members),
        previous: nodes(wire.previous),
    })
}

fn entries(wire: Vec<wire::Entry>) -> Result<Vec<Arc<Entry>>, TransportError> {
    let entry = |wire: wire::Entry| {
        let unknown = |_too_large| TransportError::UnknownKind(wire.kind);
        let kind = EntryKind::from_number(u8::try_from(wire.kind).map_err(unknown)?)?;
        Ok(Arc::new(Entry {
            index: LogIndex(wire.index),
            epoch: epoch(wire.epoch)?,
            body: EntryBody::decode(kind, wire.body)?,
        }))
    };
    wire.into_iter().map(entry).collect()
}

/// Writes what a node has seen of the coordinator.
pub fn seen_to_wire(seen: &Seen) -> wire::Seen {
    let seat = |(seat, epoch): (&SeatId, &u64)| wire::SeenSeat {
        group: seat.group.0,
        side: seat.side.number(),
        epoch: *epoch,
    };
    wire::Seen {
        generation: seen.generation,
        revision: seen.revision,
        counter: seen.counter.get(),
        time_us: seen.time.get(),
        seats: seen.epochs.iter().map(seat).collect(),
        groups: seen
            .members
            .iter()
            .map(|(group, membership)| wire::SeenGroup {
                group: group.0,
                membership: membership_to_wire(membership),
            })
            .collect(),
    }
}

/// Reads it; `None` when it is not what this release knows.
pub fn seen_from_wire(seen: wire::Seen) -> Option<Seen> {
    let seat = |seat: wire::SeenSeat| {
        let side = Side::from_number(seat.side)?;
        let group = GroupId(seat.group);
        Some((SeatId { group, side }, seat.epoch))
    };
    let group = |group: wire::SeenGroup| {
        let membership = membership(group.membership).ok()?;
        Some((GroupId(group.group), membership))
    };
    Some(Seen {
        generation: seen.generation,
        revision: seen.revision,
        counter: Seq(seen.counter),
        time: Timestamp(seen.time_us),
        epochs: seen.seats.into_iter().map(seat).collect::<Option<_>>()?,
        members: seen.groups.into_iter().map(group).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::tests::{entry as an_entry, epoch as an_epoch, heartbeat, seat};
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message as _;

    fn epochs() -> impl Strategy<Value = Epoch> {
        (any::<u64>(), any::<u64>()).prop_map(|(number, node)| Epoch {
            number,
            node: NodeId(node),
        })
    }

    fn ends() -> impl Strategy<Value = LogEnd> {
        (epochs(), any::<u64>()).prop_map(|(epoch, index)| LogEnd {
            epoch,
            index: LogIndex(index),
        })
    }

    fn memberships() -> impl Strategy<Value = Membership> {
        let nodes = || proptest::collection::vec(any::<u64>().prop_map(NodeId), 0..4);
        (any::<u64>(), nodes(), nodes()).prop_map(|(number, members, previous)| Membership {
            number,
            members,
            previous,
        })
    }

    fn entries() -> impl Strategy<Value = Vec<Arc<Entry>>> {
        let epoch_start = (any::<u64>(), epochs(), memberships()).prop_map(|(index, epoch, membership)| {
            Arc::new(Entry {
                index: LogIndex(index),
                epoch,
                body: EntryBody::EpochStart(membership),
            })
        });
        let events = (1..1_u64 << 40, 0..100_usize).prop_map(|(index, bytes)| an_entry(index, bytes));
        proptest::collection::vec(prop_oneof![epoch_start, events], 0..4)
    }

    fn appends() -> impl Strategy<Value = Message> {
        let numbers = any::<[u64; 5]>();
        (epochs(), ends(), entries(), numbers).prop_map(|(epoch, prev, entries, numbers)| {
            let [config, round, commit, seq, mark_commit] = numbers;
            Message::Append(Append {
                epoch,
                config,
                round: Round(round),
                prev,
                entries,
                commit: LogIndex(commit),
                mark: Mark {
                    seq: Seq(seq),
                    commit: LogIndex(mark_commit),
                },
            })
        })
    }

    fn messages() -> impl Strategy<Value = Message> {
        let n = any::<u64>;
        prop_oneof![
            (epochs(), n()).prop_map(|(epoch, config)| Message::Fence { epoch, config }),
            (epochs(), ends(), n(), memberships()).prop_map(|(epoch, end, commit, membership)| {
                Message::FenceAck {
                    epoch,
                    end,
                    commit: LogIndex(commit),
                    membership,
                }
            }),
            (epochs(), ends(), n()).prop_map(|(epoch, prev, last)| Message::Fetch {
                epoch,
                prev,
                last: LogIndex(last),
            }),
            (epochs(), ends(), entries()).prop_map(|(epoch, prev, entries)| Message::Fetched {
                epoch,
                prev,
                entries,
            }),
            appends(),
            (epochs(), n(), n()).prop_map(|(epoch, round, matched)| Message::AppendAck {
                epoch,
                round: Round(round),
                matched: LogIndex(matched),
            }),
            (epochs(), ends(), ends()).prop_map(|(epoch, refused, hint)| Message::Mismatch {
                epoch,
                refused,
                hint,
            }),
            (epochs(), epochs(), memberships()).prop_map(|(epoch, promised, membership)| Message::Reject {
                epoch,
                promised,
                membership,
            }),
            (epochs(), n()).prop_map(|(leader, attempt)| Message::PreVote { leader, attempt }),
            (epochs(), n(), any::<bool>()).prop_map(|(leader, attempt, is_unheard)| {
                Message::PreVoteAnswer {
                    leader,
                    attempt,
                    is_unheard,
                }
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn round_trip_of_every_message(group in any::<u32>(), side in 0..2_usize, message in messages()) {
            let seat = SeatId { group: GroupId(group), side: Side::BOTH[side] };
            let wire = to_wire(seat, message.clone());
            let bytes: Bytes = wire.encode_to_vec().into();
            prop_assert!(bytes.len() <= weight(&message));
            let read = wire::SeatMessage::decode(bytes).unwrap();
            prop_assert_eq!(from_wire(read), Ok((seat, message)));
        }

        #[test]
        fn rejects_or_reads_any_bytes_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = wire::SeatMessage::decode(Bytes::from(bytes)) {
                drop(from_wire(message));
            }
        }
    }

    #[test]
    fn rejects_what_this_release_does_not_know() {
        let good = to_wire(seat(1), heartbeat(1));
        let with = |change: fn(&mut wire::SeatMessage)| {
            let mut bad = good.clone();
            change(&mut bad);
            from_wire(bad).unwrap_err()
        };
        assert_eq!(with(|message| message.side = 2), TransportError::UnknownSide(2));
        assert_eq!(
            with(|message| message.message = None),
            TransportError::UnknownMessage
        );
        let no_epoch = |message: &mut wire::SeatMessage| {
            message.message = Some(Wire::Fence(wire::Fence::default()));
        };
        assert_eq!(with(no_epoch), TransportError::Missing("epoch"));
    }

    #[test]
    fn rejects_entries_that_cannot_be_read() {
        let fetched = |kind, body: &'static [u8]| {
            let entry = wire::Entry {
                index: 1,
                epoch: epoch_to_wire(an_epoch(1)),
                kind,
                body: Bytes::from_static(body),
            };
            entries_of(vec![entry]).unwrap_err()
        };
        assert_eq!(fetched(300, b""), TransportError::UnknownKind(300));
        assert_eq!(fetched(9, b""), TransportError::Entry(EntryError::UnknownKind(9)));
        assert_eq!(
            fetched(1, b"short"),
            TransportError::Entry(EntryError::Membership)
        );
        assert!(matches!(
            fetched(2, b"\xff"),
            TransportError::Entry(EntryError::Events(_))
        ));
    }

    fn entries_of(wire: Vec<wire::Entry>) -> Result<Vec<Arc<Entry>>, TransportError> {
        super::entries(wire)
    }
}
