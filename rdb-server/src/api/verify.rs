//! Verify in wire form, here or at the node that is named.

use super::status::CallError;
use super::{Api, forward};
use crate::node::{End, Finding, NodeError, Verification, Wanted};
use futures::{Stream, StreamExt as _};
use rdb_proto::types::{FieldError, GroupId, LogIndex, SeatId, Side};
use rdb_proto::v1;
use rdb_proto::v1::verify_response::Found;
use std::pin::Pin;
use tonic::{Request, Status};

pub(super) type Findings = Pin<Box<dyn Stream<Item = Result<v1::VerifyResponse, Status>> + Send>>;

pub(super) async fn verify(api: &Api, request: Request<v1::VerifyRequest>) -> Result<Findings, CallError> {
    let (metadata, _, request) = request.into_parts();
    let wanted = wanted(api, &request.seats)?;
    let elsewhere = match forward::passed_on_for(&metadata) {
        Some(_) => None,
        None => api.node.elsewhere(&request.node)?,
    };
    let Some(address) = elsewhere else {
        let verification = api.node.verify(wanted, request.bytes_per_second)?;
        return Ok(here(verification));
    };
    let name = request.node.clone();
    let mut admin = api.peers.admin(&address)?;
    let request = forward::pass_on(&metadata, &[], request);
    let answer = Box::pin(admin.verify(request)).await;
    let findings = answer.map_err(|status| failed(status, &name))?.into_inner();
    Ok(Box::pin(findings.map(move |finding| {
        finding.map_err(|status| Status::from(failed(status, &name)))
    })))
}

fn wanted(api: &Api, seats: &[v1::VerifySeat]) -> Result<Vec<Wanted>, FieldError> {
    let one = |wire: &v1::VerifySeat| {
        let side = Side::from_number(wire.seat);
        let side = side.ok_or_else(|| FieldError::invalid("seat", "must be 0 or 1"))?;
        let seat = SeatId {
            group: GroupId(wire.group),
            side,
        };
        if !api.node.seats().any(|known| known == seat) {
            let problem = format!("there is no group {}", seat.group);
            return Err(FieldError::invalid("group", problem));
        }
        let up_to = LogIndex(wire.up_to);
        Ok(Wanted { seat, up_to })
    };
    seats.iter().map(one).collect()
}

fn here(verification: Verification) -> Findings {
    Box::pin(futures::stream::unfold(
        Some(verification),
        async |verification| {
            let mut verification = verification?;
            match verification.next().await {
                Ok(None) => None,
                Ok(Some((seat, finding))) => Some((Ok(to_wire(seat, finding)), Some(verification))),
                Err(error) => Some((Err(CallError::from(error).into()), None)),
            }
        },
    ))
}

fn to_wire(seat: SeatId, finding: Finding) -> v1::VerifyResponse {
    let found = match finding {
        Finding::Block(block) => Found::Block(v1::VerifiedBlock {
            first: block.first.get(),
            last: block.last.get(),
            bytes: block.bytes,
            digest: block.digest,
        }),
        Finding::Damage {
            index,
            what,
            is_found_at_start,
        } => Found::Damage(v1::VerifyDamage {
            index: index.get(),
            what,
            is_found_at_start,
        }),
        Finding::End { last, end } => {
            let reason = match end {
                End::Done => v1::VerifyEndReason::Done,
                End::Behind => v1::VerifyEndReason::Behind,
                End::Repairing => v1::VerifyEndReason::Repairing,
                End::NotHere => v1::VerifyEndReason::NotHere,
            };
            Found::End(v1::VerifyEnd {
                last: last.get(),
                reason: reason.into(),
            })
        }
    };
    v1::VerifyResponse {
        group: seat.group.0,
        seat: seat.side.number(),
        found: Some(found),
    }
}

/// A node that is live and does not answer is told at once, and not asked again and again: the others can be verified.
fn failed(status: Status, node: &str) -> CallError {
    if super::status::reason_of(&status).is_some() {
        CallError::Forwarded(Box::new(status))
    } else {
        NodeError::OrderRefused(format!("node {node} does not answer: {}", status.message())).into()
    }
}
