//! What a node finds or makes in etcd when it starts: the database's config, and its own id.

use super::endpoints::{Moves, OneAtATime};
use super::records::{ConfigRecord, CounterRecord, FORMAT, IdRecord, Keys, decode, encode};
use super::session::Numbers;
use super::{EtcdCoordinator, EtcdSettings, NumbersStats, Shared, call, grant, value_got};
use crate::clock::{self, BackOff};
use crate::coordination::{CoordinationError, View};
use crate::limits::{
    ETCD_CONNECT_TIMEOUT, ETCD_KEEP_ALIVE, ETCD_KEEP_ALIVE_TIMEOUT, ETCD_RETRY_MAX, ETCD_RETRY_MIN,
};
use etcd_client::{Client, Compare, CompareOp, ConnectOptions, GetOptions, PutOptions, Txn, TxnOp};
use rdb_proto::limits::SLOTS;
use rdb_proto::types::{NodeId, Seq};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};
use tokio::sync::watch as channel;
use uuid::Uuid;

/// A connection to etcd, and the database that is there.
#[derive(Debug)]
pub struct Connected {
    client: Unprinted,
    moves: Moves,
    keys: Keys,
    settings: EtcdSettings,
    config: ConfigRecord,
    remembered: Option<NodeId>,
}

/// The client, which cannot be printed.
struct Unprinted(Client);

impl std::fmt::Debug for Unprinted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

/// Connects to etcd, and finds the database's config or makes it. Waits for an etcd that does not answer.
///
/// # Errors
/// [`CoordinationError::SettingsDiffer`], [`CoordinationError::Malformed`], or what cannot be mended by waiting.
pub async fn connect(settings: EtcdSettings) -> Result<Connected, CoordinationError> {
    let keys = Keys::new(&settings.database, &settings.counter_key);
    let mut back_off = BackOff::new(ETCD_RETRY_MIN, ETCD_RETRY_MAX);
    // Another first endpoint each time: one may take the connection and say nothing.
    let mut first = 0_usize;
    loop {
        match try_connect(&settings, &keys, first).await {
            Ok((client, moves, config)) => {
                return Ok(Connected {
                    client: Unprinted(client),
                    moves,
                    keys,
                    settings,
                    config,
                    remembered: None,
                });
            }
            Err(error @ CoordinationError::Unavailable { .. }) => {
                tracing::warn!(endpoints = ?settings.endpoints, %error, "waiting for etcd");
            }
            Err(error) => return Err(error),
        }
        first = first.wrapping_add(1);
        back_off.wait().await;
    }
}

async fn try_connect(
    settings: &EtcdSettings,
    keys: &Keys,
    first: usize,
) -> Result<(Client, Moves, ConfigRecord), CoordinationError> {
    let options = connect_options(settings).await?;
    let (channel, moves) = OneAtATime::new(first);
    let connecting = Client::connect_with_balanced_channel(&settings.endpoints, Some(options), channel);
    let client = call("etcd", connecting).await?;
    let config = config(&client, settings, keys).await?;
    Ok((client, moves, config))
}

/// How every connection to etcd is made.
pub(super) async fn connect_options(settings: &EtcdSettings) -> Result<ConnectOptions, CoordinationError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(ETCD_CONNECT_TIMEOUT)
        .with_keep_alive(ETCD_KEEP_ALIVE, ETCD_KEEP_ALIVE_TIMEOUT)
        .with_keep_alive_while_idle(true)
        // A member of etcd that is cut off from the others answers pings and tells nothing.
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some(user) = &settings.user {
        options = options.with_user(user, settings.password.as_deref().unwrap_or_default());
    }
    if let Some(tls) = &settings.tls {
        options = options.with_tls(tls.options().await?);
    }
    Ok(options)
}

/// The config that is there, or the one of these settings when there is none.
async fn config(
    client: &Client,
    settings: &EtcdSettings,
    keys: &Keys,
) -> Result<ConfigRecord, CoordinationError> {
    let mine = ConfigRecord {
        format: FORMAT,
        database: clock::new_uuid(),
        groups: settings.shard_groups,
        group_size: settings.group_size,
        writes: settings.writes,
        slots: SLOTS,
        counter: keys.counter.clone(),
        generation: 1,
    };
    // The counter is made with the database: one that is missing later was lost, and is not begun anew.
    let counter = CounterRecord {
        format: FORMAT,
        seq: 0,
        time_us: 0,
        generation: 1,
    };
    let key = keys.config();
    let txn = Txn::new()
        .when([Compare::version(key.clone(), CompareOp::Equal, 0)])
        .and_then([
            TxnOp::put(key.clone(), encode(&mine), None),
            TxnOp::put(keys.counter.clone(), encode(&counter), None),
        ])
        .or_else([TxnOp::get(key.clone(), None)]);
    let answer = call("the database's config", client.kv_client().txn(txn)).await?;
    if answer.succeeded() {
        tracing::info!(database = %mine.database, "made the database");
        return Ok(mine);
    }
    let config: ConfigRecord = decode(&key, &value_got(&answer).unwrap_or_default())?;
    let differ = [
        ("SHARD_GROUPS", mine.groups.to_string(), config.groups.to_string()),
        (
            "GROUP_SIZE",
            mine.group_size.to_string(),
            config.group_size.to_string(),
        ),
        ("WRITES", mine.writes.to_string(), config.writes.to_string()),
        ("COUNTER_KEY", mine.counter, config.counter.clone()),
    ];
    let other = differ
        .into_iter()
        .find(|(_, actual, expected)| actual != expected);
    match other {
        None => Ok(config),
        Some((variable, actual, expected)) => Err(CoordinationError::SettingsDiffer {
            variable,
            actual,
            expected,
        }),
    }
}

