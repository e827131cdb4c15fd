//! What leaders and operators tell the controller.

use super::records::{FORMAT, LeavingRecord, ReportRecord, encode};
use super::{Shared, call};
use crate::coordination::{CoordinationError, Order, Report};
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use rdb_proto::types::{Epoch, NodeId, SeatId};

/// Writes a leader's report, IF the seat is still its own.
pub(super) async fn report(
    shared: &Shared,
    seat: SeatId,
    epoch: Epoch,
    report: Report,
) -> Result<(), CoordinationError> {
    let record = ReportRecord {
        format: FORMAT,
        node: epoch.node.0,
        number: epoch.number,
        as_of: report.as_of,
        established: report.established,
        caught_up: report.caught_up.iter().map(|node| node.0).collect(),
    };
    let txn = Txn::new()
        .when([super::election::still_holds(shared, seat, epoch)])
        .and_then([TxnOp::put(shared.keys.report(seat), encode(&record), None)]);
    call("a leader's report", shared.client.kv_client().txn(txn))
        .await
        .map(drop)
}

pub(super) async fn order(shared: &Shared, order: Order) -> Result<(), CoordinationError> {
    let (mut compares, operations) = match order {
        Order::Leave { node, to } => leave(shared, node, to)?,
        Order::Stay(node) => {
            let operation = TxnOp::delete(shared.keys.leaving(node), None);
            (Vec::new(), vec![operation])
        }
        Order::Forget(node) => forget(shared, node)?,
    };
    compares.push(shared.same_generation());
    let txn = Txn::new().when(compares).and_then(operations);
    let answer = call("an order", shared.client.kv_client().txn(txn)).await?;
    if answer.succeeded() {
        Ok(())
    } else {
        Err(CoordinationError::Changed {
            why: "nodes or members changed meanwhile; ask again",
        })
    }
}

type Parts = (Vec<Compare>, Vec<TxnOp>);

fn leave(shared: &Shared, node: NodeId, to: Option<NodeId>) -> Result<Parts, CoordinationError> {
    let record = LeavingRecord {
        format: FORMAT,
        to: to.map(|node| node.0),
    };
    let put = TxnOp::put(shared.keys.leaving(node), encode(&record), None);
    Ok((vec![is_registered(shared, node)?], vec![put]))
}

/// Holds as long as the node's name is its own.
fn is_registered(shared: &Shared, node: NodeId) -> Result<Compare, CoordinationError> {
    let known = shared.known();
    let (name, revision) = known
        .mirror
        .registration(node)
        .ok_or(CoordinationError::Changed {
            why: "no node has that id any more",
        })?;
    let key = shared.keys.id(name);
    Ok(Compare::mod_revision(key, CompareOp::Equal, revision))
}

/// Gives up the name and the id, IF the node is not live and has no members.
fn forget(shared: &Shared, node: NodeId) -> Result<Parts, CoordinationError> {
    let mut compares = vec![
        is_registered(shared, node)?,
        Compare::version(shared.keys.live(node), CompareOp::Equal, 0),
    ];
    let known = shared.known();
    for (group, members) in &known.mirror.members {
        let record = &members.value;
        let mut all = record
            .members
            .iter()
            .chain(&record.previous)
            .chain(&record.learners);
        if all.any(|member| *member == node.0) {
            return Err(CoordinationError::Changed {
                why: "the node still has members",
            });
        }
        let key = shared.keys.members(*group);
        compares.push(Compare::mod_revision(key, CompareOp::Equal, members.revision));
    }
    let (name, _) = known.mirror.registration(node).unwrap_or_default();
    let operations = vec![
        TxnOp::delete(shared.keys.id(name), None),
        TxnOp::delete(shared.keys.leaving(node), None),
    ];
    Ok((compares, operations))
}
