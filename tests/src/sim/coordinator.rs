//! The model coordinator: the keys of DESIGN 5 that matter to seats, with transactions that compare revisions, leases
//! that lapse, and watches. What goes wrong on the way to it and back is the world's.

use super::plan::Micros;
use rdb_proto::types::{Epoch, GroupId, Membership, NodeId, SeatId, Seq, Timestamp};
use rdb_server::limits::TIME_LEAP_MICROSECONDS;
use rdb_server::protocol::{LeaderKey, NewGeneration, Seen};
use std::collections::BTreeMap;

/// Number of a change of the coordinator's keys.
pub type Revision = u64;

/// What a node asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A lease, or a sign of life for the one it has.
    KeepAlive {
        /// The one it has.
        lease: Option<u64>,
    },
    /// To lead a seat.
    Elect {
        /// The seat.
        seat: SeatId,
        /// Its lease.
        lease: u64,
        /// Revision that the leader key must have.
        revision: Revision,
        /// The epoch number must exceed this one.
        above: u64,
    },
    /// To lead the seat that it leads under a higher epoch.
    Raise {
        /// The seat.
        seat: SeatId,
        /// Its lease.
        lease: u64,
        /// The epoch that the leader key must name.
        epoch: Epoch,
        /// The epoch number must exceed this one.
        above: u64,
    },
    /// To lead a seat no more.
    Resign {
        /// The seat.
        seat: SeatId,
        /// The epoch that is given up.
        epoch: Epoch,
        /// Who should stand first.
        successor: Option<NodeId>,
    },
    /// Numbers, by compare and swap.
    Allocate {
        /// The counter as the node knows it.
        expected: Seq,
        /// The generation that it must be of.
        generation: u64,
        /// How many.
        count: u64,
        /// The node's wall clock.
        wall: Timestamp,
    },
    /// Everything, and a watch from there. Begins a connection.
    List,
    /// Everything.
    Read,
    /// A new generation, after a rollback.
    Begin {
        /// The txn.
        new: Box<NewGeneration>,
        /// The node's wall clock.
        wall: Timestamp,
    },
}

/// What the coordinator answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The lease is alive.
    Alive {
        /// The lease.
        lease: u64,
    },
    /// The lease is gone.
    LeaseGone,
    /// The seat was won.
    Elected {
        /// The seat.
        seat: SeatId,
        /// Under this epoch.
        epoch: Epoch,
        /// With these members.
        membership: Membership,
    },
    /// Another was there first; this is the leader key now.
    NotElected {
        /// The seat.
        seat: SeatId,
        /// The key.
        key: LeaderKey,
    },
    /// The key is given up, or was another already.
    Resigned {
        /// The seat.
        seat: SeatId,
    },
    /// Numbers from `first`.
    Numbers {
        /// The first.
        first: Seq,
        /// Time that stamps them.
        time: Timestamp,
    },
    /// The counter is elsewhere.
    CounterIs(Seq),
    /// Everything as of now.
    Listed {
        /// Leader keys.
        leaders: BTreeMap<SeatId, LeaderKey>,
        /// Members keys.
        members: BTreeMap<GroupId, Membership>,
        /// The counter.
        counter: Seq,
        /// The watch that begins here.
        watch: u64,
        /// The same, as a node remembers it.
        state: Box<Seen>,
    },
    /// Everything as of now. Also answers a request for numbers of another generation.
    State(Box<Seen>),
}

/// A change that a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A leader key was written, or is gone.
    Leader(SeatId, LeaderKey),
    /// A members key was written.
    Members(GroupId, Membership),
    /// The counter moved.
    Counter(Seq),
}

#[derive(Debug, Clone)]
struct Lease {
    node: NodeId,
    ends: Micros,
}

#[derive(Debug, Clone, Default)]
struct SeatKeys {
    number: u64,
    key: LeaderKey,
    /// The lease that holds the key.
    lease: u64,
}

/// The coordinator.
#[derive(Debug, Clone)]
pub struct Coordinator {
    generation: u64,
    revision: Revision,
    /// Of the last change of a seat or of a group's members.
    changed: Revision,
    counter: Seq,
    time: Timestamp,
    seats: BTreeMap<SeatId, SeatKeys>,
    members: BTreeMap<GroupId, Membership>,
    leases: BTreeMap<u64, Lease>,
    next: u64,
    ttl: Micros,
    /// How often its process was started.
    incarnation: u64,
    /// Highest number that it ever gave, whatever it remembers.
    given: Seq,
}

impl Coordinator {
    /// A fresh one, with these groups.
    pub fn new(
        members: BTreeMap<GroupId, Membership>,
        seats: impl Iterator<Item = SeatId>,
        ttl: Micros,
    ) -> Self {
        Self {
            generation: 0,
            revision: 1,
            changed: 1,
            counter: Seq::ZERO,
            time: Timestamp::ZERO,
            seats: seats.map(|seat| (seat, SeatKeys::default())).collect(),
            members,
            leases: BTreeMap::new(),
            next: 1,
            ttl,
            incarnation: 1,
            given: Seq::ZERO,
        }
    }

