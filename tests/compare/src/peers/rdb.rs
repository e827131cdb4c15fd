//! RDB: one node, and three with etcd.

use super::Entry;
use crate::peer::{Connection, Peer, UNDER_WAY_MAX, unfold};
use crate::servers::{Ending, Servers, free_port, output};
use anyhow::{Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use rdb_client::{
    Appender, AppenderOptions, Client, Expectation, Filter, KeyName, Message, NewEvent, ReadOptions, Seq,
    Start, Subscription, Version,
};
use std::hint::black_box;
use std::sync::Arc;

/// The release build of this repository; `scripts/compare` makes it and says where it is.
const SERVER: &str = "RDB_SERVER_BINARY";

pub const ENTRIES: [Entry; 3] = [
    Entry {
        peer: "rdb",
        title: "RDB",
        setting: "default: fdatasync before each acknowledgement",
        survives_power_loss: true,
        nodes: 1,
        how: "`write`, `append` of 100 events to one key, `subscribe` from 0, with a look at each event in place, and from now, linearizable `read`; conditional: `write` that expects exactly a version; without waiting: `append_stream`; each event has an id that makes a retry safe",
        lacks: super::can_all,
        version,
        missing: super::nothing,
        start: |servers| start_one(servers, &[]).boxed_local(),
    },
    Entry {
        peer: "rdb",
        title: "RDB",
        setting: "three nodes, WRITES=2: fdatasync on two nodes; etcd of one member",
        survives_power_loss: true,
        nodes: 3,
        how: "the same; a client talks with the node that leads the key, so it may have up to three connections; etcd's processor time and memory count",
        lacks: super::can_all,
        version,
        missing: super::nothing,
        start: |servers| start_three(servers, 1).boxed_local(),
    },
    Entry {
        peer: "rdb",
        title: "RDB",
        setting: "the same with an etcd of three members: a majority of it flushes before each acknowledgement, too",
        survives_power_loss: true,
        nodes: 3,
        how: "the same",
        lacks: super::can_all,
        version,
        missing: super::nothing,
        start: |servers| start_three(servers, 3).boxed_local(),
    },
];

fn binary() -> String {
    std::env::var(SERVER).unwrap_or_else(|_| "rdb-server".to_owned())
}

fn version() -> Result<String> {
    output(&[&binary(), "--version"])
}

/// One node with these settings besides.
pub async fn start_one(servers: &mut Servers, more: &[(&str, &str)]) -> Result<Box<dyn Peer>> {
    let (port, http, data) = (free_port()?, free_port()?, servers.data("rdb")?);
    let variables = [
        ("PORT", &*port.to_string()),
        ("HTTP_PORT", &http.to_string()),
        ("LISTEN", "127.0.0.1"),
        ("DATA_DIR", &data.display().to_string()),
    ];
    let variables = [&variables[..], more].concat();
    servers.start_with("rdb", Ending::Kill, None, &variables, &[&binary()])?;
    ready(servers, vec![format!("127.0.0.1:{port}")], 1).await
}

async fn start_three(servers: &mut Servers, etcd_members: usize) -> Result<Box<dyn Peer>> {
    let etcd = super::etcd::start_members(
        servers,
        etcd_members,
        &[
            "--auto-compaction-mode=periodic",
            "--auto-compaction-retention=10m",
        ],
    )?;
    let etcd: Vec<String> = etcd.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut addresses = Vec::new();
    for node in ["n1", "n2", "n3"] {
        let (port, http, data) = (free_port()?, free_port()?, servers.data(node)?);
        let variables = [
            ("ETCD", &*etcd.join(",")),
            ("NODE", node),
            ("PORT", &port.to_string()),
            ("HTTP_PORT", &http.to_string()),
            ("ADDRESS", "127.0.0.1"),
            ("LISTEN", "127.0.0.1"),
            ("WRITES", "2"),
            ("GROUP_SIZE", "3"),
            ("DATA_DIR", &data.display().to_string()),
        ];
        servers.start_with(node, Ending::Kill, None, &variables, &[&binary()])?;
        addresses.push(format!("127.0.0.1:{port}"));
    }
    ready(servers, addresses, 3).await
}

async fn ready(servers: &mut Servers, addresses: Vec<String>, nodes: usize) -> Result<Box<dyn Peer>> {
    let client = Client::connect(&addresses)?;
    servers
        .wait_for(async || {
            let status = client.status().await?;
            if !status.healthy || status.nodes.len() < nodes {
                bail!("{}", status.summary);
            }
            Ok(())
        })
        .await?;
    Ok(Box::new(Rdb { addresses }))
}

struct Rdb {
    addresses: Vec<String>,
}

#[async_trait]
impl Peer for Rdb {
    async fn connect(&self, _number: usize) -> Result<Box<dyn Connection>> {
        let client = Client::connect(&self.addresses)?;
        // Connections are opened when first needed.
        client.status().await?;
        Ok(Box::new(Link::new(client)))
    }

    async fn share(&self, tasks: usize) -> Result<Vec<Box<dyn Connection>>> {
        let client = Client::connect(&self.addresses)?;
        client.status().await?;
        let link = |_task| -> Box<dyn Connection> { Box::new(Link::new(client.clone())) };
        Ok((0..tasks).map(link).collect())
    }
}

struct Link {
    client: Client,
    /// Its stream of appends, from the first one on.
    appender: Option<Arc<Appender>>,
}

impl Link {
    fn new(client: Client) -> Self {
        Self {
            client,
            appender: None,
        }
    }
}

fn name(key: &str) -> Result<KeyName> {
    Ok(KeyName::new("default", key)?)
}

#[async_trait]
impl Connection for Link {
    async fn append(&mut self, key: &str, payload: Bytes) -> Result<()> {
        self.client
            .write(&name(key)?, NewEvent::new(payload), Expectation::Any)
            .await?;
        Ok(())
    }

    async fn append_expecting(&mut self, key: &str, payload: Bytes, expected: u64) -> Result<u64> {
        let expect = Expectation::Exact(Version(expected));
        let receipt = self
            .client
            .write(&name(key)?, NewEvent::new(payload), expect)
            .await?;
        Ok(receipt.stored.version.get())
    }

    fn append_behind(&mut self, key: String, payload: Bytes) -> BoxFuture<'static, Result<()>> {
        let open = || {
            let options = AppenderOptions {
                window: UNDER_WAY_MAX,
                retries_refused: true,
            };
            Arc::new(self.client.append_stream(options))
        };
        let appender = Arc::clone(self.appender.get_or_insert_with(open));
        let append = async move {
            let event = vec![NewEvent::new(payload)];
            appender
                .append(&name(&key)?, event, Expectation::Any)
                .await?
                .await?;
            Ok(())
        };
        append.boxed()
    }

    async fn append_batch(&mut self, key: &str, payloads: Vec<Bytes>) -> Result<()> {
        let events = payloads.into_iter().map(NewEvent::new).collect();
        self.client.append(&name(key)?, events, Expectation::Any).await?;
        Ok(())
    }

    async fn latest(&mut self, key: &str) -> Result<usize> {
        let answer = self.client.read(&name(key)?, ReadOptions::default()).await?;
        Ok(answer.event.payload.len())
    }

    async fn read_all(&mut self, wanted: u64) -> Result<u64> {
        let mut subscription = self.client.subscribe(Start::After(Seq::ZERO), Filter::default());
        let mut count = 0;
        while count < wanted {
            if let Message::Events(batch) = subscription.next().await? {
                for event in batch.iter() {
                    black_box(event?);
                    count += 1;
                }
            }
        }
        Ok(count)
    }

    async fn subscribe(self: Box<Self>) -> Result<BoxStream<'static, Result<Bytes>>> {
        let mut subscription = self.client.subscribe(Start::Now, Filter::default());
        while !matches!(subscription.next().await?, Message::Opened { .. }) {}
        Ok(unfold(subscription, payloads))
    }
}

async fn payloads(mut subscription: Subscription) -> Result<Option<(Vec<Bytes>, Subscription)>> {
    let payloads = match subscription.next().await? {
        Message::Events(batch) => batch.decode()?.into_iter().map(|event| event.payload).collect(),
        Message::Interrupted(error) => return Err(error.into()),
        Message::Opened { .. }
        | Message::Resolved { .. }
        | Message::CaughtUp { .. }
        | Message::FellBehind { .. } => Vec::new(),
    };
    Ok(Some((payloads, subscription)))
}
