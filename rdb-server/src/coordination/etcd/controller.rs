//! The controller: the one node that places groups on nodes.

use super::placement::place;
use super::records::{ControllerRecord, FORMAT, MembersRecord, encode};
use super::{Shared, call};
use crate::clock;
use crate::coordination::{CoordinationError, View};
use crate::limits::ETCD_RETRY_MAX;
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use rdb_proto::types::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Stands whenever nobody is the controller, and does what it is there for while it is.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut view = shared.view.subscribe();
    let mut lease = shared.lease.subscribe();
    loop {
        let now = Arc::clone(&view.borrow_and_update());
        lease.borrow_and_update();
        let done = if now.controller.is_none() {
            stand(&shared).await
        } else if is_mine(&shared) {
            place_groups(&shared, &now).await
        } else {
            Ok(())
        };
        if let Err(error) = done {
            tracing::debug!(%error, "the controller's work failed; trying again");
            clock::sleep(ETCD_RETRY_MAX).await;
            continue;
        }
        let is_over = tokio::select! {
            changed = view.changed() => changed.is_err(),
            changed = lease.changed() => changed.is_err(),
        };
        if is_over {
            return;
        }
    }
}

fn record(shared: &Shared) -> ControllerRecord {
    ControllerRecord {
        format: FORMAT,
        node: shared.node.0,
        incarnation: shared.incarnation,
    }
}

/// Whether this start of this node is the controller.
fn is_mine(shared: &Shared) -> bool {
    shared.known().mirror.controller.as_ref() == Some(&record(shared))
}

async fn stand(shared: &Shared) -> Result<(), CoordinationError> {
    let Ok(lease) = shared.lease() else {
        // A new lease wakes the task.
        return Ok(());
    };
    let key = shared.keys.controller();
    let leased = PutOptions::new().with_lease(lease);
    let txn = Txn::new()
        .when([Compare::version(key.clone(), CompareOp::Equal, 0)])
        .and_then([TxnOp::put(key, encode(&record(shared)), Some(leased))]);
    call("the controller's key", shared.client.kv_client().txn(txn))
        .await
        .map(drop)
}

/// Gives every group that has no members some, once there are enough live nodes.
async fn place_groups(shared: &Shared, view: &View) -> Result<(), CoordinationError> {
    let groups = (0..shared.config.groups).map(GroupId);
    let missing: Vec<GroupId> = groups.filter(|group| !view.groups.contains_key(group)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let live = view.nodes.iter().filter(|(_, info)| info.is_live);
    let live: Vec<NodeId> = live.map(|(node, _)| *node).collect();
    let mut taken: BTreeMap<NodeId, usize> = BTreeMap::new();
    for node in view.groups.values().flat_map(|membership| &membership.members) {
        let count = taken.entry(*node).or_default();
        *count = count.saturating_add(1);
    }
    let size = usize::try_from(shared.config.group_size).unwrap_or(usize::MAX);
    let Some(placed) = place(&missing, size, &live, &taken) else {
        tracing::info!(
            live = live.len(),
            needed = size,
            "waiting for nodes to place the groups on"
        );
        return Ok(());
    };
    for (group, members) in placed {
        let key = shared.keys.members(group);
        let record_of_group = MembersRecord {
            format: FORMAT,
            number: 1,
            members: members.iter().map(|node| node.0).collect(),
            previous: Vec::new(),
            learners: Vec::new(),
        };
        let mine = Compare::value(
            shared.keys.controller(),
            CompareOp::Equal,
            encode(&record(shared)),
        );
        let txn = Txn::new()
            .when([mine, Compare::version(key.clone(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key, encode(&record_of_group), None)]);
        if call("a group's members", shared.client.kv_client().txn(txn))
            .await?
            .succeeded()
        {
            tracing::info!(%group, ?members, "placed the group");
        }
    }
    Ok(())
}
