//! What etcd holds of the database, as this node knows it: kept by a listing and a watch, read by everything else.

use super::Shared;
use super::records::{
    ConfigRecord, ControllerRecord, CounterRecord, EpochRecord, IdRecord, Keys, LeaderRecord, LeavingRecord,
    LiveRecord, MembersRecord, ReportRecord, decode, encode,
};
use crate::coordination::progress::Progress;
use crate::coordination::{CoordinationError, NodeInfo, Report, SeatKey, View};
use rdb_proto::types::{Epoch, GroupId, NodeId, SeatId, Seq, Side, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// A value with the revision of its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) revision: i64,
}

/// The keys of the database. One that cannot be read counts as absent, and is complained of.
#[derive(Debug, Clone, Default)]
pub(super) struct Mirror {
    /// Everything before it is known.
    pub(super) revision: i64,
    config: Option<ConfigRecord>,
    ids: BTreeMap<String, At<IdRecord>>,
    live: BTreeMap<NodeId, LiveRecord>,
    /// Where nodes were reached when they were live.
    last_live: BTreeMap<NodeId, LiveRecord>,
    pub(super) controller: Option<ControllerRecord>,
    pub(super) members: BTreeMap<GroupId, At<MembersRecord>>,
    epochs: BTreeMap<SeatId, At<EpochRecord>>,
    leaders: BTreeMap<SeatId, LeaderRecord>,
    reports: BTreeMap<SeatId, ReportRecord>,
    leaving: BTreeMap<NodeId, LeavingRecord>,
    pub(super) counter: Option<CounterRecord>,
    complaints: BTreeMap<String, String>,
}

/// The part of a key behind the prefix, taken apart.
enum Name<'a> {
    Config,
    Id(&'a str),
    Live(NodeId),
    Controller,
    Members(GroupId),
    Epoch(SeatId),
    Leader(SeatId),
    Report(SeatId),
    Leaving(NodeId),
    Counter,
    Other,
}

fn name_of<'a>(keys: &Keys, key: &'a str) -> Name<'a> {
    if key == keys.counter {
        return Name::Counter;
    }
    let Some(name) = key.strip_prefix(keys.prefix.as_str()) else {
        return Name::Other;
    };
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        ["config"] => Name::Config,
        ["ids", name] => Name::Id(name),
        ["live", node] => node.parse().map_or(Name::Other, |node| Name::Live(NodeId(node))),
        ["leaving", node] => node
            .parse()
            .map_or(Name::Other, |node| Name::Leaving(NodeId(node))),
        ["controller"] => Name::Controller,
        ["groups", group, "members"] => group
            .parse()
            .map_or(Name::Other, |group| Name::Members(GroupId(group))),
        ["groups", group, "seats", side, what] => match (SeatId::from_parts(group, side), *what) {
            (Some(seat), "epoch") => Name::Epoch(seat),
            (Some(seat), "leader") => Name::Leader(seat),
            (Some(seat), "report") => Name::Report(seat),
            _ => Name::Other,
        },
        _ => Name::Other,
    }
}

impl Mirror {
    /// Begins anew with a listing; remembers only where nodes were.
    pub(super) fn restart(&mut self, revision: i64) {
        *self = Self {
            revision,
            last_live: std::mem::take(&mut self.last_live),
            ..Self::default()
        };
    }

    pub(super) fn put(&mut self, keys: &Keys, key: &str, value: &[u8], revision: i64) {
        self.revision = self.revision.max(revision);
        let result = self.try_put(keys, key, value, revision);
        match result {
            Ok(()) => {
                self.complaints.remove(key);
            }
            Err(error) => {
                self.delete(keys, key, revision);
                self.complaints.insert(key.to_owned(), error.to_string());
            }
        }
    }

    fn try_put(
        &mut self,
        keys: &Keys,
        key: &str,
        value: &[u8],
        revision: i64,
    ) -> Result<(), CoordinationError> {
        match name_of(keys, key) {
            Name::Config => self.config = Some(decode(key, value)?),
            Name::Id(name) => {
                let value = decode(key, value)?;
                self.ids.insert(name.to_owned(), At { value, revision });
            }
            Name::Live(node) => {
                let record: LiveRecord = decode(key, value)?;
                self.last_live.insert(node, record.clone());
                self.live.insert(node, record);
            }
            Name::Controller => self.controller = Some(decode(key, value)?),
            Name::Members(group) => {
                let value = decode(key, value)?;
                self.members.insert(group, At { value, revision });
            }
            Name::Epoch(seat) => {
                let value = decode(key, value)?;
                self.epochs.insert(seat, At { value, revision });
            }
            Name::Leader(seat) => {
                self.leaders.insert(seat, decode(key, value)?);
            }
            Name::Report(seat) => {
                self.reports.insert(seat, decode(key, value)?);
            }
            Name::Leaving(node) => {
                self.leaving.insert(node, decode(key, value)?);
            }
            Name::Counter => self.counter = Some(decode(key, value)?),
            Name::Other => {}
        }
        Ok(())
    }

