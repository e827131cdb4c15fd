//! Appends of many callers over one stream. Each is handled as a call of its own, and answered when it has come out: what
//! is saved is the making and ending of a call, which costs more than the append does.

use super::status::CallError;
use super::{Api, undecodable, write};
use crate::limits::APPEND_STREAM_WINDOW_MAX;
use crate::node::NodeError;
use crate::node::telemetry::Method;
use futures::stream::{self, Stream, StreamExt as _};
use rdb_proto::types::FieldError;
use rdb_proto::v1;
use rdb_proto::v1::append_each_response::Outcome;
use std::future::ready;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use tonic::{Request, Status, Streaming};

pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<v1::AppendEachResponse, Status>> + Send>>;

pub(super) fn append_each(api: &Api, requests: Streaming<v1::AppendEachRequest>) -> Answers {
    let tasks = api.node.tasks().clone();
    let api = api.clone();
    let broken = Arc::<OnceLock<Status>>::default();
    let answers = requests
        .take_until(tasks.stopping())
        .scan(Arc::clone(&broken), |broken, request| {
            // Nothing comes after the first that is broken.
            ready(request.map_err(|status| drop(broken.set(status))).ok())
        })
        .map(move |request| answer(api.clone(), request))
        .buffer_unordered(APPEND_STREAM_WINDOW_MAX);
    // What was taken is answered first; then the end says why there is no more.
    let goodbye = stream::once(async move {
        if let Some(status) = broken.get() {
            return Some(Err(undecodable::corrected(status.clone())));
        }
        let is_stopping = tasks.is_stopping();
        is_stopping.then(|| Err(CallError::from(NodeError::ShuttingDown).into()))
    });
    Box::pin(answers.chain(goodbye.filter_map(ready)))
}

async fn answer(api: Api, request: v1::AppendEachRequest) -> Result<v1::AppendEachResponse, Status> {
    let v1::AppendEachRequest { number, append } = request;
    let appended = async {
        let append = append.ok_or_else(|| FieldError::invalid("append", "is required"))?;
        write::append(&api, Request::new(append)).await
    };
    let outcome = match api.counted(Method::Append, appended).await {
        Ok(appended) => Outcome::Appended(appended),
        Err(error) => Outcome::Failure(error.into_failure()),
    };
    Ok(v1::AppendEachResponse {
        number,
        outcome: Some(outcome),
    })
}
