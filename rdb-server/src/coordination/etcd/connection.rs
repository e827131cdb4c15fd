//! A channel to etcd over **one** connection: when that ends, the channel fails and is never connected anew.
//!
//! What is sent over it reaches the process that the connection was made to, or nobody. A channel that reconnects by
//! itself would send a request to whatever stands there then, such as an etcd that was restored to an older state.

use crate::clock;
use crate::limits::ETCD_CONNECT_TIMEOUT;
use etcd_client::{BalancedChannelBuilder, Channel as ClientChannel};
use http::{Request, Uri};
use hyper_util::rt::TokioIo;
use rdb_proto::network;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Mutex, OnceCell, mpsc};
use tonic::body::Body;
use tonic::transport::channel::Change;
use tonic::transport::{Channel, Endpoint};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service as _, ServiceExt as _};

/// Where etcd listens when nothing else is said.
const ETCD_PORT: u16 = 2379;

/// Makes the channel of a client, to the first endpoint that takes a connection: from the one at this position on, or
/// as many past the last one.
pub(super) struct OneConnection(pub(super) usize);

/// The channel, once the connection was made.
struct Once {
    first: usize,
    /// Endpoints, as the client adds them.
    changes: Mutex<mpsc::Receiver<Change<Uri, Endpoint>>>,
    channel: OnceCell<Channel>,
}

impl BalancedChannelBuilder for OneConnection {
    type Error = etcd_client::Error;

    fn balanced_channel(
        self,
        buffer_size: usize,
    ) -> Result<(ClientChannel, mpsc::Sender<Change<Uri, Endpoint>>), Self::Error> {
        let (sender, changes) = mpsc::channel(buffer_size);
        let once = Arc::new(Once {
            first: self.0,
            changes: Mutex::new(changes),
            channel: OnceCell::new(),
        });
        let service = tower::service_fn(move |request: Request<Body>| {
            let once = Arc::clone(&once);
            async move {
                let channel = once.channel.get_or_try_init(|| once.connect()).await?;
                let mut channel = channel.clone();
                let answer = channel.ready().await?.call(request).await;
                answer.map_err(BoxError::from)
            }
        });
        Ok((ClientChannel::Custom(BoxCloneSyncService::new(service)), sender))
    }
}

impl Once {
    async fn connect(&self) -> Result<Channel, BoxError> {
        let mut changes = self.changes.lock().await;
        let mut endpoints = Vec::new();
        while let Ok(change) = changes.try_recv() {
            if let Change::Insert(_, endpoint) = change {
                endpoints.push(endpoint);
            }
        }
        let mut problem: BoxError = "etcd has no endpoint".into();
        let count = endpoints.len();
        for endpoint in endpoints
            .iter()
            .cycle()
            .skip(self.first % count.max(1))
            .take(count)
        {
            let connecting = Box::pin(connect_once(endpoint));
            match clock::within(ETCD_CONNECT_TIMEOUT, connecting).await {
                Some(Ok(channel)) => return Ok(channel),
                Some(Err(error)) => problem = error.into(),
                None => problem = format!("no connection to {} in time", endpoint.uri()).into(),
            }
        }
        Err(problem)
    }
}

/// The library connects anew when a connection is over; the second time, this says no.
async fn connect_once(endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    let is_used = AtomicBool::new(false);
    let connector = tower::service_fn(move |uri: Uri| {
        let is_first = !is_used.swap(true, Ordering::AcqRel);
        async move {
            if !is_first {
                return Err(io::Error::other("the connection of this session is over"));
            }
            network::dial(&uri, ETCD_PORT).await.map(TokioIo::new)
        }
    });
    endpoint.connect_with_connector(connector).await
}
