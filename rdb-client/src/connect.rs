//! Connections: which node is called, and the loop that calls again.

use crate::append_each::{AppendStreams, Server};
use crate::clock::{self, Deadline};
use crate::limits::{
    ATTEMPT_TIMEOUT, CALL_TIMEOUT_DEFAULT, CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, KEEP_ALIVE_INTERVAL,
    KEEP_ALIVE_TIMEOUT, PORT_DEFAULT, STREAM_WINDOW_BYTES,
};
use crate::retry::{Attempts, CallKind, Next};
use crate::route::Nodes;
use crate::{Error, KeyName, Seq};
use rdb_proto::limits::MESSAGE_BYTES_MAX;
use rdb_proto::network;
use rdb_proto::types::{FieldError, Slot};
use rdb_proto::v1;
use rdb_proto::v1::admin_client::AdminClient;
use rdb_proto::v1::changes_client::ChangesClient;
use rdb_proto::v1::cluster_client::ClusterClient;
use rdb_proto::v1::data_client::DataClient;
use rdb_proto::v1::subscriptions_client::SubscriptionsClient;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::Handle;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// A client of one database. Cheap to clone; clones share connections.
///
/// Connections are opened when first needed and opened again when lost. One address is enough: the client learns of the
/// other nodes from it, sends what is about a key to the node that leads it, and everything else to one node until that
/// fails, then to the next.
#[derive(Clone)]
pub struct Client {
    nodes: Arc<Nodes>,
    timeout: Option<Duration>,
}

/// One node and its connection.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) address: Arc<str>,
    channel: Channel,
    appends: Arc<AppendStreams>,
    /// The one that the connection lives on.
    runtime: Handle,
}

impl Node {
    pub(crate) fn data(&self) -> DataClient<Channel> {
        DataClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Appends over the stream that all callers share.
    pub(crate) async fn append(&self, append: v1::AppendRequest) -> Result<v1::AppendResponse, Error> {
        let server = || Server {
            address: Arc::clone(&self.address),
            client: self.data(),
            runtime: self.runtime.clone(),
        };
        self.appends.append(server, append).await
    }

    pub(crate) fn changes(&self) -> ChangesClient<Channel> {
        ChangesClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn subscriptions(&self) -> SubscriptionsClient<Channel> {
        SubscriptionsClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
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

/// Why an attempt came to nothing.
pub(crate) enum Failed {
    /// As gRPC has it.
    Call(Status),
    /// As it was told on a stream.
    Told(Error),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Call(status)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Told(error)
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
            .map(|address| connect_lazily(address.as_ref().trim()))
            .collect::<Result<Vec<_>, _>>()?;
        if all.is_empty() {
            return Err(FieldError::invalid("server", "must name at least one node").into());
        }
        Ok(Self {
            nodes: Arc::new(Nodes::new(all)),
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
        let none = || FieldError::invalid("server", "must name at least one node").into();
        self.nodes.any().ok_or_else(none)
    }

    /// The node that leads the key, or any: that one passes the request on.
    pub(crate) fn node_for(&self, name: &KeyName) -> Result<Node, Error> {
        match self.nodes.leader(name.slot()) {
            Some(leader) => Ok(leader),
            None => self.node(),
        }
    }

    /// Goes on with the next node, unless somebody else has already left this one.
    pub(crate) fn leave(&self, node: &Node, error: &Error) {
        self.nodes.leave(node, error.reason().is_some());
    }

    /// See [`Nodes::note_led_at`].
    pub(crate) fn note_led_at(&self, address: &str) {
        self.nodes.note_led_at(address);
    }

    /// Calls until it succeeds, is refused, or the deadline passes. Tells how many attempts it took.
    ///
    /// The first attempt goes to the node that leads the `slot`, if there is one; others go to any node, which knows
    /// better.
    pub(crate) async fn call<T, E, Fut>(
        &self,
        kind: CallKind,
        slot: Option<Slot>,
        mut make: impl FnMut(Attempt) -> Fut,
    ) -> Result<(T, u32), Error>
    where
        E: Into<Failed>,
        Fut: Future<Output = Result<T, E>>,
    {
        let deadline = self.deadline();
        let known_before = self.known_seq().get();
        let mut attempts = Attempts::new(kind);
        loop {
            let is_first = attempts.made() == 0;
            let led = slot.and_then(|slot| Some((slot, self.nodes.leader(slot)?)));
            let led = led.filter(|_| is_first);
            let node = match &led {
                Some((_, leader)) => leader.clone(),
                None => self.node()?,
            };
            attempts.begin();
            let limit = self.attempt_deadline(deadline);
            let attempt = Attempt {
                node: node.clone(),
                retried_since: attempts.is_unknown().then_some(known_before),
                timeout: limit.remaining(),
            };
            // Boxed: the calls of a gRPC client are large.
            let mut call = Box::pin(make(attempt));
            let answered = async {
                tokio::select! {
                    biased;
                    answer = &mut call => Some(answer),
                    () = self.moved(led) => None,
                }
            };
            let error = match limit.run(answered).await {
                Ok(Some(Ok(answer))) => return Ok((answer, attempts.made())),
                Ok(Some(Err(failed))) => match failed.into() {
                    Failed::Call(status) => Error::from_status(&status, &node.address),
                    Failed::Told(error) => error,
                },
                Ok(None) => Error::moved(&node.address),
                Err(_passed) => Error::deadline(),
            };
            if error.is_transient() {
                self.leave(&node, &error);
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

    /// Completes when the node that was asked since it leads the slot does not any more.
    async fn moved(&self, asked: Option<(Slot, Node)>) {
        match asked {
            Some((slot, node)) => self.nodes.moved(slot, &node).await,
            None => std::future::pending().await,
        }
    }

    /// With another node to ask, a silent one does not get all the time there is.
    pub(crate) fn attempt_deadline(&self, deadline: Deadline) -> Deadline {
        if self.nodes.are_several() {
            deadline.at_most(ATTEMPT_TIMEOUT)
        } else {
            deadline
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("nodes", &self.nodes.addresses())
            .field("timeout", &self.timeout)
            .finish()
    }
}

pub(crate) fn connect_lazily(address: &str) -> Result<Node, Error> {
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
        channel: network::connect_lazily(&endpoint),
        address: address.into(),
        appends: Arc::default(),
        runtime: Handle::current(),
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
}
