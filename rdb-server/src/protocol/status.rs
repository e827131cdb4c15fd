//! What can be seen of a member from outside: for status, metrics and checkers. Nothing is decided by it.

use super::log::LogEnd;
use super::member::Mark;
use super::seat::{Role, Seat};
use rdb_proto::entry::Entry;
use rdb_proto::types::{Epoch, LogIndex, Membership, NodeId, Seq};
use std::fmt;
use std::sync::Arc;

/// What a member does in its seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RoleName {
    /// Obeys whoever leads.
    Follower,
    /// Won the seat and gathers promises.
    Candidate,
    /// Leads, but takes no proposals yet: its epoch-start entry is not committed and indexed.
    Recovering,
    /// Leads and takes proposals.
    Leader,
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Recovering => "recovering",
            Self::Leader => "leader",
        })
    }
}

/// What keeps the seat's mark from following the counter, as its member knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hold {
    /// Nobody is known to lead.
    NoLeader,
    /// Only the leader knows.
    Elsewhere,
    /// The winner of the seat gathers promises: so many of the members have given theirs, and so many are needed.
    Promises {
        /// How many have.
        given: usize,
        /// R.
        needed: usize,
    },
    /// The winner of the seat fetches entries that it misses.
    Fetch,
    /// Entries wait to be on this many members; the first of a new leader's among them.
    Entries {
        /// W.
        needed: usize,
    },
    /// Numbers are on their way from the coordinator.
    Numbers,
    /// This many members must confirm that nobody else leads.
    Round {
        /// W.
        needed: usize,
    },
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLeader => f.write_str("it has no leader"),
            Self::Elsewhere => f.write_str("its leader does not say why"),
            Self::Promises { given, needed } => {
                write!(
                    f,
                    "it is being recovered: {given} of {needed} members have answered"
                )
            }
            Self::Fetch => f.write_str("it is being recovered: its new leader fetches entries"),
            Self::Entries { needed } => write!(f, "entries wait to be on {needed} members"),
            Self::Numbers => f.write_str("numbers are on their way from the coordinator"),
            Self::Round { needed } => write!(f, "{needed} members must confirm its leader"),
        }
    }
}

impl Seat {
    /// What its mark waits for, when it does not follow the counter.
    pub fn hold(&self) -> Hold {
        let member = &self.member;
        let needed = member.config.writes;
        match &self.role {
            Role::Follower if self.leader().is_some() => Hold::Elsewhere,
            Role::Follower => Hold::NoLeader,
            Role::Candidate(candidate) => candidate.hold(needed),
            Role::Leader(_) if member.log.commit() < member.log.end().index => Hold::Entries { needed },
            Role::Leader(leader) if leader.numbering.is_some() => Hold::Numbers,
            Role::Leader(_) => Hold::Round { needed },
        }
    }

    /// What it does.
    pub fn role(&self) -> RoleName {
        match &self.role {
            Role::Follower => RoleName::Follower,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(leader) if leader.is_serving(&self.member) => RoleName::Leader,
            Role::Leader(_) => RoleName::Recovering,
        }
    }

    /// Whether a part of its log was lost, and is not there again yet.
    pub fn is_damaged(&self) -> bool {
        self.member.is_damaged()
    }

    /// Highest epoch that it promised.
    pub const fn promised(&self) -> Epoch {
        self.member.promised
    }

    /// Number of the highest membership that it has seen: kept beside the promise.
    pub const fn config(&self) -> u64 {
        self.member.config_seen
    }

    /// Members as the log names them, by the highest number.
    pub const fn membership(&self) -> &Membership {
        &self.member.membership
    }

    /// Number of the membership under which this member leads with a committed epoch-start; `None` when it does not.
    /// Once both seats of a group tell that of a joint membership, the previous members may be dropped.
    pub fn established_config(&self) -> Option<u64> {
        match &self.role {
            Role::Leader(leader) if leader.is_established(&self.member) => Some(leader.membership.number),
            Role::Leader(_) | Role::Candidate(_) | Role::Follower => None,
        }
    }

    /// How far other members, and learners, are known to have the log; of a leader only, by node.
    pub fn matched(&self) -> Vec<(NodeId, LogIndex)> {
        match &self.role {
            Role::Leader(leader) => leader
                .others
                .iter()
                .map(|(node, progress)| (*node, progress.matched))
                .collect(),
            Role::Candidate(_) | Role::Follower => vec![],
        }
    }

    /// Epoch of the entry at `index`; [`Epoch::ZERO`] before the first.
    pub fn epoch_at(&self, index: LogIndex) -> Epoch {
        self.member.log.epoch_at(index)
    }

    /// Entries that are not committed, in order.
    pub fn uncommitted(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.member.log.uncommitted()
    }

    /// Who leads, under which epoch; `None` when not known.
    pub fn leader(&self) -> Option<(NodeId, Epoch)> {
        match &self.role {
            Role::Leader(leader) => Some((self.member.config.me, leader.epoch)),
            Role::Candidate(_) => None,
            Role::Follower => self.member.leader(),
        }
    }

    /// The last entry of its log, durable or not.
    pub fn log_end(&self) -> LogEnd {
        self.member.log.end()
    }

    /// Last index that is durable here.
    pub const fn durable(&self) -> LogIndex {
        self.member.log.durable()
    }

    /// Last committed index.
    pub const fn commit(&self) -> LogIndex {
        self.member.log.commit()
    }

    /// Last index that the key index has applied, as announced.
    pub const fn indexed(&self) -> LogIndex {
        self.member.indexed
    }

    /// Seq of the last event in its log, committed or not.
    pub const fn last_seq(&self) -> Seq {
        self.member.log.last_seq()
    }

    /// Seq of its last committed event.
    pub const fn committed_seq(&self) -> Seq {
        self.member.log.committed_seq()
    }

    /// The resolved mark, and the commit index that it is valid for.
    pub const fn mark(&self) -> Mark {
        self.member.mark
    }

    /// Highest value of the counter that was observed.
    pub const fn counter(&self) -> Seq {
        self.member.counter
    }

    /// Events that wait to be decided.
    pub fn waiting_events(&self) -> usize {
        match &self.role {
            Role::Leader(leader) => leader.queue.events(),
            Role::Candidate(_) | Role::Follower => 0,
        }
    }
}
