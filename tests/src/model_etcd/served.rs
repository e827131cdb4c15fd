//! The model behind etcd's own interface, for the real client.

use super::refusal::Refusal;
use super::state::{Model, header};
use super::watches::{StreamId, Wanted};
use crate::random::Random;
use crate::time::{Stopwatch, pause};
use etcd_client::WatchFilterType;
use etcd_client::proto::{
    PbAlarmRequest, PbAlarmResponse, PbCompactionRequest, PbCompactionResponse, PbDefragmentRequest,
    PbDefragmentResponse, PbDeleteRequest, PbDeleteResponse, PbDowngradeRequest, PbDowngradeResponse,
    PbHashKvRequest, PbHashKvResponse, PbHashRequest, PbHashResponse, PbKvServer, PbKvService,
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse,
    PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseServer,
    PbLeaseService, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse, PbMaintenanceServer,
    PbMaintenanceService, PbMoveLeaderRequest, PbMoveLeaderResponse, PbPutRequest, PbPutResponse,
    PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbSnapshotRequest, PbSnapshotResponse,
    PbStatusRequest, PbStatusResponse, PbTxnRequest, PbTxnResponse, PbWatchRequest, PbWatchRequestUnion,
    PbWatchResponse, PbWatchServer, PbWatchService,
};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// The release that it says it is: the first one without a mistake that the product warns of.
const RELEASE: &str = "3.4.31";

/// Messages that a stream may be behind by. One that is behind by more is ended.
const BEHIND_MAX: usize = 4_096;

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing happens, and the client is told so.
    Refused,
    /// It is done, and the client is told that it was not.
    AnswerLost,
}

/// Which calls go wrong. Those that only ask for a lease's time, and streams, do not.
#[derive(Debug, Clone)]
pub struct Faults {
    /// One in so many, half of them after they were done.
    pub one_in: u64,
    /// What the choices follow from.
    pub random: Random,
}

impl Faults {
    fn draw(&mut self) -> Option<Fault> {
        let fault = if self.random.one_in(2) {
            Fault::Refused
        } else {
            Fault::AnswerLost
        };
        self.random.one_in(self.one_in).then_some(fault)
    }
}

#[derive(Debug)]
struct State {
    model: Model,
    faults: Option<Faults>,
    streams: BTreeMap<StreamId, mpsc::Sender<Result<PbWatchResponse, Status>>>,
    next_stream: StreamId,
}

impl State {
    /// Hands what is told to the streams.
    fn tell(&mut self) {
        for (stream, response) in self.model.told() {
            let sent = self.streams.get(&stream).map(|to| to.try_send(Ok(response)));
            if sent.is_some_and(|sent| sent.is_err()) {
                self.close(stream);
            }
        }
    }

    fn close(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
        self.model.close(stream);
    }
}

/// The model, and who is told of it. Cheap to clone; it outlives whoever serves it.
#[derive(Debug, Clone)]
pub struct Service(Arc<Mutex<State>>);

impl Service {
    /// A model of nothing. No lease is shorter than so many seconds. Time stands still until it is told to go by.
    pub fn new(shortest_lease: i64) -> Self {
        Self(Arc::new(Mutex::new(State {
            model: Model::new(shortest_lease),
            faults: None,
            streams: BTreeMap::new(),
            next_stream: 0,
        })))
    }

