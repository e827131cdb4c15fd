//! Pipelined appends: many under way on one stream, answered in order.
//!
//! ```text
//! append() ─► queue ─► driver ─► outbound ─► server
//!                        │ unanswered (at most `window`)
//! PendingAppend ◄────────┘◄──── inbound, one answer for each, in order
//! ```
//!
//! One task owns the stream. When the connection breaks, everything unanswered is sent again, in order, with the
//! same event ids; what the server had stored comes back as a duplicate.

use crate::clock::{self, Deadline};
use crate::connect::{Client, Node};
use crate::limits::{APPEND_WINDOW_DEFAULT, APPEND_WINDOW_MAX};
use crate::retry::{Attempts, CallKind, Next};
use crate::tasks::{self, Task};
use crate::write::{append_to_wire, stored_all};
use crate::{Error, Expectation, KeyName, NewEvent, Receipt, Stored};
use rdb_proto::v1;
use rdb_proto::v1::append_stream_response::Outcome;
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// How an append stream works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppenderOptions {
    /// Appends under way at once, 1 to 65,536. More does not make it faster once server and disk are busy.
    pub window: usize,
    /// Whether an append that is refused for the moment (an overloaded or recovering seat) is sent again behind
    /// those that follow it. Leave it off when two appends of one key may be under way: they could change places.
    pub retries_refused: bool,
}

impl Default for AppenderOptions {
    fn default() -> Self {
        Self {
            window: APPEND_WINDOW_DEFAULT,
            retries_refused: false,
        }
    }
}

/// A stream of appends. Dropping it gives up what is unanswered; [`Appender::finish`] waits for it.
pub struct Appender {
    client: Client,
    queue: mpsc::Sender<Unanswered>,
    driver: Task<()>,
}

/// The answer of one append; it need not be waited for in order.
pub struct PendingAppend(oneshot::Receiver<Answer>);

type Answer = Result<Receipt<Vec<Stored>>, Error>;

impl Client {
    /// Opens a stream of appends. The client's timeout holds for each append.
    pub fn append_stream(&self, options: AppenderOptions) -> Appender {
        let window = options.window.clamp(1, APPEND_WINDOW_MAX);
        let (queue, waiting) = mpsc::channel(window);
        let driver = Driver {
            client: self.clone(),
            options: AppenderOptions { window, ..options },
            waiting,
            is_closed: false,
            taken: Vec::with_capacity(window),
            unanswered: VecDeque::with_capacity(window),
            refused: VecDeque::new(),
        };
        Appender {
            client: self.clone(),
            queue,
            driver: tasks::spawn(driver.run()),
        }
    }
}

impl Appender {
    /// Hands an append in. Waits while the window is full; the answer comes by the future that is returned.
    ///
    /// # Errors
    /// `FIELD_INVALID` or `LIMIT_EXCEEDED`, before anything is sent.
    pub async fn append(
        &self,
        name: &KeyName,
        events: Vec<NewEvent>,
        expect: Expectation,
    ) -> Result<PendingAppend, Error> {
        let (answer_to, answer) = oneshot::channel();
        let unanswered = Unanswered {
            request: append_to_wire(name, events, expect)?,
            answer_to,
            deadline: self.client.deadline(),
            known_before: self.client.known_seq().get(),
            attempts: Attempts::new(CallKind::Write(expect)),
        };
        let sent = self.queue.send(unanswered).await;
        sent.map_err(|_closed| Error::stream_ended())?;
        Ok(PendingAppend(answer))
    }

    /// Waits until everything that was handed in has its answer, and closes the stream.
    pub async fn finish(self) {
        let Self { queue, driver, .. } = self;
        drop(queue);
        if let Err(error) = driver.await {
            tracing::error!(%error, "the append stream's task failed");
        }
    }
}

impl fmt::Debug for Appender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appender").finish_non_exhaustive()
    }
}

