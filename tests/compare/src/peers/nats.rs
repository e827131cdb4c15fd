//! NATS JetStream: one stream, a subject for each key. One node, and three.

use super::Entry;
use crate::peer::{Connection, Peer, unfold};
use crate::servers::{Ending, Servers, free_port, output};
use anyhow::{Context as _, Result, anyhow};
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, stream};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use std::time::Duration;

/// Where the server is, when it is not the one in PATH.
const SERVER: &str = "NATS_SERVER";
const STREAM: &str = "events";
/// How long an acknowledgement may take: longer than by default, since batches wait behind each other.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// The first release that can flush before it acknowledges.
const SYNC_ALWAYS_SINCE: (u32, u32) = (2, 10);

const SAFE: Entry = Entry {
    peer: "nats",
    title: "NATS JetStream",
    setting: "`sync_interval: always`",
    survives_power_loss: true,
    nodes: 1,
    how: "a stream on files with a subject for each key; a publish waits for its acknowledgement; batches are 100 publishes under way at once (not all or none); ordered consumers from the first and from now; direct get of a subject's last message; conditional: `Nats-Expected-Last-Subject-Sequence`; without waiting: a publish whose acknowledgement is awaited later",
    lacks: super::can_all,
    version,
    missing: lacks_sync_always,
    start: |servers| start_one(servers, true).boxed_local(),
};

pub const ENTRIES: [Entry; 4] = [
    SAFE,
    Entry {
        setting: "default: flushes every two minutes",
        survives_power_loss: false,
        missing: super::nothing,
        start: |servers| start_one(servers, false).boxed_local(),
        ..SAFE
    },
    Entry {
        setting: "three nodes, R3, `sync_interval: always`: two before each acknowledgement",
        nodes: 3,
        how: "the same; clients are spread over the nodes",
        start: |servers| start_three(servers, true).boxed_local(),
        ..SAFE
    },
    Entry {
        setting: "three nodes, R3, default: two before each acknowledgement, flushed every two minutes",
        survives_power_loss: false,
        nodes: 3,
        how: "the same; clients are spread over the nodes",
        missing: super::nothing,
        start: |servers| start_three(servers, false).boxed_local(),
        ..SAFE
    },
];

fn binary() -> String {
    std::env::var(SERVER).unwrap_or_else(|_| "nats-server".to_owned())
}

fn version() -> Result<String> {
    output(&[&binary(), "--version"])
}

fn lacks_sync_always() -> Option<String> {
    let version = version().ok()?;
    let mut parts = version
        .rsplit('v')
        .next()?
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    let release = (parts.next()?, parts.next()?);
    (release < SYNC_ALWAYS_SINCE).then(|| {
        format!(
            "{version} has no `sync_interval: always`; name the binary of 2.10 or newer with {SERVER}=PATH"
        )
    })
}

fn jetstream_part(servers: &Servers, name: &str, syncs: bool) -> Result<String> {
    let data = servers.data(name)?;
    let sync = if syncs { "sync_interval: always" } else { "" };
    Ok(format!(
        "server_name: {name}\nhost: 127.0.0.1\njetstream {{ store_dir: \"{}\"\n{sync} }}\n",
        data.display()
    ))
}

fn start_server(servers: &mut Servers, name: &str, config: &str) -> Result<()> {
    let config = servers
        .write(&format!("{name}.conf"), config)?
        .display()
        .to_string();
    servers.start(name, Ending::Kill, None, &[&binary(), "-c", &config])
}

async fn start_one(servers: &mut Servers, syncs: bool) -> Result<Box<dyn Peer>> {
    let port = free_port()?;
    let config = format!("{}port: {port}\n", jetstream_part(servers, "nats", syncs)?);
    start_server(servers, "nats", &config)?;
    ready(servers, vec![port]).await
}

async fn start_three(servers: &mut Servers, syncs: bool) -> Result<Box<dyn Peer>> {
    let mut nodes = Vec::new();
    for name in ["n1", "n2", "n3"] {
        nodes.push((name, free_port()?, free_port()?));
    }
    let routes = nodes
        .iter()
        .map(|(_, _, route)| format!("\"nats-route://127.0.0.1:{route}\""));
    let routes = routes.collect::<Vec<_>>().join(", ");
    for (name, port, route) in &nodes {
        let first = jetstream_part(servers, name, syncs)?;
        let cluster = format!("cluster {{ name: c\nlisten: \"127.0.0.1:{route}\"\nroutes: [{routes}] }}\n");
        start_server(servers, name, &format!("{first}port: {port}\n{cluster}"))?;
    }
    ready(servers, nodes.into_iter().map(|(_, port, _)| port).collect()).await
}

