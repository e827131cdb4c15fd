//! Write, append and delete: wire to words, one proposal, words to wire.

use super::status::CallError;
use super::undecodable;
use crate::clock;
use crate::limits::APPEND_STREAM_WINDOW_MAX;
use crate::node::{Append, Handle, NodeError, PendingAppend, Stored};
use futures::{Stream, StreamExt as _};
use rdb_proto::convert;
use rdb_proto::event::{EventKind, Expectation};
use rdb_proto::types::{FieldError, KeyName, Seq};
use rdb_proto::v1;
use std::pin::Pin;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

pub(super) async fn write(node: &Handle, request: v1::WriteRequest) -> Result<v1::WriteResponse, CallError> {
    let event = request
        .event
        .ok_or_else(|| FieldError::invalid("event", "is required"))?;
    let append = Append {
        name: KeyName::new(&request.collection, &request.key)?,
        expect: convert::expectation(request.expect, Expectation::Any)?,
        events: vec![convert::new_event(event, EventKind::Write, clock::new_uuid)?],
        retried_since: request.retried_since.map(Seq),
    };
    let stored = node.append(append).await?;
    Ok(v1::WriteResponse {
        result: stored.first().map(to_wire),
    })
}

pub(super) async fn append(
    node: &Handle,
    request: v1::AppendRequest,
) -> Result<v1::AppendResponse, CallError> {
    let stored = node.append(append_from_wire(request)?).await?;
    Ok(v1::AppendResponse {
        results: stored.iter().map(to_wire).collect(),
    })
}

pub(super) async fn delete(
    node: &Handle,
    request: v1::DeleteRequest,
) -> Result<v1::DeleteResponse, CallError> {
    let is_given = request.expect.is_some();
    let append = Append {
        name: KeyName::new(&request.collection, &request.key)?,
        expect: convert::expectation(request.expect, Expectation::Exists)?,
        events: vec![convert::new_event(
            request.event.unwrap_or_default(),
            EventKind::Delete,
            clock::new_uuid,
        )?],
        retried_since: request.retried_since.map(Seq),
    };
    let stored = match node.append(append).await {
        // Nobody demanded anything: a key that is not there is not found, rather than in conflict.
        Err(NodeError::Conflict { name, current, .. }) if !is_given => {
            return Err(NodeError::KeyNotFound { name, current }.into());
        }
        stored => stored?,
    };
    Ok(v1::DeleteResponse {
        result: stored.first().map(to_wire),
    })
}

fn append_from_wire(request: v1::AppendRequest) -> Result<Append, FieldError> {
    Ok(Append {
        name: KeyName::new(&request.collection, &request.key)?,
        expect: convert::expectation(request.expect, Expectation::Any)?,
        events: convert::new_events(request.events, clock::new_uuid)?,
        retried_since: request.retried_since.map(Seq),
    })
}

fn to_wire(stored: &Stored) -> v1::WriteResult {
    v1::WriteResult {
        seq: stored.seq.get(),
        version: stored.version.get(),
        event_id: stored.event_id.as_bytes().to_vec().into(),
        duplicate: stored.is_duplicate,
    }
}

pub(super) type AppendAnswers = Pin<Box<dyn Stream<Item = Result<v1::AppendStreamResponse, Status>> + Send>>;

/// Requests are handed to their seats as they come; answers wait in a bounded line, in the order of the requests.
pub(super) fn append_stream(node: &Handle, requests: Streaming<v1::AppendRequest>) -> AppendAnswers {
    let (line, answers) = mpsc::channel(APPEND_STREAM_WINDOW_MAX);
    let tasks = node.tasks().clone();
    tasks.spawn(take_requests(node.clone(), requests, line));
    Box::pin(ReceiverStream::new(answers).then(answer))
}

/// A request that was handed over, refused, or could not be received.
type InLine = Result<PendingAppend, InLineError>;

enum InLineError {
    /// The request is refused; the stream goes on.
    Refused(CallError),
    /// The stream is over.
    Broken(Status),
}

async fn take_requests(node: Handle, mut requests: Streaming<v1::AppendRequest>, line: mpsc::Sender<InLine>) {
    let stopping = node.tasks().stopping();
    tokio::pin!(stopping);
    loop {
        let request = tokio::select! {
            request = requests.message() => request,
            () = &mut stopping => {
                // Whoever is gone does not need to be told.
                drop(line.send(Err(InLineError::Broken(CallError::from(NodeError::ShuttingDown).into()))).await);
                return;
            }
        };
        let in_line = match request {
            Ok(None) => return,
            Ok(Some(request)) => hand_over(&node, request).await.map_err(InLineError::Refused),
            Err(status) => Err(InLineError::Broken(undecodable::corrected(status))),
        };
        let is_over = matches!(in_line, Err(InLineError::Broken(_)));
        if line.send(in_line).await.is_err() || is_over {
            return;
        }
    }
}

async fn hand_over(node: &Handle, request: v1::AppendRequest) -> Result<PendingAppend, CallError> {
    Ok(node.submit(append_from_wire(request)?).await?)
}

async fn answer(in_line: InLine) -> Result<v1::AppendStreamResponse, Status> {
    let outcome = match in_line {
        Ok(pending) => pending.stored().await.map_err(CallError::from),
        Err(InLineError::Refused(error)) => Err(error),
        Err(InLineError::Broken(status)) => return Err(status),
    };
    let outcome = match outcome {
        Ok(stored) => v1::append_stream_response::Outcome::Appended(v1::AppendResponse {
            results: stored.iter().map(to_wire).collect(),
        }),
        Err(error) => v1::append_stream_response::Outcome::Failure(error.into_failure()),
    };
    Ok(v1::AppendStreamResponse {
        outcome: Some(outcome),
    })
}
