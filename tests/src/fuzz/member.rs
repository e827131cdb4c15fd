//! What nodes say to each other.
//!
//! Input: which kind (a byte), then the message in protobuf.

use super::{Target, named, sample};
use prost::Message as _;
use rdb_proto::member::{self, exchange_request};
use rdb_proto::types::{GroupId, LogIndex, SeatId, Seq, Side, Timestamp};
use rdb_server::protocol::{Append, LogEnd, Mark, Message, Round, Seen};
use rdb_server::transport::wire::{from_wire, seen_from_wire, seen_to_wire, to_wire};
use std::collections::BTreeMap;

pub(super) const TARGET: Target = Target {
    name: "member",
    what: "messages between nodes, and what they tell each other of etcd",
    run,
    seeds,
};

const KINDS: u8 = 6;

fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    match kind % KINDS {
        0 => {
            if let Ok(message) = member::SeatMessage::decode(bytes) {
                read_message(message);
            }
        }
        1 => {
            if let Some(request) = super::request::rewritten::<member::ExchangeRequest>(bytes)
                && let Some(exchange_request::Part::Batch(batch)) = request.part
            {
                batch.messages.into_iter().for_each(read_message);
            }
        }
        2 => {
            if let Ok(seen) = member::Seen::decode(bytes) {
                read_seen(seen);
            }
        }
        3 => drop(super::request::rewritten::<member::TellSeenResponse>(bytes)),
        4 => drop(super::request::rewritten::<member::GiveNumbersResponse>(bytes)),
        _ => drop(super::request::rewritten::<member::ExchangeResponse>(bytes)),
    }
}

fn read_message(message: member::SeatMessage) {
    if let Ok((seat, message)) = from_wire(message) {
        // For the log, at the level of debugging.
        drop(message.to_string());
        let written = to_wire(seat, message.clone()).encode_to_vec();
        let again = member::SeatMessage::decode(&written[..]).expect("what was written reads back");
        assert_eq!(from_wire(again), Ok((seat, message)));
    }
}

fn read_seen(seen: member::Seen) {
    let Some(seen) = seen_from_wire(seen) else {
        return;
    };
    let written = seen_to_wire(&seen).encode_to_vec();
    let again = member::Seen::decode(&written[..]).expect("what was written reads back");
    assert_eq!(seen_from_wire(again).as_ref(), Some(&seen));
    // Whoever hears it adds it to what it knows: nothing of it goes back, and twice is as good as once.
    let mut known = Seen::default();
    known.merge(&seen);
    let once = known.clone();
    known.merge(&seen);
    assert_eq!(known, once);
}

const SEAT: SeatId = SeatId {
    group: GroupId(1),
    side: Side::One,
};

/// One of each kind.
#[expect(clippy::too_many_lines, reason = "a list")]
fn messages() -> Vec<(&'static str, Message)> {
    let epoch = sample::EPOCH;
    let end = LogEnd {
        epoch,
        index: LogIndex(9),
    };
    let membership = sample::membership();
    let append = Append {
        epoch,
        config: 2,
        round: Round(7),
        prev: end,
        entries: sample::log(),
        commit: LogIndex(8),
        mark: Mark {
            seq: Seq(20),
            commit: LogIndex(8),
        },
    };
    vec![
        ("fence", Message::Fence { epoch, config: 2 }),
        (
            "fence-ack",
            Message::FenceAck {
                epoch,
                end,
                commit: LogIndex(8),
                membership: membership.clone(),
            },
        ),
        (
            "fetch",
            Message::Fetch {
                epoch,
                prev: end,
                last: LogIndex(12),
            },
        ),
        (
            "fetched",
            Message::Fetched {
                epoch,
                prev: end,
                entries: sample::log(),
            },
        ),
        ("append", Message::Append(append)),
        (
            "append-ack",
            Message::AppendAck {
                epoch,
                round: Round(7),
                matched: LogIndex(9),
            },
        ),
        (
            "mismatch",
            Message::Mismatch {
                epoch,
                refused: end,
                hint: end,
            },
        ),
        (
            "reject",
            Message::Reject {
                epoch,
                promised: epoch,
                membership,
            },
        ),
        (
            "pre-vote",
            Message::PreVote {
                leader: epoch,
                attempt: 1,
            },
        ),
        (
            "pre-vote-answer",
            Message::PreVoteAnswer {
                leader: epoch,
                attempt: 1,
                is_unheard: true,
            },
        ),
    ]
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let membership = sample::membership();
    let input = |kind: u8, bytes: Vec<u8>| [vec![kind], bytes].concat();
    let wires = messages().into_iter();
    let wires: Vec<_> = wires
        .map(|(name, message)| (name, to_wire(SEAT, message)))
        .collect();
    let mut seeds: Vec<_> = wires
        .iter()
        .map(|(name, wire)| named(name, input(0, wire.encode_to_vec())))
        .collect();
    let messages = wires.into_iter().map(|(_, wire)| wire).take(3).collect();
    let batch = exchange_request::Part::Batch(member::Batch { messages });
    let batch = member::ExchangeRequest { part: Some(batch) };
    seeds.push(named("batch", input(1, batch.encode_to_vec())));
    let seen = Seen {
        generation: 1,
        revision: 70,
        counter: Seq(1 << 40),
        time: Timestamp(9),
        epochs: BTreeMap::from([(SEAT, 7)]),
        members: BTreeMap::from([(GroupId(1), membership)]),
    };
    let seen = seen_to_wire(&seen);
    seeds.push(named("seen", input(2, seen.encode_to_vec())));
    let told = member::TellSeenResponse {
        answer: Some(member::tell_seen_response::Answer::Seen(seen)),
    };
    seeds.push(named("told", input(3, told.encode_to_vec())));
    let numbers = member::Numbers {
        first: 1 << 40,
        count: 17,
        time_us: 9,
        generation: 1,
    };
    let given = member::GiveNumbersResponse {
        answer: Some(member::give_numbers_response::Answer::Numbers(numbers)),
    };
    seeds.push(named("numbers", input(4, given.encode_to_vec())));
    seeds
}