async fn ready(servers: &mut Servers, ports: Vec<u16>) -> Result<Box<dyn Peer>> {
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec![format!("{STREAM}.>")],
        num_replicas: ports.len(),
        allow_direct: true,
        ..stream::Config::default()
    };
    let peer = Nats { ports };
    servers
        .wait_for(async || Ok(peer.open(0).await?.create_stream(config.clone()).await?))
        .await?;
    Ok(Box::new(peer))
}

struct Nats {
    ports: Vec<u16>,
}

impl Nats {
    async fn link(&self, number: usize) -> Result<Link> {
        let mut context = self.open(number).await?;
        // Not while the nodes start: what is asked before they have a leader gets no answer at all.
        context.set_timeout(ANSWER_MAX);
        let stream = context.get_stream(STREAM).await?;
        Ok(Link { context, stream })
    }

    async fn open(&self, number: usize) -> Result<Context> {
        let port = self.ports.get(number % self.ports.len()).context("no node")?;
        Ok(jetstream::new(
            async_nats::connect(format!("127.0.0.1:{port}")).await?,
        ))
    }
}

#[async_trait]
impl Peer for Nats {
    async fn connect(&self, number: usize) -> Result<Box<dyn Connection>> {
        Ok(Box::new(self.link(number).await?))
    }

    async fn share(&self, tasks: usize) -> Result<Vec<Box<dyn Connection>>> {
        let link = self.link(0).await?;
        let link = |_task| -> Box<dyn Connection> { Box::new(link.clone()) };
        Ok((0..tasks).map(link).collect())
    }
}

#[derive(Clone)]
struct Link {
    context: Context,
    stream: stream::Stream,
}

fn subject(key: &str) -> String {
    format!("{STREAM}.{key}")
}

impl Link {
    async fn messages(&self, deliver_policy: DeliverPolicy) -> Result<pull::Ordered> {
        let config = pull::OrderedConfig {
            deliver_policy,
            ..pull::OrderedConfig::default()
        };
        Ok(self.stream.create_consumer(config).await?.messages().await?)
    }
}

#[async_trait]
impl Connection for Link {
    async fn append(&mut self, key: &str, payload: Bytes) -> Result<()> {
        self.context.publish(subject(key), payload).await?.await?;
        Ok(())
    }

    async fn append_expecting(&mut self, key: &str, payload: Bytes, expected: u64) -> Result<u64> {
        let message = PublishMessage::build()
            .payload(payload)
            .expected_last_subject_sequence(expected);
        let stored = self.context.send_publish(subject(key), message).await?.await?;
        Ok(stored.sequence)
    }

    fn append_behind(&mut self, key: String, payload: Bytes) -> BoxFuture<'static, Result<()>> {
        let context = self.context.clone();
        let append = async move {
            context.publish(subject(&key), payload).await?.await?;
            Ok(())
        };
        append.boxed()
    }

    async fn append_batch(&mut self, key: &str, payloads: Vec<Bytes>) -> Result<()> {
        let mut under_way = Vec::with_capacity(payloads.len());
        for payload in payloads {
            under_way.push(self.context.publish(subject(key), payload).await?);
        }
        for answer in under_way {
            answer.await?;
        }
        Ok(())
    }

    async fn latest(&mut self, key: &str) -> Result<usize> {
        Ok(self
            .stream
            .direct_get_last_for_subject(subject(key))
            .await?
            .payload
            .len())
    }

    async fn read_all(&mut self, wanted: u64) -> Result<u64> {
        let mut messages = self.messages(DeliverPolicy::All).await?;
        let mut count = 0;
        while count < wanted {
            messages.next().await.context("the consumer ended")??;
            count += 1;
        }
        Ok(count)
    }

    async fn subscribe(self: Box<Self>) -> Result<BoxStream<'static, Result<Bytes>>> {
        let messages = self.messages(DeliverPolicy::New).await?;
        Ok(unfold((self, messages), more))
    }
}

type State = (Box<Link>, pull::Ordered);

async fn more((link, mut messages): State) -> Result<Option<(Vec<Bytes>, State)>> {
    let message = messages
        .next()
        .await
        .ok_or_else(|| anyhow!("the consumer ended"))??;
    Ok(Some((vec![message.payload.clone()], (link, messages))))
}
