//! Reads: a key now or as of a seq, the history of a key, the keys of a collection.

use crate::clock::{self, Deadline};
use crate::connect::{Attempt, Client, Node};
use crate::retry::{Attempts, CallKind, Next};
use crate::write::collection_to_wire;
use crate::{Collection, Error, Event, KeyName, Seq, Version};
use futures::Stream;
use rdb_proto::event::decode_batch;
use rdb_proto::limits::SNAPSHOT_KEYS_MAX;
use rdb_proto::v1;
use std::collections::VecDeque;
use std::fmt;
use tonic::Streaming;

/// How fresh a read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began.
    #[default]
    Linearizable,
    /// What the node that is asked has; [`ReadAnswer::as_of`] says how far that goes.
    Local,
}

impl Consistency {
    fn to_wire(self) -> i32 {
        match self {
            Self::Linearizable => v1::Consistency::Linearizable,
            Self::Local => v1::Consistency::Local,
        }
        .into()
    }
}

/// Which state of a key to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// As it was when the database stood at this seq. `None` means now.
    pub at: Option<Seq>,
    /// Not used together with `at`.
    pub consistency: Consistency,
}

/// The latest event of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadAnswer {
    /// The event. Never a delete: that is `KEY_NOT_FOUND`.
    pub event: Event,
    /// The answer is complete up to this seq.
    pub as_of: Seq,
}

/// Several keys as of one seq.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// That seq.
    pub as_of: Seq,
    /// The keys, in the order in which they were asked for.
    pub keys: Vec<KeyThen>,
}

/// What a key was at the seq of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyThen {
    /// The key.
    pub name: KeyName,
    /// Its latest event; `None` when it had none, or was deleted.
    pub event: Option<Event>,
    /// Version of that event or of the delete; [`Version::ZERO`] when it was never written.
    pub version: Version,
}

/// Which part of a key's history to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HistoryOptions {
    /// First version; [`Version::ZERO`] means the first one, or the last one when backwards.
    pub from: Version,
    /// Newest first.
    pub backwards: bool,
    /// At most this many events. `None` means all.
    pub limit: Option<u64>,
    /// How fresh.
    pub consistency: Consistency,
}

/// What a key is at now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyState {
    /// The key.
    pub key: String,
    /// Version of its latest event.
    pub version: Version,
    /// Seq of its latest event.
    pub seq: Seq,
    /// Whether that event deleted it.
    pub is_deleted: bool,
}

/// Some keys, in byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPage {
    /// The keys.
    pub keys: Vec<KeyState>,
    /// Where the next page begins; `None` on the last one.
    pub next_after: Option<String>,
}

impl Client {
    /// Reads the latest event of a key.
    ///
    /// # Errors
    /// `KEY_NOT_FOUND` when the key was never written or is deleted; `SEQ_AHEAD` for a seq not reached yet.
    pub async fn read(&self, name: &KeyName, options: ReadOptions) -> Result<ReadAnswer, Error> {
        let request = v1::ReadRequest {
            collection: collection_to_wire(name),
            key: name.key.as_str().to_owned(),
            at_seq: options.at.map(Seq::get),
            consistency: options.consistency.to_wire(),
        };
        let make = |attempt: Attempt| {
            let request = attempt.request(request.clone());
            async move { attempt.node.data().read(request).await }
        };
        // What any member may answer, any node is asked for.
        let is_led = options.at.is_none() && options.consistency == Consistency::Linearizable;
        let slot = is_led.then(|| name.slot());
        let (answer, _attempts) = self.call(CallKind::Read, slot, make).await?;
        let answer = answer.into_inner();
        self.note_led_at(&answer.led_at);
        let as_of = Seq(answer.as_of_seq);
        self.note_seq(as_of);
        Ok(ReadAnswer {
            event: Event::decode(&answer.event).map_err(Error::bad_answer)?,
            as_of,
        })
    }

    /// Reads several keys as they were at one seq: now, or at `at`. Sees every write that was acknowledged before, and of
    /// no two writes the later one without the earlier.
    ///
    /// # Errors
    /// `SEQ_AHEAD` for a seq not reached yet; `COORDINATOR_AWAY` when the counter cannot be read. A key that is not
    /// there is no error.
    pub async fn snapshot(&self, names: &[KeyName], at: Option<Seq>) -> Result<Snapshot, Error> {
        let mut as_of = at;
        let mut keys = Vec::with_capacity(names.len());
        while let Some(rest) = names.get(keys.len()..).filter(|rest| !rest.is_empty()) {
            let page = rest.get(..SNAPSHOT_KEYS_MAX).unwrap_or(rest);
            let wire = |name: &KeyName| v1::SnapshotKey {
                collection: collection_to_wire(name),
                key: name.key.as_str().to_owned(),
            };
            let request = v1::SnapshotRequest {
                keys: page.iter().map(wire).collect(),
                at_seq: as_of.map(Seq::get),
            };
            let make = |attempt: Attempt| {
                let request = attempt.request(request.clone());
                async move { attempt.node.data().snapshot(request).await }
            };
            let (answer, _attempts) = self.call(CallKind::Read, None, make).await?;
            let answer = answer.into_inner();
            if answer.answers.is_empty() {
                return Err(Error::bad_answer("a snapshot without answers"));
            }
            as_of = Some(Seq(answer.seq));
            for (name, answer) in page.iter().zip(answer.answers) {
                let event = (!answer.event.is_empty()).then(|| Event::decode(&answer.event));
                keys.push(KeyThen {
                    name: name.clone(),
                    event: event.transpose().map_err(Error::bad_answer)?,
                    version: Version(answer.version),
                });
            }
        }
        let as_of = as_of.unwrap_or_default();
        self.note_seq(as_of);
        Ok(Snapshot { as_of, keys })
    }

