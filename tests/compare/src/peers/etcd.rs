//! etcd: one key for each key. One member, and three.

use super::Entry;
use crate::peer::{Connection, Peer, unfold};
use crate::servers::{Ending, Servers, free_port, output};
use crate::work::Work;
use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp, WatchOptions, WatchStream};
use futures::FutureExt;
use futures::stream::BoxStream;

/// So that the load fits; it is 2 GiB by default.
const QUOTA: &str = "--quota-backend-bytes=8589934592";
const FIRST_REVISION: i64 = 1;
const NO_STREAM: &str = "its protocol has no stream of puts: each is a call";

const ONE: Entry = Entry {
    peer: "etcd",
    title: "etcd",
    setting: "default: fdatasync before each acknowledgement (backend quota raised to 8 GiB)",
    survives_power_loss: true,
    nodes: 1,
    how: "an event is a `Put` of its key, earlier ones stay as revisions; batches are a `Txn` of 100 keys, since a `Txn` takes a key once; catch-up is a `Watch` from the first revision, subscriber a `Watch`; linearizable `Get`; conditional: a `Txn` that compares the version of the key",
    lacks: |work| (work == Work::Pipelined).then_some(NO_STREAM),
    version,
    missing: super::nothing,
    start: |servers| start(servers, 1).boxed_local(),
};

pub const ENTRIES: [Entry; 2] = [
    ONE,
    Entry {
        setting: "three members: fdatasync on two before each acknowledgement",
        nodes: 3,
        how: "the same; the first client talks with the leader, the others are spread over the members",
        start: |servers| start(servers, 3).boxed_local(),
        ..ONE
    },
];

