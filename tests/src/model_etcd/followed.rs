//! The watches of the differential test at one etcd, and what they have told.

use crate::time::maybe;
use etcd_client::proto::{PbEvent, PbWatchResponse};
use etcd_client::{Client, WatchOptions, WatchStream};
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest wait for a message. A real etcd takes a tenth of a second for what was before a watch.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a watch has told since it was looked at last.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    /// Every change, in order.
    pub events: Vec<PbEvent>,
    /// A message did not hold all changes of a revision, or none.
    pub is_torn: bool,
    /// The watch is over: the revision that was compacted, and why.
    pub ended: Option<(i64, String)>,
}

/// The answer to who begins a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: i64,
    /// Revision of the key space then.
    pub revision: i64,
    /// It ended as it began, and why.
    pub refused: Option<String>,
}

/// One stream.
#[derive(Debug)]
pub struct Followed {
    stream: WatchStream,
    told: BTreeMap<i64, Told>,
    last: BTreeMap<i64, i64>,
}

impl Followed {
    /// Opens a stream with a first watch.
    pub async fn open(client: &Client, key: &[u8], options: WatchOptions) -> Result<(Self, Created), String> {
        let mut watches = client.watch_client();
        let opening = Box::pin(watches.watch(key, Some(options)));
        let opened = maybe(PATIENCE, opening).await.ok_or("no stream of watches")?;
        let mut this = Self {
            stream: opened.map_err(|error| error.to_string())?,
            told: BTreeMap::new(),
            last: BTreeMap::new(),
        };
        let created = this.created().await?;
        Ok((this, created))
    }

    /// Adds a watch.
    pub async fn add(&mut self, key: &[u8], options: WatchOptions) -> Result<Created, String> {
        let asked = self.stream.watch(key, Some(options)).await;
        asked.map_err(|error| error.to_string())?;
        self.created().await
    }

    /// Ends a watch, and waits until it is over.
    pub async fn cancel(&mut self, id: i64) -> Result<(), String> {
        let asked = self.stream.cancel(id).await;
        asked.map_err(|error| error.to_string())?;
        self.until_ended(id).await
    }

    /// Waits until a watch is over.
    pub async fn until_ended(&mut self, id: i64) -> Result<(), String> {
        while self.told.get(&id).is_none_or(|told| told.ended.is_none()) {
            let message = self.message().await?;
            self.take_in(message);
        }
        Ok(())
    }

    /// Waits until a watch has told a change of this revision, or of a later one.
    pub async fn until(&mut self, id: i64, revision: i64) -> Result<(), String> {
        while self.last.get(&id).is_none_or(|last| *last < revision) {
            let message = self.message().await?;
            self.take_in(message);
        }
        Ok(())
    }

    /// What was told since this was asked for last.
    pub fn told(&mut self) -> BTreeMap<i64, Told> {
        std::mem::take(&mut self.told)
    }

    async fn created(&mut self) -> Result<Created, String> {
        loop {
            let message = self.message().await?;
            if message.created {
                return Ok(Created {
                    id: message.watch_id,
                    revision: message.header.map_or(0, |header| header.revision),
                    refused: message.canceled.then_some(message.cancel_reason),
                });
            }
            self.take_in(message);
        }
    }

    async fn message(&mut self) -> Result<PbWatchResponse, String> {
        let message = maybe(PATIENCE, self.stream.message()).await;
        let message = message.ok_or("no message of a watch in time")?;
        let message = message.map_err(|error| error.to_string())?;
        Ok(message.ok_or("a stream of watches is over")?.0)
    }

    fn take_in(&mut self, message: PbWatchResponse) {
        let told = self.told.entry(message.watch_id).or_default();
        let revision = |event: &PbEvent| event.kv.as_ref().map(|kv| kv.mod_revision);
        let first = message.events.first().and_then(revision);
        let last = message.events.last().and_then(revision);
        told.is_torn |= first.is_some() && first == self.last.get(&message.watch_id).copied();
        told.is_torn |= first.is_none() && !message.canceled;
        if let Some(last) = last {
            self.last.insert(message.watch_id, last);
        }
        told.events.extend(message.events);
        if message.canceled {
            told.ended = Some((message.compact_revision, message.cancel_reason));
        }
    }
}
