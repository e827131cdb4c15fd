//! The gRPC and HTTP surfaces: wire types to words and back. Nothing is decided here.

mod admin;
mod append_each;
mod append_stream;
mod cluster;
mod connections;
mod elsewhere;
mod forward;
pub mod grpc;
pub mod http;
mod places;
mod read;
mod snapshot;
mod status;
mod subscribe;
mod subscriptions;
mod times;
mod undecodable;
mod verify;
mod write;

#[doc(hidden)]
pub use subscribe::selection;

use crate::node::Handle;
use crate::node::telemetry::Method;
use forward::Peers;
use rdb_proto::limits::MESSAGE_BYTES_MAX;
use rdb_proto::v1;
use rdb_proto::v1::admin_server::{Admin, AdminServer};
use rdb_proto::v1::changes_server::{Changes, ChangesServer};
use rdb_proto::v1::cluster_server::{Cluster, ClusterServer};
use rdb_proto::v1::data_server::{Data, DataServer};
use rdb_proto::v1::subscriptions_server::{Subscriptions, SubscriptionsServer};
use tonic::{Request, Response, Status, Streaming};

/// The services of one node.
#[derive(Debug, Clone)]
pub struct Api {
    node: Handle,
    peers: Peers,
}

impl Api {
    /// Serves this node.
    pub fn new(node: Handle) -> Self {
        Self {
            node,
            peers: Peers::default(),
        }
    }

    /// Keys.
    pub fn data(&self) -> DataServer<Self> {
        DataServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The change stream.
    pub fn changes(&self) -> ChangesServer<Self> {
        ChangesServer::new(self.clone()).max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Named subscriptions.
    pub fn subscriptions(&self) -> SubscriptionsServer<Self> {
        SubscriptionsServer::new(self.clone())
    }

    /// What the database looks like.
    pub fn cluster(&self) -> ClusterServer<Self> {
        ClusterServer::new(self.clone())
    }

    /// What operators ask for.
    pub fn admin(&self) -> AdminServer<Self> {
        AdminServer::new(self.clone())
    }

    /// Runs one call: counts it, times it, and turns its error into a status.
    async fn call<T>(
        &self,
        method: Method,
        call: impl Future<Output = Result<T, status::CallError>>,
    ) -> Result<Response<T>, Status> {
        Ok(Response::new(self.counted(method, call).await?))
    }

    /// Runs one call, or one request of a stream that is a call by itself: counts and times it.
    async fn counted<T>(
        &self,
        method: Method,
        call: impl Future<Output = Result<T, status::CallError>>,
    ) -> Result<T, status::CallError> {
        let began = crate::clock::monotonic();
        let result = call.await;
        let reason = result.as_ref().err().map(status::CallError::reason);
        self.node.telemetry().called(method, reason, began);
        result
    }
}

#[tonic::async_trait]
impl Data for Api {
    async fn write(&self, request: Request<v1::WriteRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        self.call(Method::Write, write::write(self, request)).await
    }

    async fn append(
        &self,
        request: Request<v1::AppendRequest>,
    ) -> Result<Response<v1::AppendResponse>, Status> {
        self.call(Method::Append, write::append(self, request)).await
    }

    type AppendStreamStream = append_stream::AppendAnswers;

    async fn append_stream(
        &self,
        request: Request<Streaming<v1::AppendRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let stream = async { Ok(append_stream::append_stream(self, request)) };
        self.call(Method::AppendStream, stream).await
    }

    type AppendEachStream = append_each::Answers;

    async fn append_each(
        &self,
        request: Request<Streaming<v1::AppendEachRequest>>,
    ) -> Result<Response<Self::AppendEachStream>, Status> {
        let stream = async { Ok(append_each::append_each(self, request.into_inner())) };
        self.call(Method::AppendEach, stream).await
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        self.call(Method::Delete, write::delete(self, request)).await
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<v1::ReadResponse>, Status> {
        self.call(Method::Read, read::read(self, request)).await
    }

    async fn snapshot(
        &self,
        request: Request<v1::SnapshotRequest>,
    ) -> Result<Response<v1::SnapshotResponse>, Status> {
        self.call(Method::Snapshot, snapshot::snapshot(self, request))
            .await
    }

    type HistoryStream = read::History;

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<Self::HistoryStream>, Status> {
        self.call(Method::History, read::history(self, request)).await
    }

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        self.call(Method::ListKeys, read::list_keys(self, request)).await
    }
}

#[tonic::async_trait]
impl Changes for Api {
    type SubscribeStream = subscribe::ChangeStream;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        // Boxed: what begins a stream is large.
        let stream = Box::pin(subscribe::subscribe(self, request));
        self.call(Method::Subscribe, stream).await
    }

    async fn times_after(
        &self,
        request: Request<v1::TimesAfterRequest>,
    ) -> Result<Response<v1::TimesAfterResponse>, Status> {
        self.call(Method::TimesAfter, times::times_after(self, request))
            .await
    }
}

#[tonic::async_trait]
impl Subscriptions for Api {
    async fn claim(&self, request: Request<v1::ClaimRequest>) -> Result<Response<v1::ClaimResponse>, Status> {
        self.call(Method::Claim, subscriptions::claim(self, request))
            .await
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        self.call(Method::Acknowledge, subscriptions::acknowledge(self, request))
            .await
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        self.call(Method::Release, subscriptions::release(self, request))
            .await
    }

    async fn seek(&self, request: Request<v1::SeekRequest>) -> Result<Response<v1::SeekResponse>, Status> {
        self.call(Method::Seek, subscriptions::seek(self, request)).await
    }

    async fn forget(
        &self,
        request: Request<v1::ForgetRequest>,
    ) -> Result<Response<v1::ForgetResponse>, Status> {
        self.call(Method::Forget, subscriptions::forget(self, request))
            .await
    }

    async fn list(
        &self,
        request: Request<v1::ListSubscriptionsRequest>,
    ) -> Result<Response<v1::ListSubscriptionsResponse>, Status> {
        self.call(Method::ListSubscriptions, subscriptions::list(self, request))
            .await
    }
}

#[tonic::async_trait]
impl Cluster for Api {
    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        self.call(Method::Status, cluster::status(self, request)).await
    }

    async fn map(&self, _: Request<v1::MapRequest>) -> Result<Response<v1::MapResponse>, Status> {
        self.call(Method::Map, async { Ok(cluster::map(&self.node)) })
            .await
    }
}

#[tonic::async_trait]
impl Admin for Api {
    async fn move_seat(
        &self,
        request: Request<v1::MoveSeatRequest>,
    ) -> Result<Response<v1::MoveSeatResponse>, Status> {
        self.call(Method::MoveSeat, admin::move_seat(self, request)).await
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        self.call(Method::Drain, admin::drain(self, request)).await
    }

    async fn undrain(
        &self,
        request: Request<v1::UndrainRequest>,
    ) -> Result<Response<v1::UndrainResponse>, Status> {
        self.call(Method::Undrain, admin::undrain(self, request)).await
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveRequest>,
    ) -> Result<Response<v1::RemoveResponse>, Status> {
        self.call(Method::Remove, admin::remove(self, request)).await
    }

    async fn etcd_restored(
        &self,
        request: Request<v1::EtcdRestoredRequest>,
    ) -> Result<Response<v1::EtcdRestoredResponse>, Status> {
        self.call(Method::EtcdRestored, admin::etcd_restored(self, request))
            .await
    }

    type VerifyStream = verify::Findings;

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        self.call(Method::Verify, verify::verify(self, request)).await
    }
}
