//! Write, append and delete: wire to words, one proposal, words to wire. Pipelined appends: [`super::append_stream`].

use super::status::CallError;
use super::{Api, forward};
use crate::clock;
use crate::node::{Append, Need, NodeError, Peer, Route, Stored};
use prost::Message;
use rdb_proto::convert;
use rdb_proto::event::{EventKind, Expectation};
use rdb_proto::types::{EventId, FieldError, KeyName, SeatId, Seq};
use rdb_proto::v1;
use rdb_proto::v1::data_client::DataClient;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

pub(super) async fn write(
    api: &Api,
    request: Request<v1::WriteRequest>,
) -> Result<v1::WriteResponse, CallError> {
    let (metadata, _, mut request) = request.into_parts();
    let name = KeyName::new(&request.collection, &request.key)?;
    if let (seat, Route::There(peer)) = forward::route(&api.node, &metadata, &name, Need::Leader)? {
        let event_id = named(request.event.as_mut())?;
        let change = (&metadata, event_id, request);
        let answer = at_leader(api, (seat, &peer), change, |mut leader, request| async move {
            leader.write(request).await
        });
        let answer = answer.await?;
        return Ok(v1::WriteResponse {
            led_at: peer.address,
            ..answer
        });
    }
    let event = request
        .event
        .ok_or_else(|| FieldError::invalid("event", "is required"))?;
    let append = Append {
        name,
        expect: convert::expectation(request.expect, Expectation::Any)?,
        events: vec![convert::new_event(event, EventKind::Write, clock::new_uuid)?],
        retried_since: request.retried_since.map(Seq),
    };
    let stored = api.node.append(append).await?;
    Ok(v1::WriteResponse {
        result: stored.first().map(to_wire),
        led_at: String::new(),
    })
}

pub(super) async fn append(
    api: &Api,
    request: Request<v1::AppendRequest>,
) -> Result<v1::AppendResponse, CallError> {
    let (metadata, _, mut request) = request.into_parts();
    let name = KeyName::new(&request.collection, &request.key)?;
    if let (seat, Route::There(peer)) = forward::route(&api.node, &metadata, &name, Need::Leader)? {
        let event_id = all_named(&mut request)?;
        let change = (&metadata, event_id, request);
        let answer = at_leader(api, (seat, &peer), change, |mut leader, request| async move {
            leader.append(request).await
        });
        let answer = answer.await?;
        return Ok(v1::AppendResponse {
            led_at: peer.address,
            ..answer
        });
    }
    let stored = api.node.append(append_from_wire(request)?).await?;
    Ok(v1::AppendResponse {
        results: stored.iter().map(to_wire).collect(),
        led_at: String::new(),
    })
}

pub(super) async fn delete(
    api: &Api,
    request: Request<v1::DeleteRequest>,
) -> Result<v1::DeleteResponse, CallError> {
    let (metadata, _, mut request) = request.into_parts();
    let name = KeyName::new(&request.collection, &request.key)?;
    if let (seat, Route::There(peer)) = forward::route(&api.node, &metadata, &name, Need::Leader)? {
        let event_id = named(Some(request.event.get_or_insert_default()))?;
        let change = (&metadata, event_id, request);
        let answer = at_leader(api, (seat, &peer), change, |mut leader, request| async move {
            leader.delete(request).await
        });
        let answer = answer.await?;
        return Ok(v1::DeleteResponse {
            led_at: peer.address,
            ..answer
        });
    }
    let is_given = request.expect.is_some();
    let append = Append {
        name,
        expect: convert::expectation(request.expect, Expectation::Exists)?,
        events: vec![convert::new_event(
            request.event.unwrap_or_default(),
            EventKind::Delete,
            clock::new_uuid,
        )?],
        retried_since: request.retried_since.map(Seq),
    };
    let stored = match api.node.append(append).await {
        // Nobody demanded anything: a key that is not there is not found, rather than in conflict.
        Err(NodeError::Conflict { name, current, .. }) if !is_given => {
            return Err(NodeError::KeyNotFound { name, current }.into());
        }
        stored => stored?,
    };
    Ok(v1::DeleteResponse {
        result: stored.first().map(to_wire),
        led_at: String::new(),
    })
}

/// Has the node that leads the key's seat make a change, which is named by the id of its first event.
async fn at_leader<R: Message, T, Fut>(
    api: &Api,
    (seat, peer): (SeatId, &Peer),
    (metadata, event_id, request): (&MetadataMap, EventId, R),
    call: impl FnOnce(DataClient<Channel>, Request<R>) -> Fut,
) -> Result<T, CallError>
where
    Fut: Future<Output = Result<Response<T>, Status>> + Send,
{
    let _room = api.node.room_for(request.encoded_len())?;
    let request = forward::pass_on(metadata, &[seat], request);
    let leader = api.peers.data(&peer.address)?;
    let answer = forward::answered(&api.node, (seat, peer), call(leader, request)).await;
    answer.map_err(|status| forward::write_failed(status, seat, event_id))
}

/// Gives an event that has no id one before it leaves, so that an unknown outcome can be named.
fn named(event: Option<&mut v1::NewEvent>) -> Result<EventId, FieldError> {
    let event = event.ok_or_else(|| FieldError::invalid("event", "is required"))?;
    if event.event_id.is_empty() {
        event.event_id = clock::new_uuid().as_bytes().to_vec().into();
    }
    EventId::from_bytes(&event.event_id)
}

/// The same for every event of an append; returns the first id.
pub(super) fn all_named(request: &mut v1::AppendRequest) -> Result<EventId, FieldError> {
    let mut ids = request.events.iter_mut().map(|event| named(Some(event)));
    let first = ids
        .next()
        .ok_or_else(|| FieldError::invalid("events", "must be at least one"))?;
    ids.try_for_each(|id| id.map(drop))?;
    first
}

pub(super) fn append_from_wire(request: v1::AppendRequest) -> Result<Append, FieldError> {
    Ok(Append {
        name: KeyName::new(&request.collection, &request.key)?,
        expect: convert::expectation(request.expect, Expectation::Any)?,
        events: convert::new_events(request.events, clock::new_uuid)?,
        retried_since: request.retried_since.map(Seq),
    })
}

pub(super) fn to_wire(stored: &Stored) -> v1::WriteResult {
    v1::WriteResult {
        seq: stored.seq.get(),
        version: stored.version.get(),
        event_id: stored.event_id.as_bytes().to_vec().into(),
        duplicate: stored.is_duplicate,
    }
}
