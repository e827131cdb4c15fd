//! The coordinator of a cluster: etcd (DESIGN 5).
//!
//! The client library makes calls; everything that makes them last is here: streams that reconnect, deadlines, leases
//! that are taken anew without leaving the process.
//!
//! | file | decides |
//! |---|---|
//! | `records` | names of the keys, and the values under them |
//! | `endpoints` | which endpoint of etcd is used |
//! | `tls` | the files of a connection with TLS |
//! | `connection` | a channel that never reconnects |
//! | `session` | over which connection numbers are taken, and how an etcd that went back is put right |
//! | `join` | what a node finds or makes when it starts: the database's config, its own id |
//! | `lease` | that etcd knows this node as live, and under which lease |
//! | `watch` | what this node knows of etcd: a listing, then a watch, then again |
//! | `mirror` | what is known, and what the rest of the node sees of it |
//! | `election` | the txns of a seat |
//! | `allocator` | one txn at a time for all numbers that wait |
//! | `combiner` | which requests for numbers another node serves |
//! | `health` | what operators should know of etcd itself |
//! | `controller` | the node that places groups and replaces members |
//! | `orders` | what leaders and operators tell the controller |
//! | `placement` | which nodes get which groups |

mod allocator;
mod combiner;
mod connection;
mod controller;
mod election;
mod endpoints;
mod health;
mod join;
mod lease;
mod mirror;
mod orders;
mod placement;
mod records;
mod session;
mod tls;
mod watch;

pub use combiner::{Colleagues, NumbersStats};
pub use join::{Connected, connect};
#[doc(hidden)]
pub use mirror::reread;
pub use session::Session;
pub use tls::EtcdTls;

use super::progress::Progress;
use super::{Allocation, CoordinationError, Coordinator, Granted, Order, Report, View};
use crate::clock;
use crate::limits::{ETCD_ALLOCATIONS_MAX, ETCD_CALL_TIMEOUT, ETCD_LATEST_MAX};
use allocator::{Allocator, LatestWanted, Wanted};
use async_trait::async_trait;
use endpoints::Moves;
use etcd_client::{Client, Compare, CompareOp, TxnOpResponse, TxnResponse};
use futures::future::BoxFuture;
use mirror::Mirror;
use rdb_proto::types::{Epoch, GroupId, NodeId, SeatId, Seq};
use records::{ConfigRecord, Keys, LiveRecord};
use session::Numbers;
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch as channel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// Where etcd is, and what the node wants there.
#[derive(Clone)]
pub struct EtcdSettings {
    /// host:port of each member of etcd, perhaps with a scheme.
    pub endpoints: Vec<String>,
    /// User of etcd, when it asks for one.
    pub user: Option<String>,
    /// Password of that user.
    pub password: Option<String>,
    /// `ETCD_CA`, `ETCD_CERT` and `ETCD_KEY`; without, connections are plain.
    pub tls: Option<EtcdTls>,
    /// `DB`.
    pub database: String,
    /// `COUNTER_KEY`.
    pub counter_key: String,
    /// `SHARD_GROUPS`.
    pub shard_groups: u32,
    /// `GROUP_SIZE`.
    pub group_size: u32,
    /// `WRITES`.
    pub writes: u32,
    /// `LEASE_TTL`.
    pub lease_ttl: Duration,
    /// `REFRESH_INTERVAL`.
    pub refresh_interval: Duration,
    /// `REPLACE_AFTER`; `None`: never.
    pub replace_after: Option<Duration>,
    /// `HEARTBEAT_INTERVAL`.
    pub heartbeat_interval: Duration,
    /// How often the controller looks how etcd is.
    pub look_every: Duration,
    /// `NODE`.
    pub node_name: String,
    /// Where others reach the node: host:port of gRPC.
    pub address: String,
    /// Release of the server.
    pub release: String,
}

/// Without the password.
impl fmt::Debug for EtcdSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdSettings")
            .field("endpoints", &self.endpoints)
            .field("database", &self.database)
            .field("node_name", &self.node_name)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl EtcdSettings {
    /// What the node says of itself for as long as it holds its lease.
    fn live_record(&self, incarnation: Uuid) -> LiveRecord {
        LiveRecord {
            format: records::FORMAT,
            name: self.node_name.clone(),
            address: self.address.clone(),
            release: self.release.clone(),
            incarnation,
        }
    }
}