    /// Its process is started anew, from an older state of it. Connections are over; leases live on from now.
    pub fn restore(&mut self, backup: &Self, now: Micros) {
        let mut restored = backup.clone();
        for lease in restored.leases.values_mut() {
            lease.ends = now + self.ttl;
        }
        *self = Self {
            // Names of leases are drawn by chance, and never come again.
            next: self.next,
            incarnation: self.incarnation + 1,
            given: self.given,
            ..restored
        };
    }

    /// How often its process was started: a connection is to one of them.
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The highest number that it ever gave, whatever it remembers.
    pub const fn given(&self) -> Seq {
        self.given
    }

    /// How often it was put right after a restore.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// All that a node remembers of it.
    pub fn state(&self) -> Seen {
        let epochs = self.seats.iter().map(|(seat, keys)| (*seat, keys.number));
        Seen {
            generation: self.generation,
            revision: self.revision,
            counter: self.counter,
            time: self.time,
            epochs: epochs.collect(),
            members: self.members.clone(),
        }
    }

    /// What a node may remember of a change that was made just now.
    pub fn shown_by(&self, change: &Change) -> Seen {
        let mut seen = Seen {
            generation: self.generation,
            revision: self.revision,
            ..Seen::default()
        };
        match change {
            Change::Leader(seat, key) => {
                seen.epochs.extend(key.holder.map(|epoch| (*seat, epoch.number)));
            }
            Change::Members(group, membership) => {
                seen.members.insert(*group, membership.clone());
            }
            Change::Counter(counter) => (seen.counter, seen.time) = (*counter, self.time),
        }
        seen
    }

    /// The counter.
    pub const fn counter(&self) -> Seq {
        self.counter
    }

    /// The leader key of a seat.
    pub fn leader(&self, seat: SeatId) -> LeaderKey {
        self.seats[&seat].key
    }

    /// Is restored to a state in which this seat had granted fewer epochs, and nobody held it.
    pub fn forget_epochs(&mut self, seat: SeatId, count: u64, changes: &mut Vec<Change>) {
        let keys = self.seats.get_mut(&seat).unwrap();
        keys.number = keys.number.saturating_sub(count);
        self.vacate(seat, None, changes);
    }

    /// Writes the members key of a group.
    pub fn set_members(&mut self, group: GroupId, membership: Membership) {
        self.change();
        self.members.insert(group, membership);
    }

    /// The members key of a group.
    pub fn members(&self, group: GroupId) -> &Membership {
        &self.members[&group]
    }

    fn name(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Does what a node asks, and says what changed by it.
    pub fn serve(
        &mut self,
        now: Micros,
        node: NodeId,
        request: Request,
        changes: &mut Vec<Change>,
    ) -> Answer {
        match request {
            Request::KeepAlive { lease: None } => {
                let lease = self.name();
                let ends = now + self.ttl;
                self.leases.insert(lease, Lease { node, ends });
                Answer::Alive { lease }
            }
            Request::KeepAlive { lease: Some(lease) } => match self.leases.get_mut(&lease) {
                Some(held) => {
                    held.ends = now + self.ttl;
                    Answer::Alive { lease }
                }
                None => Answer::LeaseGone,
            },
            Request::Elect {
                seat,
                lease,
                revision,
                above,
            } => self.elect(node, (seat, lease, revision, above), changes),
            Request::Raise {
                seat,
                lease,
                epoch,
                above,
            } => {
                let key = self.seats[&seat].key;
                if key.holder != Some(epoch) {
                    return Answer::NotElected { seat, key };
                }
                self.elect(node, (seat, lease, key.revision, above), changes)
            }
            Request::Resign {
                seat,
                epoch,
                successor,
            } => {
                if self.seats[&seat].key.holder == Some(epoch) {
                    self.vacate(seat, successor, changes);
                }
                Answer::Resigned { seat }
            }
            Request::Allocate {
                expected,
                generation,
                count,
                wall,
            } => {
                if generation != self.generation {
                    return Answer::State(Box::new(self.state()));
                }
                if expected != self.counter {
                    return Answer::CounterIs(self.counter);
                }
                self.revision += 1;
                let first = self.counter.next();
                self.counter = self.counter.plus(count);
                self.given = self.given.max(self.counter);
                self.time = self.time.max(wall);
                changes.push(Change::Counter(self.counter));
                Answer::Numbers {
                    first,
                    time: self.time,
                }
            }
            Request::List => Answer::Listed {
                leaders: self.seats.iter().map(|(seat, keys)| (*seat, keys.key)).collect(),
                members: self.members.clone(),
                counter: self.counter,
                watch: self.name(),
                state: Box::new(self.state()),
            },
            Request::Read => Answer::State(Box::new(self.state())),
            Request::Begin { new, wall } => {
                if new.compares == self.generation && self.changed <= new.as_of {
                    self.begin(*new, wall, changes);
                }
                Answer::State(Box::new(self.state()))
            }
        }
    }

    fn change(&mut self) {
        self.revision += 1;
        self.changed = self.revision;
    }

    fn begin(&mut self, new: NewGeneration, wall: Timestamp, changes: &mut Vec<Change>) {
        self.change();
        self.generation = new.generation;
        self.counter = new.counter;
        self.given = self.given.max(self.counter);
        self.time = new.time.max(Timestamp(wall.0 + TIME_LEAP_MICROSECONDS));
        for (seat, number) in new.epochs {
            self.seats.get_mut(&seat).unwrap().number = number;
        }
        for (group, membership) in new.members {
            self.members.insert(group, membership.clone());
            changes.push(Change::Members(group, membership));
        }
        changes.push(Change::Counter(self.counter));
    }

    fn elect(
        &mut self,
        node: NodeId,
        (seat, lease, revision, above): (SeatId, u64, Revision, u64),
        changes: &mut Vec<Change>,
    ) -> Answer {
        if !self.leases.contains_key(&lease) {
            return Answer::LeaseGone;
        }
        let keys = self.seats.get_mut(&seat).unwrap();
        if keys.key.revision != revision {
            return Answer::NotElected { seat, key: keys.key };
        }
        self.revision += 1;
        self.changed = self.revision;
        keys.number = keys.number.max(above) + 1;
        let epoch = Epoch {
            number: keys.number,
            node,
        };
        keys.lease = lease;
        keys.key = LeaderKey {
            holder: Some(epoch),
            successor: None,
            revision: self.revision,
        };
        changes.push(Change::Leader(seat, keys.key));
        Answer::Elected {
            seat,
            epoch,
            membership: self.members[&seat.group].clone(),
        }
    }

    fn vacate(&mut self, seat: SeatId, successor: Option<NodeId>, changes: &mut Vec<Change>) {
        self.change();
        let keys = self.seats.get_mut(&seat).unwrap();
        keys.key = LeaderKey {
            holder: None,
            successor,
            revision: self.revision,
        };
        changes.push(Change::Leader(seat, keys.key));
    }

    /// Ends every lease that is over, and with it the leader keys that it held.
    pub fn lapse(&mut self, now: Micros, changes: &mut Vec<Change>) {
        let over: Vec<u64> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.ends <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.end_lease(id, changes);
        }
    }