    /// Serves connections that were accepted.
    pub async fn serve<S>(self, accepted: impl Stream<Item = io::Result<S>>)
    where
        S: Connected + AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let server = Server::builder()
            .add_service(PbKvServer::new(self.clone()))
            .add_service(PbLeaseServer::new(self.clone()))
            .add_service(PbWatchServer::new(self.clone()))
            .add_service(PbMaintenanceServer::new(self));
        server.serve_with_incoming(accepted).await.unwrap();
    }

    /// Lets leases end by a clock.
    #[expect(clippy::infinite_loop, reason = "it is dropped with its server")]
    pub async fn let_time_pass(self, now: impl Fn() -> Duration) {
        loop {
            pause().await;
            self.with(|model| model.advance(now()));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the model itself, or changes it behind everybody's back; who watches is told.
    pub fn with<T>(&self, change: impl FnOnce(&mut Model) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state.model);
        state.tell();
        result
    }

    /// Forgets all that was, and ends every stream of watches before anybody hears of it.
    pub fn compact_unseen(&self) {
        let mut state = self.state();
        let compaction = PbCompactionRequest {
            revision: state.model.revision(),
            physical: true,
        };
        // It was done already, when nothing has changed since.
        let _is_new = state.model.compact(&compaction).is_ok();
        let streams: Vec<StreamId> = state.streams.keys().copied().collect();
        for stream in streams {
            state.close(stream);
        }
        state.tell();
    }

    /// From now on calls go wrong like this, or not at all.
    pub fn fail(&self, faults: impl Into<Option<Faults>>) {
        self.state().faults = faults.into();
    }

    /// A call, which may go wrong.
    fn call<T>(&self, change: impl FnOnce(&mut Model) -> Result<T, Refusal>) -> Result<Response<T>, Status> {
        let failed = || Err(Status::unavailable("etcdserver: request timed out"));
        let fault = self.state().faults.as_mut().and_then(Faults::draw);
        if fault == Some(Fault::Refused) {
            return failed();
        }
        let answer = self.with(change);
        if fault == Some(Fault::AnswerLost) {
            return failed();
        }
        answer.map(Response::new).map_err(Refusal::status)
    }
}

/// A model that listens on loopback, until it is dropped.
#[derive(Debug)]
pub struct ModelEtcd {
    service: Service,
    address: SocketAddr,
    /// The server, and the clock.
    tasks: JoinSet<()>,
}

impl ModelEtcd {
    /// Starts one. No lease is shorter than so many seconds. Time stands still until it is told to go by.
    pub async fn start(shortest_lease: i64) -> Self {
        let service = Service::new(shortest_lease);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(service.clone().serve(TcpListenerStream::new(listener)));
        Self {
            service,
            address,
            tasks,
        }
    }

    /// The same, whose leases end by the clock.
    pub async fn start_with_clock(shortest_lease: i64) -> Self {
        let mut this = Self::start(shortest_lease).await;
        let clock = Stopwatch::start();
        this.tasks
            .spawn(this.service.clone().let_time_pass(move || clock.elapsed()));
        this
    }

    /// host:port at which it listens.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Asks the model itself, or changes it behind everybody's back.
    pub fn with<T>(&self, change: impl FnOnce(&mut Model) -> T) -> T {
        self.service.with(change)
    }

    /// Forgets all that was, and ends every stream of watches before anybody hears of it.
    pub fn compact_unseen(&self) {
        self.service.compact_unseen();
    }

    /// From now on calls go wrong like this, or not at all.
    pub fn fail(&self, faults: impl Into<Option<Faults>>) {
        self.service.fail(faults);
    }
}

/// What a stream of answers is to the server.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_modelled<T>(what: &'static str) -> Result<Response<T>, Status> {
    Err(Refusal::NotModelled(what).status())
}

#[async_trait]
impl PbKvService for Service {
    type RangeStreamStream = Answers<PbRangeStreamResponse>;

    async fn range(&self, request: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        self.call(|model| model.range(request.get_ref()))
    }

    async fn range_stream(
        &self,
        _request: Request<PbRangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        not_modelled("a range as a stream")
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        self.call(|model| model.put(request.get_ref()))
    }

    async fn delete_range(
        &self,
        request: Request<PbDeleteRequest>,
    ) -> Result<Response<PbDeleteResponse>, Status> {
        self.call(|model| model.delete(request.get_ref()))
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        self.call(|model| model.txn(request.get_ref()))
    }

    async fn compact(
        &self,
        request: Request<PbCompactionRequest>,
    ) -> Result<Response<PbCompactionResponse>, Status> {
        self.call(|model| model.compact(request.get_ref()))
    }
}

