//! A session with etcd: over **one** connection, its state is judged, put right if need be, and numbers are taken.
//!
//! An etcd that is restored from an older backup is a new process, and looks the same from outside (DESIGN 6.5). So
//! whoever guards this node against that ([`EtcdCoordinator::guard`]) judges what a session's connection leads to, and
//! lets numbers be taken over this connection only ([`Session::open`]). When it ends, so does the permission.

use super::connection::OneConnection;
use super::mirror::Mirror;
use super::records::{ConfigRecord, CounterRecord, EpochRecord, FORMAT, MembersRecord, encode};
use super::{EtcdCoordinator, Shared, call, join};
use crate::clock;
use crate::coordination::CoordinationError;
use crate::coordination::progress::{Progress, Restart};
use crate::limits::{RESTART_GROUPS_MAX, TIME_LEAP_MICROSECONDS};
use etcd_client::{
    Client, Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse, WatchOptions,
};
use rdb_proto::types::{GroupId, SeatId, Seq, Side};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Where numbers are taken.
#[derive(Debug, Clone, Default)]
pub(super) enum Numbers {
    /// Over any connection, judged by what this node alone has seen: nobody guards it.
    #[default]
    Unguarded,
    /// Nowhere: there is no session.
    Closed,
    /// Nowhere yet: a session is being judged.
    Judged,
    /// Over this connection.
    Open(Open),
}

/// A connection over which numbers may be taken, of one generation.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) client: Arc<Client>,
    pub(super) generation: u64,
    /// Told when the connection is found not to serve any more.
    pub(super) broken: CancellationToken,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// See the module. Cheap to clone: all clones are of one connection.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    client: Arc<Client>,
    broken: CancellationToken,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl EtcdCoordinator {
    /// From now on numbers are taken over sessions that were opened, and not otherwise.
    pub fn guard(&self) {
        self.shared.numbers.send_replace(Numbers::Judged);
    }

    /// Numbers are taken nowhere: the last session ended, or is judged (`soon`: whoever asks may wait a little).
    pub fn close_numbers(&self, soon: bool) {
        let numbers = if soon { Numbers::Judged } else { Numbers::Closed };
        self.shared.numbers.send_replace(numbers);
    }

    /// Why no numbers can be had, for people; `None` when they can, or it is too early to tell.
    pub fn tell_numbers_problem(&self, problem: Option<String>) {
        if self.shared.known().numbers_problem != problem {
            self.shared.learn(|known| known.numbers_problem = problem);
        }
    }

    /// Begins a session, over a connection of its own; `first` is the position of the endpoint that is tried first.
    ///
    /// # Errors
    /// [`CoordinationError::Unavailable`].
    pub async fn begin_session(&self, first: usize) -> Result<Session, CoordinationError> {
        let settings = &self.shared.settings;
        let options = join::connect_options(settings).await?;
        let connecting =
            Client::connect_with_balanced_channel(&settings.endpoints, Some(options), OneConnection(first));
        Ok(Session {
            shared: Arc::clone(&self.shared),
            client: Arc::new(call("a session", connecting).await?),
            broken: CancellationToken::new(),
        })
    }

    /// The node's own logs prove that numbers up to this one were given: the counter has come as far, also when etcd
    /// does not show it. So a seat without writes keeps up with the others while its leader lacks etcd.
    pub fn saw_given(&self, seq: Seq) {
        self.shared.saw_counter(seq);
    }

    /// What this node has seen of etcd, and has in its own logs.
    pub fn progress(&self) -> Progress {
        self.shared.progress()
    }
}

impl Session {
    /// Lets numbers of this generation be taken over this connection.
    pub fn open(&self, generation: u64) {
        self.shared.numbers.send_replace(Numbers::Open(Open {
            client: Arc::clone(&self.client),
            generation,
            broken: self.broken.clone(),
        }));
    }

    /// Completes when the connection is over, or does not serve any more.
    pub async fn ended(self) {
        tokio::select! {
            () = self.broken.cancelled() => {}
            error = self.watch() => tracing::debug!(%error, "the session with etcd ended"),
        }
    }

    /// A watch that says nothing for as long as the connection lives.
    async fn watch(&self) -> CoordinationError {
        let what = "a session";
        let mut client = self.client.watch_client();
        let options = WatchOptions::new().with_filters([
            etcd_client::WatchFilterType::NoPut,
            etcd_client::WatchFilterType::NoDelete,
        ]);
        let watching = client.watch(self.shared.keys.config(), Some(options));
        let mut stream = match call(what, watching).await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        loop {
            let why = match stream.message().await {
                Ok(Some(response)) if !response.canceled() => continue,
                Ok(_) => "etcd ended the stream".to_owned(),
                Err(error) => error.to_string(),
            };
            return CoordinationError::Unavailable { what, why };
        }
    }

