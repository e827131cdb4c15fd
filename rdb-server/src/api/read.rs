//! Read, history and key listing.

use super::forward::{Peers, Places};
use super::status::CallError;
use super::{Api, forward};
use crate::node::{At, HistoryRange, KeyRange, KeyState, Need, Route};
use futures::future::try_join_all;
use futures::{Stream, StreamExt as _};
use rdb_proto::limits::{KEY_BYTES_MAX, LIST_KEYS_PAGE_MAX};
use rdb_proto::types::{Collection, FieldError, Key, KeyName, Seq, Version};
use rdb_proto::v1;
use std::pin::Pin;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

pub(super) async fn read(
    api: &Api,
    request: Request<v1::ReadRequest>,
) -> Result<v1::ReadResponse, CallError> {
    let (metadata, _, request) = request.into_parts();
    let name = KeyName::new(&request.collection, &request.key)?;
    let at = match request.at_seq {
        Some(seq) => At::Seq(Seq(seq)),
        None => at(request.consistency)?,
    };
    if let (seat, Route::There(peer)) = forward::route(&api.node, &metadata, &name, need(at))? {
        let request = forward::pass_on(&metadata, &[seat], request);
        let mut other = api.peers.data(&peer.address)?;
        let answer = match need(at) {
            Need::Leader => forward::answered(&api.node, (seat, &peer), other.read(request)).await,
            Need::Member => Box::pin(other.read(request)).await.map(Response::into_inner),
        };
        let answer = answer.map_err(|status| forward::read_failed(status, seat))?;
        return Ok(v1::ReadResponse {
            // A read that any member may answer says nothing of who leads.
            led_at: match need(at) {
                Need::Leader => peer.address,
                Need::Member => String::new(),
            },
            ..answer
        });
    }
    let found = api.node.read(&name, at).await?;
    Ok(v1::ReadResponse {
        event: found.encoded,
        as_of_seq: found.as_of.get(),
        led_at: String::new(),
    })
}

/// Who can answer a read of this kind.
const fn need(at: At) -> Need {
    match at {
        At::Latest => Need::Leader,
        At::Local | At::Seq(_) => Need::Member,
    }
}

fn at(consistency: i32) -> Result<At, FieldError> {
    match v1::Consistency::try_from(consistency) {
        Ok(v1::Consistency::Linearizable) => Ok(At::Latest),
        Ok(v1::Consistency::Local) => Ok(At::Local),
        Err(_) => Err(FieldError::invalid(
            "consistency",
            format!("must be a known value, not {consistency}"),
        )),
    }
}

pub(super) type History = Pin<Box<dyn Stream<Item = Result<v1::HistoryResponse, Status>> + Send>>;

pub(super) async fn history(api: &Api, request: Request<v1::HistoryRequest>) -> Result<History, CallError> {
    let (metadata, _, request) = request.into_parts();
    let at = at(request.consistency)?;
    let range = HistoryRange {
        name: KeyName::new(&request.collection, &request.key)?,
        from: Version(request.from_version),
        is_backwards: request.backwards,
        limit: if request.limit == 0 {
            u64::MAX
        } else {
            request.limit
        },
    };
    if let (seat, Route::There(peer)) = forward::route(&api.node, &metadata, &range.name, need(at))? {
        let request = forward::pass_on(&metadata, &[seat], request);
        let mut other = Peers::streams(&peer.address)?;
        let answer = match need(at) {
            Need::Leader => forward::answered(&api.node, (seat, &peer), other.history(request)).await,
            Need::Member => Box::pin(other.history(request)).await.map(Response::into_inner),
        };
        let pages = answer.map_err(|status| forward::read_failed(status, seat))?;
        let told = move |page: Result<_, Status>| {
            page.map_err(|status| Status::from(forward::read_failed(status, seat)))
        };
        return Ok(Box::pin(pages.map(told)));
    }
    let pages = api.node.history(range, at).await?;
    Ok(Box::pin(futures::stream::unfold(Some(pages), async |pages| {
        let mut pages = pages?;
        match pages.next_page() {
            Ok(None) => None,
            Ok(Some(events)) => Some((Ok(v1::HistoryResponse { events }), Some(pages))),
            Err(error) => Some((Err(CallError::from(error).into()), None)),
        }
    })))
}

pub(super) async fn list_keys(
    api: &Api,
    request: Request<v1::ListKeysRequest>,
) -> Result<v1::ListKeysResponse, CallError> {
    let (metadata, _, request) = request.into_parts();
    FieldError::check_limit("prefix", request.prefix.len(), KEY_BYTES_MAX, "bytes")?;
    FieldError::check_limit("after", request.after.len(), KEY_BYTES_MAX, "bytes")?;
    let asked = usize::try_from(request.limit).unwrap_or(usize::MAX);
    FieldError::check_limit("limit", asked, LIST_KEYS_PAGE_MAX, "keys")?;
    let limit = if asked == 0 { LIST_KEYS_PAGE_MAX } else { asked };
    let range = KeyRange {
        collection: Collection::new(&request.collection)?,
        prefix: request.prefix.clone(),
        after: request.after.clone(),
        // One more than the page holds tells whether there is another page.
        limit: limit.saturating_add(1),
    };
    let at = at(request.consistency)?;
    let (mut keys, has_more) = match forward::passed_on_for(&metadata) {
        Some(seats) => (api.node.keys(&range, seats, at).await?, false),
        None => keys_everywhere(api, (&metadata, &request), &range, at).await?,
    };
    let has_more = has_more || keys.len() > limit;
    keys.truncate(limit);
    let next_after = match keys.last() {
        Some((key, _)) if has_more => key.as_str().to_owned(),
        Some(_) | None => String::new(),
    };
    let to_wire = |(key, state): (Key, KeyState)| v1::KeyInfo {
        key: key.as_str().to_owned(),
        version: state.version.get(),
        seq: state.seq.get(),
        deleted: state.is_deleted,
    };
    Ok(v1::ListKeysResponse {
        keys: keys.into_iter().map(to_wire).collect(),
        next_after,
    })
}

/// Keys of every seat: each is asked where it can be, all at once, and the lists are merged. Also whether another node
/// has more: its page is as large as the one that is asked for, so the merged list's beginning is whole.
async fn keys_everywhere(
    api: &Api,
    (metadata, request): (&MetadataMap, &v1::ListKeysRequest),
    range: &KeyRange,
    at: At,
) -> Result<(Vec<(Key, KeyState)>, bool), CallError> {
    let Places { here, there } = Places::of(&api.node, need(at))?;
    let mut keys = api.node.keys(range, here, at).await?;
    let asked = there.iter().map(async |(address, seats)| {
        let request = forward::pass_on(metadata, seats, request.clone());
        let answer = api.peers.data(address)?.list_keys(request).await;
        answer.map_err(|status| forward::reads_failed(status, seats))
    });
    let mut has_more = false;
    for answer in try_join_all(asked).await? {
        let answer = answer.into_inner();
        has_more |= !answer.next_after.is_empty();
        let found = answer.keys.into_iter().map(|info| {
            let state = KeyState {
                version: Version(info.version),
                seq: Seq(info.seq),
                is_deleted: info.deleted,
            };
            Ok((Key::new(&info.key)?, state))
        });
        keys.extend(found.collect::<Result<Vec<_>, FieldError>>()?);
    }
    keys.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    keys.truncate(range.limit);
    Ok((keys, has_more))
}
