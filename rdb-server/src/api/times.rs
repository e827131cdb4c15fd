//! When the first event after a seq was: how far behind, in time, whoever stands there is.

use super::status::CallError;
use super::{Api, forward, subscribe};
use futures::future::try_join_all;
use rdb_proto::limits::LIST_SUBSCRIPTIONS_PAGE_MAX;
use rdb_proto::types::{FieldError, SeatId, Seq, Timestamp};
use rdb_proto::v1;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

pub(super) async fn times_after(
    api: &Api,
    request: Request<v1::TimesAfterRequest>,
) -> Result<v1::TimesAfterResponse, CallError> {
    let (metadata, _, request) = request.into_parts();
    FieldError::check_limit("seqs", request.seqs.len(), LIST_SUBSCRIPTIONS_PAGE_MAX, "seqs")?;
    let seqs: Vec<Seq> = request.seqs.into_iter().map(Seq).collect();
    let times = match forward::passed_on_for(&metadata) {
        Some(seats) => api.node.times_after(&seats, &seqs).await?,
        None => everywhere(api, &metadata, &seqs).await?,
    };
    let to_wire = |time: Option<Timestamp>| time.unwrap_or_default().get();
    Ok(v1::TimesAfterResponse {
        times_us: times.into_iter().map(to_wire).collect(),
    })
}

/// Of all seats: those that have no member here are asked elsewhere, all groups at once.
pub(super) async fn everywhere(
    api: &Api,
    metadata: &MetadataMap,
    seqs: &[Seq],
) -> Result<Vec<Option<Timestamp>>, CallError> {
    let (here, others) = api.node.divide(api.node.seats());
    let mut times = api.node.times_after(&here, seqs).await?;
    let groups = subscribe::by_group(&others);
    let asked = groups.iter().map(|seats| elsewhere(api, metadata, seats, seqs));
    for answer in try_join_all(asked).await? {
        for (first, time) in times.iter_mut().zip(answer) {
            *first = first.iter().copied().chain(time).min();
        }
    }
    Ok(times)
}

/// Of seats that one node has: the first that answers.
async fn elsewhere(
    api: &Api,
    metadata: &MetadataMap,
    seats: &[SeatId],
    seqs: &[Seq],
) -> Result<Vec<Option<Timestamp>>, CallError> {
    let mut failed = Status::unavailable("no live node has a member of the seats");
    for address in api.node.peers_with(seats) {
        let request = v1::TimesAfterRequest {
            seqs: seqs.iter().map(|seq| seq.get()).collect(),
        };
        let request = forward::pass_on(metadata, seats, request);
        match api.peers.changes(&address)?.times_after(request).await {
            Ok(answer) => {
                let times = answer.into_inner().times_us.into_iter();
                return Ok(times.map(|time| (time > 0).then_some(Timestamp(time))).collect());
            }
            Err(status) => failed = status,
        }
    }
    Err(forward::reads_failed(failed, seats))
}
