//! Named subscriptions: the database remembers how far a consumer has come, and one consumer at a time has the name.
//!
//! Events come at least once: those that were handed out and not acknowledged come again, to whoever has the name next.
//! Whoever keeps its own position together with the effects, in one transaction, needs no name: it subscribes after that.

use crate::clock;
use crate::connect::{Attempt, Client};
use crate::retry::CallKind;
use crate::subscribe::{Filter, Message, Start, Subscription};
use crate::{Error, Seq};
use rdb_proto::reason::Reason;
use rdb_proto::v1;
use serde::Serialize;
use std::fmt;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long one claim waits at the server; it is repeated.
const CLAIM_WAIT: Duration = Duration::from_secs(1);

/// How a consumer begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsumerOptions {
    /// Which events it gets.
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
    /// How often it says something, at least.
    interval: Duration,
    said_at: Instant,
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
}

impl Client {
    /// Takes a named subscription, and goes on where it stands. While another consumer has it, this one waits.
    ///
    /// # Errors
    /// `SUBSCRIPTION_HELD` when the wait is over, `SEQ_AHEAD`, `FIELD_INVALID`, and as for every read.
    pub async fn consume(&self, name: &str, options: ConsumerOptions) -> Result<Consumer, Error> {
        let consumer = Uuid::new_v4();
        let deadline = clock::Deadline::after(options.wait);
        let claimed = loop {
            let left = deadline.remaining().unwrap_or(CLAIM_WAIT).min(CLAIM_WAIT);
            match self.claim(name, consumer, options.from, left).await {
                Err(error) if error.reason() == Some(Reason::SubscriptionHeld) && !deadline.has_passed() => {}
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
            interval: Duration::from_millis(claimed.heard_for_ms) / 3,
            said_at: clock::now(),
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
        let make = |attempt: Attempt| {
            let request = attempt.request(v1::ListSubscriptionsRequest {});
            async move { attempt.node.subscriptions().list(request).await }
        };
        let (answer, _attempts) = self.call(CallKind::Read, None, make).await?;
        let status = |info: v1::SubscriptionInfo| SubscriptionStatus {
            name: info.name,
            position: info.position,
            generation: info.generation,
            consumer: Uuid::from_slice(&info.consumer).ok(),
            heard: info.heard,
            lag: info.lag,
        };
        Ok(answer
            .into_inner()
            .subscriptions
            .into_iter()
            .map(status)
            .collect())
    }

    /// Sets the position of a named subscription; the consumer that has it is fenced. Returns where the position was.
    ///
    /// # Errors
    /// `SUBSCRIPTION_UNKNOWN`, `SEQ_AHEAD`, and as for every read.
    pub async fn seek_subscription(&self, name: &str, seq: Seq) -> Result<Seq, Error> {
        let make = |attempt: Attempt| {
            let request = attempt.request(v1::SeekRequest {
                name: name.to_owned(),
                seq: seq.get(),
            });
            async move { attempt.node.subscriptions().seek(request).await }
        };
        let (answer, _attempts) = self.call(CallKind::Read, None, make).await?;
        Ok(Seq(answer.into_inner().before))
    }

    /// Forgets a named subscription; the consumer that has it is refused from then on.
    ///
    /// # Errors
    /// `SUBSCRIPTION_UNKNOWN`, and as for every read.
    pub async fn forget_subscription(&self, name: &str) -> Result<(), Error> {
        let make = |attempt: Attempt| {
            let request = attempt.request(v1::ForgetRequest {
                name: name.to_owned(),
            });
            async move { attempt.node.subscriptions().forget(request).await }
        };
        self.call(CallKind::Read, None, make).await.map(drop)
    }
}

impl Consumer {
    /// What the stream says next. Cancel safe.
    ///
    /// # Errors
    /// `CONSUMER_FENCED` and `SUBSCRIPTION_UNKNOWN` once another has the name, or nobody; and as
    /// [`Subscription::next`].
    pub async fn next(&mut self) -> Result<Message, Error> {
        loop {
            let due = self.said_at.checked_add(self.interval).unwrap_or(self.said_at);
            tokio::select! {
                biased;
                () = clock::sleep_until(due) => {}
                message = self.subscription.next() => return message,
            }
            // What may pass passes: until another takes the name, nothing is lost by going on.
            let heard = self.client.with_timeout(Some(self.interval));
            if let Err(error) = self.say(&heard, self.acknowledged).await
                && !error.is_transient()
            {
                return Err(error);
            }
        }
    }

    /// Says that everything at or below `seq` is done: it never comes again, to this consumer or another. Durable when
    /// it returns; acknowledge now and then, not each event.
    ///
    /// # Errors
    /// As [`Consumer::next`]; after one that may pass, call again.
    pub async fn acknowledge(&mut self, seq: Seq) -> Result<(), Error> {
        let client = self.client.clone();
        self.say(&client, seq.max(self.acknowledged)).await
    }

    async fn say(&mut self, client: &Client, seq: Seq) -> Result<(), Error> {
        let make = |attempt: Attempt| {
            let request = attempt.request(v1::AcknowledgeRequest {
                name: self.name.clone(),
                generation: self.generation,
                seq: seq.get(),
            });
            async move { attempt.node.subscriptions().acknowledge(request).await }
        };
        // Before the call: while it is repeated, nothing else would be said either.
        self.said_at = clock::now();
        let (answer, _attempts) = client.call(CallKind::Read, None, make).await?;
        self.acknowledged = Seq(answer.into_inner().position);
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

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("name", &self.name)
            .field("generation", &self.generation)
            .field("acknowledged", &self.acknowledged)
            .finish_non_exhaustive()
    }
}
