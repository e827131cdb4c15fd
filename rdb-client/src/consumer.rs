//! Named subscriptions: the database remembers how far a consumer has come, and one consumer at a time has the name.
//!
//! Events come at least once: those that were handed out and not acknowledged come again, to whoever has the name next.
//! Whoever keeps its own position together with the effects, in one transaction, needs no name: it subscribes after that.

use crate::clock;
use crate::connect::{Attempt, Client};
use crate::retry::CallKind;
use crate::subscribe::{Filter, Message, Start, Subscription};
use crate::{Error, Expectation, Seq};
use futures::future::BoxFuture;
use rdb_proto::reason::Reason;
use rdb_proto::types::FieldError;
use rdb_proto::v1;
use serde::{Serialize, Serializer};
use std::fmt;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long one claim waits at the server; it is repeated.
const CLAIM_WAIT: Duration = Duration::from_secs(1);

/// Between two claims, when the first was refused at once.
const CLAIM_PAUSE: Duration = Duration::from_millis(100);

/// Whether the same claim may be granted later.
fn is_worth_waiting(error: &Error) -> bool {
    error.reason() == Some(Reason::SubscriptionHeld) || error.is_transient()
}

/// How a consumer begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsumerOptions {
    /// Which events it gets. The position of a name is one number: with another filter than before, older events that
    /// only this one lets through do not come.
    pub filter: Filter,
    /// Position of a name that is new; `None`: it begins with what comes then.
    pub from: Option<Seq>,
    /// Whether each event comes with the one before it of its key.
    pub with_before: bool,
    /// How long to wait for a consumer that has the name; `None`: for as long as it takes.
    pub wait: Option<Duration>,
}

/// The one that has a named subscription.
///
/// It is heard by the database for as long as [`Consumer::next`] is called or awaited: one that stands still for several
/// seconds may be replaced. What it says then is refused, with `CONSUMER_FENCED`.
pub struct Consumer {
    client: Client,
    name: String,
    generation: u64,
    subscription: Subscription,
    acknowledged: Seq,
    /// Who is not heard for so long may be replaced.
    heard_for: Duration,
    /// When the last thing was said that was heard.
    heard_at: Instant,
    /// When something was tried to be said last.
    said_at: Instant,
    /// What is being said.
    saying: Option<BoxFuture<'static, Result<Seq, Error>>>,
}

/// A named subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubscriptionStatus {
    /// Its name.
    pub name: String,
    /// Everything at or below is acknowledged.
    pub position: u64,
    /// Rises with every claim.
    pub generation: u64,
    /// UUID of the consumer that has it; `None` when none has.
    pub consumer: Option<Uuid>,
    /// Whether that was heard lately.
    pub heard: bool,
    /// Seqs from the position to the counter.
    pub lag: u64,
    /// How long ago the first event after the position was; zero when there is none, `None` when that cannot be told now. In
    /// seconds when it is serialized.
    #[serde(rename = "lag_seconds", serialize_with = "as_seconds")]
    pub lag_time: Option<Duration>,
}

#[expect(clippy::ref_option, reason = "serde hands a field over like this")]
fn as_seconds<S: Serializer>(lag: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match lag {
        Some(lag) => serializer.serialize_some(&lag.as_secs_f64()),
        None => serializer.serialize_none(),
    }
}

impl Client {
    /// Takes a named subscription, and goes on where it stands. While another consumer has it, this one waits.
    ///
    /// # Errors
    /// `SUBSCRIPTION_HELD` when the wait is over, `SEQ_AHEAD`, `FIELD_INVALID`, and as for every read.
    pub async fn consume(&self, name: &str, options: ConsumerOptions) -> Result<Consumer, Error> {
        let consumer = clock::new_uuid();
        let deadline = clock::Deadline::after(options.wait);
        let claimed = loop {
            // The answer must come before the call's own deadline.
            let half = self
                .deadline()
                .remaining()
                .map_or(CLAIM_WAIT, |timeout| timeout / 2);
            let left = deadline
                .remaining()
                .unwrap_or(CLAIM_WAIT)
                .min(CLAIM_WAIT)
                .min(half);
            let began = clock::now();
            let claimed = self.claim(name, consumer, options.from, left).await;
            match claimed {
                Err(error) if is_worth_waiting(&error) && !deadline.has_passed() => {
                    let patience = CLAIM_WAIT.saturating_sub(clock::now().saturating_duration_since(began));
                    clock::sleep(patience.min(CLAIM_PAUSE)).await;
                }
                claimed => break claimed?,
            }
        };
        let position = Seq(claimed.position);
        let mut subscription = self
            .subscribe(Start::After(position), options.filter)
            .of_database(claimed.database_id);
        if options.with_before {
            subscription = subscription.with_before();
        }
        Ok(Consumer {
            client: self.clone(),
            name: name.to_owned(),
            generation: claimed.generation,
            subscription,
            acknowledged: position,
            heard_for: Duration::from_millis(claimed.heard_for_ms),
            heard_at: clock::now(),
            said_at: clock::now(),
            saying: None,
        })
    }

