//! UmaDB: one store, a tag for each key. Its server comes in the wheel of PyPI.

use super::Entry;
use crate::peer::{Connection, Peer, unfold};
use crate::servers::{Ending, Servers, free_port, output};
use crate::work::Work;
use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::stream::BoxStream;
use std::sync::Arc;
use umadb_client::{AsyncUmaDbClient, UmaDbClient};
use umadb_dcb::{
    DcbAppendCondition, DcbEvent, DcbEventStoreAsync, DcbQuery, DcbQueryItem, DcbSubscriptionAsync,
};

/// Where the server is, when it is not the one in PATH; `scripts/compare` installs it and says where.
const SERVER: &str = "UMADB_SERVER";
const NO_STREAM: &str = "its protocol has no stream of appends: each is a call";
/// The type of every event.
const TYPE: &str = "e";

pub const ENTRIES: [Entry; 1] = [Entry {
    peer: "umadb",
    title: "UmaDB",
    setting: "default: fdatasync before each acknowledgement",
    survives_power_loss: true,
    nodes: 1,
    how: "an event has its key as its tag; `append` of 1 and of 100 events without condition; `read` from the first; `subscribe` after the head; the latest of a key by `read` of its tag, backwards, limit 1; conditional: fails if the tag has an event after the position of the last one",
    lacks: |work| (work == Work::Pipelined).then_some(NO_STREAM),
    version,
    missing: super::nothing,
    start: |servers| start(servers).boxed_local(),
}];

fn binary() -> String {
    std::env::var(SERVER).unwrap_or_else(|_| "umadb".to_owned())
}

fn version() -> Result<String> {
    output(&[&binary(), "--version"])
}

async fn start(servers: &mut Servers) -> Result<Box<dyn Peer>> {
    let (port, data) = (free_port()?, servers.data("umadb")?.display().to_string());
    let listen = format!("127.0.0.1:{port}");
    servers.start(
        "umadb",
        Ending::Kill,
        None,
        &[&binary(), "--listen", &listen, "--db-path", &data],
    )?;
    let peer = UmaDb {
        url: format!("http://{listen}"),
    };
    servers
        .wait_for(async || Ok(peer.open().await?.head().await?))
        .await?;
    Ok(Box::new(peer))
}

struct UmaDb {
    url: String,
}

impl UmaDb {
    async fn open(&self) -> Result<AsyncUmaDbClient> {
        Ok(UmaDbClient::new(self.url.clone()).connect_async().await?)
    }
}

#[async_trait]
impl Peer for UmaDb {
    async fn connect(&self, _number: usize) -> Result<Box<dyn Connection>> {
        Ok(Box::new(Link(Arc::new(self.open().await?))))
    }

    async fn share(&self, tasks: usize) -> Result<Vec<Box<dyn Connection>>> {
        let client = Arc::new(self.open().await?);
        let link = |_task| -> Box<dyn Connection> { Box::new(Link(Arc::clone(&client))) };
        Ok((0..tasks).map(link).collect())
    }
}

struct Link(Arc<AsyncUmaDbClient>);

fn event(key: &str, payload: &Bytes) -> DcbEvent {
    DcbEvent::default().event_type(TYPE).tags([key]).data(&**payload)
}

fn of_key(key: &str) -> DcbQuery {
    DcbQuery::new().item(DcbQueryItem::new().tags([key]))
}

#[async_trait]
impl Connection for Link {
    async fn append(&mut self, key: &str, payload: Bytes) -> Result<()> {
        self.0.append(vec![event(key, &payload)], None, None).await?;
        Ok(())
    }

    async fn append_expecting(&mut self, key: &str, payload: Bytes, expected: u64) -> Result<u64> {
        // Positions begin with 1.
        let last = (expected > 0).then_some(expected);
        let condition = DcbAppendCondition::new(of_key(key)).after(last);
        Ok(self
            .0
            .append(vec![event(key, &payload)], Some(condition), None)
            .await?)
    }

    async fn append_batch(&mut self, key: &str, payloads: Vec<Bytes>) -> Result<()> {
        self.0
            .append(
                payloads.iter().map(|payload| event(key, payload)).collect(),
                None,
                None,
            )
            .await?;
        Ok(())
    }

    async fn latest(&mut self, key: &str) -> Result<usize> {
        let mut events = self.0.read(Some(of_key(key)), None, true, Some(1)).await?;
        Ok(events
            .next_batch()
            .await?
            .first()
            .context("the key is not there")?
            .event
            .data
            .len())
    }

    async fn read_all(&mut self, wanted: u64) -> Result<u64> {
        let mut events = self.0.read(None, None, false, None).await?;
        let mut count = 0;
        while count < wanted {
            let batch = events.next_batch().await?;
            if batch.is_empty() {
                break;
            }
            count += u64::try_from(batch.len())?;
        }
        Ok(count)
    }

    async fn subscribe(self: Box<Self>) -> Result<BoxStream<'static, Result<Bytes>>> {
        let head = self.0.head().await?;
        let subscription = self.0.subscribe(None, head).await?;
        Ok(unfold((self, subscription), more))
    }
}

type State = (Box<Link>, Box<dyn DcbSubscriptionAsync + Send>);

async fn more((link, mut subscription): State) -> Result<Option<(Vec<Bytes>, State)>> {
    let events = subscription.next_batch().await?;
    ensure!(!events.is_empty(), "the subscription ended");
    Ok(Some((
        events.into_iter().map(|event| event.event.data.into()).collect(),
        (link, subscription),
    )))
}