impl fmt::Debug for PendingAppend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingAppend").finish_non_exhaustive()
    }
}

impl Future for PendingAppend {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(answer.unwrap_or_else(|_dropped| Err(Error::stream_ended().into_unknown(1))))
    }
}

/// An append without an answer.
struct Unanswered {
    request: v1::AppendRequest,
    answer_to: oneshot::Sender<Answer>,
    deadline: Deadline,
    known_before: u64,
    attempts: Attempts,
}

impl Unanswered {
    /// The next attempt, in wire form.
    fn attempt(&mut self) -> v1::AppendRequest {
        self.request.retried_since = self.attempts.is_unknown().then_some(self.known_before);
        self.attempts.begin();
        self.request.clone()
    }

    fn tell(self, answer: Answer) {
        if self.answer_to.send(answer).is_err() {
            tracing::trace!("nobody waits for the answer");
        }
    }
}

struct Driver {
    client: Client,
    options: AppenderOptions,
    waiting: mpsc::Receiver<Unanswered>,
    /// Nothing more will be handed in.
    is_closed: bool,
    /// Reused between wake-ups.
    taken: Vec<Unanswered>,
    /// In the order of sending.
    unanswered: VecDeque<Unanswered>,
    /// Refused for the moment, each with the moment to send it again.
    refused: VecDeque<(Instant, Unanswered)>,
}

/// How long the driver may go without looking at deadlines.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The same while something waits to be sent again.
const LOOK_INTERVAL_REFUSED: Duration = Duration::from_millis(5);

impl Driver {
    async fn run(mut self) {
        loop {
            if self.unanswered.is_empty() && self.refused.is_empty() {
                match self.waiting.recv().await {
                    Some(first) => self.unanswered.push_back(first),
                    None => return,
                }
            }
            let Ok(node) = self.client.node() else { return };
            match self.connection(&node).await {
                Ok(()) => return,
                Err(error) => {
                    if error.is_transient() {
                        self.client.leave(&node, &error);
                    }
                    let delay = self.lost(&error);
                    clock::sleep(delay).await;
                }
            }
        }
    }

    /// Runs one connection. `Ok` when everything is answered and nothing more will be handed in.
    async fn connection(&mut self, node: &Node) -> Result<(), Error> {
        let (outbound, requests) = mpsc::channel(self.options.window);
        for unanswered in &mut self.unanswered {
            send(&outbound, unanswered.attempt())?;
        }
        let mut client = node.data();
        let opening = client.append_stream(ReceiverStream::new(requests));
        let opened = self.first_deadline().run(opening).await;
        let opened = opened.map_err(|_passed| Error::deadline())?;
        let opened = opened.map_err(|status| Error::from_status(&status, &node.address))?;
        self.converse(node, &outbound, &mut opened.into_inner()).await
    }

    async fn converse(
        &mut self,
        node: &Node,
        outbound: &mpsc::Sender<v1::AppendRequest>,
        inbound: &mut Streaming<v1::AppendStreamResponse>,
    ) -> Result<(), Error> {
        let mut look = Box::pin(clock::sleep(LOOK_INTERVAL));
        loop {
            if self.is_closed && self.unanswered.is_empty() && self.refused.is_empty() {
                return Ok(());
            }
            let under_way = self.unanswered.len().saturating_add(self.refused.len());
            let room = self.options.window.saturating_sub(under_way);
            tokio::select! {
                biased;
                answer = inbound.message() => match answer {
                    Ok(Some(answer)) => self.answered(answer)?,
                    Ok(None) => return Err(Error::stream_ended()),
                    Err(status) => return Err(Error::from_status(&status, &node.address)),
                },
                taken = self.waiting.recv_many(&mut self.taken, room), if room > 0 && !self.is_closed => {
                    self.is_closed = taken == 0;
                    self.send_taken(outbound)?;
                }
                () = &mut look => {
                    self.look(outbound)?;
                    let interval = if self.refused.is_empty() { LOOK_INTERVAL } else { LOOK_INTERVAL_REFUSED };
                    look.set(clock::sleep(interval));
                }
            }
        }
    }

