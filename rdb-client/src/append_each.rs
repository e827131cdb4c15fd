//! Appends of all callers of a client over one stream to each node: a message each instead of a call each.
//!
//! ```text
//! append() ─► requests ─► server
//!    ▲                       │ in any order
//!    └── by number ◄─ driver ◄
//! ```
//!
//! A stream is opened by the first append, and again by the first one after it broke. One that breaks leaves unknown
//! what was not answered on it, as a connection does that breaks under calls: the loop that calls again decides.

use crate::Error;
use crate::limits::APPENDS_UNDER_WAY_MAX;
use crate::tasks::{self, Task};
use rdb_proto::v1;
use rdb_proto::v1::append_each_response::Outcome;
use rdb_proto::v1::data_client::DataClient;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// The stream to one node, when there is one.
#[derive(Default)]
pub(crate) struct AppendStreams(Mutex<Option<Arc<Stream>>>);

struct Stream {
    requests: mpsc::Sender<v1::AppendEachRequest>,
    waiting: Arc<Mutex<Waiting>>,
    _driver: Task<()>,
}

type Answer = Result<v1::AppendResponse, Error>;

/// Who waits for an answer.
#[derive(Default)]
struct Waiting {
    next_number: u64,
    by_number: BTreeMap<u64, oneshot::Sender<Answer>>,
    /// Why no more answers come.
    over: Option<Error>,
}

impl AppendStreams {
    /// Sends an append to the node, over a stream by this client if there is none, and waits for its answer.
    ///
    /// **Cancel safety**: dropping the future leaves the outcome unknown.
    pub(crate) async fn append(
        &self,
        (address, client): (&Arc<str>, DataClient<Channel>),
        append: v1::AppendRequest,
    ) -> Answer {
        let stream = self.stream(address, client);
        let place = Place::take(&stream.waiting)?;
        let request = v1::AppendEachRequest {
            number: place.number,
            append: Some(append),
        };
        // When the stream is over, the answer says why.
        drop(stream.requests.send(request).await);
        place.answer().await
    }

    fn stream(&self, address: &Arc<str>, client: DataClient<Channel>) -> Arc<Stream> {
        // A panic while the lock was held left a stream or none.
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*open {
            Some(stream) if lock(&stream.waiting).over.is_none() => Arc::clone(stream),
            _ => Arc::clone(open.insert(Arc::new(Stream::open(Arc::clone(address), client)))),
        }
    }
}

impl Stream {
    fn open(address: Arc<str>, client: DataClient<Channel>) -> Self {
        let (requests, outbound) = mpsc::channel(APPENDS_UNDER_WAY_MAX);
        let waiting = Arc::<Mutex<Waiting>>::default();
        let told = Arc::clone(&waiting);
        let driver = tasks::spawn(async move {
            let why = converse(&address, client, outbound, &told).await;
            let left = {
                let mut waiting = lock(&told);
                waiting.over = Some(why.clone());
                std::mem::take(&mut waiting.by_number)
            };
            for caller in left.into_values() {
                tell(caller, Err(why.clone()));
            }
        });
        Self {
            requests,
            waiting,
            _driver: driver,
        }
    }
}

/// Hands out answers until no more come, and says why.
async fn converse(
    address: &str,
    mut client: DataClient<Channel>,
    outbound: mpsc::Receiver<v1::AppendEachRequest>,
    waiting: &Mutex<Waiting>,
) -> Error {
    let broken = |status| Error::from_status(&status, address).of_a_stream();
    let mut answers = match client.append_each(ReceiverStream::new(outbound)).await {
        Ok(opened) => opened.into_inner(),
        Err(status) => return broken(status),
    };
    loop {
        let answer = match answers.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Error::stream_ended(),
            Err(status) => return broken(status),
        };
        // One that does not wait any more has left.
        let Some(caller) = lock(waiting).by_number.remove(&answer.number) else {
            continue;
        };
        tell(
            caller,
            match answer.outcome {
                Some(Outcome::Appended(appended)) => Ok(appended),
                Some(Outcome::Failure(failure)) => Err(Error::from_failure(failure)),
                None => Err(Error::bad_answer("neither appended nor failed")),
            },
        );
    }
}

/// Of one caller among those that wait, given up when it is dropped.
struct Place<'a> {
    waiting: &'a Mutex<Waiting>,
    number: u64,
    answer: oneshot::Receiver<Answer>,
}

impl<'a> Place<'a> {
    fn take(waiting: &'a Mutex<Waiting>) -> Result<Self, Error> {
        let (told, answer) = oneshot::channel();
        let mut all = lock(waiting);
        if let Some(why) = &all.over {
            return Err(why.clone());
        }
        let number = all.next_number;
        all.next_number = number.wrapping_add(1);
        all.by_number.insert(number, told);
        drop(all);
        Ok(Self {
            waiting,
            number,
            answer,
        })
    }

    async fn answer(mut self) -> Answer {
        let answer = (&mut self.answer).await;
        answer.unwrap_or_else(|_dropped| Err(Error::stream_ended()))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(self.waiting).by_number.remove(&self.number);
    }
}

/// A caller that has gone does not need to be told.
fn tell(caller: oneshot::Sender<Answer>, answer: Answer) {
    drop(caller.send(answer));
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    // A panic while the lock was held left no half-made change.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
