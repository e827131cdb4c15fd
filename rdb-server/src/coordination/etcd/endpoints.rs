//! Which endpoint of etcd is used: one of them, for as long as it answers, then the next.
//!
//! The client library would spread calls over all endpoints, those that are down included, and a call that meets one
//! of these fails. Here a connection is open before a request is sent over it; a request that is not answered in the
//! time that its caller gives it, or with `UNAVAILABLE`, ends the use of the endpoint, and the next request goes to the
//! next one. Every member of etcd serves everything, so nothing else changes: leases are not bound to a connection,
//! and what streams said is listed anew by those who follow them ([`Moves`]).

use crate::clock;
use crate::limits::ETCD_CONNECT_TIMEOUT;
use etcd_client::{BalancedChannelBuilder, Channel as ClientChannel};
use http::{Request, Response, Uri};
use rdb_proto::network;
use std::error::Error as StdError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch as channel};
use tonic::body::Body;
use tonic::transport::channel::Change;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service as _, ServiceExt as _};

/// Changes when another endpoint is used than before: a stream that began before may have fallen silent.
pub(super) type Moves = channel::Receiver<Option<usize>>;

/// Makes the channel of a client.
pub(super) struct OneAtATime {
    first: usize,
    moves: channel::Sender<Option<usize>>,
}

impl OneAtATime {
    /// A channel that begins with the endpoint at the position `first` (or as many past the last one), and how it
    /// tells that it moved.
    pub(super) fn new(first: usize) -> (Self, Moves) {
        let (moves, seen) = channel::channel(None);
        (Self { first, moves }, seen)
    }
}

impl BalancedChannelBuilder for OneAtATime {
    type Error = etcd_client::Error;

    fn balanced_channel(
        self,
        buffer_size: usize,
    ) -> Result<(ClientChannel, mpsc::Sender<Change<Uri, Endpoint>>), Self::Error> {
        let (sender, changes) = mpsc::channel(buffer_size);
        let endpoints = Arc::new(Endpoints {
            known: tokio::sync::Mutex::new(Known {
                all: Vec::new(),
                changes,
            }),
            next: AtomicUsize::new(self.first),
            used: Mutex::new(None),
            moves: self.moves,
        });
        let service = tower::service_fn(move |request| {
            let sent = send(Arc::clone(&endpoints), request);
            async move { sent.await.map_err(BoxError::from) }
        });
        Ok((ClientChannel::Custom(BoxCloneSyncService::new(service)), sender))
    }
}

struct Endpoints {
    /// Locked while a connection is opened, so that all who wait get the same.
    known: tokio::sync::Mutex<Known>,
    /// Position of the endpoint that is tried next.
    next: AtomicUsize,
    used: Mutex<Option<Used>>,
    moves: channel::Sender<Option<usize>>,
}

struct Known {
    /// In the order of `ETCD`: name the nearest first.
    all: Vec<Endpoint>,
    /// What the client adds.
    changes: mpsc::Receiver<Change<Uri, Endpoint>>,
}

/// The endpoint in use.
#[derive(Clone)]
struct Used {
    name: Arc<str>,
    /// Tells this connection from others to the same endpoint.
    connection: Arc<()>,
    channel: Channel,
}

impl Endpoints {
    fn used(&self) -> MutexGuard<'_, Option<Used>> {
        // A panic while the lock was held ends the process.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection in use, or a new one to the next endpoint that takes one.
    async fn connected(&self) -> Result<Used, Status> {
        let in_use = || self.used().clone();
        if let Some(used) = in_use() {
            return Ok(used);
        }
        let mut known = self.known.lock().await;
        if let Some(used) = in_use() {
            return Ok(used);
        }
        known.update();
        let mut problems = Vec::new();
        for _ in 0..known.all.len() {
            // Moved on before it is tried: whoever stops waiting for one that is silent does not try it again first.
            let position = self.next.fetch_add(1, Ordering::Relaxed) % known.all.len().max(1);
            let Some(endpoint) = known.all.get(position) else {
                break;
            };
            let name: Arc<str> = endpoint.uri().to_string().trim_end_matches('/').into();
            match clock::within(ETCD_CONNECT_TIMEOUT, network::connect(endpoint)).await {
                Some(Ok(channel)) => {
                    let used = Used {
                        name,
                        connection: Arc::new(()),
                        channel,
                    };
                    self.start_using(position, &used);
                    return Ok(used);
                }
                Some(Err(error)) => problems.push(format!("{name}: {}", problem(&error))),
                None => problems.push(format!("{name}: no connection within {ETCD_CONNECT_TIMEOUT:?}")),
            }
        }
        Err(Status::unavailable(problems.join("; ")))
    }

    fn start_using(&self, position: usize, used: &Used) {
        *self.used() = Some(used.clone());
        self.moves.send_if_modified(|shown| {
            let is_first = shown.is_none();
            let has_moved = shown.replace(position) != Some(position);
            if has_moved && !is_first {
                tracing::info!(endpoint = &*used.name, "going on with another endpoint of etcd");
            }
            has_moved && !is_first
        });
    }

    /// Ends the use of a connection, unless somebody else has.
    fn leave(&self, used: &Used) {
        let mut in_use = self.used();
        if in_use
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(&now.connection, &used.connection))
        {
            *in_use = None;
        }
    }
}

impl Known {
    fn update(&mut self) {
        while let Ok(change) = self.changes.try_recv() {
            match change {
                Change::Insert(_, endpoint) => self.all.push(endpoint),
                Change::Remove(uri) => self.all.retain(|endpoint| *endpoint.uri() != uri),
            }
        }
    }
}

/// A request that was sent. When it is dropped without an answer, its endpoint is left.
struct InFlight {
    endpoints: Arc<Endpoints>,
    used: Used,
    is_answered: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.is_answered {
            self.endpoints.leave(&self.used);
        }
    }
}

/// Sends a request to the endpoint in use.
async fn send(endpoints: Arc<Endpoints>, request: Request<Body>) -> Result<Response<Body>, Status> {
    let used = endpoints.connected().await?;
    let mut channel = used.channel.clone();
    let mut in_flight = InFlight {
        endpoints,
        used,
        is_answered: false,
    };
    let broken = |error| {
        let name = &in_flight.used.name;
        Status::unavailable(format!("{name}: {}", problem(&error)))
    };
    let ready = channel.ready().await.map_err(broken)?;
    let response = ready.call(request).await.map_err(broken)?;
    in_flight.is_answered = !is_unavailable(&response);
    Ok(response)
}

/// What broke a connection; of certificates, also what to look at.
fn problem(error: &(dyn StdError + 'static)) -> String {
    let cause = root_cause(error);
    if cause.starts_with("invalid peer certificate") {
        return format!(
            "{cause} (does ETCD_CA name who signed it, and does it name the host that ETCD does?)"
        );
    }
    if cause.starts_with("received fatal alert") {
        return format!(
            "{cause} (does etcd ask for ETCD_CERT and ETCD_KEY, and know who signed that certificate?)"
        );
    }
    cause
}

/// Whether a member of etcd says that it cannot serve now: it has no leader, or it stops.
fn is_unavailable(response: &Response<Body>) -> bool {
    let code = response.headers().get("grpc-status");
    code.is_some_and(|code| Code::from_bytes(code.as_bytes()) == Code::Unavailable)
}

fn root_cause(mut error: &(dyn StdError + 'static)) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