    async fn claim(
        &self,
        name: &str,
        consumer: Uuid,
        after: Option<Seq>,
        wait: Duration,
    ) -> Result<v1::ClaimResponse, Error> {
        let message = v1::ClaimRequest {
            name: name.to_owned(),
            consumer: consumer.as_bytes().to_vec().into(),
            after_seq: after.map(Seq::get),
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        };
        let make = |attempt: Attempt| {
            let request = attempt.request(message.clone());
            async move { attempt.node.subscriptions().claim(request).await }
        };
        let (answer, _attempts) = self.call(CallKind::Read, None, make).await?;
        Ok(answer.into_inner())
    }

    /// Every named subscription, ascending by name.
    ///
    /// # Errors
    /// As for every read.
    pub async fn subscriptions(&self) -> Result<Vec<SubscriptionStatus>, Error> {
        let status = |info: v1::SubscriptionInfo| SubscriptionStatus {
            name: info.name,
            position: info.position,
            generation: info.generation,
            consumer: Uuid::from_slice(&info.consumer).ok(),
            heard: info.heard,
            lag: info.lag,
            lag_time: info.lag_ms.map(Duration::from_millis),
        };
        let mut found = Vec::new();
        let mut after = String::new();
        loop {
            let make = |attempt: Attempt| {
                let after = after.clone();
                let request = attempt.request(v1::ListSubscriptionsRequest { after, limit: 0 });
                async move { attempt.node.subscriptions().list(request).await }
            };
            let (answer, _attempts) = self.call(CallKind::Read, None, make).await?;
            let page = answer.into_inner();
            found.extend(page.subscriptions.into_iter().map(status));
            // A page of names that all come after the one before.
            if page.next_after <= after {
                return Ok(found);
            }
            after = page.next_after;
        }
    }

    /// Sets the position of a named subscription that is as it was listed; the consumer that has it is fenced.
    ///
    /// # Errors
    /// `SUBSCRIPTION_UNKNOWN`, `CONSUMER_FENCED` when it was claimed or moved since, or by an earlier attempt of this
    /// call; `SEQ_AHEAD`, and as for every call: [`Error::happened`] says whether it may have been done.
    pub async fn seek_subscription(&self, listed: &SubscriptionStatus, seq: Seq) -> Result<(), Error> {
        let make = |attempt: Attempt| {
            let request = attempt.request(v1::SeekRequest {
                name: listed.name.clone(),
                seq: seq.get(),
                generation: listed.generation,
            });
            async move { attempt.node.subscriptions().seek(request).await }
        };
        self.call(CallKind::Write(Expectation::Any), None, make)
            .await
            .map(drop)
    }

    /// Forgets a named subscription that is as it was listed; the consumer that has it is refused from then on.
    ///
    /// # Errors
    /// `SUBSCRIPTION_UNKNOWN` when it is forgotten, by an earlier attempt of this call too; `CONSUMER_FENCED`, and as for
    /// every call: [`Error::happened`] says whether it may have been done.
    pub async fn forget_subscription(&self, listed: &SubscriptionStatus) -> Result<(), Error> {
        let make = |attempt: Attempt| {
            let request = attempt.request(v1::ForgetRequest {
                name: listed.name.clone(),
                generation: listed.generation,
            });
            async move { attempt.node.subscriptions().forget(request).await }
        };
        self.call(CallKind::Write(Expectation::Any), None, make)
            .await
            .map(drop)
    }
}