fn version() -> Result<String> {
    let text = output(&["etcd", "--version"])?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// So many members; gives their ports.
pub fn start_members(servers: &mut Servers, count: usize, flags: &[&str]) -> Result<Vec<u16>> {
    let mut members = Vec::new();
    for number in 1..=count {
        members.push((format!("e{number}"), (free_port()?, free_port()?)));
    }
    let cluster = members
        .iter()
        .map(|(name, (_, peer))| format!("{name}=http://127.0.0.1:{peer}"));
    let cluster = cluster.collect::<Vec<_>>().join(",");
    for (name, ports) in &members {
        start_one_of(servers, name, *ports, &cluster, flags)?;
    }
    Ok(members.into_iter().map(|(_, (client, _))| client).collect())
}

fn start_one_of(
    servers: &mut Servers,
    name: &str,
    (client, peer): (u16, u16),
    cluster: &str,
    flags: &[&str],
) -> Result<()> {
    let data = servers.data(name)?.display().to_string();
    let (client, peer) = (
        format!("http://127.0.0.1:{client}"),
        format!("http://127.0.0.1:{peer}"),
    );
    let mut command = vec![
        "etcd",
        "--name",
        name,
        "--data-dir",
        &data,
        "--log-level",
        "error",
    ];
    command.extend([
        "--listen-client-urls",
        &client,
        "--advertise-client-urls",
        &client,
    ]);
    command.extend([
        "--listen-peer-urls",
        &peer,
        "--initial-advertise-peer-urls",
        &peer,
    ]);
    command.extend(["--initial-cluster", cluster]);
    command.extend(flags);
    servers.start(name, Ending::Kill, None, &command)
}

async fn start(servers: &mut Servers, members: usize) -> Result<Box<dyn Peer>> {
    let ports = start_members(servers, members, &[QUOTA])?;
    ready(servers, ports).await
}

async fn ready(servers: &mut Servers, mut ports: Vec<u16>) -> Result<Box<dyn Peer>> {
    let leader = servers
        .wait_for(async || {
            let mut leader = None;
            for port in &ports {
                let status = open(*port).await?.status().await?;
                ensure!(status.leader() != 0, "there is no leader");
                let member = status.header().context("no header")?.member_id();
                leader = leader.or((member == status.leader()).then_some(*port));
            }
            leader.context("the leader did not answer")
        })
        .await?;
    ports.sort_by_key(|port| *port != leader);
    Ok(Box::new(Etcd { ports }))
}

async fn open(port: u16) -> Result<Client> {
    Ok(Client::connect([format!("127.0.0.1:{port}")], None).await?)
}

/// The leader's port first.
struct Etcd {
    ports: Vec<u16>,
}

impl Etcd {
    async fn client(&self, number: usize) -> Result<Client> {
        let port = self.ports.get(number % self.ports.len()).context("no member")?;
        let mut client = open(*port).await?;
        // Connections are opened when first needed.
        client.status().await?;
        Ok(client)
    }
}

#[async_trait]
impl Peer for Etcd {
    async fn connect(&self, number: usize) -> Result<Box<dyn Connection>> {
        Ok(Box::new(Link(self.client(number).await?)))
    }

    async fn share(&self, tasks: usize) -> Result<Vec<Box<dyn Connection>>> {
        let client = self.client(0).await?;
        let link = |_task| -> Box<dyn Connection> { Box::new(Link(client.clone())) };
        Ok((0..tasks).map(link).collect())
    }
}

struct Link(Client);

impl Link {
    async fn watch(&mut self, from: Option<i64>) -> Result<WatchStream> {
        let options = WatchOptions::new().with_prefix().with_fragment();
        let options = from.map_or_else(
            || options.clone(),
            |revision| options.clone().with_start_revision(revision),
        );
        // Open when this returns: the client waits for the answer that says so.
        Ok(self.0.watch("k", Some(options)).await?)
    }
}

#[async_trait]
impl Connection for Link {
    async fn append(&mut self, key: &str, payload: Bytes) -> Result<()> {
        self.0.put(key, &*payload, None).await?;
        Ok(())
    }

    async fn append_expecting(&mut self, key: &str, payload: Bytes, expected: u64) -> Result<u64> {
        let is_expected = Compare::version(key, CompareOp::Equal, i64::try_from(expected)?);
        let put = TxnOp::put(key, &*payload, None);
        let answer = self.0.txn(Txn::new().when([is_expected]).and_then([put])).await?;
        ensure!(answer.succeeded(), "the key is not at version {expected}");
        Ok(expected + 1)
    }

    async fn append_batch(&mut self, key: &str, payloads: Vec<Bytes>) -> Result<()> {
        let last = payloads.len().saturating_sub(1);
        let puts = payloads.iter().enumerate().map(|(i, payload)| {
            let key = if i == last {
                key.to_owned()
            } else {
                format!("{key}/{i}")
            };
            TxnOp::put(key, &**payload, None)
        });
        self.0.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await?;
        Ok(())
    }

    async fn latest(&mut self, key: &str) -> Result<usize> {
        let answer = self.0.get(key, None).await?;
        Ok(answer
            .kvs()
            .first()
            .context("the key is not there")?
            .value()
            .len())
    }

    async fn read_all(&mut self, wanted: u64) -> Result<u64> {
        let mut stream = self.watch(Some(FIRST_REVISION)).await?;
        let mut count = 0;
        while count < wanted {
            let answer = stream.message().await?.context("the watch ended")?;
            ensure!(
                !answer.canceled(),
                "the watch was cancelled: {}",
                answer.cancel_reason()
            );
            count += u64::try_from(answer.events().len())?;
        }
        Ok(count)
    }

    async fn subscribe(mut self: Box<Self>) -> Result<BoxStream<'static, Result<Bytes>>> {
        let stream = self.watch(None).await?;
        Ok(unfold((self, stream), more))
    }
}

type State = (Box<Link>, WatchStream);

async fn more((link, mut stream): State) -> Result<Option<(Vec<Bytes>, State)>> {
    let answer = stream.message().await?.context("the watch ended")?;
    ensure!(
        !answer.canceled(),
        "the watch was cancelled: {}",
        answer.cancel_reason()
    );
    let values = answer
        .events()
        .iter()
        .filter_map(|event| Some(Bytes::copy_from_slice(event.kv()?.value())));
    Ok(Some((values.collect(), (link, stream))))
}
