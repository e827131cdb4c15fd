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
//!
//! A caller that leaves without its answer retires its stream: others on it get theirs, new ones take another, and with the
//! last one it is reset. So nothing that was given up waits in it to be sent or read later, when a retry of it may have been
//! stored and forgotten; and who waits in vain takes up no place in it.

use crate::Error;
use crate::limits::APPENDS_UNSENT_MAX;
use crate::tasks::{self, Task};
use rdb_proto::v1;
use rdb_proto::v1::append_each_response::Outcome;
use rdb_proto::v1::data_client::DataClient;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// The stream to one node, when there is one.
#[derive(Default)]
pub(crate) struct AppendStreams(Mutex<Option<Arc<Stream>>>);

/// To whom a stream goes, and where its task runs.
pub(crate) struct Server {
    pub(crate) address: Arc<str>,
    pub(crate) client: DataClient<Channel>,
    pub(crate) runtime: Handle,
}

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
    /// Somebody left: nobody comes any more.
    is_retired: bool,
    /// Why no more answers come.
    over: Option<Error>,
}

impl Waiting {
    const fn is_open(&self) -> bool {
        !self.is_retired && self.over.is_none()
    }
}

impl AppendStreams {
    /// Sends an append to the node, over a stream by this client if there is none, and waits for its answer.
    ///
    /// **Cancel safety**: dropping the future leaves the outcome unknown.
    pub(crate) async fn append(&self, server: impl FnOnce() -> Server, append: v1::AppendRequest) -> Answer {
        let stream = self.stream(server);
        let place = Place::take(&stream.waiting)?;
        let request = v1::AppendEachRequest {
            number: place.number,
            append: Some(append),
        };
        // When the stream is over, the answer says why.
        drop(stream.requests.send(request).await);
        place.answer().await
    }

    fn stream(&self, server: impl FnOnce() -> Server) -> Arc<Stream> {
        // A panic while the lock was held left a stream or none.
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*open {
            Some(stream) if lock(&stream.waiting).is_open() => Arc::clone(stream),
            _ => Arc::clone(open.insert(Arc::new(Stream::open(server())))),
        }
    }
}

impl Stream {
    fn open(server: Server) -> Self {
        let (requests, outbound) = mpsc::channel(APPENDS_UNSENT_MAX);
        let waiting = Arc::<Mutex<Waiting>>::default();
        let mut end = End {
            waiting: Arc::clone(&waiting),
            why: Error::stream_ended(),
        };
        let runtime = server.runtime.clone();
        let driver = tasks::spawn_on(&runtime, async move {
            let why = converse(server, outbound, &end.waiting).await;
            end.because(why);
        });
        Self {
            requests,
            waiting,
            _driver: driver,
        }
    }
}

/// Whatever ends a stream's task, be it the runtime that it was started on: nobody waits for it any more.
struct End {
    waiting: Arc<Mutex<Waiting>>,
    why: Error,
}

impl End {
    fn because(&mut self, why: Error) {
        self.why = why;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let left = {
            let mut waiting = lock(&self.waiting);
            waiting.over = Some(self.why.clone());
            std::mem::take(&mut waiting.by_number)
        };
        for caller in left.into_values() {
            tell(caller, Err(self.why.clone()));
        }
    }
}

/// Hands out answers until no more come, and says why.
async fn converse(
    server: Server,
    outbound: mpsc::Receiver<v1::AppendEachRequest>,
    waiting: &Arc<Mutex<Waiting>>,
) -> Error {
    let Server {
        address, mut client, ..
    } = server;
    let broken = |status| match Error::from_status(&status, &address).of_a_stream() {
        // Of one of those on it, who knows of which: the others may try again.
        error if error.reason().is_some() && !error.is_transient() => Error::stream_ended(),
        error => error,
    };
    let still_waiting = Arc::clone(waiting);
    let outbound = ReceiverStream::new(outbound)
        .filter(move |request| lock(&still_waiting).by_number.contains_key(&request.number));
    let mut answers = match client.append_each(outbound).await {
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
        // One that is retired meanwhile still answers.
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
        let mut all = lock(self.waiting);
        all.is_retired |= all.by_number.remove(&self.number).is_some();
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