/// What the tasks of a coordinator share.
struct Shared {
    client: Client,
    moves: Moves,
    keys: Keys,
    settings: EtcdSettings,
    config: ConfigRecord,
    node: NodeId,
    incarnation: Uuid,
    known: Mutex<Known>,
    view: channel::Sender<Arc<View>>,
    counter: channel::Sender<Seq>,
    /// Highest seq that was ever seen, in etcd or in an own log: a counter below it is from an older state of etcd.
    floor: AtomicU64,
    /// Over which connection numbers are taken.
    numbers: channel::Sender<Numbers>,
    numbers_stats: NumbersStats,
    /// Who may be asked for numbers in place of etcd.
    colleagues: OnceLock<Arc<dyn Colleagues>>,
    /// Whether another node is being asked now: what others ask of this one meanwhile would wait for that.
    is_asking: channel::Sender<bool>,
    /// Its data directory.
    directory: Uuid,
    /// The lease that this node holds now.
    lease: channel::Sender<Option<i64>>,
}

#[derive(Debug, Default)]
struct Known {
    mirror: Mirror,
    problem: Option<String>,
    numbers_problem: Option<String>,
    warnings: Vec<String>,
    /// As [`View::unreplaced`].
    unreplaced: BTreeSet<(GroupId, NodeId)>,
}

impl Known {
    fn trouble(&self) -> Option<String> {
        let problem = self.problem.as_ref();
        problem.or(self.numbers_problem.as_ref()).cloned()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("node", &self.node)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic while the lock was held ends the process.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known, and shows it when that makes a difference.
    fn learn(&self, change: impl FnOnce(&mut Known)) {
        let (view, last_seq) = {
            let mut known = self.known();
            change(&mut known);
            let view = View {
                unreplaced: known.unreplaced.clone(),
                ..known.mirror.view(known.trouble(), &known.warnings)
            };
            (view, known.mirror.last_seq())
        };
        self.saw_counter(last_seq);
        self.view.send_if_modified(|shown| {
            let is_new = **shown != view;
            if is_new {
                *shown = Arc::new(view);
            }
            is_new
        });
    }

    fn floor(&self) -> Seq {
        Seq(self.floor.load(Ordering::Acquire))
    }

    fn saw_counter(&self, seq: Seq) {
        self.floor.fetch_max(seq.get(), Ordering::AcqRel);
        self.counter.send_if_modified(|seen| {
            let is_later = seq > *seen;
            *seen = seq.max(*seen);
            is_later
        });
    }

    /// How far etcd had come, as this node saw it, and what its own logs prove.
    fn progress(&self) -> Progress {
        let progress = self.known().mirror.progress();
        Progress {
            counter: progress.counter.max(self.floor()),
            ..progress
        }
    }

    /// Holds as long as etcd did not go back to an older state and was set right since this node looked.
    fn same_generation(&self) -> Compare {
        let generation = self.known().mirror.generation();
        self.generation_is(generation)
    }

    fn generation_is(&self, generation: u64) -> Compare {
        let config = ConfigRecord {
            generation,
            ..self.config.clone()
        };
        let value = records::encode(&config);
        Compare::value(self.keys.config(), CompareOp::Equal, value)
    }

    /// The lease, for keys that end with it.
    fn lease(&self) -> Result<i64, CoordinationError> {
        self.lease.borrow().ok_or(CoordinationError::NoLease)
    }
}

/// Makes one call, with a deadline. The future is boxed: those of the client are large.
fn call<'a, T: 'a>(
    what: &'static str,
    call: impl Future<Output = Result<T, etcd_client::Error>> + Send + 'a,
) -> BoxFuture<'a, Result<T, CoordinationError>> {
    let call = Box::pin(call);
    Box::pin(async move {
        let unavailable = |why: String| CoordinationError::Unavailable { what, why };
        match clock::within(ETCD_CALL_TIMEOUT, call).await {
            Some(result) => result.map_err(|error| unavailable(why(&error))),
            None => Err(unavailable(format!("no answer within {ETCD_CALL_TIMEOUT:?}"))),
        }
    })
}

/// What the client says, without the words that it puts around a status.
fn why(error: &etcd_client::Error) -> String {
    if let etcd_client::Error::GRpcStatus(status) = error
        && !status.message().is_empty()
    {
        return status.message().to_owned();
    }
    error.to_string()
}

