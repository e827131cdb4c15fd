//! What happened to a node before, so that it need not happen again: there are far fewer states of a node, and things
//! that can happen to it, than states of them all.

use super::config::Config;
use super::node::{Happened, Local, Node, Seen, happen};
use super::shared::Shared;
use super::state::Packet;
use rdb_proto::types::NodeId;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex};

/// What came of something.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) node: Shared<Node>,
    pub(super) sent: Vec<Shared<Packet>>,
    pub(super) seen: Vec<Seen>,
    pub(super) has_written: bool,
}

type Part = Mutex<HashMap<(u64, u64), Arc<Known>>>;

/// By the node as it was and what happened to it; in parts, so that threads rarely wait for each other.
#[derive(Debug, Default)]
pub(super) struct Memory {
    parts: [Part; 32],
}

impl Memory {
    /// Lets something happen to a node, or remembers what came of it.
    pub(super) fn happen(&self, config: &Config, at: NodeId, node: &Shared<Node>, what: Local) -> Arc<Known> {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        let place = (node.fingerprint(), hasher.finish());
        let part = usize::try_from((place.0 ^ place.1) % 32).unwrap();
        let part = &self.parts[part];
        if let Some(known) = part.lock().unwrap().get(&place) {
            return Arc::clone(known);
        }
        let Happened {
            node,
            sent,
            seen,
            has_written,
            ..
        } = happen(config, at, node, what, false);
        let known = Arc::new(Known {
            node: Shared::new(node),
            sent: sent.into_iter().map(Shared::new).collect(),
            seen,
            has_written,
        });
        part.lock().unwrap().insert(place, Arc::clone(&known));
        known
    }
}