    pub(super) fn delete(&mut self, keys: &Keys, key: &str, revision: i64) {
        self.complaints.remove(key);
        self.revision = self.revision.max(revision);
        match name_of(keys, key) {
            Name::Config => self.config = None,
            Name::Id(name) => {
                self.ids.remove(name);
            }
            Name::Live(node) => {
                self.live.remove(&node);
            }
            Name::Controller => self.controller = None,
            Name::Members(group) => {
                self.members.remove(&group);
            }
            Name::Epoch(seat) => {
                self.epochs.remove(&seat);
            }
            Name::Leader(seat) => {
                self.leaders.remove(&seat);
            }
            Name::Report(seat) => {
                self.reports.remove(&seat);
            }
            Name::Leaving(node) => {
                self.leaving.remove(&node);
            }
            Name::Counter => self.counter = None,
            Name::Other => {}
        }
    }

    /// The last epoch of a seat, with the revision of its key; 0 when there was none.
    pub(super) fn epoch(&self, seat: SeatId) -> At<EpochRecord> {
        let never = || At {
            value: EpochRecord::default(),
            revision: 0,
        };
        self.epochs.get(&seat).cloned().unwrap_or_else(never)
    }

    /// What the leader of a seat says of a change of members, when it still leads.
    fn report(&self, seat: SeatId) -> Option<Report> {
        let leader = self.leaders.get(&seat)?;
        let report = self.reports.get(&seat)?;
        ((report.node, report.number) == (leader.node, leader.number)).then(|| Report {
            as_of: report.as_of,
            established: report.established,
            caught_up: report.caught_up.iter().copied().map(NodeId).collect(),
        })
    }

    /// The name that a node is registered under, and the revision of that key.
    pub(super) fn registration(&self, node: NodeId) -> Option<(&str, i64)> {
        let named = self.ids.iter().find(|(_, id)| id.value.node == node.0);
        named.map(|(name, id)| (name.as_str(), id.revision))
    }

    /// The name that a node is registered under, for people.
    pub(super) fn name_of(&self, node: NodeId) -> &str {
        self.registration(node)
            .map_or("a node that is gone", |(name, _)| name)
    }

    /// Whether every key could be read: what cannot be read must not look as if it were not there.
    pub(super) fn is_whole(&self) -> bool {
        self.complaints.is_empty()
    }

    /// Last seq handed out.
    pub(super) fn last_seq(&self) -> Seq {
        self.counter.as_ref().map_or(Seq::ZERO, CounterRecord::last)
    }

    /// How often etcd went back to an older state and was put right.
    pub(super) fn generation(&self) -> u64 {
        self.config.as_ref().map_or(0, |config| config.generation)
    }

    /// How far the keys have come.
    pub(super) fn progress(&self) -> Progress {
        let epochs = self.epochs.iter();
        let members = self.members.iter();
        Progress {
            generation: self.generation(),
            revision: u64::try_from(self.revision).unwrap_or_default(),
            counter: self.last_seq(),
            time: self.counter.as_ref().map_or(Timestamp::ZERO, CounterRecord::time),
            epochs: epochs.map(|(seat, at)| (*seat, at.value.number)).collect(),
            members: members
                .map(|(group, at)| (*group, at.value.membership()))
                .collect(),
        }
    }

