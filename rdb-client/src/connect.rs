//! Connections: which node is called, and the loop that calls again.

use crate::clock::{self, Deadline};
use crate::limits::{
    ATTEMPT_TIMEOUT, CALL_TIMEOUT_DEFAULT, CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, KEEP_ALIVE_INTERVAL,
    KEEP_ALIVE_TIMEOUT, PORT_DEFAULT, STREAM_WINDOW_BYTES,
};
use crate::retry::{Attempts, CallKind, Next};
use crate::{Error, Seq};
use rdb_proto::limits::MESSAGE_BYTES_MAX;
use rdb_proto::types::FieldError;
use rdb_proto::v1::admin_client::AdminClient;
use rdb_proto::v1::changes_client::ChangesClient;
use rdb_proto::v1::cluster_client::ClusterClient;
use rdb_proto::v1::data_client::DataClient;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// A client of one database. Cheap to clone; clones share connections.
///
/// Connections are opened when first needed and opened again when lost. With several nodes, one is used until it
/// fails, then the next.
#[derive(Clone)]
pub struct Client {
    nodes: Arc<Nodes>,
    timeout: Option<Duration>,
}

struct Nodes {
    all: Vec<Node>,
    /// Position of the node in use. Any value is right: it only spreads luck.
    current: AtomicUsize,
    /// Highest seq that any answer named: `retried_since` of a retry.
    known_seq: AtomicU64,
}

/// One node and its connection.
#[derive(Clone)]
pub(crate) struct Node {
    position: usize,
    pub(crate) address: Arc<str>,
    channel: Channel,
}

impl Node {
    pub(crate) fn data(&self) -> DataClient<Channel> {
        DataClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn changes(&self) -> ChangesClient<Channel> {
        ChangesClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }
}

/// One attempt of a call.
pub(crate) struct Attempt {
    pub(crate) node: Node,
    /// Set when an earlier attempt may have been stored.
    pub(crate) retried_since: Option<u64>,
    timeout: Option<Duration>,
}

impl Attempt {
    /// Wraps a message, so that the server knows how long the answer is waited for.
    pub(crate) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        request
    }
}

impl Client {
    /// Prepares connections to any node or nodes of a database, as `host:port` (the port is 2048 when left out).
    /// Nothing is connected yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `FIELD_INVALID` when there is no address, or one that is not valid.
    pub fn connect<A: AsRef<str>>(addresses: impl IntoIterator<Item = A>) -> Result<Self, Error> {
        let all = addresses
            .into_iter()
            .enumerate()
            .map(|(position, address)| connect_lazily(position, address.as_ref().trim()))
            .collect::<Result<Vec<_>, _>>()?;
        if all.is_empty() {
            return Err(FieldError::invalid("server", "must name at least one node").into());
        }
        let nodes = Nodes {
            all,
            current: AtomicUsize::new(0),
            known_seq: AtomicU64::new(0),
        };
        Ok(Self {
            nodes: Arc::new(nodes),
            timeout: Some(CALL_TIMEOUT_DEFAULT),
        })
    }

    /// Sets how long each call may take, retries included. `None` retries for ever. The default is 10 s.
    #[must_use]
    pub fn with_timeout(&self, timeout: Option<Duration>) -> Self {
        Self {
            nodes: Arc::clone(&self.nodes),
            timeout,
        }
    }

    /// Highest seq that any answer named so far.
    pub fn known_seq(&self) -> Seq {
        Seq(self.nodes.known_seq.load(Ordering::Relaxed))
    }

