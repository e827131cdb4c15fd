//! What operators ask for: seats moved, nodes drained and forgotten.

use crate::connect::{Attempt, Client};
use crate::retry::CallKind;
use crate::{Error, Expectation};
use rdb_proto::v1;
use serde::Serialize;

/// A member of a group that moves to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemberMove {
    /// Number of the group.
    pub group: u32,
    /// Id of the node that it leaves.
    pub leaves: u64,
    /// Id of the node that it moves to.
    pub joins: u64,
}

/// How etcd was put right after it was restored from a backup, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EtcdRestored {
    /// How often the database was put right.
    pub generation: u64,
    /// What the counter is set to: seqs go on above it.
    pub counter: u64,
    /// Whether etcd was behind what the nodes have seen of it.
    pub behind: bool,
    /// Names of the nodes that told what they have seen.
    pub told: Vec<String>,
    /// Names of those that did not.
    pub silent: Vec<String>,
    /// Groups of which too few members told.
    pub groups_unheard: Vec<u32>,
}

impl Client {
    /// Gives a seat to another member of its group, named by node. With `is_dry_run` nothing is done, here and below.
    ///
    /// # Errors
    /// `NODE_UNKNOWN`, `ORDER_REFUSED`, and as for every write.
    pub async fn move_seat(&self, group: u32, seat: u32, to: &str, is_dry_run: bool) -> Result<(), Error> {
        let make = |attempt: Attempt| {
            let request = attempt.request(v1::MoveSeatRequest {
                group,
                seat,
                to: to.to_owned(),
                dry_run: is_dry_run,
            });
            async move { attempt.node.admin().move_seat(request).await }
        };
        self.call(CallKind::Write(Expectation::Any), None, make)
            .await
            .map(drop)
    }

    /// Has all members of a node moved to other nodes, or to the one that is named; tells what is to be done.
    ///
    /// # Errors
    /// `NODE_UNKNOWN`, `ORDER_REFUSED`, and as for every write.
    pub async fn drain(
        &self,
        node: &str,
        to: Option<&str>,
        is_dry_run: bool,
    ) -> Result<Vec<MemberMove>, Error> {
        let make = |attempt: Attempt| {
            let request = attempt.request(v1::DrainRequest {
                node: node.to_owned(),
                to: to.unwrap_or_default().to_owned(),
                dry_run: is_dry_run,
            });
            async move { attempt.node.admin().drain(request).await }
        };
        let (answer, _attempts) = self.call(CallKind::Write(Expectation::Any), None, make).await?;
        let moves = answer.into_inner().moves.into_iter().map(|one| MemberMove {
            group: one.group,
            leaves: one.leaves,
            joins: one.joins,
        });
        Ok(moves.collect())
    }

    /// Takes back that a node is to be drained; what was moved by then stays moved.
    ///
    /// # Errors
    /// `NODE_UNKNOWN`, and as for every write.
    pub async fn undrain(&self, node: &str, is_dry_run: bool) -> Result<(), Error> {
        let make = |attempt: Attempt| {
            let request = attempt.request(v1::UndrainRequest {
                node: node.to_owned(),
                dry_run: is_dry_run,
            });
            async move { attempt.node.admin().undrain(request).await }
        };
        self.call(CallKind::Write(Expectation::Any), None, make)
            .await
            .map(drop)
    }

    /// Forgets a node that is not live and has no members.
    ///
    /// # Errors
    /// `NODE_UNKNOWN`, `ORDER_REFUSED`, and as for every write.
    pub async fn remove_node(&self, node: &str, is_dry_run: bool) -> Result<(), Error> {
        let make = |attempt: Attempt| {
            let request = attempt.request(v1::RemoveRequest {
                node: node.to_owned(),
                dry_run: is_dry_run,
            });
            async move { attempt.node.admin().remove(request).await }
        };
        self.call(CallKind::Write(Expectation::Any), None, make)
            .await
            .map(drop)
    }

    /// Says that etcd was restored from a backup: it is put right by what all nodes have seen of it, and seqs go on far
    /// above all that were given. `is_anyway`: also when too few members of a group tell what they have seen.
    ///
    /// # Errors
    /// `ORDER_REFUSED`, `COORDINATOR_AWAY`, and as for every write. Saying it twice does no harm.
    pub async fn etcd_restored(&self, is_anyway: bool, is_dry_run: bool) -> Result<EtcdRestored, Error> {
        let make = |attempt: Attempt| {
            let request = attempt.request(v1::EtcdRestoredRequest {
                dry_run: is_dry_run,
                anyway: is_anyway,
            });
            async move { attempt.node.admin().etcd_restored(request).await }
        };
        let (answer, _attempts) = self.call(CallKind::Write(Expectation::Any), None, make).await?;
        let done = answer.into_inner();
        Ok(EtcdRestored {
            generation: done.generation,
            counter: done.counter,
            behind: done.behind,
            told: done.told,
            silent: done.silent,
            groups_unheard: done.groups_unheard,
        })
    }
}
