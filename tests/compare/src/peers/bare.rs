//! No database: what a unary gRPC call costs by itself, with the library that RDB and UmaDB are built on. A server of one
//! service that answers at once, in a process of its own.

use super::Entry;
use crate::peer::{Connection, Peer};
use crate::servers::{Ending, Servers, free_port};
use crate::work::Work;
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::stream::BoxStream;
use std::net::Ipv4Addr;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// The flag of this program that makes it the server.
pub const FLAG: &str = "--bare-server";
const ONLY_CALLS: &str = "it answers, and does nothing else";

pub const ENTRIES: [Entry; 1] = [Entry {
    peer: "bare",
    title: "a bare gRPC call",
    setting: "nothing behind it: the bound of all that answer unary calls",
    survives_power_loss: false,
    nodes: 1,
    how: "`Check` of the standard health service of `tonic`, without payload, in place of an append",
    lacks: |work| match work {
        Work::Append(_) | Work::Shared(_) => None,
        Work::Latest | Work::Batches | Work::CatchUp | Work::Subscriber(_) | Work::Restart => {
            Some(ONLY_CALLS)
        }
    },
    version: || Ok("tonic 0.14".to_owned()),
    missing: super::nothing,
    start: |servers| start(servers).boxed_local(),
}];

/// Serves until it is killed.
pub async fn serve(port: u16) -> Result<()> {
    let (_reporter, service) = tonic_health::server::health_reporter();
    let server = Server::builder().tcp_nodelay(true).add_service(service);
    Ok(server.serve((Ipv4Addr::LOCALHOST, port).into()).await?)
}

async fn start(servers: &mut Servers) -> Result<Box<dyn Peer>> {
    let port = free_port()?.to_string();
    let program = std::env::current_exe()?;
    let program = program.to_str().context("the path of this program is no text")?;
    servers.start("bare", Ending::Kill, None, &[program, FLAG, &port])?;
    let peer = Bare {
        url: format!("http://127.0.0.1:{port}"),
    };
    servers.wait_for(async || peer.open().await.map(drop)).await?;
    Ok(Box::new(peer))
}

struct Bare {
    url: String,
}

impl Bare {
    async fn open(&self) -> Result<Link> {
        let channel = Endpoint::from_shared(self.url.clone())?.tcp_nodelay(true);
        let mut link = Link(HealthClient::new(channel.connect().await?));
        link.call().await?;
        Ok(link)
    }
}

#[async_trait]
impl Peer for Bare {
    async fn connect(&self, _number: usize) -> Result<Box<dyn Connection>> {
        Ok(Box::new(self.open().await?))
    }

    async fn share(&self, tasks: usize) -> Result<Vec<Box<dyn Connection>>> {
        let link = self.open().await?;
        let link = |_task| -> Box<dyn Connection> { Box::new(link.clone()) };
        Ok((0..tasks).map(link).collect())
    }
}

#[derive(Clone)]
struct Link(HealthClient<Channel>);

impl Link {
    async fn call(&mut self) -> Result<()> {
        self.0.check(HealthCheckRequest::default()).await?;
        Ok(())
    }
}

#[async_trait]
impl Connection for Link {
    async fn append(&mut self, _key: &str, _payload: Bytes) -> Result<()> {
        self.call().await
    }

    async fn append_batch(&mut self, _key: &str, _payloads: Vec<Bytes>) -> Result<()> {
        bail!(ONLY_CALLS)
    }

    async fn latest(&mut self, _key: &str) -> Result<usize> {
        bail!(ONLY_CALLS)
    }

    async fn read_all(&mut self, _wanted: u64) -> Result<u64> {
        bail!(ONLY_CALLS)
    }

    async fn subscribe(self: Box<Self>) -> Result<BoxStream<'static, Result<Bytes>>> {
        bail!(ONLY_CALLS)
    }
}
