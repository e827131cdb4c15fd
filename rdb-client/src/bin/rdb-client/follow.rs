//! A subscription for commands: tells interruptions on standard error, and knows when to stop trying.

use crate::failure::Failure;
use crate::output::notice;
use futures::FutureExt as _;
use rdb_client::clock::{self, Deadline};
use rdb_client::{Consumer, Error, Message, Seq, Subscription};
use std::time::{Duration, Instant};

/// How long a command that must come to an end waits for a server that is gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a command that must come to an end hears marks that stand still before it says so.
const STANDSTILL: Duration = Duration::from_secs(10);
/// Interruptions shorter than this are nobody's concern.
const QUIET: Duration = Duration::from_secs(1);

/// The change stream, as a command sees it.
#[derive(Debug)]
pub(crate) struct Follow {
    stream: Stream,
    what: &'static str,
    /// By when the server must have been reached for the first time.
    first_contact: Deadline,
    must_end: bool,
    was_open: bool,
    trouble: Option<Trouble>,
    last_error: Option<Error>,
    /// The latest mark, and since when; `None` once it was told that it stands still.
    mark: Option<(Seq, Instant)>,
    /// Whether the caller tells interruptions, instead of a line on standard error.
    is_quiet: bool,
}

/// Where the messages come from.
#[derive(Debug)]
pub(crate) enum Stream {
    /// A subscription whose position is this program's matter.
    Own(Box<Subscription>),
    /// One whose position is kept in the database.
    Named(Box<Consumer>),
}

impl From<Subscription> for Stream {
    fn from(subscription: Subscription) -> Self {
        Self::Own(Box::new(subscription))
    }
}

impl From<Consumer> for Stream {
    fn from(consumer: Consumer) -> Self {
        Self::Named(Box::new(consumer))
    }
}

impl Stream {
    async fn next(&mut self) -> Result<Message, Error> {
        match self {
            Self::Own(subscription) => subscription.next().await,
            Self::Named(consumer) => consumer.next().await,
        }
    }
}

/// An interruption that has not ended.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    is_told: bool,
}

impl Follow {
    /// `must_end` is for commands that read up to a point; the others wait for ever once they had contact.
    pub(crate) fn new(
        stream: impl Into<Stream>,
        what: &'static str,
        first_contact: Deadline,
        must_end: bool,
    ) -> Self {
        Self {
            stream: stream.into(),
            what,
            first_contact,
            must_end,
            was_open: false,
            trouble: None,
            last_error: None,
            mark: Some((Seq::ZERO, clock::now())),
            is_quiet: false,
        }
    }

    /// Hands interruptions that last on to the caller, as messages, instead of telling them.
    pub(crate) const fn quiet(mut self, is_quiet: bool) -> Self {
        self.is_quiet = is_quiet;
        self
    }

    pub(crate) fn position(&self) -> Option<Seq> {
        match &self.stream {
            Stream::Own(subscription) => subscription.position(),
            Stream::Named(consumer) => consumer.position(),
        }
    }

    /// Up to here the stream is a snapshot; [`Seq::ZERO`] without one.
    pub(crate) fn snapshot(&self) -> Seq {
        match &self.stream {
            Stream::Own(subscription) => subscription.snapshot().unwrap_or_default(),
            Stream::Named(_) => Seq::ZERO,
        }
    }

    /// A message that is here already.
    pub(crate) fn ready(&mut self) -> Option<Result<Message, Failure>> {
        let is_open = match &self.stream {
            Stream::Own(subscription) => subscription.is_open(),
            Stream::Named(consumer) => consumer.is_open(),
        };
        if is_open { self.next().now_or_never() } else { None }
    }

    /// The next message; an interruption only when the caller tells those, and it lasts. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Message, Failure> {
        loop {
            let next = if self.was_open {
                Ok(self.stream.next().await)
            } else {
                self.first_contact.run(self.stream.next()).await
            };
            let Ok(next) = next else {
                return Err(self.no_contact());
            };
            match next.map_err(Failure::read(self.what))? {
                Message::Interrupted(error) => {
                    if let Some(message) = self.interrupted(error)? {
                        return Ok(message);
                    }
                }
                message @ (Message::Opened { .. }
                | Message::Events(_)
                | Message::Resolved { .. }
                | Message::CaughtUp { .. }
                | Message::FellBehind { .. }) => {
                    self.recovered();
                    if let Message::Resolved { seq, .. } = &message {
                        self.marked(*seq);
                    }
                    return Ok(message);
                }
            }
        }
    }

    /// Says that everything up to a seq is done, when the database keeps the position.
    pub(crate) async fn acknowledge(&mut self, seq: Seq) -> Result<(), Failure> {
        match &mut self.stream {
            Stream::Named(consumer) if seq > consumer.acknowledged() => {
                consumer.acknowledge(seq).await.map_err(Failure::read(self.what))
            }
            Stream::Named(_) | Stream::Own(_) => Ok(()),
        }
    }

    /// Lets go of the name, when it has one.
    pub(crate) async fn release(self) -> Result<(), Failure> {
        match self.stream {
            Stream::Named(consumer) => consumer.release().await.map_err(Failure::read(self.what)),
            Stream::Own(_) => Ok(()),
        }
    }

    /// Whether the server was ever reached.
    pub(crate) const fn had_contact(&self) -> bool {
        self.was_open
    }

    /// Why the server was never reached.
    pub(crate) fn no_contact(&mut self) -> Failure {
        match self.last_error.take() {
            Some(error) => Failure::read(self.what)(error),
            None => Failure::Late(format!("{} failed: the server did not answer in time", self.what)),
        }
    }

    /// What the caller is to tell, if it is.
    fn interrupted(&mut self, error: Error) -> Result<Option<Message>, Failure> {
        let trouble = self.trouble.get_or_insert_with(|| Trouble {
            since: clock::now(),
            is_told: false,
        });
        let lasted = clock::now().saturating_duration_since(trouble.since);
        let is_over = if self.was_open {
            self.must_end && lasted > PATIENCE
        } else {
            self.first_contact.has_passed()
        };
        if is_over {
            return Err(Failure::read(self.what)(error));
        }
        let is_news = lasted > QUIET && !trouble.is_told;
        trouble.is_told |= is_news;
        if is_news && !self.is_quiet {
            notice(format_args!("interrupted: {error}; trying again"));
        }
        let message = (is_news && self.is_quiet).then(|| Message::Interrupted(error.clone()));
        self.last_error = Some(error);
        Ok(message)
    }

    fn marked(&mut self, seq: Seq) {
        let Some((mark, since)) = self.mark.filter(|_| self.must_end) else {
            return;
        };
        let now = clock::now();
        if seq > mark {
            self.mark = Some((seq, now));
        } else if now.saturating_duration_since(since) > STANDSTILL {
            self.mark = None;
            notice(format_args!(
                "{}: events after seq {seq} are held back; `rdb-client status` says by whom; waiting",
                self.what
            ));
        }
    }

    fn recovered(&mut self) {
        self.was_open = true;
        let trouble = self.trouble.take();
        if trouble.is_some_and(|trouble| trouble.is_told) && !self.is_quiet {
            notice(format_args!("connected again"));
        }
    }
}