    /// Whether a listing has what every database has: an etcd that was emptied, or restored from a copy that is older
    /// than the database, has not.
    pub(super) fn check(&self, shared: &Shared) -> Result<(), CoordinationError> {
        let malformed = |key: &str, problem: String| CoordinationError::Malformed {
            key: key.to_owned(),
            problem,
        };
        let emptied = "it is missing: etcd was emptied, or restored from a copy older than this database. No numbers \
                       are taken; restore etcd from a later copy";
        let Some(config) = &self.config else {
            return Err(malformed(&shared.keys.config(), emptied.to_owned()));
        };
        if config.database != shared.config.database {
            let (found, mine) = (config.database, shared.config.database);
            let problem = format!("it is of database {found}, and this node is of {mine}");
            return Err(malformed(&shared.keys.config(), problem));
        }
        if self.counter.is_none() {
            return Err(malformed(&shared.keys.counter, emptied.to_owned()));
        }
        // Of these keys one that cannot be read must not look as if it had gone back; others are complained of.
        let groups = format!("{}groups/", shared.keys.prefix);
        let is_needed =
            |key: &str| key == shared.keys.config() || key == shared.keys.counter || key.starts_with(&groups);
        let complaint = self.complaints.iter().find(|(key, _)| is_needed(key));
        complaint.map_or(Ok(()), |(key, problem)| Err(malformed(key, problem.clone())))
    }

    /// What concerns the rest of the node.
    pub(super) fn view(&self, problem: Option<String>, warnings: &[String]) -> View {
        let name = |(name, id): (&String, &At<IdRecord>)| {
            let node = NodeId(id.value.node);
            let record = self.last_live.get(&node);
            let info = NodeInfo {
                name: name.clone(),
                address: record.map(|live| live.address.clone()).unwrap_or_default(),
                release: record.map(|live| live.release.clone()).unwrap_or_default(),
                is_live: self.live.contains_key(&node),
            };
            (node, info)
        };
        let seats = self.members.keys().flat_map(|group| {
            let seat = |side| SeatId { group: *group, side };
            Side::BOTH.map(seat)
        });
        let learners = self
            .members
            .iter()
            .filter(|(_, members)| !members.value.learners.is_empty());
        View {
            nodes: self.ids.iter().map(name).collect(),
            groups: self
                .members
                .iter()
                .map(|(group, members)| (*group, members.value.membership()))
                .collect(),
            learners: learners
                .map(|(group, members)| {
                    (
                        *group,
                        members.value.learners.iter().copied().map(NodeId).collect(),
                    )
                })
                .collect(),
            changed_at: self
                .members
                .iter()
                .map(|(group, members)| (*group, u64::try_from(members.revision).unwrap_or_default()))
                .collect(),
            replaced: self
                .members
                .iter()
                .filter_map(|(group, members)| Some((*group, NodeId(members.value.leaving?))))
                .collect(),
            leaving: self
                .leaving
                .iter()
                .map(|(node, record)| (*node, record.to.map(NodeId)))
                .collect(),
            reports: self
                .reports
                .keys()
                .filter_map(|seat| Some((*seat, self.report(*seat)?)))
                .collect(),
            seats: seats.map(|seat| (seat, self.seat_key(seat))).collect(),
            controller: self.controller.as_ref().map(|record| NodeId(record.node)),
            problem,
            warnings: warnings.iter().chain(self.complaints.values()).cloned().collect(),
            unreplaced: BTreeSet::new(),
        }
    }

    /// A seat's key. Its revision tells apart every state: the epoch key changes with every election and with every
    /// giving up, and between those the leader key can only vanish.
    pub(super) fn seat_key(&self, seat: SeatId) -> SeatKey {
        let epoch = self.epoch(seat);
        let holder = self.leaders.get(&seat).map(|leader| Epoch {
            number: leader.number,
            node: NodeId(leader.node),
        });
        let doubled = u64::try_from(epoch.revision)
            .unwrap_or_default()
            .saturating_mul(2);
        SeatKey {
            holder,
            successor: epoch.value.successor.map(NodeId).filter(|_| holder.is_none()),
            revision: doubled.saturating_add(u64::from(holder.is_none())),
        }
    }
}

/// The revision of the epoch key that a seat key's revision was made from, and whether nobody held the seat.
pub(super) fn split_revision(revision: u64) -> (i64, bool) {
    (i64::try_from(revision / 2).unwrap_or(i64::MAX), revision % 2 == 1)
}

/// Reads keys of a database as a listing brings them, one after the other; what comes of all of them is looked at, and
/// then each value that could be read is written again. How fuzzing gets at what reads etcd.
#[doc(hidden)]
pub fn reread(database: &str, counter: &str, listed: &[(&str, &[u8])]) -> Vec<Option<Vec<u8>>> {
    let keys = Keys::new(database, counter);
    let mut mirror = Mirror::default();
    for (revision, (key, value)) in (1..).zip(listed) {
        mirror.put(&keys, key, value, revision);
    }
    let view = mirror.view(None, &[]);
    let unreadable = mirror.complaints.len();
    assert_eq!(view.warnings.len(), unreadable, "operators are told of each");
    assert_eq!(mirror.is_whole(), unreadable == 0);
    assert_eq!(mirror.progress().members.len(), view.groups.len());
    for (seat, key) in &view.seats {
        assert_eq!(*key, mirror.seat_key(*seat));
    }
    listed
        .iter()
        .map(|(key, value)| rewritten(&keys, key, value).ok().flatten())
        .collect()
}