/// The value of the key that a txn got, when it has one.
fn value_got(answer: &TxnResponse) -> Option<Vec<u8>> {
    answer
        .op_responses()
        .into_iter()
        .find_map(|response| match response {
            TxnOpResponse::Get(got) => got.kvs().first().map(|kv| kv.value().to_vec()),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
        })
}

/// Takes a lease of `LEASE_TTL`.
async fn grant(client: &Client, settings: &EtcdSettings) -> Result<i64, CoordinationError> {
    let ttl = i64::try_from(settings.lease_ttl.as_secs()).unwrap_or(i64::MAX);
    let granted = call("a lease", client.lease_client().grant(ttl, None)).await?;
    Ok(granted.id())
}

/// See the module.
#[derive(Debug)]
pub struct EtcdCoordinator {
    shared: Arc<Shared>,
    wanted: mpsc::Sender<Wanted>,
    latest_wanted: mpsc::Sender<LatestWanted>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl EtcdCoordinator {
    /// Starts the tasks of a node that holds `lease`.
    fn start(shared: Arc<Shared>, lease: i64) -> Self {
        let (wanted, queue) = mpsc::channel(ETCD_ALLOCATIONS_MAX);
        let (latest_wanted, readers) = mpsc::channel(ETCD_LATEST_MAX);
        let this = Self {
            shared,
            wanted,
            latest_wanted,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        };
        this.spawn(lease::keep(Arc::clone(&this.shared), lease));
        this.spawn(watch::follow(Arc::clone(&this.shared)));
        this.spawn(controller::run(Arc::clone(&this.shared)));
        this.spawn(health::run(Arc::clone(&this.shared)));
        this.spawn(Allocator::new(Arc::clone(&this.shared)).run(queue));
        this.spawn(allocator::tell_latest(Arc::clone(&this.shared), readers));
        this
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        // The tracker counts the task, and a panic ends the process.
        drop(self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = closing.cancelled() => {}
            }
        }));
    }
}

#[async_trait]
impl Coordinator for EtcdCoordinator {
    fn node_id(&self) -> NodeId {
        self.shared.node
    }

    fn view(&self) -> channel::Receiver<Arc<View>> {
        self.shared.view.subscribe()
    }

    async fn campaign(
        &self,
        seat: SeatId,
        above: Epoch,
        revision: u64,
    ) -> Result<Option<Granted>, CoordinationError> {
        election::campaign(&self.shared, seat, above, revision).await
    }

    async fn raise(
        &self,
        seat: SeatId,
        epoch: Epoch,
        above: Epoch,
    ) -> Result<Option<Granted>, CoordinationError> {
        election::raise(&self.shared, seat, epoch, above).await
    }

    async fn give_up(
        &self,
        seat: SeatId,
        epoch: Epoch,
        successor: Option<NodeId>,
    ) -> Result<(), CoordinationError> {
        election::give_up(&self.shared, seat, epoch, successor).await
    }

    async fn report(&self, seat: SeatId, epoch: Epoch, report: Report) -> Result<(), CoordinationError> {
        orders::report(&self.shared, seat, epoch, report).await
    }

    async fn order(&self, order: Order) -> Result<(), CoordinationError> {
        orders::order(&self.shared, order).await
    }

    async fn allocate(&self, count: u64) -> Result<Allocation, CoordinationError> {
        assert!(count > 0, "an allocation asks for at least one number");
        let (reply, answer) = oneshot::channel();
        self.wanted
            .send(Wanted {
                count,
                passed_on: None,
                reply,
            })
            .await
            .map_err(|_closed| allocator::stopping())?;
        answer.await.map_err(|_closed| allocator::stopping())?
    }

    async fn latest(&self) -> Result<Seq, CoordinationError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.latest_wanted.send(reply).await;
        sent.map_err(|_closed| allocator::stopping())?;
        answer.await.map_err(|_closed| allocator::stopping())?
    }

    fn counter(&self) -> channel::Receiver<Seq> {
        self.shared.counter.subscribe()
    }

    fn note_durable(&self, seq: Seq) {
        self.shared.floor.fetch_max(seq.get(), Ordering::AcqRel);
    }

    async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let lease = *self.shared.lease.borrow();
        if let Some(lease) = lease
            && let Err(error) = call("the lease", self.shared.client.lease_client().revoke(lease)).await
        {
            tracing::warn!(%error, "the lease could not be given back; it ends by itself");
        }
    }
}