    /// Reads the events of a key. Nothing is sent before the first [`History::next`].
    pub fn history(&self, name: &KeyName, options: HistoryOptions) -> History {
        History {
            client: self.clone(),
            name: name.clone(),
            // On the wire, a limit of 0 would mean all.
            rest: (options.limit != Some(0)).then_some(options),
            deadline: self.deadline(),
            attempts: Attempts::new(CallKind::Read),
            stream: None,
            read: VecDeque::new(),
        }
    }

    /// Lists keys of a collection, at most `limit` (0 means as many as a page holds) after the key `after`.
    ///
    /// # Errors
    /// As for every read.
    pub async fn list_keys(
        &self,
        collection: &Collection,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<KeyPage, Error> {
        let request = v1::ListKeysRequest {
            collection: collection.as_str().to_owned(),
            prefix: prefix.to_owned(),
            after: after.unwrap_or_default().to_owned(),
            limit,
            consistency: Consistency::Linearizable.to_wire(),
        };
        let make = |attempt: Attempt| {
            let request = attempt.request(request.clone());
            async move { attempt.node.data().list_keys(request).await }
        };
        let (answer, _attempts) = self.call(CallKind::Read, None, make).await?;
        let answer = answer.into_inner();
        let keys = answer.keys.into_iter().map(|info| KeyState {
            key: info.key,
            version: Version(info.version),
            seq: Seq(info.seq),
            is_deleted: info.deleted,
        });
        Ok(KeyPage {
            keys: keys.collect(),
            next_after: Some(answer.next_after).filter(|after| !after.is_empty()),
        })
    }
}

/// Events of a key, in the order of their versions. Goes on by itself after a lost connection.
pub struct History {
    client: Client,
    name: KeyName,
    /// What is still to be asked for; `None` at the end.
    rest: Option<HistoryOptions>,
    deadline: Deadline,
    attempts: Attempts,
    stream: Option<(Node, Streaming<v1::HistoryResponse>)>,
    read: VecDeque<Event>,
}

impl History {
    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// As for every read. The timeout of the client is for the whole history.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.read.pop_front() {
                self.advance(&event);
                return Ok(Some(event));
            }
            let Some(rest) = self.rest else {
                return Ok(None);
            };
            if let Err((node, error)) = self.receive(rest).await {
                self.failed(node, error).await?;
            }
        }
    }

    /// The history as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<Event, Error>> + Send {
        futures::stream::try_unfold(self, |mut history| async {
            let next = history.next().await?;
            Ok(next.map(|event| (event, history)))
        })
    }

    async fn receive(&mut self, rest: HistoryOptions) -> Result<(), (Option<Node>, Error)> {
        let (node, mut stream) = match self.stream.take() {
            Some(open) => open,
            None => self.open(rest).await?,
        };
        let limit = self.client.attempt_deadline(self.deadline);
        let message = limit.run(stream.message()).await;
        let message = message.map_err(|_passed| (Some(node.clone()), Error::deadline()))?;
        let message =
            message.map_err(|status| (Some(node.clone()), Error::from_status(&status, &node.address)))?;
        match message {
            Some(batch) => {
                let events = decode_batch(&batch.events).map_err(|error| (None, Error::bad_answer(error)))?;
                self.read.extend(events);
                self.stream = Some((node, stream));
            }
            None => self.rest = None,
        }
        Ok(())
    }

    async fn open(
        &mut self,
        rest: HistoryOptions,
    ) -> Result<(Node, Streaming<v1::HistoryResponse>), (Option<Node>, Error)> {
        let is_led = rest.consistency == Consistency::Linearizable && self.attempts.made() == 0;
        let node = if is_led {
            self.client.node_for(&self.name)
        } else {
            self.client.node()
        };
        let node = node.map_err(|error| (None, error))?;
        let request = v1::HistoryRequest {
            collection: collection_to_wire(&self.name),
            key: self.name.key.as_str().to_owned(),
            from_version: rest.from.get(),
            backwards: rest.backwards,
            limit: rest.limit.unwrap_or_default(),
            consistency: rest.consistency.to_wire(),
        };
        self.attempts.begin();
        let mut client = node.data();
        let limit = self.client.attempt_deadline(self.deadline);
        let opened = limit.run(client.history(request)).await;
        let opened = opened.map_err(|_passed| (Some(node.clone()), Error::deadline()))?;
        let opened =
            opened.map_err(|status| (Some(node.clone()), Error::from_status(&status, &node.address)))?;
        Ok((node, opened.into_inner()))
    }

    async fn failed(&mut self, node: Option<Node>, error: Error) -> Result<(), Error> {
        if let Some(node) = node.filter(|_| error.is_transient()) {
            self.client.leave(&node, &error);
        }
        match self.attempts.failed(error, self.deadline) {
            Next::Tell(error) => Err(error),
            Next::Retry(delay) => {
                clock::sleep(delay).await;
                Ok(())
            }
        }
    }

    /// After a lost connection, the rest begins behind the last event that was handed out.
    fn advance(&mut self, event: &Event) {
        let Some(mut rest) = self.rest.take() else {
            return;
        };
        rest.limit = rest.limit.map(|limit| limit.saturating_sub(1));
        rest.from = if rest.backwards {
            event.version.previous()
        } else {
            event.version.next()
        };
        let is_at_end = rest.limit == Some(0) || rest.from == Version::ZERO;
        self.rest = (!is_at_end).then_some(rest);
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History")
            .field("name", &self.name)
            .field("rest", &self.rest)
            .finish_non_exhaustive()
    }
}
