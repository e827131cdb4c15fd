//! PostgreSQL: one table.

use super::Entry;
use crate::peer::{Connection, Peer, unfold};
use crate::servers::{Ending, Servers, User, free_port, output};
use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::path::PathBuf;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

pub const ENTRIES: [Entry; 1] = [Entry {
    peer: "postgres",
    title: "PostgreSQL",
    setting: "default: `fsync`, `synchronous_commit` on",
    survives_power_loss: true,
    nodes: 1,
    how: "a table of (`seq bigint identity` as primary key, `key`, `payload`) with an index on (`key`, `seq`); prepared `INSERT`; batches as one `INSERT` from arrays; catch-up with `SELECT … ORDER BY seq`, streamed; subscriber with `LISTEN`: the transaction of the insert tells the seq with `pg_notify`, and the subscriber reads the rows of all that it was told, in the order of commits",
    no_latest: None,
    version,
    missing: super::nothing,
    start: |servers| start(servers).boxed_local(),
}];

const TABLE: &str = "create table events (seq bigint generated always as identity primary key, key text not null, \
                     payload bytea not null); create index on events (key, seq)";
const CHANNEL: &str = "events";
/// Seqs that wait to be read; the subscription ends when there are more.
const NOTICES_MAX: usize = 65_536;

/// The newest release that is installed: Debian keeps programs of a server apart from those that everybody calls.
fn programs() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten() {
        let path = entry?.path().join("bin");
        let release = path
            .parent()
            .and_then(|parent| parent.file_name()?.to_str()?.parse().ok());
        found.extend(
            release
                .filter(|_| path.join("initdb").exists())
                .map(|release| (release, path)),
        );
    }
    // Elsewhere they are in PATH.
    Ok(found.into_iter().max().map(|(_, path)| path).unwrap_or_default())
}

fn version() -> Result<String> {
    output(&[
        programs()?.join("postgres").display().to_string().as_str(),
        "--version",
    ])
}

async fn start(servers: &mut Servers) -> Result<Box<dyn Peer>> {
    let user = User::instead_of_root("postgres")?;
    let (port, data) = (free_port()?.to_string(), servers.data("postgres")?);
    let sockets = servers.home().join("sockets");
    std::fs::create_dir(&sockets)?;
    if let Some(user) = &user {
        user.own(&data)?;
        user.own(&sockets)?;
    }
    let (data, sockets) = (data.display().to_string(), sockets.display().to_string());
    let program = |name: &str| anyhow::Ok(programs()?.join(name).display().to_string());
    User::run(
        user.as_ref(),
        &[
            &program("initdb")?,
            "-D",
            &data,
            "-U",
            "postgres",
            "--auth=trust",
            "-E",
            "UTF8",
        ],
    )?;
    let command = [
        &*program("postgres")?,
        "-D",
        &data,
        "-p",
        &port,
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        &format!("unix_socket_directories={sockets}"),
    ];
    servers.start("postgres", Ending::Interrupt, user.as_ref(), &command)?;
    let peer = Postgres {
        address: format!("host=127.0.0.1 port={port} user=postgres dbname=postgres"),
    };
    let client = servers.wait_for(async || Ok(peer.open().await?.0)).await?;
    client.batch_execute(TABLE).await?;
    Ok(Box::new(peer))
}

struct Postgres {
    address: String,
}

impl Postgres {
    /// A connection, and where it gives the seqs that it is told.
    async fn open(&self) -> Result<(Client, mpsc::Receiver<i64>)> {
        let (client, mut connection) = tokio_postgres::connect(&self.address, NoTls).await?;
        let (notices, noticed) = mpsc::channel(NOTICES_MAX);
        // Ends when the client is dropped.
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                let AsyncMessage::Notification(notice) = message else {
                    continue;
                };
                let told = notice
                    .payload()
                    .parse()
                    .ok()
                    .and_then(|seq| notices.try_send(seq).ok());
                if told.is_none() {
                    break;
                }
            }
        });
        Ok((client, noticed))
    }
}