#[async_trait]
impl PbLeaseService for Service {
    type LeaseKeepAliveStream = Answers<PbLeaseKeepAliveResponse>;

    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        self.call(|model| model.grant(request.get_ref()))
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        self.call(|model| model.revoke(request.get_ref().id))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let service = self.clone();
        let answers = request
            .into_inner()
            .map(move |asked| asked.map(|asked| service.with(|model| model.keep_alive(asked.id))));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        Ok(Response::new(
            self.with(|model| model.time_to_live(request.get_ref())),
        ))
    }

    async fn lease_leases(
        &self,
        _request: Request<PbLeaseLeasesRequest>,
    ) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        not_modelled("a list of leases")
    }
}

#[async_trait]
impl PbWatchService for Service {
    type WatchStream = Answers<PbWatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (told, answers) = mpsc::channel(BEHIND_MAX);
        let closing = {
            let mut state = self.state();
            let stream = state.next_stream;
            state.next_stream += 1;
            state.streams.insert(stream, told);
            Closing(self.clone(), stream)
        };
        // What is asked for is heard by whoever reads the answers: both are over together.
        let asked = request.into_inner().map(move |asked| {
            closing.hear(asked?);
            Ok(None)
        });
        let behind = tokio_stream::once(Err(Status::aborted("the stream of watches is over")));
        let answers = ReceiverStream::new(answers).map(|answer| answer.map(Some));
        let answers = answers.chain(behind);
        let both = asked.merge(answers);
        let told = both.filter_map(Result::transpose);
        Ok(Response::new(Box::pin(told)))
    }
}

/// A stream of watches, which is forgotten when the client is gone.
#[derive(Debug)]
struct Closing(Service, StreamId);

impl Closing {
    fn hear(&self, request: PbWatchRequest) {
        let stream = self.1;
        self.0.with(|model| match request.request_union {
            Some(PbWatchRequestUnion::CreateRequest(wanted)) => {
                let without = wanted.filters();
                let without = without.filter_map(|kind| match kind.as_str_name() {
                    "NOPUT" => Some(WatchFilterType::NoPut),
                    "NODELETE" => Some(WatchFilterType::NoDelete),
                    _ => None,
                });
                let wanted = Wanted {
                    id: wanted.watch_id,
                    from: wanted.start_revision,
                    with_before: wanted.prev_kv,
                    without: without.collect(),
                    key: wanted.key.clone(),
                    end: wanted.range_end.clone(),
                };
                model.watch(stream, wanted);
            }
            Some(PbWatchRequestUnion::CancelRequest(cancel)) => model.cancel(stream, cancel.watch_id),
            Some(PbWatchRequestUnion::ProgressRequest(_)) => model.progress(stream),
            None => {}
        });
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.state().close(self.1);
    }
}

#[async_trait]
impl PbMaintenanceService for Service {
    type SnapshotStream = Answers<PbSnapshotResponse>;

    async fn status(&self, _request: Request<PbStatusRequest>) -> Result<Response<PbStatusResponse>, Status> {
        self.call(|model| {
            Ok(PbStatusResponse {
                header: Some(header(model.revision())),
                version: RELEASE.to_owned(),
                ..PbStatusResponse::default()
            })
        })
    }

    async fn alarm(&self, _request: Request<PbAlarmRequest>) -> Result<Response<PbAlarmResponse>, Status> {
        not_modelled("alarms")
    }

    async fn defragment(
        &self,
        _request: Request<PbDefragmentRequest>,
    ) -> Result<Response<PbDefragmentResponse>, Status> {
        not_modelled("defragmentation")
    }

    async fn hash(&self, _request: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        not_modelled("hashes")
    }

    async fn hash_kv(
        &self,
        _request: Request<PbHashKvRequest>,
    ) -> Result<Response<PbHashKvResponse>, Status> {
        not_modelled("hashes")
    }

    async fn snapshot(
        &self,
        _request: Request<PbSnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        not_modelled("snapshots")
    }

    async fn move_leader(
        &self,
        _request: Request<PbMoveLeaderRequest>,
    ) -> Result<Response<PbMoveLeaderResponse>, Status> {
        not_modelled("other members")
    }

    async fn downgrade(
        &self,
        _request: Request<PbDowngradeRequest>,
    ) -> Result<Response<PbDowngradeResponse>, Status> {
        not_modelled("other releases")
    }
}
