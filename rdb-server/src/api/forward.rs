//! Requests that another node can answer: passed on as they are, and their answers passed back.
//!
//! A request is passed on once: the node that gets it answers, or refuses. After the first byte has left, a broken
//! connection says nothing about what happened, so a write's outcome is then unknown (DESIGN 9).

use super::places::{Place, Places as StreamPlaces};
use super::status::CallError;
use crate::limits::{CONNECTION_WINDOW_BYTES, FORWARD_CONNECT_TIMEOUT, KEEP_ALIVE, STREAM_WINDOW_BYTES};
use crate::node::{Handle, Need, NodeError, Peer, Route};
use futures::future::BoxFuture;
use rdb_proto::limits::MESSAGE_BYTES_MAX;
use rdb_proto::network;
use rdb_proto::types::{EventId, KeyName, SeatId};
use rdb_proto::v1::admin_client::AdminClient;
use rdb_proto::v1::changes_client::ChangesClient;
use rdb_proto::v1::cluster_client::ClusterClient;
use rdb_proto::v1::data_client::DataClient;
use rdb_proto::v1::subscriptions_client::SubscriptionsClient;
use std::collections::BTreeMap;
use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// Names the seats that a request was passed on for; one that has it is not passed on again.
pub(super) const FORWARDED: &str = "rdb-forwarded";

/// How long the caller waits, by gRPC.
const TIMEOUT: &str = "grpc-timeout";

/// Connections to other nodes, by address. Made when first used, kept from then on; but for change streams.
#[derive(Debug, Clone, Default)]
pub(super) struct Peers {
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
    places: StreamPlaces,
}

