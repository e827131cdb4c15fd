//! Redis: one stream.

use super::Entry;
use crate::peer::{Connection, Peer, unfold};
use crate::servers::{Ending, Servers, free_port, output};
use crate::work::Work;
use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, cmd, pipe};

const HOW: &str = "`XADD` to one stream; batches in `MULTI`/`EXEC`, pipelined; catch-up with `XRANGE` in pages of 1,000; subscriber with `XREAD BLOCK`; without waiting: pipelined `XADD`";
const NO_LATEST: &str = "a stream has no keys; a stream for each key would have no order over all";
const NO_CONDITION: &str = "a stream has no versions of keys, and `WATCH` would see what others append, too";
const STREAM: &str = "events";
const PAGE: usize = 1_000;

const SAFE: Entry = Entry {
    peer: "redis",
    title: "Redis streams",
    setting: "`appendonly yes`, `appendfsync always`",
    survives_power_loss: true,
    nodes: 1,
    how: HOW,
    lacks: |work| match work {
        Work::Latest => Some(NO_LATEST),
        Work::AppendExpecting => Some(NO_CONDITION),
        Work::Batches
        | Work::CatchUp
        | Work::Append(_)
        | Work::Shared(_)
        | Work::Subscriber(_)
        | Work::Restart
        | Work::AppendLarge(_)
        | Work::Pipelined => None,
    },
    version,
    missing: super::nothing,
    start: |servers| start(servers, &["--appendonly", "yes", "--appendfsync", "always"]).boxed_local(),
};

pub const ENTRIES: [Entry; 2] = [
    SAFE,
    Entry {
        setting: "default: snapshots now and then",
        survives_power_loss: false,
        start: |servers| start(servers, &[]).boxed_local(),
        ..SAFE
    },
];

fn version() -> Result<String> {
    let text = output(&["redis-server", "--version"])?;
    let release = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("v="))
        .unwrap_or(&text);
    Ok(format!("redis-server {release}"))
}

async fn start(servers: &mut Servers, flags: &[&str]) -> Result<Box<dyn Peer>> {
    let (port, data) = (free_port()?, servers.data("redis")?);
    let (port, data) = (port.to_string(), data.display().to_string());
    let mut command = vec![
        "redis-server",
        "--bind",
        "127.0.0.1",
        "--port",
        &port,
        "--dir",
        &data,
    ];
    command.extend(flags);
    servers.start("redis", Ending::Kill, None, &command)?;
    let peer = Redis {
        client: Client::open(format!("redis://127.0.0.1:{port}/"))?,
    };
    servers.wait_for(async || peer.open().await.map(drop)).await?;
    Ok(Box::new(peer))
}

struct Redis {
    client: Client,
}

impl Redis {
    async fn open(&self) -> Result<MultiplexedConnection> {
        let patient = AsyncConnectionConfig::new().set_response_timeout(None);
        Ok(self
            .client
            .get_multiplexed_async_connection_with_config(&patient)
            .await?)
    }
}

#[async_trait]
impl Peer for Redis {
    async fn connect(&self, _number: usize) -> Result<Box<dyn Connection>> {
        Ok(Box::new(Link(self.open().await?)))
    }

    async fn share(&self, tasks: usize) -> Result<Vec<Box<dyn Connection>>> {
        let connection = self.open().await?;
        let link = |_task| -> Box<dyn Connection> { Box::new(Link(connection.clone())) };
        Ok((0..tasks).map(link).collect())
    }
}

struct Link(MultiplexedConnection);

/// An entry of a stream: its id, and names and values in turn.
type Item = (String, Vec<Bytes>);

/// What a stream holds besides the key.
fn payload((_, fields): &Item) -> Option<Bytes> {
    fields.get(3).cloned()
}

fn add(key: &str, payload: &[u8]) -> Cmd {
    let mut add = cmd("XADD");
    add.arg(STREAM).arg("*").arg("k").arg(key).arg("p").arg(payload);
    add
}

#[async_trait]
impl Connection for Link {
    async fn append(&mut self, key: &str, payload: Bytes) -> Result<()> {
        let _id: String = add(key, &payload).query_async(&mut self.0).await?;
        Ok(())
    }

    fn append_behind(&mut self, key: String, payload: Bytes) -> BoxFuture<'static, Result<()>> {
        let mut connection = self.0.clone();
        let append = async move {
            let _id: String = add(&key, &payload).query_async(&mut connection).await?;
            Ok(())
        };
        append.boxed()
    }

    async fn append_batch(&mut self, key: &str, payloads: Vec<Bytes>) -> Result<()> {
        let mut batch = pipe();
        batch.atomic();
        for payload in &payloads {
            batch.add_command(add(key, payload));
        }
        let _ids: Vec<String> = batch.query_async(&mut self.0).await?;
        Ok(())
    }

    async fn latest(&mut self, _key: &str) -> Result<usize> {
        anyhow::bail!(NO_LATEST)
    }

    async fn read_all(&mut self, wanted: u64) -> Result<u64> {
        let mut count = 0;
        let mut from = "-".to_owned();
        while count < wanted {
            let mut range = cmd("XRANGE");
            range.arg(STREAM).arg(&from).arg("+").arg("COUNT").arg(PAGE);
            let page: Vec<Item> = range.query_async(&mut self.0).await?;
            let Some((last, _)) = page.last() else { break };
            from = format!("({last}");
            count += u64::try_from(page.len())?;
        }
        Ok(count)
    }

    async fn subscribe(mut self: Box<Self>) -> Result<BoxStream<'static, Result<Bytes>>> {
        let mut newest = cmd("XREVRANGE");
        newest.arg(STREAM).arg("+").arg("-").arg("COUNT").arg(1);
        let newest: Vec<Item> = newest.query_async(&mut self.0).await?;
        let after = newest
            .into_iter()
            .next()
            .map_or_else(|| "0".to_owned(), |(id, _)| id);
        Ok(unfold((self.0, after), more))
    }
}

type State = (MultiplexedConnection, String);

async fn more((mut connection, after): State) -> Result<Option<(Vec<Bytes>, State)>> {
    let mut read = cmd("XREAD");
    read.arg("COUNT")
        .arg(PAGE)
        .arg("BLOCK")
        .arg(0)
        .arg("STREAMS")
        .arg(STREAM)
        .arg(&after);
    let mut streams: Vec<(String, Vec<Item>)> = read.query_async(&mut connection).await?;
    let (_, items) = streams.pop().context("XREAD gave no stream")?;
    let last = items.last().map_or(after, |(id, _)| id.clone());
    let payloads = items
        .iter()
        .map(|item| payload(item).context("an entry without a payload"));
    Ok(Some((payloads.collect::<Result<_>>()?, (connection, last))))
}
