//! PostgreSQL: one table.

use super::Entry;
use crate::peer::{Connection, Peer, unfold};
use crate::servers::{Ending, Servers, User, free_port, output};
use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

const ONE: Entry = Entry {
    peer: "postgres",
    title: "PostgreSQL",
    setting: "default: `fsync`, `synchronous_commit` on (connections raised to 300)",
    survives_power_loss: true,
    nodes: 1,
    how: "a table of (`seq bigint identity` as primary key, `key`, `payload`) with an index on (`key`, `seq`); prepared `INSERT`; batches as one `INSERT` from arrays; catch-up with `SELECT … ORDER BY seq`, streamed; subscriber with `LISTEN`: the transaction of the insert tells the seq with `pg_notify`, and the subscriber reads the rows of all that it was told, in the order of commits; conditional: into a second table with a unique index on (`key`, `version`), which refuses a version that is there; without waiting: statements on one connection, pipelined, each a transaction of its own",
    lacks: super::can_all,
    version,
    missing: super::nothing,
    start: |servers| start_one(servers).boxed_local(),
};

pub const ENTRIES: [Entry; 2] = [
    ONE,
    Entry {
        setting: "a primary and one synchronous standby, `synchronous_commit` on: both flush before each acknowledgement",
        nodes: 3,
        how: "the same, on the primary; there is no third node, and nobody takes over by himself",
        start: |servers| start_two(servers).boxed_local(),
        ..ONE
    },
];

const TABLE: &str = "create table events (seq bigint generated always as identity primary key, key text not null, \
                     payload bytea not null); create index on events (key, seq); \
                     create table versioned (seq bigint generated always as identity primary key, key text not null, \
                     version bigint not null, payload bytea not null, unique (key, version))";
const CHANNEL: &str = "events";
/// 100 by default, which is fewer than the most clients.
const CONNECTIONS: &str = "max_connections=300";
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

/// Where the servers of a session are, and who they run as.
struct Home {
    user: Option<User>,
    sockets: PathBuf,
}

impl Home {
    fn new(servers: &Servers) -> Result<Self> {
        let user = User::instead_of_root("postgres")?;
        let sockets = servers.home().join("sockets");
        std::fs::create_dir(&sockets)?;
        if let Some(user) = &user {
            user.own(&sockets)?;
        }
        Ok(Self { user, sockets })
    }

    /// A folder that only the servers' user may read, as they demand.
    fn data(&self, servers: &Servers, name: &str) -> Result<String> {
        let data = servers.data(name)?;
        if let Some(user) = &self.user {
            user.own(&data)?;
        }
        std::fs::set_permissions(&data, Permissions::from_mode(0o700))?;
        Ok(data.display().to_string())
    }

    /// A program that ends by itself.
    fn run(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let program = programs()?.join(name).display().to_string();
        User::run(self.user.as_ref(), &[&[&*program], arguments].concat())
    }

    /// Starts a server on a folder that was made; gives its port.
    fn start(&self, servers: &mut Servers, name: &str, data: &str) -> Result<u16> {
        let port = free_port()?;
        let program = programs()?.join("postgres").display().to_string();
        let sockets = format!("unix_socket_directories={}", self.sockets.display());
        let command = [
            &*program,
            "-D",
            data,
            "-p",
            &port.to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            &sockets,
            "-c",
            CONNECTIONS,
        ];
        servers.start(name, Ending::Interrupt, self.user.as_ref(), &command)?;
        Ok(port)
    }
}

/// A server with its folder made; gives its port.
fn start_primary(servers: &mut Servers, home: &Home) -> Result<u16> {
    let data = home.data(servers, "postgres")?;
    home.run(
        "initdb",
        &["-D", &data, "-U", "postgres", "--auth=trust", "-E", "UTF8"],
    )?;
    home.start(servers, "postgres", &data)
}

async fn ready(servers: &mut Servers, port: u16) -> Result<(Postgres, Client)> {
    let peer = Postgres {
        address: format!("host=127.0.0.1 port={port} user=postgres dbname=postgres"),
    };
    let client = servers.wait_for(async || Ok(peer.open().await?.0)).await?;
    Ok((peer, client))
}

async fn start_one(servers: &mut Servers) -> Result<Box<dyn Peer>> {
    let home = Home::new(servers)?;
    let port = start_primary(servers, &home)?;
    let (peer, client) = ready(servers, port).await?;
    client.batch_execute(TABLE).await?;
    Ok(Box::new(peer))
}

