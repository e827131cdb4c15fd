//! The gRPC server: its services, its windows and bounds.

use super::{Api, connections, undecodable};
use crate::limits::{
    CONNECTION_CALLS_MAX, CONNECTION_WINDOW_BYTES, CONNECTIONS_MAX, KEEP_ALIVE, STREAM_WINDOW_BYTES,
};
use crate::node::Handle;
use futures::Stream;
use rdb_proto::v1;
use rdb_proto::v1::admin_server::AdminServer;
use rdb_proto::v1::changes_server::ChangesServer;
use rdb_proto::v1::cluster_server::ClusterServer;
use rdb_proto::v1::data_server::DataServer;
use rdb_proto::v1::subscriptions_server::SubscriptionsServer;
use std::io;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpIncoming};

/// Why there is no gRPC server.
#[derive(Debug, Error)]
#[error("the gRPC services cannot be described: {0}")]
pub struct Error(#[from] tonic_reflection::server::Error);

/// The connections to a listener; small answers leave them at once.
pub fn accepted(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

/// Serves every gRPC service over what is accepted, in a task until `closing`, then lets calls under way end. The
/// token that comes back is cancelled when the last of them has.
///
/// # Errors
/// [`struct@Error`] when the services' own description cannot be read.
pub async fn serve<S>(
    node: &Handle,
    accepted: impl Stream<Item = io::Result<S>> + Send + 'static,
    closing: CancellationToken,
) -> Result<CancellationToken, Error>
where
    S: Connected + AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<DataServer<Api>>().await;
    reporter.set_serving::<ChangesServer<Api>>().await;
    reporter.set_serving::<SubscriptionsServer<Api>>().await;
    reporter.set_serving::<ClusterServer<Api>>().await;
    reporter.set_serving::<AdminServer<Api>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let api = Api::new(node.clone());
    // Windows wide enough for a stream at full speed, and bounds on connections and open calls.
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(CONNECTION_CALLS_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .layer(undecodable::layer())
        .add_service(api.data())
        .add_service(api.changes())
        .add_service(api.subscriptions())
        .add_service(api.cluster())
        .add_service(api.admin())
        .add_service(node.member_service())
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let incoming = connections::incoming(node.telemetry(), accepted, CONNECTIONS_MAX);
    let ended = CancellationToken::new();
    let guard = ended.clone().drop_guard();
    let stopping = node.tasks().stopping();
    node.tasks().spawn(async move {
        stopping.await;
        for service in [
            "",
            "rdb.v1.Data",
            "rdb.v1.Changes",
            "rdb.v1.Subscriptions",
            "rdb.v1.Cluster",
            "rdb.v1.Admin",
        ] {
            reporter
                .set_service_status(service, tonic_health::ServingStatus::NotServing)
                .await;
        }
    });
    node.tasks().spawn(async move {
        let _guard = guard;
        let result = server
            .serve_with_incoming_shutdown(incoming, closing.cancelled_owned())
            .await;
        if let Err(error) = result {
            tracing::error!(%error, "the gRPC server failed");
        }
    });
    Ok(ended)
}