impl Consumer {
    /// What the stream says next. Cancel safe.
    ///
    /// # Errors
    /// `CONSUMER_FENCED` and `SUBSCRIPTION_UNKNOWN` once another has the name, or nobody; one that may pass when the
    /// database has not heard this consumer for so long that another may have the name: call again. And as
    /// [`Subscription::next`].
    pub async fn next(&mut self) -> Result<Message, Error> {
        loop {
            let due = self
                .said_at
                .checked_add(self.heard_for / 3)
                .unwrap_or(self.said_at);
            if self.saying.is_none() && (clock::now() >= due || self.is_unheard()) {
                self.begin_to_say();
            }
            let is_unheard = self.is_unheard();
            let is_silent = self.saying.is_none();
            let said = async {
                match &mut self.saying {
                    Some(saying) => saying.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                said = said => self.said(said)?,
                // Whoever may have been replaced hands nothing out.
                message = self.subscription.next(), if !is_unheard => return message,
                () = clock::sleep_until(due), if is_silent => {}
            }
        }
    }

    fn is_unheard(&self) -> bool {
        clock::now().saturating_duration_since(self.heard_at) >= self.heard_for
    }

    fn begin_to_say(&mut self) {
        self.said_at = clock::now();
        let client = self.client.with_timeout(Some(self.heard_for / 3));
        let (name, generation, seq) = (self.name.clone(), self.generation, self.acknowledged);
        self.saying = Some(Box::pin(
            async move { say(&client, &name, generation, seq).await },
        ));
    }

    fn said(&mut self, said: Result<Seq, Error>) -> Result<(), Error> {
        self.saying = None;
        match said {
            Ok(position) => {
                self.heard_at = self.said_at;
                self.acknowledged = position;
                Ok(())
            }
            // What may pass passes, for as long as nobody else can have the name.
            Err(error) if error.is_transient() && !self.is_unheard() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Says that everything at or below `seq` is done: it never comes again, to this consumer or another. Durable when
    /// it returns; acknowledge now and then, not each event.
    ///
    /// # Errors
    /// `FIELD_INVALID` for a seq beyond what was handed out; and as [`Consumer::next`]: after one that may pass, call
    /// again.
    pub async fn acknowledge(&mut self, seq: Seq) -> Result<(), Error> {
        if Some(seq) > self.subscription.position() {
            return Err(FieldError::invalid("seq", "is beyond what was handed out").into());
        }
        self.saying = None;
        self.said_at = clock::now();
        let seq = seq.max(self.acknowledged);
        self.acknowledged = say(&self.client, &self.name, self.generation, seq).await?;
        self.heard_at = self.said_at;
        Ok(())
    }

    /// Up to where everything is acknowledged.
    pub const fn acknowledged(&self) -> Seq {
        self.acknowledged
    }

    /// Up to where the stream has been handed out.
    pub const fn position(&self) -> Option<Seq> {
        self.subscription.position()
    }

    /// Whether a connection is open: [`Subscription::is_open`].
    pub const fn is_open(&self) -> bool {
        self.subscription.is_open()
    }

    /// Lets go of the name, so that the next consumer need not wait.
    ///
    /// # Errors
    /// As [`Consumer::acknowledge`].
    pub async fn release(self) -> Result<(), Error> {
        let make = |attempt: Attempt| {
            let request = attempt.request(v1::ReleaseRequest {
                name: self.name.clone(),
                generation: self.generation,
            });
            async move { attempt.node.subscriptions().release(request).await }
        };
        self.client.call(CallKind::Read, None, make).await.map(drop)
    }
}

/// Has a position acknowledged; returns where it is.
async fn say(client: &Client, name: &str, generation: u64, seq: Seq) -> Result<Seq, Error> {
    let make = |attempt: Attempt| {
        let request = attempt.request(v1::AcknowledgeRequest {
            name: name.to_owned(),
            generation,
            seq: seq.get(),
        });
        async move { attempt.node.subscriptions().acknowledge(request).await }
    };
    let (answer, _attempts) = client.call(CallKind::Read, None, make).await?;
    Ok(Seq(answer.into_inner().position))
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("name", &self.name)
            .field("generation", &self.generation)
            .field("acknowledged", &self.acknowledged)
            .finish_non_exhaustive()
    }
}
