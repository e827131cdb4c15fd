//! An operator says that etcd was restored from a backup (DESIGN 6.5): all nodes are asked what they have seen, and etcd
//! is put right by one txn, whether or not it looks older than that.
//!
//! The guard of each node does the same by itself, but only to an etcd that is behind, and after a while without groups
//! of which too few tell. A copy may be so young that nobody who told knew of a later number, and numbers may have been
//! under way when it was put back: who says so is on the safe side of both.

use super::error::NodeError;
use super::guarding::{restart_of, seen_of};
use super::handle::Handle;
use crate::coordination::CoordinationError;
use crate::coordination::etcd::{EtcdCoordinator, Session};
use crate::limits::RESTORED_TRIES_MAX;
use crate::protocol::{NewGeneration, Seen, Told};
use futures::future::join_all;
use rdb_proto::types::{GroupId, Membership, NodeId, Seq};
use std::collections::BTreeSet;

/// What was done, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdRestored {
    /// The generation that etcd gets.
    pub generation: u64,
    /// What the counter is set to.
    pub counter: Seq,
    /// Whether etcd was behind what nodes have seen of it.
    pub is_behind: bool,
    /// Names of the nodes that told what they have seen.
    pub told: Vec<String>,
    /// Names of those that did not.
    pub silent: Vec<String>,
    /// Groups of which fewer than R members told.
    pub groups_unheard: Vec<GroupId>,
}

impl Handle {
    /// Puts etcd right after it was restored from a backup: generation + 1, the counter far above all that was given,
    /// epochs and members as far as they were seen. `is_anyway`: also when too few members of a group tell.
    ///
    /// # Errors
    /// [`NodeError::GroupsUnheard`], [`NodeError::EtcdUnread`], [`NodeError::OrderRefused`] in standalone mode: nothing
    /// was done. [`NodeError::NotOrdered`].
    pub async fn etcd_restored(&self, is_anyway: bool, is_dry_run: bool) -> Result<EtcdRestored, NodeError> {
        let Some(etcd) = &self.shared.etcd else {
            let why = "a standalone node has no etcd".to_owned();
            return Err(NodeError::OrderRefused(why));
        };
        let (mut told, silent) = self.ask_everybody().await;
        // Over one connection, and after everybody told: an etcd that goes back once more ends it.
        let (session, mut state) = begin(etcd).await.map_err(NodeError::EtcdUnread)?;
        let is_behind = state.is_below(&told.seen);
        for _ in 0..RESTORED_TRIES_MAX {
            told.seen.merge(&state);
            let groups_unheard = told.silent_groups();
            let new = told.new_generation(&state);
            let plan = EtcdRestored {
                generation: new.generation,
                counter: new.counter,
                is_behind,
                told: self.names(&told.by),
                silent: self.names(&silent),
                groups_unheard,
            };
            if is_dry_run {
                return Ok(plan);
            }
            if !plan.groups_unheard.is_empty() && !is_anyway {
                return Err(NodeError::GroupsUnheard {
                    groups: plan.groups_unheard,
                    silent: plan.silent,
                });
            }
            tracing::warn!(
                generation = new.generation,
                counter = %new.counter,
                told = ?plan.told,
                silent = ?plan.silent,
                "an operator says that etcd was restored; putting it right: seqs go on far above all that were given"
            );
            state = put_right(&session, new).await.map_err(NodeError::NotOrdered)?;
            if state.generation >= plan.generation && state.counter >= plan.counter {
                return Ok(plan);
            }
        }
        Err(NodeError::NotOrdered(CoordinationError::Changed {
            why: "seats or members changed meanwhile; ask again",
        }))
    }

    /// What all nodes that etcd or another node knows have seen, and who did not tell.
    async fn ask_everybody(&self) -> (Told, BTreeSet<NodeId>) {
        let registered = self.shared.coordinator.view().borrow().nodes.clone();
        let mut told = Told {
            writes: usize::try_from(self.writes()).unwrap_or(usize::MAX),
            seen: Seen::default(),
            by: BTreeSet::new(),
        };
        let mut asked = BTreeSet::new();
        loop {
            let members = told.seen.members.values().flat_map(Membership::everybody);
            let known = registered.keys().copied().chain(members).chain([self.id()]);
            let open: BTreeSet<NodeId> = known.filter(|node| !asked.contains(node)).collect();
            if open.is_empty() {
                break;
            }
            let answers = open
                .iter()
                .map(async |node| (*node, self.shared.transport.ask_seen(*node).await));
            for (node, answer) in join_all(answers).await {
                if let Some(seen) = answer {
                    told.seen.merge(&seen);
                    told.by.insert(node);
                }
            }
            asked.extend(open);
        }
        let silent = asked.difference(&told.by).copied().collect();
        (told, silent)
    }

    fn names(&self, nodes: &BTreeSet<NodeId>) -> Vec<String> {
        let view = self.shared.coordinator.view().borrow().clone();
        let name = |node: &NodeId| match view.nodes.get(node) {
            Some(info) => info.name.clone(),
            None => node.to_string(),
        };
        nodes.iter().map(name).collect()
    }
}

async fn begin(etcd: &EtcdCoordinator) -> Result<(Session, Seen), CoordinationError> {
    let session = etcd.begin_session(0).await?;
    let state = seen_of(session.progress().await?);
    Ok((session, state))
}

/// Whether it was done, the state after it tells.
async fn put_right(session: &Session, new: NewGeneration) -> Result<Seen, CoordinationError> {
    session.restart(&restart_of(new)).await?;
    session.progress().await.map(seen_of)
}
