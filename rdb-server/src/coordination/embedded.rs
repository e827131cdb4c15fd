//! The coordinator of a standalone node: in process, with its state in the data directory.
//!
//! Epochs are durable before they are granted. The counter is not written at all: it is what the logs hold. For
//! that to be safe, [`Coordinator::counter`] shows only numbers that are durable in a log (DESIGN 5, standalone
//! mode): a number above them may be handed out again after a crash, so no resolved mark may ever pass it. It was
//! never acknowledged and never shown, because both wait for the log.

use super::{Allocation, CoordinationError, Coordinator, Granted, NodeInfo, Order, Report, SeatKey, View};
use crate::clock;
use async_trait::async_trait;
use rdb_proto::types::{Epoch, GroupId, Membership, NodeId, SeatId, Seq, Side, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Format of the state file that this release reads and writes.
const FORMAT: u32 = 1;

/// What the whole database must agree on, fixed when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Name of the database (`DB`).
    pub database: String,
    /// Groups that keys are spread over (`SHARD_GROUPS`): with another number, keys would be looked for in the
    /// wrong logs.
    pub shard_groups: u32,
}

impl Config {
    /// The first setting that is not what the database was made with.
    fn differs(&self, made: &Self) -> Option<CoordinationError> {
        let differ = |variable, actual: &dyn ToString, expected: &dyn ToString| {
            let (actual, expected) = (actual.to_string(), expected.to_string());
            (actual != expected).then_some(CoordinationError::SettingsDiffer {
                variable,
                actual,
                expected,
            })
        };
        differ("DB", &self.database, &made.database)
            .or_else(|| differ("SHARD_GROUPS", &self.shard_groups, &made.shard_groups))
    }
}

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    format: u32,
    config: Config,
    node_id: u64,
    /// Last epoch number granted, by seat.
    epochs: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Counter {
    last: Seq,
    time: Timestamp,
}

/// See the module.
#[derive(Debug)]
pub struct EmbeddedCoordinator {
    path: PathBuf,
    node_id: NodeId,
    state: Mutex<State>,
    counter: Mutex<Counter>,
    durable: watch::Sender<Seq>,
    /// Leader keys live as long as the process, as those in etcd live as long as its lease.
    view: watch::Sender<Arc<View>>,
}

impl EmbeddedCoordinator {
    /// Name of the state file in the data directory.
    pub const FILE: &'static str = "coordinator.json";

    /// Opens the state in `directory`, or creates it when the directory `is_new`. Call
    /// [`EmbeddedCoordinator::resume`] before the first number is allocated.
    ///
    /// # Errors
    /// [`CoordinationError`] when the file cannot be read, written or understood, or was made with another config.
    pub fn open(directory: &Path, config: &Config, is_new: bool) -> Result<Self, CoordinationError> {
        let path = directory.join(Self::FILE);
        let state = match fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_new => {
                let node_id = clock::random_u64();
                let state = State {
                    format: FORMAT,
                    config: config.clone(),
                    node_id,
                    epochs: BTreeMap::new(),
                };
                write(&path, &state)?;
                state
            }
            Err(source) => return Err(CoordinationError::Io { path, source }),
        };
        if let Some(error) = config.differs(&state.config) {
            return Err(error);
        }
        let node_id = NodeId(state.node_id);
        Ok(Self {
            path,
            node_id,
            view: watch::Sender::new(Arc::new(standing_alone(config, node_id))),
            state: Mutex::new(state),
            counter: Mutex::new(Counter {
                last: Seq::ZERO,
                time: Timestamp::ZERO,
            }),
            durable: watch::Sender::new(Seq::ZERO),
        })
    }

    /// Goes on with the counter where the logs end: `last_seq` and `last_time` are the highest that any of them
    /// holds.
    pub fn resume(&self, last_seq: Seq, last_time: Timestamp) {
        let mut counter = lock(&self.counter);
        counter.last = counter.last.max(last_seq);
        counter.time = counter.time.max(last_time);
        drop(counter);
        self.note_durable(last_seq);
    }

    fn key(&self, seat: SeatId) -> SeatKey {
        self.view.borrow().seats.get(&seat).copied().unwrap_or_default()
    }

    /// Grants the next epoch, durably; the state is locked, so the key is as it was compared.
    fn grant(&self, state: &mut State, seat: SeatId, above: Epoch) -> Result<Granted, CoordinationError> {
        let granted = state.epochs.get(&seat.to_string()).copied().unwrap_or(0);
        let number = Seq(granted.max(above.number)).next().get();
        state.epochs.insert(seat.to_string(), number);
        write(&self.path, state)?;
        let epoch = Epoch {
            number,
            node: self.node_id,
        };
        self.show(seat, Some(epoch), None);
        Ok(Granted {
            epoch,
            membership: alone(self.node_id),
        })
    }

    fn show(&self, seat: SeatId, holder: Option<Epoch>, successor: Option<NodeId>) {
        self.view.send_modify(|view| {
            let key = Arc::make_mut(view).seats.entry(seat).or_default();
            let revision = key.revision.saturating_add(1);
            *key = SeatKey {
                holder,
                successor,
                revision,
            };
        });
    }
}