    /// Sends what was handed in. All of it counts as unanswered before the first is sent: when the connection
    /// breaks in the middle, none may be forgotten.
    fn send_taken(&mut self, outbound: &mpsc::Sender<v1::AppendRequest>) -> Result<(), Error> {
        let old = self.unanswered.len();
        self.unanswered.extend(self.taken.drain(..));
        for unanswered in self.unanswered.iter_mut().skip(old) {
            send(outbound, unanswered.attempt())?;
        }
        Ok(())
    }

    /// Gives the oldest append its answer.
    fn answered(&mut self, answer: v1::AppendStreamResponse) -> Result<(), Error> {
        let mut unanswered = self
            .unanswered
            .pop_front()
            .ok_or_else(|| Error::bad_answer("an answer without a request"))?;
        match answer.outcome {
            Some(Outcome::Appended(appended)) => {
                let attempts = unanswered.attempts.made();
                let stored = stored_all(&appended.results);
                if let Some(last) = stored.as_ref().ok().and_then(|stored| stored.last()) {
                    self.client.note_seq(last.seq);
                }
                unanswered.tell(stored.map(|stored| Receipt { stored, attempts }));
            }
            Some(Outcome::Failure(failure)) => {
                let error = Error::from_failure(failure);
                let deadline = if self.options.retries_refused {
                    unanswered.deadline
                } else {
                    Deadline::after(Some(Duration::ZERO))
                };
                match unanswered.attempts.failed(error, deadline) {
                    Next::Tell(error) => unanswered.tell(Err(error)),
                    Next::Retry(delay) => {
                        let now = clock::now();
                        let at = now.checked_add(delay).unwrap_or(now);
                        self.refused.push_back((at, unanswered));
                    }
                }
            }
            None => unanswered.tell(Err(
                Error::bad_answer("neither appended nor failed").into_unknown(1)
            )),
        }
        Ok(())
    }

    /// Sends again what was refused for the moment, and notices a server that does not answer.
    fn look(&mut self, outbound: &mpsc::Sender<v1::AppendRequest>) -> Result<(), Error> {
        let now = clock::now();
        for (at, unanswered) in std::mem::take(&mut self.refused) {
            if at <= now {
                self.taken.push(unanswered);
            } else {
                self.refused.push_back((at, unanswered));
            }
        }
        self.send_taken(outbound)?;
        if self.first_deadline().has_passed() {
            return Err(Error::deadline());
        }
        Ok(())
    }

    fn first_deadline(&self) -> Deadline {
        self.unanswered
            .front()
            .map_or(Deadline::NEVER, |unanswered| unanswered.deadline)
    }

    /// The connection broke: each unanswered append is told, or kept to be sent again. Says how long to wait.
    fn lost(&mut self, error: &Error) -> Duration {
        let mut wait = Duration::ZERO;
        for mut unanswered in std::mem::take(&mut self.unanswered) {
            match unanswered
                .attempts
                .failed(error.of_a_stream(), unanswered.deadline)
            {
                Next::Tell(error) => unanswered.tell(Err(error)),
                Next::Retry(delay) => {
                    wait = wait.max(delay);
                    self.unanswered.push_back(unanswered);
                }
            }
        }
        let refused = std::mem::take(&mut self.refused);
        self.unanswered
            .extend(refused.into_iter().map(|(_, unanswered)| unanswered));
        wait
    }
}

/// The outbound queue holds a part of what is unanswered, and is as long as that may become.
fn send(outbound: &mpsc::Sender<v1::AppendRequest>, request: v1::AppendRequest) -> Result<(), Error> {
    outbound.try_send(request).map_err(|_gone| Error::stream_ended())
}
