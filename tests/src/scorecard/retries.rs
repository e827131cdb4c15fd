//! Writes that were applied, but whose clients saw an error: each is sent again with the same event id, and is there once.

use crate::process::Node;
use crate::relay::Relay;
use crate::time::{PATIENCE, Stopwatch, pause};
use crate::wire::{Api, event_with_id, write_of};
use rdb_proto::v1;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinSet;
use uuid::Uuid;

/// How many there are in the full form.
pub const ASKED: u64 = 100_000;

/// Writes that are under way when their answers are lost.
const UNDER_WAY: u64 = 500;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Writes that were applied, seen as failed, and sent again.
    pub retried: u64,
    /// Events that are there twice.
    pub doubled: u64,
    /// Acknowledged events that are not there.
    pub lost: u64,
    /// Retries that were not told that the write was there already, or were told another place.
    pub untold: u64,
}

/// Loses answers until so many writes were applied and seen as failed, or the limit is reached.
pub async fn run(asked: u64, limit: Duration) -> Found {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let mut api = node.api().await;
    let watch = Stopwatch::start();
    let mut found = Found::default();
    let mut written = BTreeSet::new();
    while found.retried < asked && watch.elapsed() < limit {
        let requests: Vec<v1::WriteRequest> = (0..UNDER_WAY)
            .map(|n| write_of(&format!("key/{n}"), new_event()))
            .collect();
        let before = lose_answers(node.grpc, &mut api, &requests).await;
        for request in requests {
            let id = request.event.as_ref().unwrap().event_id.clone();
            let since = v1::WriteRequest {
                retried_since: Some(before),
                ..request
            };
            let again = api
                .write_request(since)
                .await
                .expect("a node that serves takes a retry");
            found.retried += 1;
            found.untold += u64::from(!again.duplicate || again.event_id != id);
            written.insert(id);
        }
    }
    let stream = api.events_after(0).await.unwrap();
    let ids: BTreeSet<_> = stream
        .iter()
        .map(|event| event.event_id.as_bytes().to_vec())
        .collect();
    found.doubled = u64::try_from(stream.len() - ids.len()).unwrap();
    let is_lost = |id: &&bytes::Bytes| !ids.contains(&id.to_vec());
    found.lost = u64::try_from(written.iter().filter(is_lost).count()).unwrap();
    node.stop().await;
    found
}

fn new_event() -> v1::NewEvent {
    event_with_id(Uuid::new_v4(), "x")
}

/// Sends writes over a way on which no answer comes back, waits until they are applied, and breaks it. Returns the last
/// number before theirs.
async fn lose_answers(node: SocketAddr, api: &mut Api, requests: &[v1::WriteRequest]) -> u64 {
    let relay = Relay::start(&node.to_string()).await;
    let mut through = Api::connect(relay.endpoint().parse().unwrap()).await;
    // An answer that comes: with it came how many calls may be open at once.
    let before = through.status().await.unwrap().counter;
    relay.hold_answers();
    let mut calls = JoinSet::new();
    for request in requests.iter().cloned() {
        let mut through = through.clone();
        calls.spawn(async move { through.write_request(request).await });
    }
    let all = before + u64::try_from(requests.len()).unwrap();
    let watch = Stopwatch::start();
    while api.status().await.unwrap().counter < all {
        assert!(watch.elapsed() < PATIENCE, "writes do not arrive");
        pause().await;
    }
    relay.end();
    while let Some(call) = calls.join_next().await {
        let answer = call.expect("a call that is broken ends at once");
        assert!(answer.is_err(), "an answer came through");
    }
    before
}