fn alone(node: NodeId) -> Membership {
    Membership {
        number: 1,
        members: vec![node],
        previous: Vec::new(),
    }
}

/// One node, a member of every group, and nobody in the seats.
fn standing_alone(config: &Config, node: NodeId) -> View {
    let groups = || (0..config.shard_groups).map(GroupId);
    let seats = groups().flat_map(|group| Side::BOTH.map(|side| SeatId { group, side }));
    View {
        nodes: BTreeMap::from([(
            node,
            NodeInfo {
                is_live: true,
                ..NodeInfo::default()
            },
        )]),
        groups: groups().map(|group| (group, alone(node))).collect(),
        seats: seats.map(|seat| (seat, SeatKey::default())).collect(),
        controller: Some(node),
        ..View::default()
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<State, CoordinationError> {
    let problem = |problem: String| CoordinationError::State {
        path: path.to_owned(),
        problem,
    };
    let state: State = serde_json::from_slice(bytes).map_err(|error| problem(error.to_string()))?;
    if state.format == FORMAT {
        Ok(state)
    } else {
        Err(problem(format!(
            "its format is {}, this release reads {FORMAT}",
            state.format
        )))
    }
}

fn write(path: &Path, state: &State) -> Result<(), CoordinationError> {
    let contents = serde_json::to_vec_pretty(state).map_err(io::Error::from);
    contents
        .and_then(|contents| replace(path, &contents))
        .map_err(|source| CoordinationError::Io {
            path: path.to_owned(),
            source,
        })
}

/// Replaces the file so that a crash leaves the old one or the new one, whole.
fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let next = path.with_extension("next");
    let mut file = File::create(&next)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    File::open(directory)?.sync_all()
}

/// A panic while the lock was held left no half-made change: each is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Coordinator for EmbeddedCoordinator {
    fn node_id(&self) -> NodeId {
        self.node_id
    }

    fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    async fn campaign(
        &self,
        seat: SeatId,
        above: Epoch,
        revision: u64,
    ) -> Result<Option<Granted>, CoordinationError> {
        let mut state = lock(&self.state);
        if self.key(seat).revision != revision {
            return Ok(None);
        }
        self.grant(&mut state, seat, above).map(Some)
    }

    async fn raise(
        &self,
        seat: SeatId,
        epoch: Epoch,
        above: Epoch,
    ) -> Result<Option<Granted>, CoordinationError> {
        let mut state = lock(&self.state);
        if self.key(seat).holder != Some(epoch) {
            return Ok(None);
        }
        self.grant(&mut state, seat, above).map(Some)
    }

    async fn give_up(
        &self,
        seat: SeatId,
        epoch: Epoch,
        successor: Option<NodeId>,
    ) -> Result<(), CoordinationError> {
        let _state = lock(&self.state);
        if self.key(seat).holder == Some(epoch) {
            self.show(seat, None, successor);
        }
        Ok(())
    }

    async fn report(&self, _: SeatId, _: Epoch, _: Report) -> Result<(), CoordinationError> {
        Ok(())
    }

    async fn order(&self, _: Order) -> Result<(), CoordinationError> {
        Err(CoordinationError::Changed {
            why: "a standalone node has no other to move anything to",
        })
    }

    async fn allocate(&self, count: u64) -> Result<Allocation, CoordinationError> {
        assert!(count > 0, "an allocation asks for at least one number");
        let mut counter = lock(&self.counter);
        let first = counter.last.next();
        counter.last = counter.last.plus(count);
        counter.time = counter.time.max(clock::utc_now());
        Ok(Allocation {
            first,
            time: counter.time,
        })
    }

    async fn latest(&self) -> Result<Seq, CoordinationError> {
        // What is acknowledged is durable.
        Ok(*self.durable.borrow())
    }

    fn counter(&self) -> watch::Receiver<Seq> {
        self.durable.subscribe()
    }

    async fn close(&self) {}

    fn note_durable(&self, seq: Seq) {
        self.durable.send_if_modified(|durable| {
            let is_later = seq > *durable;
            *durable = seq.max(*durable);
            is_later
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEAT: SeatId = SeatId {
        group: GroupId(0),
        side: Side::One,
    };

    fn open(directory: &Path, last: u64) -> EmbeddedCoordinator {
        let coordinator = EmbeddedCoordinator::open(directory, &config(1), true).unwrap();
        coordinator.resume(Seq(last), Timestamp(last));
        coordinator
    }

    fn config(shard_groups: u32) -> Config {
        Config {
            database: "rdb".to_owned(),
            shard_groups,
        }
    }

    #[test]
    fn another_shape_than_the_one_it_was_made_with_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        drop(open(directory.path(), 0));
        let error = EmbeddedCoordinator::open(directory.path(), &config(2), false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "SHARD_GROUPS is 2, but the database was made with 1"
        );
    }

    #[tokio::test]
    async fn numbers_are_dense_and_go_on_where_the_logs_end() {
        let directory = tempfile::tempdir().unwrap();
        let coordinator = open(directory.path(), 40);
        assert_eq!(coordinator.allocate(3).await.unwrap().first, Seq(41));
        assert_eq!(coordinator.allocate(1).await.unwrap().first, Seq(44));
    }

    #[tokio::test]
    async fn time_never_goes_back_even_when_the_clock_does() {
        let directory = tempfile::tempdir().unwrap();
        let future = Timestamp(u64::MAX / 2);
        let coordinator = open(directory.path(), 1);
        coordinator.resume(Seq(1), future);
        assert_eq!(coordinator.allocate(1).await.unwrap().time, future);
    }

    #[tokio::test]
    async fn an_epoch_is_granted_once_over_all_starts() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path(), 0);
        let first = first.campaign(SEAT, Epoch::ZERO, 0).await.unwrap().unwrap();
        let coordinator = open(directory.path(), 0);
        let second = coordinator.campaign(SEAT, Epoch::ZERO, 0).await.unwrap().unwrap();
        assert!(second.epoch > first.epoch);
        let seen = Epoch {
            number: 9,
            node: NodeId(7),
        };
        let raised = coordinator.raise(SEAT, second.epoch, seen).await.unwrap();
        assert_eq!(raised.unwrap().epoch.number, 10);
        let late = coordinator.raise(SEAT, second.epoch, seen).await.unwrap();
        assert_eq!(late, None, "it holds the seat under another epoch");
    }

    #[tokio::test]
    async fn an_election_compares_the_key_and_shows_the_holder() {
        let directory = tempfile::tempdir().unwrap();
        let coordinator = open(directory.path(), 0);
        let key = || coordinator.view().borrow().seats[&SEAT];
        let won = coordinator.campaign(SEAT, Epoch::ZERO, 0).await.unwrap().unwrap();
        assert_eq!(key().holder, Some(won.epoch));
        assert_eq!(coordinator.campaign(SEAT, Epoch::ZERO, 0).await.unwrap(), None);
        coordinator.give_up(SEAT, won.epoch, None).await.unwrap();
        assert_eq!(key().holder, None);
        assert!(key().revision > 1, "each change shows");
    }

    #[tokio::test]
    async fn the_counter_shows_only_what_is_durable() {
        let directory = tempfile::tempdir().unwrap();
        let coordinator = open(directory.path(), 5);
        coordinator.allocate(10).await.unwrap();
        assert_eq!(*coordinator.counter().borrow(), Seq(5));
        coordinator.note_durable(Seq(9));
        coordinator.note_durable(Seq(7));
        assert_eq!(*coordinator.counter().borrow(), Seq(9));
    }

    #[test]
    fn a_missing_damaged_or_newer_state_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let missing = EmbeddedCoordinator::open(directory.path(), &config(1), false)
            .unwrap_err()
            .to_string();
        assert!(
            missing.contains(EmbeddedCoordinator::FILE),
            "logs without it are not led anew: {missing}"
        );
        let refused = |contents: &str| {
            fs::write(directory.path().join(EmbeddedCoordinator::FILE), contents).unwrap();
            EmbeddedCoordinator::open(directory.path(), &config(1), false)
                .unwrap_err()
                .to_string()
        };
        assert!(refused("{").contains("cannot be read"));
        assert!(
            refused(r#"{"format":2,"config":{"database":"rdb","shard_groups":1},"node_id":1,"epochs":{}}"#)
                .contains("its format is 2")
        );
    }
}
