//! Several keys as of one seq: each is read where it can be, in the order of the request.

use super::status::CallError;
use super::{Api, forward};
use crate::limits::{SNAPSHOT_BYTES, SNAPSHOT_READS_MAX};
use crate::node::{Need, Route};
use futures::{StreamExt as _, stream};
use prost::Message as _;
use rdb_proto::event::EventError;
use rdb_proto::limits::SNAPSHOT_KEYS_MAX;
use rdb_proto::types::{FieldError, KeyName, Seq};
use rdb_proto::v1;
use tonic::Request;
use tonic::metadata::MetadataMap;

pub(super) async fn snapshot(
    api: &Api,
    request: Request<v1::SnapshotRequest>,
) -> Result<v1::SnapshotResponse, CallError> {
    let (metadata, _, request) = request.into_parts();
    FieldError::check_limit("keys", request.keys.len(), SNAPSHOT_KEYS_MAX, "keys")?;
    if request.keys.is_empty() {
        return Err(FieldError::invalid("keys", "must name a key").into());
    }
    let names = request.keys.iter();
    let names = names.map(|key| KeyName::new(&key.collection, &key.key));
    let names: Vec<KeyName> = names.collect::<Result<_, _>>()?;
    let seq = match request.at_seq {
        Some(seq) => Seq(seq),
        None => api.node.latest_seq().await?,
    };
    // Whoever passes a request on knows the seq, and this node's counter may be a moment behind.
    if request.at_seq.is_some() && forward::passed_on_for(&metadata).is_none() {
        api.node.check_handed_out(seq, Seq::ZERO).await?;
    }
    let count = names.len();
    let reads = names.into_iter().map(|name| read(api, &metadata, name, seq));
    let mut reads = Box::pin(stream::iter(reads).buffered(SNAPSHOT_READS_MAX));
    let mut answers = Vec::with_capacity(count);
    let mut bytes = 0_usize;
    while bytes < SNAPSHOT_BYTES
        && let Some(answer) = reads.next().await
    {
        let answer = answer?;
        bytes = bytes.saturating_add(answer.encoded_len());
        answers.push(answer);
    }
    Ok(v1::SnapshotResponse {
        seq: seq.get(),
        answers,
    })
}

/// One of the keys, here or at another node that has a member of its seat.
async fn read(
    api: &Api,
    metadata: &MetadataMap,
    name: KeyName,
    seq: Seq,
) -> Result<v1::SnapshotAnswer, CallError> {
    if let (seat, Route::There(peer)) = forward::route(&api.node, metadata, &name, Need::Member)? {
        let key = v1::SnapshotKey {
            collection: name.collection.as_str().to_owned(),
            key: name.key.as_str().to_owned(),
        };
        let request = v1::SnapshotRequest {
            keys: vec![key],
            at_seq: Some(seq.get()),
        };
        let request = forward::pass_on(metadata, &[seat], request);
        let mut other = api.peers.data(&peer.address)?;
        let answer = Box::pin(other.snapshot(request)).await;
        let answer = answer.map_err(|status| forward::read_failed(status, seat))?;
        let missing = EventError::Batch("a part of a snapshot has no answer");
        return Ok(answer.into_inner().answers.into_iter().next().ok_or(missing)?);
    }
    let then = api.node.read_then(&name, seq).await?;
    Ok(v1::SnapshotAnswer {
        event: then.encoded.unwrap_or_default(),
        version: then.version.get(),
    })
}
