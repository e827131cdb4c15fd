//! The node's lease: kept alive, and taken anew when it was lost, without leaving the process.

use super::records::{FORMAT, IdRecord, encode};
use super::{Shared, call, grant};
use crate::clock::{self, BackOff};
use crate::coordination::CoordinationError;
use crate::limits::{ETCD_RETRY_MAX, ETCD_RETRY_MIN};
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use std::sync::Arc;

/// Keeps `lease` alive, and each that follows it, for ever.
#[expect(clippy::infinite_loop, reason = "it ends with its task")]
pub(super) async fn keep(shared: Arc<Shared>, mut lease: i64) {
    loop {
        keep_alive(&shared, lease).await;
        shared.lease.send_replace(None);
        tracing::warn!(node = %shared.settings.node_name, "the lease in etcd is lost; taking another one");
        lease = take_anew(&shared).await;
        shared.lease.send_replace(Some(lease));
        tracing::info!(node = %shared.settings.node_name, "holding a lease in etcd again");
    }
}

/// Returns when the lease is lost, which only etcd can say: after an outage it gives every lease its whole time again,
/// and whoever had given its lease up by its own clock would lose its seats for nothing.
async fn keep_alive(shared: &Shared, lease: i64) {
    loop {
        match renew(shared, lease).await {
            Ok(()) => return,
            Err(error) => tracing::debug!(%error, "the lease could not be renewed; trying again"),
        }
        clock::sleep(ETCD_RETRY_MIN).await;
    }
}

/// Renews over one stream until that breaks (an error) or etcd does not know the lease any more.
async fn renew(shared: &Shared, lease: i64) -> Result<(), CoordinationError> {
    let mut leases = shared.client.lease_client();
    let opened = leases.keep_alive(lease);
    let opened = call("the lease", async {
        match opened.await {
            // So the client says that etcd does not know the lease.
            Err(etcd_client::Error::LeaseKeepAliveError(_)) => Ok(None),
            opened => opened.map(Some),
        }
    });
    let Some((mut keeper, mut answers)) = opened.await? else {
        return Ok(());
    };
    loop {
        call("the lease", keeper.keep_alive()).await?;
        let Some(answer) = call("the lease", answers.message()).await? else {
            return Err(CoordinationError::Unavailable {
                what: "the lease",
                why: "etcd ended the stream".to_owned(),
            });
        };
        if answer.ttl() <= 0 {
            return Ok(());
        }
        clock::sleep(shared.settings.refresh_interval).await;
    }
}

async fn take_anew(shared: &Shared) -> i64 {
    let mut back_off = BackOff::new(ETCD_RETRY_MIN, ETCD_RETRY_MAX);
    loop {
        match try_take(shared).await {
            Ok(lease) => return lease,
            Err(error) => tracing::debug!(%error, "no lease yet; trying again"),
        }
        back_off.wait().await;
    }
}

async fn try_take(shared: &Shared) -> Result<i64, CoordinationError> {
    let lease = grant(&shared.client, &shared.settings).await?;
    let live = shared.settings.live_record(shared.incarnation);
    let leased = PutOptions::new().with_lease(lease);
    let key = shared.keys.live(shared.node);
    let name = shared.keys.id(&shared.settings.node_name);
    let id = IdRecord {
        format: FORMAT,
        node: shared.node.0,
        directory: shared.directory,
    };
    // An etcd that was restored from a copy of before this node's first start does not know its name.
    let txn = Txn::new().and_then([TxnOp::put(key, encode(&live), Some(leased)), {
        let unknown = Compare::version(name.clone(), CompareOp::Equal, 0);
        let register = TxnOp::put(name, encode(&id), None);
        TxnOp::txn(Txn::new().when([unknown]).and_then([register]))
    }]);
    call("the live nodes", shared.client.kv_client().txn(txn)).await?;
    Ok(lease)
}
