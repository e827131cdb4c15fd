//! Named subscriptions, at the leader of the seat that keeps the name.

use super::forward::Places;
use super::status::CallError;
use super::{Api, forward, times};
use crate::clock;
use crate::limits::{CLAIM_WAIT_MAX, CONSUMER_HEARD_FOR, STATUS_TIMEOUT};
use crate::node::{Claim, NamedCursor, Need, NodeError, Route};
use futures::future::try_join_all;
use rdb_proto::limits::{LIST_SUBSCRIPTIONS_PAGE_MAX, SUBSCRIPTION_NAME_BYTES_MAX};
use rdb_proto::types::{FieldError, Seq, Timestamp};
use rdb_proto::v1;
use rdb_proto::v1::subscriptions_client::SubscriptionsClient;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use uuid::Uuid;

/// Answers a request about a name here, or has the leader of its seat answer it.
///
/// Each of them may be repeated without harm: it names the generation that it rests on.
macro_rules! at_leader {
    ($api:expr, $request:expr, $call:ident) => {{
        let (metadata, _, request) = $request.into_parts();
        let seat = $api.node.seat_of_subscription(&request.name)?;
        if let Route::There(peer) = forward::route_seat(&$api.node, &metadata, seat, Need::Leader)? {
            let request = forward::pass_on(&metadata, &[seat], request);
            let mut leader = $api.peers.subscriptions(&peer.address)?;
            let answer = forward::answered(&$api.node, (seat, &peer), leader.$call(request)).await;
            return answer
                .map_err(|status| forward::change_failed(status, seat, NodeError::ChangeUnknown(seat)));
        }
        (seat, request)
    }};
}

pub(super) async fn claim(
    api: &Api,
    request: Request<v1::ClaimRequest>,
) -> Result<v1::ClaimResponse, CallError> {
    let (seat, request) = at_leader!(api, request, claim);
    let consumer = Uuid::from_slice(&request.consumer)
        .map_err(|_bytes| FieldError::invalid("consumer", "must be a UUID of 16 bytes"))?;
    let wait = Duration::from_millis(request.wait_ms);
    if wait > CLAIM_WAIT_MAX {
        let problem = format!("must be at most {}", CLAIM_WAIT_MAX.as_millis());
        return Err(FieldError::invalid("wait_ms", problem).into());
    }
    let claim = Claim {
        name: request.name,
        consumer,
        after: request.after_seq.map(Seq),
        wait,
    };
    let cursor = api.node.claim(seat, claim).await?;
    Ok(v1::ClaimResponse {
        generation: cursor.generation,
        position: cursor.position.get(),
        database_id: api.node.database_id().to_string(),
        heard_for_ms: u64::try_from(CONSUMER_HEARD_FOR.as_millis()).unwrap_or(u64::MAX),
    })
}

pub(super) async fn acknowledge(
    api: &Api,
    request: Request<v1::AcknowledgeRequest>,
) -> Result<v1::AcknowledgeResponse, CallError> {
    let (seat, request) = at_leader!(api, request, acknowledge);
    let v1::AcknowledgeRequest {
        name,
        generation,
        seq,
    } = request;
    let position = api.node.acknowledge(seat, &name, generation, Seq(seq)).await?;
    Ok(v1::AcknowledgeResponse {
        position: position.get(),
    })
}

pub(super) async fn release(
    api: &Api,
    request: Request<v1::ReleaseRequest>,
) -> Result<v1::ReleaseResponse, CallError> {
    let (seat, request) = at_leader!(api, request, release);
    api.node.release(seat, &request.name, request.generation).await?;
    Ok(v1::ReleaseResponse {})
}

pub(super) async fn seek(
    api: &Api,
    request: Request<v1::SeekRequest>,
) -> Result<v1::SeekResponse, CallError> {
    let (seat, request) = at_leader!(api, request, seek);
    let before = api
        .node
        .seek(seat, &request.name, Seq(request.seq), request.generation)
        .await?;
    Ok(v1::SeekResponse { before: before.get() })
}

