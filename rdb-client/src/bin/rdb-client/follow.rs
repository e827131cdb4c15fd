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
    interrupted_since: Option<Instant>,
    last_error: Option<Error>,
    told: bool,
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
            interrupted_since: None,
            last_error: None,
            told: false,
        }
    }

    pub(crate) fn position(&self) -> Option<Seq> {
        self.subscription.position()
    }

    /// A message that is here already.
    pub(crate) fn ready(&mut self) -> Option<Result<Message, Failure>> {
        if self.subscription.is_open() {
            self.next().now_or_never()
        } else {
            None
        }
    }

    /// The next message that is not an interruption. Cancel safe.
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
                Message::Interrupted(error) => self.interrupted(error)?,
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

    fn interrupted(&mut self, error: Error) -> Result<(), Failure> {
        let since = *self.interrupted_since.get_or_insert_with(clock::now);
        let lasted = clock::now().saturating_duration_since(since);
        let is_over = if self.was_open {
            self.must_end && lasted > PATIENCE
        } else {
            self.first_contact.has_passed()
        };
        if is_over {
            return Err(Failure::read(self.what)(error));
        }
        if lasted > QUIET && !self.told {
            self.told = true;
            notice(format_args!("interrupted: {error}; trying again"));
        }
        self.last_error = Some(error);
        Ok(())
    }

    fn recovered(&mut self) {
        self.was_open = true;
        if self.told {
            notice(format_args!("connected again"));
        }
        self.told = false;
        self.interrupted_since = None;
    }
}
