//! What operators ask for.

use super::status::CallError;
use super::{Api, forward};
use crate::node::{Need, Route};
use rdb_proto::types::{FieldError, GroupId, SeatId, Side};
use rdb_proto::v1;
use tonic::{Request, Response};

/// At the leader of the seat.
pub(super) async fn move_seat(
    api: &Api,
    request: Request<v1::MoveSeatRequest>,
) -> Result<v1::MoveSeatResponse, CallError> {
    let (metadata, _, request) = request.into_parts();
    let side = Side::from_number(request.seat);
    let side = side.ok_or_else(|| FieldError::invalid("seat", "must be 0 or 1"))?;
    let group = GroupId(request.group);
    let seat = SeatId { group, side };
    if !api.node.seats().any(|known| known == seat) {
        return Err(FieldError::invalid("group", format!("there is no group {group}")).into());
    }
    if let Route::There(leader) = forward::route_seat(&api.node, &metadata, seat, Need::Leader)? {
        let request = forward::pass_on(&metadata, &[seat], request);
        let mut admin = api.peers.admin(&leader.address)?;
        let answer = Box::pin(admin.move_seat(request)).await.map(Response::into_inner);
        return answer.map_err(|status| forward::read_failed(status, seat));
    }
    api.node.move_seat(seat, &request.to, request.dry_run).await?;
    Ok(v1::MoveSeatResponse {})
}

pub(super) async fn drain(
    api: &Api,
    request: Request<v1::DrainRequest>,
) -> Result<v1::DrainResponse, CallError> {
    let v1::DrainRequest { node, to, dry_run } = request.into_inner();
    let to = (!to.is_empty()).then_some(to.as_str());
    let moves = api.node.drain(&node, to, dry_run).await?;
    let moves = moves.into_iter().map(|one| v1::MemberMove {
        group: one.group.0,
        leaves: one.leaves.0,
        joins: one.joins.map_or(0, |node| node.0),
    });
    Ok(v1::DrainResponse {
        moves: moves.collect(),
    })
}

pub(super) async fn undrain(
    api: &Api,
    request: Request<v1::UndrainRequest>,
) -> Result<v1::UndrainResponse, CallError> {
    let v1::UndrainRequest { node, dry_run } = request.into_inner();
    api.node.undrain(&node, dry_run).await?;
    Ok(v1::UndrainResponse {})
}

pub(super) async fn remove(
    api: &Api,
    request: Request<v1::RemoveRequest>,
) -> Result<v1::RemoveResponse, CallError> {
    let v1::RemoveRequest { node, dry_run } = request.into_inner();
    api.node.remove(&node, dry_run).await?;
    Ok(v1::RemoveResponse {})
}

pub(super) async fn etcd_restored(
    api: &Api,
    request: Request<v1::EtcdRestoredRequest>,
) -> Result<v1::EtcdRestoredResponse, CallError> {
    let v1::EtcdRestoredRequest { dry_run, anyway } = request.into_inner();
    let done = Box::pin(api.node.etcd_restored(anyway, dry_run)).await?;
    Ok(v1::EtcdRestoredResponse {
        generation: done.generation,
        counter: done.counter.get(),
        behind: done.is_behind,
        told: done.told,
        silent: done.silent,
        groups_unheard: done.groups_unheard.iter().map(|group| group.0).collect(),
    })
}
