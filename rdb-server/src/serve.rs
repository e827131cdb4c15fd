//! Start and stop of the whole program: listen, open the node, serve, drain.

use crate::api::{grpc, http};
use crate::clock;
use crate::coordination::CoordinationError;
use crate::fatal::Exit;
use crate::limits::{CLOSE_GRACE, HAND_OVER_GRACE, OPEN_FILES, SHUTDOWN_GRACE};
use crate::node::{self, Handle, Node, StartError};
use crate::settings::Settings;
use crate::storage::StorageError;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::net::SocketAddr;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Why the server did not start, or did not stop well.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The port cannot be listened on.
    #[error("{variable}: cannot listen on {address}: {source}")]
    Listen {
        /// `PORT` or `HTTP_PORT`.
        variable: &'static str,
        /// What was tried.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The node does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The index was not closed.
    #[error("stopped, but the key index was not closed cleanly and may be rebuilt: {0}")]
    Stop(#[source] StorageError),
    /// Signals, sockets.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The gRPC services.
    #[error(transparent)]
    Grpc(#[from] grpc::Error),
}

impl ServeError {
    /// The exit code for it.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Listen { .. }
            | Self::Start(
                StartError::OtherDatabase { .. }
                | StartError::Coordination(
                    CoordinationError::SettingsDiffer { .. }
                    | CoordinationError::NameTaken { .. }
                    | CoordinationError::Pem { .. },
                ),
            ) => Exit::Settings,
            Self::Start(_) | Self::Stop(_) | Self::Io(_) => Exit::Storage,
            Self::Grpc(_) => Exit::Invariant,
        }
    }
}

/// Serves until SIGTERM or SIGINT, then drains and closes everything.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(settings: &Settings) -> Result<(), ServeError> {
    tracing::info!(
        release = env!("CARGO_PKG_VERSION"),
        database = settings.db,
        node = settings.node,
        "rdb-server"
    );
    raise_file_limit();
    let mut signals = Signals::new()?;
    let grpc = listen("PORT", settings.listen_ip(), settings.port).await?;
    let http = listen("HTTP_PORT", settings.listen_ip(), settings.http_port).await?;
    // Others are told the port that there is, also when any free one was asked for.
    let settings = Settings {
        port: grpc.local_addr()?.port(),
        ..settings.clone()
    };
    let Some(node) = start(&settings, &mut signals).await? else {
        tracing::info!("stopped before it was ready");
        return Ok(());
    };
    let served = serve_until_signal(&node, (grpc, http), &mut signals).await;
    if let Some(stopped) = clock::within(CLOSE_GRACE, node.stop()).await {
        stopped.map_err(ServeError::Stop)?;
    } else {
        tracing::warn!(after = ?CLOSE_GRACE, "not everything was closed; the next start checks it");
    }
    tracing::info!("stopped");
    served
}

/// Starts the node; `None` when a signal came first.
async fn start(settings: &Settings, signals: &mut Signals) -> Result<Option<Node>, ServeError> {
    tokio::select! {
        node = node::start(settings) => Ok(Some(node?)),
        () = signals.stop() => Ok(None),
    }
}

async fn serve_until_signal(
    node: &Node,
    (grpc_listener, http_listener): (TcpListener, TcpListener),
    signals: &mut Signals,
) -> Result<(), ServeError> {
    let handle = &node.handle();
    let (grpc_address, http_address) = (grpc_listener.local_addr()?, http_listener.local_addr()?);
    let closing = CancellationToken::new();
    let grpc_ended = grpc::serve(handle, grpc::accepted(grpc_listener), closing.clone()).await?;
    http::serve(handle, http_listener, closing.clone());
    // Until then calls are refused as recovering, and `/ready` says why.
    let is_serving = tokio::select! {
        () = handle.serving() => true,
        () = signals.stop() => false,
    };
    if is_serving {
        tracing::info!(grpc = %grpc_address, http = %http_address, "ready");
        notify(&[sd_notify::NotifyState::Ready]);
        signals.stop().await;
    }
    if clock::within(HAND_OVER_GRACE, node.hand_over()).await.is_none() {
        tracing::warn!(after = ?HAND_OVER_GRACE, "not every seat was handed over; others take them when they notice");
    }
    drain(handle, &closing, &grpc_ended).await;
    Ok(())
}

/// The signals that stop the server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Self {
            terminate: signal(terminate)?,
            interrupt: signal(interrupt)?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ends the surfaces: requests under way are answered, streams end.
async fn drain(handle: &Handle, closing: &CancellationToken, grpc_ended: &CancellationToken) {
    tracing::info!("stopping: requests under way are answered, streams end with the position to resume at");
    notify(&[sd_notify::NotifyState::Stopping]);
    handle.tasks().stop();
    closing.cancel();
    if clock::within(SHUTDOWN_GRACE, grpc_ended.cancelled())
        .await
        .is_none()
    {
        tracing::warn!(after = ?SHUTDOWN_GRACE, "connections are still open; closing them");
    }
}

async fn listen(variable: &'static str, ip: std::net::IpAddr, port: u16) -> Result<TcpListener, ServeError> {
    let address = SocketAddr::new(ip, port);
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen {
            variable,
            address,
            source,
        })
}

/// Lets every connection that may be open have its file: many systems start a process with room for 1,024.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit
        .maximum
        .map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
    if limit.current.is_none_or(|current| current >= OPEN_FILES) {
        return;
    }
    let raised = Rlimit {
        current: Some(allowed),
        ..limit
    };
    if setrlimit(Resource::Nofile, raised).is_err() || allowed < OPEN_FILES {
        tracing::warn!(
            allowed,
            wanted = OPEN_FILES,
            "few files may be open at once; with many connections the node may run out (ulimit -n)"
        );
    }
}

/// Tells the service manager, when there is one.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