    /// The keys as they are now, by a linearizable read.
    ///
    /// # Errors
    /// [`CoordinationError::Unavailable`]; [`CoordinationError::Malformed`] when what must be there is not: etcd was
    /// emptied, or is another database's.
    pub async fn progress(&self) -> Result<Progress, CoordinationError> {
        let keys = &self.shared.keys;
        let prefix = GetOptions::new().with_prefix();
        let txn = Txn::new().and_then([
            TxnOp::get(keys.prefix.clone(), Some(prefix)),
            TxnOp::get(keys.counter.clone(), None),
        ]);
        let answer = call("the database's keys", self.client.kv_client().txn(txn)).await?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        let mut mirror = Mirror::default();
        for kv in key_values(&answer) {
            let key = String::from_utf8_lossy(kv.key());
            mirror.put(keys, &key, kv.value(), kv.mod_revision());
        }
        mirror.revision = revision;
        mirror.check(&self.shared)?;
        Ok(mirror.progress())
    }

    /// Puts etcd right. Whether that was done here or by another node, or not since something changed, reading tells.
    ///
    /// Seats and groups go first, a part at a time, and the generation last: whoever sees the new one sees all of it.
    /// Leader keys go too: who leads under an epoch that was given before learns it by that.
    ///
    /// # Errors
    /// [`CoordinationError::Unavailable`]; all or a part of it may have been done.
    pub async fn restart(&self, restart: &Restart) -> Result<(), CoordinationError> {
        let what = "putting etcd right";
        let config = |generation| ConfigRecord {
            generation,
            ..self.shared.config.clone()
        };
        let keys = &self.shared.keys;
        let is_same = || {
            let value = encode(&config(restart.compares));
            Compare::value(keys.config(), CompareOp::Equal, value)
        };
        let to = &restart.to;
        let groups = to.epochs.keys().map(|seat| &seat.group).chain(to.members.keys());
        let groups: BTreeSet<GroupId> = groups.copied().collect();
        let groups: Vec<GroupId> = groups.into_iter().collect();
        for part in groups.chunks(RESTART_GROUPS_MAX) {
            let unchanged = part.iter().map(|group| self.unchanged(*group, restart.as_of));
            let compares: Vec<Compare> = unchanged.chain([is_same()]).collect();
            let operations: Vec<TxnOp> = part
                .iter()
                .flat_map(|group| self.operations(*group, to))
                .collect();
            let txn = Txn::new().when(compares).and_then(operations);
            if !call(what, self.client.kv_client().txn(txn)).await?.succeeded() {
                return Ok(());
            }
        }
        let least = clock::utc_now().get().saturating_add(TIME_LEAP_MICROSECONDS);
        let counter = CounterRecord {
            format: FORMAT,
            seq: restart.to.counter.get(),
            time_us: restart.to.time.get().max(least),
            generation: restart.to.generation,
        };
        let txn = Txn::new().when([is_same()]).and_then([
            TxnOp::put(keys.config(), encode(&config(restart.to.generation)), None),
            TxnOp::put(keys.counter.clone(), encode(&counter), None),
        ]);
        call(what, self.client.kv_client().txn(txn)).await.map(drop)
    }

    /// Holds as long as no key of the group was written after this revision.
    fn unchanged(&self, group: GroupId, since: u64) -> Compare {
        let next = i64::try_from(since).unwrap_or(i64::MAX).saturating_add(1);
        Compare::mod_revision(self.shared.keys.group(group), CompareOp::Less, next).with_prefix()
    }

    fn operations(&self, group: GroupId, to: &Progress) -> Vec<TxnOp> {
        let keys = &self.shared.keys;
        let seats = Side::BOTH.map(|side| SeatId { group, side });
        let seats = seats.into_iter().filter_map(|seat| {
            let epoch = EpochRecord {
                format: FORMAT,
                number: *to.epochs.get(&seat)?,
                successor: None,
            };
            Some([
                TxnOp::put(keys.epoch(seat), encode(&epoch), None),
                TxnOp::delete(keys.leader(seat), None),
            ])
        });
        let members = to.members.get(&group).map(|membership| {
            let record = MembersRecord::of(membership);
            TxnOp::put(keys.members(group), encode(&record), None)
        });
        seats.flatten().chain(members).collect()
    }
}

fn key_values(answer: &TxnResponse) -> Vec<KeyValue> {
    let got = |response| match response {
        TxnOpResponse::Get(got) => got.kvs().to_vec(),
        TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => Vec::new(),
    };
    answer.op_responses().into_iter().flat_map(got).collect()
}
