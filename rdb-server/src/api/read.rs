//! Read, history and key listing.

use super::status::CallError;
use crate::node::{At, Handle, HistoryRange, KeyRange};
use futures::Stream;
use rdb_proto::limits::{KEY_BYTES_MAX, LIST_KEYS_PAGE_MAX};
use rdb_proto::types::{Collection, FieldError, KeyName, Seq, Version};
use rdb_proto::v1;
use std::pin::Pin;
use tonic::Status;

pub(super) async fn read(node: &Handle, request: v1::ReadRequest) -> Result<v1::ReadResponse, CallError> {
    let name = KeyName::new(&request.collection, &request.key)?;
    let at = match request.at_seq {
        Some(seq) => At::Seq(Seq(seq)),
        None => at(request.consistency)?,
    };
    let found = node.read(&name, at).await?;
    Ok(v1::ReadResponse {
        event: found.encoded,
        as_of_seq: found.as_of.get(),
    })
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

pub(super) async fn history(node: &Handle, request: v1::HistoryRequest) -> Result<History, CallError> {
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
    let pages = node.history(range, at(request.consistency)?).await?;
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
    node: &Handle,
    request: v1::ListKeysRequest,
) -> Result<v1::ListKeysResponse, CallError> {
    FieldError::check_limit("prefix", request.prefix.len(), KEY_BYTES_MAX, "bytes")?;
    FieldError::check_limit("after", request.after.len(), KEY_BYTES_MAX, "bytes")?;
    let asked = usize::try_from(request.limit).unwrap_or(usize::MAX);
    FieldError::check_limit("limit", asked, LIST_KEYS_PAGE_MAX, "keys")?;
    let limit = if asked == 0 { LIST_KEYS_PAGE_MAX } else { asked };
    let range = KeyRange {
        collection: Collection::new(&request.collection)?,
        prefix: request.prefix,
        after: request.after,
        // One more than the page holds tells whether there is another page.
        limit: limit.saturating_add(1),
    };
    let mut keys = node.keys(range, at(request.consistency)?).await?;
    let has_more = keys.len() > limit;
    keys.truncate(limit);
    let next_after = match keys.last() {
        Some((key, _)) if has_more => key.as_str().to_owned(),
        Some(_) | None => String::new(),
    };
    let to_wire = |(key, state): (rdb_proto::types::Key, crate::node::KeyState)| v1::KeyInfo {
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