impl Connected {
    /// Id of the database.
    pub const fn database(&self) -> Uuid {
        self.config.database
    }

    /// The data directory knows which node it is of: an etcd that was restored may not.
    #[must_use]
    pub fn remembering(self, node: Option<NodeId>) -> Self {
        Self {
            remembered: node,
            ..self
        }
    }

    /// Registers this node by its name and data directory, and starts to follow etcd.
    ///
    /// # Errors
    /// [`CoordinationError::NameTaken`] when another live node has the name; [`CoordinationError::Unavailable`].
    pub async fn join(self, directory: Uuid) -> Result<EtcdCoordinator, CoordinationError> {
        let mut back_off = BackOff::new(ETCD_RETRY_MIN, ETCD_RETRY_MAX);
        loop {
            match Box::pin(self.try_join(directory)).await {
                Err(error @ CoordinationError::Unavailable { .. }) => {
                    tracing::warn!(%error, "waiting for etcd");
                }
                joined => return joined,
            }
            back_off.wait().await;
        }
    }

    async fn try_join(&self, directory: Uuid) -> Result<EtcdCoordinator, CoordinationError> {
        let lease = grant(&self.client.0, &self.settings).await?;
        let incarnation = clock::new_uuid();
        let node = self.register(directory, lease, incarnation).await?;
        let shared = Arc::new(Shared {
            client: self.client.0.clone(),
            moves: self.moves.clone(),
            keys: self.keys.clone(),
            settings: self.settings.clone(),
            config: self.config.clone(),
            node,
            incarnation,
            known: Mutex::default(),
            view: channel::Sender::new(Arc::new(View::default())),
            counter: channel::Sender::new(Seq::ZERO),
            floor: AtomicU64::new(0),
            numbers: channel::Sender::new(Numbers::Unguarded),
            numbers_stats: NumbersStats::default(),
            colleagues: OnceLock::new(),
            is_asking: channel::Sender::new(false),
            directory,
            lease: channel::Sender::new(Some(lease)),
        });
        super::watch::list(&shared).await?;
        Ok(EtcdCoordinator::start(shared, lease))
    }

    /// The node's id: the one that its directory had before, or a new one. An emptied disk comes back as a new node,
    /// since an empty voter could elect data away.
    async fn register(
        &self,
        directory: Uuid,
        lease: i64,
        incarnation: Uuid,
    ) -> Result<NodeId, CoordinationError> {
        let key = self.keys.id(&self.settings.node_name);
        loop {
            let mut kv = self.client.0.kv_client();
            let found = call("the node's id", kv.get(key.clone(), None)).await?;
            let found = found
                .kvs()
                .first()
                .map(|kv| (kv.value().to_vec(), kv.mod_revision()));
            let (node, revision) = match found {
                None => {
                    let fresh = || NodeId(clock::random_u64());
                    (self.remembered.unwrap_or_else(fresh), 0)
                }
                Some((value, revision)) => {
                    let record: IdRecord = decode(&key, &value)?;
                    if record.directory == directory {
                        (NodeId(record.node), revision)
                    } else {
                        self.assert_gone(NodeId(record.node)).await?;
                        (NodeId(clock::random_u64()), revision)
                    }
                }
            };
            let id = IdRecord {
                format: FORMAT,
                node: node.0,
                directory,
            };
            let live = self.settings.live_record(incarnation);
            let leased = PutOptions::new().with_lease(lease);
            let txn = Txn::new()
                .when([Compare::mod_revision(key.clone(), CompareOp::Equal, revision)])
                .and_then([
                    TxnOp::put(key.clone(), encode(&id), None),
                    TxnOp::put(self.keys.live(node), encode(&live), Some(leased)),
                ]);
            if call("the node's id", kv.txn(txn)).await?.succeeded() {
                return Ok(node);
            }
        }
    }

    /// A name whose node is live belongs to that node.
    async fn assert_gone(&self, node: NodeId) -> Result<(), CoordinationError> {
        let options = GetOptions::new().with_count_only();
        let mut kv = self.client.0.kv_client();
        let live = call("the live nodes", kv.get(self.keys.live(node), Some(options))).await?;
        if live.count() == 0 {
            return Ok(());
        }
        Err(CoordinationError::NameTaken {
            name: self.settings.node_name.clone(),
        })
    }
}