/// The value as this release writes it; `None` for a key that the database does not have.
fn rewritten(keys: &Keys, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, CoordinationError> {
    Ok(Some(match name_of(keys, key) {
        Name::Config => encode(&decode::<ConfigRecord>(key, value)?),
        Name::Id(_) => encode(&decode::<IdRecord>(key, value)?),
        Name::Live(_) => encode(&decode::<LiveRecord>(key, value)?),
        Name::Controller => encode(&decode::<ControllerRecord>(key, value)?),
        Name::Members(_) => encode(&decode::<MembersRecord>(key, value)?),
        Name::Epoch(_) => encode(&decode::<EpochRecord>(key, value)?),
        Name::Leader(_) => encode(&decode::<LeaderRecord>(key, value)?),
        Name::Report(_) => encode(&decode::<ReportRecord>(key, value)?),
        Name::Leaving(_) => encode(&decode::<LeavingRecord>(key, value)?),
        Name::Counter => encode(&decode::<CounterRecord>(key, value)?),
        Name::Other => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::records::FORMAT;
    use super::*;
    use uuid::Uuid;

    const SEAT: SeatId = SeatId {
        group: GroupId(0),
        side: Side::One,
    };

    fn keys() -> Keys {
        Keys::new("test", "/elsewhere")
    }

    fn elected(mirror: &mut Mirror, number: u64, node: u64, revision: i64) {
        let leader = LeaderRecord {
            format: FORMAT,
            node,
            number,
            incarnation: Uuid::nil(),
        };
        let epoch = EpochRecord {
            format: FORMAT,
            number,
            successor: None,
        };
        mirror.put(&keys(), &keys().leader(SEAT), &encode(&leader), revision);
        mirror.put(&keys(), &keys().epoch(SEAT), &encode(&epoch), revision);
    }

    #[test]
    fn every_change_of_a_seat_changes_its_revision() {
        let mut mirror = Mirror::default();
        let mut seen = vec![mirror.seat_key(SEAT)];
        elected(&mut mirror, 1, 7, 10);
        seen.push(mirror.seat_key(SEAT));
        mirror.delete(&keys(), &keys().leader(SEAT), 11);
        seen.push(mirror.seat_key(SEAT));
        elected(&mut mirror, 2, 8, 12);
        seen.push(mirror.seat_key(SEAT));
        mirror.delete(&keys(), &keys().leader(SEAT), 13);
        let given_up = EpochRecord {
            format: FORMAT,
            number: 2,
            successor: Some(7),
        };
        mirror.put(&keys(), &keys().epoch(SEAT), &encode(&given_up), 13);
        seen.push(mirror.seat_key(SEAT));
        let revisions: Vec<u64> = seen.iter().map(|key| key.revision).collect();
        assert_eq!(revisions, [1, 20, 21, 24, 27]);
        assert_eq!(seen[4].successor, Some(NodeId(7)));
        assert_eq!(split_revision(21), (10, true));
    }

    #[test]
    fn a_node_that_is_gone_is_remembered_by_its_address() {
        let mut mirror = Mirror::default();
        let id = IdRecord {
            format: FORMAT,
            node: 7,
            directory: Uuid::nil(),
        };
        let live = LiveRecord {
            format: FORMAT,
            name: "n1".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            release: "0.1.0".to_owned(),
            incarnation: Uuid::nil(),
        };
        mirror.put(&keys(), &keys().id("n1"), &encode(&id), 1);
        mirror.put(&keys(), &keys().live(NodeId(7)), &encode(&live), 1);
        mirror.delete(&keys(), &keys().live(NodeId(7)), 2);
        let view = mirror.view(None, &[]);
        assert_eq!(view.address(NodeId(7)), Some("127.0.0.1:1"));
        assert!(!view.nodes[&NodeId(7)].is_live);
    }

    #[test]
    fn a_value_that_cannot_be_read_is_complained_of() {
        let mut mirror = Mirror::default();
        mirror.put(&keys(), "/elsewhere", b"17", 1);
        assert_eq!(mirror.last_seq(), Seq::ZERO);
        assert_eq!(mirror.view(None, &[]).warnings.len(), 1);
    }
}
