//! The txns of a seat: won, raised, given up (DESIGN 5).

use super::mirror::{At, split_revision};
use super::records::{EpochRecord, FORMAT, LeaderRecord, MembersRecord, encode};
use super::{Shared, call, value_got};
use crate::coordination::{CoordinationError, Granted};
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use rdb_proto::types::{Epoch, NodeId, SeatId};

const WHAT: &str = "an election";

/// IF nothing about the seat changed since `revision` THEN this node holds it.
pub(super) async fn campaign(
    shared: &Shared,
    seat: SeatId,
    above: Epoch,
    revision: u64,
) -> Result<Option<Granted>, CoordinationError> {
    let lease = shared.lease()?;
    let (epoch_revision, is_vacant) = split_revision(revision);
    let (granted_before, members) = {
        let known = shared.known();
        let epoch = known.mirror.epoch(seat);
        let is_current = epoch.revision == epoch_revision;
        let members = known.mirror.members.get(&seat.group).cloned();
        let Some(members) = members.filter(|_| is_current) else {
            return Ok(None);
        };
        (epoch.value.number, members)
    };
    let number = granted_before.max(above.number).saturating_add(1);
    let leader = shared.keys.leader(seat);
    let held = if is_vacant {
        Compare::version(leader, CompareOp::Equal, 0)
    } else {
        // Both keys are written by one txn.
        Compare::mod_revision(leader, CompareOp::Equal, epoch_revision)
    };
    let compares = [
        held,
        Compare::mod_revision(shared.keys.epoch(seat), CompareOp::Equal, epoch_revision),
        same_members(shared, seat, &members),
        shared.same_generation(),
    ];
    let txn = Txn::new()
        .when(compares)
        .and_then(put_leader(shared, seat, number, lease));
    let is_won = call(WHAT, shared.client.kv_client().txn(txn)).await?.succeeded();
    Ok(is_won.then(|| granted(shared, number, &members.value)))
}

/// IF this node holds the seat under `epoch` THEN it holds it under a higher one.
pub(super) async fn raise(
    shared: &Shared,
    seat: SeatId,
    epoch: Epoch,
    above: Epoch,
) -> Result<Option<Granted>, CoordinationError> {
    let lease = shared.lease()?;
    let Some(members) = shared.known().mirror.members.get(&seat.group).cloned() else {
        return Ok(None);
    };
    let number = epoch.number.max(above.number).saturating_add(1);
    let leader = shared.keys.leader(seat);
    let compares = [
        still_holds(shared, seat, epoch),
        same_members(shared, seat, &members),
        shared.same_generation(),
    ];
    let txn = Txn::new()
        .when(compares)
        .and_then(put_leader(shared, seat, number, lease))
        .or_else([TxnOp::get(leader, None)]);
    let answer = call(WHAT, shared.client.kv_client().txn(txn)).await?;
    if answer.succeeded() {
        return Ok(Some(granted(shared, number, &members.value)));
    }
    let mine = encode(&leader_record(shared, epoch.number));
    if value_got(&answer) == Some(mine) {
        // The members changed, which this node is about to learn.
        return Err(CoordinationError::Unavailable {
            what: WHAT,
            why: "the members changed meanwhile".to_owned(),
        });
    }
    Ok(None)
}

/// IF this node holds the seat under `epoch` THEN nobody does.
pub(super) async fn give_up(
    shared: &Shared,
    seat: SeatId,
    epoch: Epoch,
    successor: Option<NodeId>,
) -> Result<(), CoordinationError> {
    let record = EpochRecord {
        format: FORMAT,
        number: epoch.number,
        successor: successor.map(|node| node.0),
    };
    let txn = Txn::new().when([still_holds(shared, seat, epoch)]).and_then([
        TxnOp::delete(shared.keys.leader(seat), None),
        TxnOp::put(shared.keys.epoch(seat), encode(&record), None),
    ]);
    call(WHAT, shared.client.kv_client().txn(txn)).await.map(drop)
}

fn leader_record(shared: &Shared, number: u64) -> LeaderRecord {
    LeaderRecord {
        format: FORMAT,
        node: shared.node.0,
        number,
        incarnation: shared.incarnation,
    }
}

/// Holds as long as this node leads the seat under `epoch`.
pub(super) fn still_holds(shared: &Shared, seat: SeatId, epoch: Epoch) -> Compare {
    let value = encode(&leader_record(shared, epoch.number));
    Compare::value(shared.keys.leader(seat), CompareOp::Equal, value)
}

/// Holds as long as the members are those of an election.
fn same_members(shared: &Shared, seat: SeatId, members: &At<MembersRecord>) -> Compare {
    let key = shared.keys.members(seat.group);
    Compare::mod_revision(key, CompareOp::Equal, members.revision)
}

fn put_leader(shared: &Shared, seat: SeatId, number: u64, lease: i64) -> [TxnOp; 2] {
    let epoch = EpochRecord {
        format: FORMAT,
        number,
        successor: None,
    };
    let leased = PutOptions::new().with_lease(lease);
    [
        TxnOp::put(
            shared.keys.leader(seat),
            encode(&leader_record(shared, number)),
            Some(leased),
        ),
        TxnOp::put(shared.keys.epoch(seat), encode(&epoch), None),
    ]
}

fn granted(shared: &Shared, number: u64, members: &MembersRecord) -> Granted {
    Granted {
        epoch: Epoch {
            number,
            node: shared.node,
        },
        membership: members.membership(),
    }
}
