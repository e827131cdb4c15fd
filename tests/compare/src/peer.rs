//! What every database is asked to do, and what each of them is.

use anyhow::{Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use futures::{FutureExt, TryStreamExt};

/// The key at `position` of those that the load writes and the reads read.
pub fn key(position: usize) -> String {
    format!("k{position}")
}

/// How many keys there are.
pub const KEYS: usize = 1_024;

/// Most appends that one connection has under way when it does not wait for each.
pub const UNDER_WAY_MAX: usize = 1_000;

/// A running database.
#[async_trait]
pub trait Peer: Send + Sync {
    /// Client `number`'s connection, its own, open when this returns.
    async fn connect(&self, number: usize) -> Result<Box<dyn Connection>>;

    /// One client, shared by so many tasks as its library lets them: a connection for each, of which any number may have
    /// a request under way.
    async fn share(&self, tasks: usize) -> Result<Vec<Box<dyn Connection>>>;
}

/// One client's connection. Every append is as durable as the setting under test makes it when it returns.
#[async_trait]
pub trait Connection: Send {
    /// Appends one event to a key.
    async fn append(&mut self, key: &str, payload: Bytes) -> Result<()>;

    /// The same, where subscribers would not hear of it otherwise.
    async fn append_told(&mut self, key: &str, payload: Bytes) -> Result<()> {
        self.append(key, payload).await
    }

    /// Appends one event to a key that nobody else appends to, and only if the last event there is the one that `expected`
    /// stands for: what this gave for it, or 0 when there is none. What a number means is the database's own affair. Those
    /// that cannot do this say so in their entry.
    async fn append_expecting(&mut self, _key: &str, _payload: Bytes, _expected: u64) -> Result<u64> {
        bail!("it cannot say what it expects")
    }

    /// Appends one event without waiting for those before it, of which at most [`UNDER_WAY_MAX`] are under way. It is sent
    /// when the future is first polled, at the latest, and acknowledged when that ends. Those that cannot do this say so in
    /// their entry.
    fn append_behind(&mut self, _key: String, _payload: Bytes) -> BoxFuture<'static, Result<()>> {
        async { bail!("it has no stream of appends") }.boxed()
    }

    /// Appends many events in one request, all or none of them where the database can promise that.
    async fn append_batch(&mut self, key: &str, payloads: Vec<Bytes>) -> Result<()>;

    /// Bytes of the latest event of a key.
    async fn latest(&mut self, key: &str) -> Result<usize>;

    /// Reads events from the first one on, in order, until `wanted` have come; says how many came.
    async fn read_all(&mut self, wanted: u64) -> Result<u64>;

    /// Payloads of the events that come after the call, as they come. Open when this returns.
    async fn subscribe(self: Box<Self>) -> Result<BoxStream<'static, Result<Bytes>>>;
}

/// The payloads that `more` gives, one by one: it gets a state, waits, and gives payloads and the next state.
pub fn unfold<S, F, Fut>(state: S, more: F) -> BoxStream<'static, Result<Bytes>>
where
    S: Send + 'static,
    F: FnMut(S) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Option<(Vec<Bytes>, S)>>> + Send + 'static,
{
    let batches = stream::try_unfold(state, more);
    batches
        .map_ok(|payloads| stream::iter(payloads.into_iter().map(Ok)))
        .try_flatten()
        .boxed()
}
