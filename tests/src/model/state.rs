//! A state of the model: nodes, messages, coordinator, what may still happen, and what was seen so far.

use super::config::Budget;
use super::ghost::Ghost;
use super::node::Node;
use super::shared::Shared;
use rdb_proto::types::{Epoch, NodeId, Seq};
use rdb_server::protocol::Message;
use std::fmt;

/// A message that was sent. It stays for ever: it can be delivered at any time, any number of times, or never.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Packet {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) message: Message,
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}: {}", self.from, self.to, self.message)
    }
}

/// The coordinator's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Coordinator {
    /// Number of the last epoch that was granted.
    pub(super) number: u64,
    /// Who holds the seat.
    pub(super) holder: Option<Epoch>,
    /// Which of the configuration's memberships the members key is.
    pub(super) stage: usize,
    pub(super) counter: Seq,
}

/// A state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Node i is at i - 1.
    pub(super) nodes: Vec<Shared<Node>>,
    /// In the order of their hashes, each once.
    pub(super) packets: Vec<Shared<Packet>>,
    pub(super) coordinator: Coordinator,
    pub(super) left: Budget,
    pub(super) ghost: Shared<Ghost>,
    /// The rule that was broken, and how. Nothing happens any more then.
    pub(super) broken: Option<(&'static str, String)>,
}

pub(super) fn place(node: NodeId) -> usize {
    usize::try_from(node.0).unwrap() - 1
}

pub(super) fn id(place: usize) -> NodeId {
    NodeId(u64::try_from(place).unwrap() + 1)
}

impl State {
    pub(super) fn node(&self, node: NodeId) -> &Shared<Node> {
        &self.nodes[place(node)]
    }

    pub(super) fn send(&mut self, packet: Shared<Packet>) {
        let found = self
            .packets
            .binary_search_by_key(&packet.fingerprint(), Shared::fingerprint);
        if let Err(position) = found {
            self.packets.insert(position, packet);
        }
    }

    /// Forgets messages that cannot do anything any more.
    pub(super) fn bury(&mut self, has_rejects: bool) {
        let nodes = &self.nodes;
        self.packets.retain(|packet| is_alive(nodes, packet, has_rejects));
    }
}

/// An answer is of use only while its receiver stands or leads under the epoch, which it never does again once it
/// stopped; what a winner or leader sends only while the receiver has promised nothing higher, or while the sender
/// still stands there to be told so.
fn is_alive(nodes: &[Shared<Node>], packet: &Packet, has_rejects: bool) -> bool {
    let to = &nodes[place(packet.to)];
    let (epoch, is_answer) = match &packet.message {
        Message::FenceAck { epoch, .. }
        | Message::Fetched { epoch, .. }
        | Message::AppendAck { epoch, .. }
        | Message::Mismatch { epoch, .. }
        | Message::Reject { epoch, .. } => (*epoch, true),
        Message::Fence { epoch, .. } | Message::Fetch { epoch, .. } => (*epoch, false),
        Message::Append(append) => (append.epoch, false),
        Message::PreVote { .. } | Message::PreVoteAnswer { .. } => return true,
    };
    if is_answer {
        to.stands() == Some(epoch)
    } else {
        let sender = &nodes[place(packet.from)];
        to.disk.promised().number <= epoch.number || (has_rejects && sender.stands() == Some(epoch))
    }
}