    pub(crate) fn note_seq(&self, seq: Seq) {
        self.nodes.known_seq.fetch_max(seq.get(), Ordering::Relaxed);
    }

    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }

    /// The node in use.
    pub(crate) fn node(&self) -> Result<Node, Error> {
        let current = self.nodes.current.load(Ordering::Relaxed);
        let node = self.nodes.all.iter().cycle().nth(current % self.nodes.all.len());
        node.cloned()
            .ok_or_else(|| FieldError::invalid("server", "must name at least one node").into())
    }

    /// Goes on with the next node, unless somebody else has already left this one.
    pub(crate) fn leave(&self, node: &Node) {
        let next = node.position.wrapping_add(1) % self.nodes.all.len();
        let current = &self.nodes.current;
        if current
            .compare_exchange(node.position, next, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
            && next != node.position
        {
            tracing::debug!(from = %node.address, "going on with the next node");
        }
    }

    /// Calls until it succeeds, is refused, or the deadline passes. Tells how many attempts it took.
    pub(crate) async fn call<T, Fut>(
        &self,
        kind: CallKind,
        mut make: impl FnMut(Attempt) -> Fut,
    ) -> Result<(T, u32), Error>
    where
        Fut: Future<Output = Result<T, Status>>,
    {
        let deadline = self.deadline();
        let known_before = self.known_seq().get();
        let mut attempts = Attempts::new(kind);
        loop {
            let node = self.node()?;
            attempts.begin();
            let limit = self.attempt_deadline(deadline);
            let attempt = Attempt {
                node: node.clone(),
                retried_since: attempts.is_unknown().then_some(known_before),
                timeout: limit.remaining(),
            };
            let error = match limit.run(make(attempt)).await {
                Ok(Ok(answer)) => return Ok((answer, attempts.made())),
                Ok(Err(status)) => Error::from_status(&status, &node.address),
                Err(_passed) => Error::deadline(),
            };
            if error.is_transient() {
                self.leave(&node);
            }
            match attempts.failed(error, deadline) {
                Next::Tell(error) => return Err(error),
                Next::Retry(delay) => {
                    tracing::debug!(attempt = attempts.made(), ?delay, "calling again");
                    clock::sleep(delay).await;
                }
            }
        }
    }

    /// With another node to ask, a silent one does not get all the time there is.
    fn attempt_deadline(&self, deadline: Deadline) -> Deadline {
        if self.nodes.all.len() > 1 {
            deadline.at_most(ATTEMPT_TIMEOUT)
        } else {
            deadline
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<&str> = self.nodes.all.iter().map(|node| &*node.address).collect();
        f.debug_struct("Client")
            .field("nodes", &addresses)
            .field("timeout", &self.timeout)
            .finish()
    }
}

fn connect_lazily(position: usize, address: &str) -> Result<Node, Error> {
    let address = with_port(address);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
        FieldError::invalid("server", format!("must be host:port, not {address:?}: {error}"))
    })?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    Ok(Node {
        position,
        channel: endpoint.connect_lazy(),
        address: address.into(),
    })
}

fn with_port(address: &str) -> String {
    let address = address.trim_start_matches("http://").trim_end_matches('/');
    let host_end = address.rfind(']').unwrap_or(0);
    match address.get(host_end..) {
        Some(rest) if rest.contains(':') => address.to_owned(),
        _ => format!("{address}:{PORT_DEFAULT}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_gets_the_default_one() {
        assert_eq!(with_port("n1"), "n1:2048");
        assert_eq!(with_port("n1:7"), "n1:7");
        assert_eq!(with_port("[::1]"), "[::1]:2048");
        assert_eq!(with_port("[::1]:7"), "[::1]:7");
        assert_eq!(with_port("http://n1:7/"), "n1:7");
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused() {
        let error = Client::connect(["no such host"]).unwrap_err();
        assert!(error.message().starts_with("server must be host:port"), "{error}");
        assert!(Client::connect(Vec::<String>::new()).is_err());
    }

    #[tokio::test]
    async fn a_node_that_fails_is_left_once() {
        let client = Client::connect(["a", "b", "c"]).unwrap();
        let first = client.node().unwrap();
        client.leave(&first);
        client.leave(&first);
        assert_eq!(&*client.node().unwrap().address, "b:2048");
    }
}