#[async_trait]
impl Peer for Postgres {
    async fn connect(&self, _number: usize) -> Result<Box<dyn Connection>> {
        let (client, noticed) = self.open().await?;
        let told = format!(
            "with e as (insert into events (key, payload) values ($1, $2) returning seq) \
             select pg_notify('{CHANNEL}', seq::text) from e"
        );
        Ok(Box::new(Link {
            append: client
                .prepare("insert into events (key, payload) values ($1, $2)")
                .await?,
            append_told: client.prepare(&told).await?,
            append_batch: client
                .prepare("insert into events (key, payload) select $1, unnest($2::bytea[])")
                .await?,
            // By both columns of the index: without statistics, which a new table lacks, it would read the other one.
            latest: client
                .prepare("select payload from events where key = $1 order by key desc, seq desc limit 1")
                .await?,
            all: client
                .prepare("select seq, key, payload from events order by seq")
                .await?,
            these: client
                .prepare("select seq, payload from events where seq = any($1)")
                .await?,
            client,
            noticed,
        }))
    }
}

struct Link {
    client: Client,
    noticed: mpsc::Receiver<i64>,
    append: Statement,
    append_told: Statement,
    append_batch: Statement,
    latest: Statement,
    all: Statement,
    these: Statement,
}

#[async_trait]
impl Connection for Link {
    async fn append(&mut self, key: &str, payload: Bytes) -> Result<()> {
        self.client.execute(&self.append, &[&key, &&*payload]).await?;
        Ok(())
    }

    async fn append_told(&mut self, key: &str, payload: Bytes) -> Result<()> {
        self.client
            .execute(&self.append_told, &[&key, &&*payload])
            .await?;
        Ok(())
    }

    async fn append_batch(&mut self, key: &str, payloads: Vec<Bytes>) -> Result<()> {
        let payloads: Vec<&[u8]> = payloads.iter().map(|payload| &**payload).collect();
        self.client
            .execute(&self.append_batch, &[&key, &payloads])
            .await?;
        Ok(())
    }

    async fn latest(&mut self, key: &str) -> Result<usize> {
        let row = self.client.query_one(&self.latest, &[&key]).await?;
        Ok(row.try_get::<_, &[u8]>(0)?.len())
    }

    async fn read_all(&mut self, wanted: u64) -> Result<u64> {
        let rows = self.client.query_raw(&self.all, [0_i64; 0]).await?;
        futures::pin_mut!(rows);
        let (mut count, mut last) = (0, 0);
        while count < wanted {
            let Some(row) = rows.try_next().await? else { break };
            let (seq, _key, _payload) = (
                row.try_get::<_, i64>(0)?,
                row.try_get::<_, &str>(1)?,
                row.try_get::<_, &[u8]>(2)?,
            );
            ensure!(seq > last, "out of order");
            (count, last) = (count + 1, seq);
        }
        Ok(count)
    }

    async fn subscribe(self: Box<Self>) -> Result<BoxStream<'static, Result<Bytes>>> {
        self.client.batch_execute(&format!("listen {CHANNEL}")).await?;
        Ok(unfold(self, more))
    }
}

async fn more(mut link: Box<Link>) -> Result<Option<(Vec<Bytes>, Box<Link>)>> {
    let mut seqs = Vec::new();
    ensure!(
        link.noticed.recv_many(&mut seqs, NOTICES_MAX).await > 0,
        "the connection was lost"
    );
    let rows = link.client.query(&link.these, &[&seqs]).await?;
    let rows = rows
        .iter()
        .map(|row| anyhow::Ok((row.try_get(0)?, Bytes::copy_from_slice(row.try_get(1)?))));
    let mut found = rows.collect::<Result<HashMap<i64, Bytes>>>()?;
    let payloads = seqs
        .iter()
        .map(|seq| found.remove(seq).context("a row that was told is not there"));
    Ok(Some((payloads.collect::<Result<_>>()?, link)))
}