    fn end_lease(&mut self, id: u64, changes: &mut Vec<Change>) {
        self.leases.remove(&id);
        let held = |keys: &SeatKeys| keys.key.holder.is_some() && keys.lease == id;
        let seats: Vec<SeatId> = self
            .seats
            .iter()
            .filter(|(_, keys)| held(keys))
            .map(|(seat, _)| *seat)
            .collect();
        for seat in seats {
            self.vacate(seat, None, changes);
        }
    }

    /// Ends the lease of a node that is alive. Returns whether it had one.
    pub fn revoke(&mut self, node: NodeId, changes: &mut Vec<Change>) -> bool {
        let held = self
            .leases
            .iter()
            .find(|(_, lease)| lease.node == node)
            .map(|(id, _)| *id);
        if let Some(id) = held {
            self.end_lease(id, changes);
        }
        held.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_proto::types::Side;

    const SEAT: SeatId = SeatId {
        group: GroupId(0),
        side: Side::Zero,
    };

    fn fresh() -> (Coordinator, u64) {
        let members = BTreeMap::from([(GroupId(0), Membership::default())]);
        let mut coordinator = Coordinator::new(members, [SEAT].into_iter(), 100);
        let answer = coordinator.serve(0, NodeId(1), Request::KeepAlive { lease: None }, &mut vec![]);
        let Answer::Alive { lease } = answer else {
            panic!("{answer:?}")
        };
        (coordinator, lease)
    }

    fn elect(coordinator: &mut Coordinator, lease: u64) -> Answer {
        let request = Request::Elect {
            seat: SEAT,
            lease,
            revision: 0,
            above: 4,
        };
        coordinator.serve(0, NodeId(1), request, &mut vec![])
    }

    #[test]
    fn a_seat_is_won_once_above_what_was_seen_and_lost_with_its_lease() {
        let (mut coordinator, lease) = fresh();
        let answer = elect(&mut coordinator, lease);
        assert!(matches!(answer, Answer::Elected { epoch, .. } if epoch.number == 5));
        let again = elect(&mut coordinator, lease);
        assert!(matches!(again, Answer::NotElected { key, .. } if key.holder.is_some()));
        let mut changes = vec![];
        coordinator.lapse(100, &mut changes);
        assert_eq!(coordinator.leader(SEAT).holder, None);
        assert_eq!(changes, [Change::Leader(SEAT, coordinator.leader(SEAT))]);
        assert_eq!(elect(&mut coordinator, lease), Answer::LeaseGone);
    }

    #[test]
    fn numbers_are_given_by_compare_and_swap() {
        let (mut coordinator, _) = fresh();
        let mut allocate = |expected| {
            let request = Request::Allocate {
                expected: Seq(expected),
                generation: 0,
                count: 3,
                wall: Timestamp(7),
            };
            coordinator.serve(0, NodeId(1), request, &mut vec![])
        };
        let first = Answer::Numbers {
            first: Seq(1),
            time: Timestamp(7),
        };
        assert_eq!(allocate(0), first);
        assert_eq!(allocate(0), Answer::CounterIs(Seq(3)));
    }
}