/// The standby begins as a copy of the primary. That one waits for it from the moment that both know each other.
async fn start_two(servers: &mut Servers) -> Result<Box<dyn Peer>> {
    let home = Home::new(servers)?;
    let port = start_primary(servers, &home)?;
    let (peer, client) = ready(servers, port).await?;
    client.batch_execute(TABLE).await?;
    let data = home.data(servers, "standby")?;
    let port = port.to_string();
    let from = ["-D", &data, "-h", "127.0.0.1", "-p", &port, "-U", "postgres"];
    home.run(
        "pg_basebackup",
        &[&from[..], &["-R", "--checkpoint=fast"]].concat(),
    )?;
    home.start(servers, "standby", &data)?;
    client
        .batch_execute("alter system set synchronous_standby_names = '*'")
        .await?;
    client.batch_execute("select pg_reload_conf()").await?;
    servers
        .wait_for(async || {
            let state = "select count(*) from pg_stat_replication where sync_state = 'sync'";
            let standbys: i64 = client.query_one(state, &[]).await?.try_get(0)?;
            ensure!(standbys == 1, "the standby is not synchronous yet");
            Ok(())
        })
        .await?;
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

    /// The same with everything prepared.
    async fn session(&self) -> Result<(Session, mpsc::Receiver<i64>)> {
        let (client, noticed) = self.open().await?;
        let told = format!(
            "with e as (insert into events (key, payload) values ($1, $2) returning seq) \
             select pg_notify('{CHANNEL}', seq::text) from e"
        );
        let session = Session {
            append: client
                .prepare("insert into events (key, payload) values ($1, $2)")
                .await?,
            append_told: client.prepare(&told).await?,
            append_versioned: client
                .prepare("insert into versioned (key, version, payload) values ($1, $2, $3)")
                .await?,
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
        };
        Ok((session, noticed))
    }
}

#[async_trait]
impl Peer for Postgres {
    async fn connect(&self, _number: usize) -> Result<Box<dyn Connection>> {
        let (session, noticed) = self.session().await?;
        Ok(Box::new(Link {
            session: Arc::new(session),
            noticed: Some(noticed),
        }))
    }

    async fn share(&self, tasks: usize) -> Result<Vec<Box<dyn Connection>>> {
        let session = Arc::new(self.session().await?.0);
        let link = |_task| -> Box<dyn Connection> {
            Box::new(Link {
                session: Arc::clone(&session),
                noticed: None,
            })
        };
        Ok((0..tasks).map(link).collect())
    }
}

struct Link {
    session: Arc<Session>,
    /// Seqs that it is told; `None` where many share the session.
    noticed: Option<mpsc::Receiver<i64>>,
}

struct Session {
    client: Client,
    append: Statement,
    append_told: Statement,
    append_versioned: Statement,
    append_batch: Statement,
    latest: Statement,
    all: Statement,
    these: Statement,
}

#[async_trait]
impl Connection for Link {
    async fn append(&mut self, key: &str, payload: Bytes) -> Result<()> {
        let Session { client, append, .. } = &*self.session;
        client.execute(append, &[&key, &&*payload]).await?;
        Ok(())
    }

    async fn append_told(&mut self, key: &str, payload: Bytes) -> Result<()> {
        let Session {
            client, append_told, ..
        } = &*self.session;
        client.execute(append_told, &[&key, &&*payload]).await?;
        Ok(())
    }

    async fn append_expecting(&mut self, key: &str, payload: Bytes, expected: u64) -> Result<u64> {
        let Session {
            client,
            append_versioned,
            ..
        } = &*self.session;
        let version = i64::try_from(expected + 1)?;
        client
            .execute(append_versioned, &[&key, &version, &&*payload])
            .await?;
        Ok(expected + 1)
    }

    fn append_behind(&mut self, key: String, payload: Bytes) -> BoxFuture<'static, Result<()>> {
        let session = Arc::clone(&self.session);
        let append = async move {
            let Session { client, append, .. } = &*session;
            client.execute(append, &[&key, &&*payload]).await?;
            Ok(())
        };
        append.boxed()
    }

    async fn append_batch(&mut self, key: &str, payloads: Vec<Bytes>) -> Result<()> {
        let payloads: Vec<&[u8]> = payloads.iter().map(|payload| &**payload).collect();
        let Session {
            client, append_batch, ..
        } = &*self.session;
        client.execute(append_batch, &[&key, &payloads]).await?;
        Ok(())
    }

    async fn latest(&mut self, key: &str) -> Result<usize> {
        let Session { client, latest, .. } = &*self.session;
        let row = client.query_one(latest, &[&key]).await?;
        Ok(row.try_get::<_, &[u8]>(0)?.len())
    }

    async fn read_all(&mut self, wanted: u64) -> Result<u64> {
        let Session { client, all, .. } = &*self.session;
        let rows = client.query_raw(all, [0_i64; 0]).await?;
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
        let listen = format!("listen {CHANNEL}");
        self.session.client.batch_execute(&listen).await?;
        Ok(unfold(self, more))
    }
}

async fn more(mut link: Box<Link>) -> Result<Option<(Vec<Bytes>, Box<Link>)>> {
    let mut seqs = Vec::new();
    let noticed = link.noticed.as_mut().context("it is not told of events")?;
    ensure!(
        noticed.recv_many(&mut seqs, NOTICES_MAX).await > 0,
        "the connection was lost"
    );
    let Session { client, these, .. } = &*link.session;
    let rows = client.query(these, &[&seqs]).await?;
    let rows = rows
        .iter()
        .map(|row| anyhow::Ok((row.try_get(0)?, Bytes::copy_from_slice(row.try_get(1)?))));
    let mut found = rows.collect::<Result<HashMap<i64, Bytes>>>()?;
    let payloads = seqs
        .iter()
        .map(|seq| found.remove(seq).context("a row that was told is not there"));
    Ok(Some((payloads.collect::<Result<_>>()?, link)))
}
