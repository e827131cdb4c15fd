//! What the differential test asks of an etcd, whichever it is, and what that answers.

use crate::time::soon;
use etcd_client::proto::{
    PbCompactionResponse, PbDeleteResponse, PbLeaseGrantResponse, PbLeaseKeepAliveResponse,
    PbLeaseRevokeResponse, PbLeaseTimeToLiveResponse, PbPutResponse, PbRangeResponse, PbResponseHeader,
    PbTxnResponse,
};
use etcd_client::{
    Client, CompactionOptions, DeleteOptions, Error, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions,
    PutOptions, Txn,
};
use tonic::Code;

/// One call.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Reads keys.
    Get(Vec<u8>, GetOptions),
    /// Gives a key a value.
    Put(Vec<u8>, Vec<u8>, PutOptions),
    /// Deletes keys.
    Delete(Vec<u8>, DeleteOptions),
    /// Runs a transaction.
    Txn(Txn),
    /// Forgets what was before a revision.
    Compact(i64),
    /// Makes a lease of so many seconds.
    Grant(i64, i64),
    /// Ends a lease.
    Revoke(i64),
    /// Renews a lease.
    KeepAlive(i64),
    /// Asks for a lease's keys.
    KeysOf(i64),
}

/// What is answered. Of headers only the revision is there: the rest tells one etcd from another.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each is the answer to the operation of that name")]
pub enum Answer {
    Got(PbRangeResponse),
    Put(PbPutResponse),
    Deleted(PbDeleteResponse),
    Txn(PbTxnResponse),
    Compacted(PbCompactionResponse),
    Granted(PbLeaseGrantResponse),
    Revoked(PbLeaseRevokeResponse),
    Renewed(PbLeaseKeepAliveResponse),
    KeysOf(PbLeaseTimeToLiveResponse),
    Refused(Code, String),
}

impl Answer {
    /// Revision of the key space when it was given.
    pub fn revision(&self) -> Option<i64> {
        let header = match self {
            Self::Got(got) => &got.header,
            Self::Put(put) => &put.header,
            Self::Deleted(deleted) => &deleted.header,
            Self::Txn(txn) => &txn.header,
            Self::Compacted(compacted) => &compacted.header,
            Self::Granted(granted) => &granted.header,
            Self::Revoked(revoked) => &revoked.header,
            Self::Renewed(renewed) => &renewed.header,
            Self::KeysOf(of) => &of.header,
            Self::Refused(..) => &None,
        };
        header.as_ref().map(|header| header.revision)
    }
}

impl Operation {
    /// Asks an etcd.
    pub async fn ask(self, client: &Client) -> Answer {
        let answer = soon("an answer of etcd", Box::pin(self.try_ask(client)));
        match answer.await {
            Ok(answer) => answer,
            Err(Error::GRpcStatus(status)) => Answer::Refused(status.code(), status.message().to_owned()),
            // The client's own word for a lease that is not there.
            Err(Error::LeaseKeepAliveError(why)) => Answer::Refused(Code::NotFound, why),
            Err(error) => panic!("the client: {error}"),
        }
    }

    async fn try_ask(self, client: &Client) -> Result<Answer, Error> {
        let (mut kv, mut leases) = (client.kv_client(), client.lease_client());
        Ok(match self {
            Self::Get(key, options) => {
                let mut got = kv.get(key, Some(options)).await?.0;
                only_revision(&mut got.header);
                Answer::Got(got)
            }
            Self::Put(key, value, options) => {
                let mut put = kv.put(key, value, Some(options)).await?.0;
                only_revision(&mut put.header);
                Answer::Put(put)
            }
            Self::Delete(key, options) => {
                let mut deleted = kv.delete(key, Some(options)).await?.0;
                only_revision(&mut deleted.header);
                Answer::Deleted(deleted)
            }
            Self::Txn(txn) => {
                let mut txn = kv.txn(txn).await?.0;
                only_revision(&mut txn.header);
                Answer::Txn(txn)
            }
            Self::Compact(revision) => {
                // What is compacted away is gone when the answer comes, not some time later.
                let options = CompactionOptions::new().with_physical();
                let mut compacted = kv.compact(revision, Some(options)).await?.0;
                only_revision(&mut compacted.header);
                Answer::Compacted(compacted)
            }
            Self::Grant(id, seconds) => {
                let options = LeaseGrantOptions::new().with_id(id);
                let mut granted = leases.grant(seconds, Some(options)).await?.0;
                only_revision(&mut granted.header);
                Answer::Granted(granted)
            }
            Self::Revoke(id) => {
                let mut revoked = leases.revoke(id).await?.0;
                only_revision(&mut revoked.header);
                Answer::Revoked(revoked)
            }
            Self::KeepAlive(id) => {
                // The first answer is kept by the client.
                let (mut keeper, mut answers) = leases.keep_alive(id).await?;
                keeper.keep_alive().await?;
                let mut renewed = answers.message().await?.expect("the stream goes on").0;
                only_revision(&mut renewed.header);
                Answer::Renewed(renewed)
            }
            Self::KeysOf(id) => {
                let options = LeaseTimeToLiveOptions::new().with_keys();
                let mut of = leases.time_to_live(id, Some(options)).await?.0;
                only_revision(&mut of.header);
                // In no order; and the time goes by.
                of.keys.sort();
                of.ttl = of.ttl.signum();
                Answer::KeysOf(of)
            }
        })
    }
}

fn only_revision(header: &mut Option<PbResponseHeader>) {
    *header = header.take().map(|told| super::state::header(told.revision));
}