pub(super) async fn forget(
    api: &Api,
    request: Request<v1::ForgetRequest>,
) -> Result<v1::ForgetResponse, CallError> {
    let (seat, request) = at_leader!(api, request, forget);
    api.node.forget(seat, &request.name, request.generation).await?;
    Ok(v1::ForgetResponse {})
}

/// Of every seat: each is asked where it is led, all at once. A page of each is enough: the merged list's beginning is whole.
pub(super) async fn list(
    api: &Api,
    request: Request<v1::ListSubscriptionsRequest>,
) -> Result<v1::ListSubscriptionsResponse, CallError> {
    let (metadata, _, request) = request.into_parts();
    FieldError::check_limit("after", request.after.len(), SUBSCRIPTION_NAME_BYTES_MAX, "bytes")?;
    let asked = usize::try_from(request.limit).unwrap_or(usize::MAX);
    FieldError::check_limit("limit", asked, LIST_SUBSCRIPTIONS_PAGE_MAX, "names")?;
    let limit = if asked == 0 {
        LIST_SUBSCRIPTIONS_PAGE_MAX
    } else {
        asked
    };
    let passed_on = forward::passed_on_for(&metadata);
    let is_whole = passed_on.is_none();
    let Places { here, there } = match passed_on {
        Some(here) => Places {
            here,
            ..Places::default()
        },
        None => Places::of(&api.node, Need::Leader)?,
    };
    let counter = api.node.counter();
    // One more than the page holds tells whether there is another page.
    let page = (&*request.after, limit.saturating_add(1));
    let own = api.node.subscriptions(here, page).await?;
    let mut found: Vec<v1::SubscriptionInfo> = own.into_iter().map(|named| info(named, counter)).collect();
    let asked = there.iter().map(async |(address, seats)| {
        let request = forward::pass_on(&metadata, seats, request.clone());
        let mut other: SubscriptionsClient<Channel> = api.peers.subscriptions(address)?;
        let answer: Result<Response<v1::ListSubscriptionsResponse>, Status> = other.list(request).await;
        answer.map_err(|status| forward::reads_failed(status, seats))
    });
    let mut has_more = false;
    for answer in try_join_all(asked).await? {
        let answer = answer.into_inner();
        has_more |= !answer.next_after.is_empty();
        found.extend(answer.subscriptions);
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    has_more |= found.len() > limit;
    found.truncate(limit);
    if is_whole {
        tell_lags(api, &metadata, &mut found).await;
    }
    let last = found.last().filter(|_| has_more);
    Ok(v1::ListSubscriptionsResponse {
        next_after: last.map_or_else(String::new, |info| info.name.clone()),
        subscriptions: found,
    })
}

/// Says how long each has been behind, unless some seat does not tell soon: the rest of the list is worth more than that.
async fn tell_lags(api: &Api, metadata: &MetadataMap, found: &mut [v1::SubscriptionInfo]) {
    let behind = found.iter().filter(|info| info.lag > 0);
    let positions: BTreeSet<Seq> = behind.map(|info| Seq(info.position)).collect();
    let positions: Vec<Seq> = positions.into_iter().collect();
    let asked = clock::within(STATUS_TIMEOUT, times::everywhere(api, metadata, &positions));
    let Some(Ok(times)) = asked.await else {
        return;
    };
    let times: BTreeMap<Seq, Option<Timestamp>> = positions.into_iter().zip(times).collect();
    let now = clock::utc_now();
    for info in found {
        let first = times.get(&Seq(info.position)).copied().flatten();
        let age = first.map_or(0, |time| now.get().saturating_sub(time.get()));
        info.lag_ms = Some(age / 1_000);
    }
}

fn info(named: NamedCursor, counter: Seq) -> v1::SubscriptionInfo {
    let cursor = named.cursor;
    let consumer = cursor.consumer.map(|consumer| consumer.as_bytes().to_vec());
    v1::SubscriptionInfo {
        name: named.name,
        position: cursor.position.get(),
        generation: cursor.generation,
        consumer: consumer.unwrap_or_default().into(),
        heard: named.is_heard,
        lag: counter.since(cursor.position),
        lag_ms: None,
    }
}
