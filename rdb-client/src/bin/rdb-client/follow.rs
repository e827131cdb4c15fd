//! A subscription for commands: tells interruptions on standard error, and knows when to stop trying.

use crate::failure::Failure;
use crate::output::notice;
use futures::FutureExt as _;
use rdb_client::clock::{self, Deadline};
use rdb_client::{Error, Message, Seq, Subscription};
use std::time::{Duration, Instant};

/// How long a command that must come to an end waits for a server that is gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interruptions shorter than this are nobody's concern.
const QUIET: Duration = Duration::from_secs(1);

/// The change stream, as a command sees it.
#[derive(Debug)]
pub(crate) struct Follow {
    subscription: Subscription,
    what: &'static str,
    /// By when the server must have been reached for the first time.
    first_contact: Deadline,
    must_end: bool,
    was_open: bool,
    trouble: Option<Trouble>,
    last_error: Option<Error>,
    /// Whether the caller tells interruptions, instead of a line on standard error.
    is_quiet: bool,
}

/// An interruption that has not ended.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    is_told: bool,
}

impl Follow {
    /// `must_end` is for commands that read up to a point; the others wait for ever once they had contact.
    pub(crate) const fn new(
        subscription: Subscription,
        what: &'static str,
        first_contact: Deadline,
        must_end: bool,
    ) -> Self {
        Self {
            subscription,
            what,
            first_contact,
            must_end,
            was_open: false,
            trouble: None,
            last_error: None,
            is_quiet: false,
        }
    }

    /// Hands interruptions that last on to the caller, as messages, instead of telling them.
    pub(crate) const fn quiet(mut self, is_quiet: bool) -> Self {
        self.is_quiet = is_quiet;
        self
    }

    pub(crate) fn position(&self) -> Option<Seq> {
        self.subscription.position()
    }

    /// Up to here the stream is a snapshot; [`Seq::ZERO`] without one.
    pub(crate) fn snapshot(&self) -> Seq {
        self.subscription.snapshot().unwrap_or_default()
    }

    /// A message that is here already.
    pub(crate) fn ready(&mut self) -> Option<Result<Message, Failure>> {
        if self.subscription.is_open() {
            self.next().now_or_never()
        } else {
            None
        }
    }

    /// The next message; an interruption only when the caller tells those, and it lasts. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Message, Failure> {
        loop {
            let next = if self.was_open {
                Ok(self.subscription.next().await)
            } else {
                self.first_contact.run(self.subscription.next()).await
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
                    return Ok(message);
                }
            }
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

    fn recovered(&mut self) {
        self.was_open = true;
        let trouble = self.trouble.take();
        if trouble.is_some_and(|trouble| trouble.is_told) && !self.is_quiet {
            notice(format_args!("connected again"));
        }
    }
}