impl Peers {
    fn channel(&self, address: &str) -> Result<Channel, CallError> {
        // A panic while the lock was held left no half-made change: each is one insertion.
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = network::connect_lazily(&endpoint(address)?);
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    pub(super) fn data(&self, address: &str) -> Result<DataClient<Channel>, CallError> {
        Ok(DataClient::new(self.channel(address)?)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    pub(super) fn cluster(&self, address: &str) -> Result<ClusterClient<Channel>, CallError> {
        Ok(ClusterClient::new(self.channel(address)?))
    }

    pub(super) fn admin(&self, address: &str) -> Result<AdminClient<Channel>, CallError> {
        Ok(AdminClient::new(self.channel(address)?))
    }

    pub(super) fn subscriptions(&self, address: &str) -> Result<SubscriptionsClient<Channel>, CallError> {
        Ok(SubscriptionsClient::new(self.channel(address)?).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    pub(super) fn changes(&self, address: &str) -> Result<ChangesClient<Channel>, CallError> {
        Ok(ChangesClient::new(self.channel(address)?))
    }

    /// For a change stream, over a connection that only such share: a subscriber that is slow holds up nobody's answers.
    pub(super) fn place(&self, address: &str) -> Result<Place, CallError> {
        self.places.take(address)
    }

    /// For streams of a client, over a connection of their own for the same reason.
    pub(super) fn streams(address: &str) -> Result<DataClient<Channel>, CallError> {
        Ok(DataClient::new(network::connect_lazily(&endpoint(address)?))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}

/// Where another node is, and how it is spoken to.
pub(super) fn endpoint(address: &str) -> Result<Endpoint, CallError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_malformed| NodeError::Address(address.to_owned()))?;
    Ok(endpoint
        .connect_timeout(FORWARD_CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

/// The seats that a request was passed on for; `None` when it comes from a client.
pub(super) fn passed_on_for(metadata: &MetadataMap) -> Option<Vec<SeatId>> {
    let seats = metadata.get(FORWARDED)?.to_str().ok()?;
    Some(seats.split(',').filter_map(SeatId::parse).collect())
}

/// Where a request about a key goes; one that was passed on is answered here.
pub(super) fn route(
    node: &Handle,
    metadata: &MetadataMap,
    name: &KeyName,
    need: Need,
) -> Result<(SeatId, Route), CallError> {
    let seat = node.seat_of(name.slot());
    let route = route_seat(node, metadata, seat, need)?;
    if let Route::There(_) = route {
        node.telemetry().calls_passed_on.inc();
    }
    Ok((seat, route))
}

/// Where a request about a seat goes; one that was passed on is answered here.
pub(super) fn route_seat(
    node: &Handle,
    metadata: &MetadataMap,
    seat: SeatId,
    need: Need,
) -> Result<Route, CallError> {
    if metadata.contains_key(FORWARDED) {
        return Ok(Route::Here);
    }
    Ok(node.route(seat, need)?)
}

/// Where a request about all seats goes.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Seats that are answered here.
    pub(super) here: Vec<SeatId>,
    /// Those of each other node, by its host:port.
    pub(super) there: BTreeMap<String, Vec<SeatId>>,
}

impl Places {
    pub(super) fn of(node: &Handle, need: Need) -> Result<Self, CallError> {
        let mut places = Self::default();
        for seat in node.seats() {
            match node.route(seat, need)? {
                Route::Here => places.here.push(seat),
                Route::There(peer) => places.there.entry(peer.address).or_default().push(seat),
            }
        }
        Ok(places)
    }
}

/// The request for another node: for these seats, with as much time as the caller gives.
pub(super) fn pass_on<T>(metadata: &MetadataMap, seats: &[SeatId], message: T) -> Request<T> {
    let mut request = Request::new(message);
    let names: Vec<String> = seats.iter().map(ToString::to_string).collect();
    let headers = request.metadata_mut();
    if let Ok(names) = MetadataValue::try_from(names.join(",")) {
        headers.insert(FORWARDED, names);
    }
    if let Some(timeout) = metadata.get(TIMEOUT) {
        headers.insert(TIMEOUT, timeout.clone());
    }
    request
}

/// Waits for a leader's answer, for as long as it holds the seat: a node that was stopped answers nothing, and its
/// connection stands.
pub(super) fn answered<'a, T: 'a>(
    node: &'a Handle,
    (seat, peer): (SeatId, &'a Peer),
    call: impl Future<Output = Result<Response<T>, Status>> + Send + 'a,
) -> BoxFuture<'a, Result<T, Status>> {
    // Boxed: the calls of a gRPC client are large, and most requests make none.
    let call = Box::pin(call);
    Box::pin(async move {
        tokio::select! {
            biased;
            answer = call => answer.map(Response::into_inner),
            () = node.moved(seat, peer) => Err(Status::unavailable("the seat has another leader now")),
        }
    })
}

/// What to tell the client when another node did not answer a write as it should.
pub(super) fn write_failed(status: Status, seat: SeatId, event_id: EventId) -> CallError {
    change_failed(status, seat, NodeError::Unknown(event_id))
}

/// The same of any change, which may have happened when the request was sent: then this is told.
pub(super) fn change_failed(status: Status, seat: SeatId, unknown: NodeError) -> CallError {
    if has_reason(&status) {
        CallError::Forwarded(Box::new(status))
    } else if was_never_sent(&status) {
        NodeError::vacant(seat).into()
    } else {
        unknown.into()
    }
}

/// The same of a read, which changes nothing.
pub(super) fn read_failed(status: Status, seat: SeatId) -> CallError {
    if has_reason(&status) {
        CallError::Forwarded(Box::new(status))
    } else {
        NodeError::vacant(seat).into()
    }
}

/// The same of a read of several seats, of which there is at least one.
pub(super) fn reads_failed(status: Status, seats: &[SeatId]) -> CallError {
    match seats.first() {
        Some(seat) => read_failed(status, *seat),
        None => CallError::Forwarded(Box::new(status)),
    }
}

fn has_reason(status: &Status) -> bool {
    super::status::reason_of(status).is_some()
}

/// Nobody listened: the request cannot have arrived.
fn was_never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::ConnectionRefused;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_proto::types::{GroupId, Side};

    const SEATS: [SeatId; 2] = [
        SeatId {
            group: GroupId(3),
            side: Side::Zero,
        },
        SeatId {
            group: GroupId(12),
            side: Side::One,
        },
    ];

    #[test]
    fn a_request_that_was_passed_on_names_its_seats_and_keeps_its_deadline() {
        let mut metadata = MetadataMap::new();
        metadata.insert(TIMEOUT, MetadataValue::from_static("250m"));
        let request = pass_on(&metadata, &SEATS, ());
        assert_eq!(passed_on_for(request.metadata()), Some(SEATS.to_vec()));
        assert_eq!(request.metadata().get(TIMEOUT), metadata.get(TIMEOUT));
        assert_eq!(passed_on_for(&metadata), None);
    }

    #[test]
    fn a_broken_connection_leaves_a_write_unknown_and_a_refused_one_does_not() {
        let id = EventId(crate::clock::new_uuid());
        let reason = |status| write_failed(status, SEATS[0], id).reason();
        let broken = Status::from_error(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)));
        assert_eq!(reason(broken), rdb_proto::reason::Reason::OutcomeUnknown);
        let refused = Status::from_error(Box::new(io::Error::from(io::ErrorKind::ConnectionRefused)));
        assert_eq!(reason(refused), rdb_proto::reason::Reason::SeatVacant);
        let told = Status::from(CallError::from(NodeError::ShuttingDown));
        assert_eq!(reason(told), rdb_proto::reason::Reason::ShuttingDown);
    }
}
