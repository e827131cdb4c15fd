//! The model itself: a state, what is asked of it, and the time. Nothing else has a part in what it answers.

use super::keys::{Keys, Span};
use super::leases::Leases;
use super::refusal::Refusal;
use super::txn::{self, Path};
use super::watches::{StreamId, Wanted, Watches};
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbLeaseGrantRequest,
    PbLeaseGrantResponse, PbLeaseKeepAliveResponse, PbLeaseRevokeResponse, PbLeaseTimeToLiveRequest,
    PbLeaseTimeToLiveResponse, PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse,
    PbResponseHeader, PbTxnRequest, PbTxnResponse, PbWatchResponse,
};
use std::time::Duration;

/// See the module.
#[derive(Debug, Clone)]
pub struct Model {
    keys: Keys,
    leases: Leases,
    watches: Watches,
    now: Duration,
}

impl Model {
    /// An empty one. No lease is shorter than so many seconds: half as much again as etcd's election timeout.
    pub fn new(shortest_lease: i64) -> Self {
        Self {
            keys: Keys::default(),
            leases: Leases::new(shortest_lease),
            watches: Watches::default(),
            now: Duration::ZERO,
        }
    }

    /// Revision of the last change.
    pub fn revision(&self) -> i64 {
        self.keys.revision()
    }

    /// It is so late since the beginning. Leases that are over by then end, each in a revision of its own.
    pub fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
        while let Some(lease) = self.leases.over(self.now) {
            self.end_lease(lease).expect("it was found");
        }
    }

    /// Lets so much time pass.
    pub fn pass(&mut self, time: Duration) {
        self.advance(self.now + time);
    }

    fn header(&self) -> PbResponseHeader {
        header(self.keys.revision())
    }

    /// Ends a transaction.
    fn commit(&mut self) {
        let events = self.keys.commit();
        self.watches.changed(&self.keys, &events);
    }

    /// What keys hold.
    pub fn range(&self, request: &PbRangeRequest) -> Result<PbRangeResponse, Refusal> {
        check_range(request)?;
        range(&self.keys, request)
    }

    /// Gives a key a value.
    pub fn put(&mut self, request: &PbPutRequest) -> Result<PbPutResponse, Refusal> {
        check_put(request)?;
        self.leases.check(request.lease)?;
        let response = put(&mut self.keys, request);
        self.commit();
        Ok(response)
    }

    /// Deletes keys.
    pub fn delete(&mut self, request: &PbDeleteRequest) -> Result<PbDeleteResponse, Refusal> {
        check_delete(request)?;
        let response = delete(&mut self.keys, request);
        self.commit();
        Ok(response)
    }

    /// Runs a transaction, all of it or nothing.
    pub fn txn(&mut self, request: &PbTxnRequest) -> Result<PbTxnResponse, Refusal> {
        txn::check(request)?;
        let path = Path::decide(&self.keys, request);
        path.check(&self.keys, &self.leases, request)?;
        let response = path.apply(&mut self.keys, request)?;
        self.commit();
        Ok(PbTxnResponse {
            header: Some(self.header()),
            ..response
        })
    }

    /// Forgets what was before a revision.
    pub fn compact(&mut self, request: &PbCompactionRequest) -> Result<PbCompactionResponse, Refusal> {
        self.keys.compact(request.revision)?;
        Ok(PbCompactionResponse {
            header: Some(self.header()),
        })
    }

    /// Makes a lease.
    pub fn grant(&mut self, request: &PbLeaseGrantRequest) -> Result<PbLeaseGrantResponse, Refusal> {
        let (id, ttl) = self.leases.grant(self.now, request.id, request.ttl)?;
        Ok(PbLeaseGrantResponse {
            header: Some(self.header()),
            id,
            ttl,
            error: String::new(),
        })
    }

    /// Ends a lease, and deletes its keys.
    pub fn revoke(&mut self, id: i64) -> Result<PbLeaseRevokeResponse, Refusal> {
        self.end_lease(id)?;
        Ok(PbLeaseRevokeResponse {
            header: Some(self.header()),
        })
    }

    fn end_lease(&mut self, id: i64) -> Result<(), Refusal> {
        self.leases.end(id)?;
        for key in self.keys.attached(id) {
            self.keys.delete(&Span::One(key));
        }
        self.commit();
        Ok(())
    }

    /// Renews a lease; its time is 0 when there is none.
    pub fn keep_alive(&mut self, id: i64) -> PbLeaseKeepAliveResponse {
        PbLeaseKeepAliveResponse {
            header: Some(self.header()),
            id,
            ttl: self.leases.renew(self.now, id),
        }
    }

    /// From now on a lease is renewed in words only.
    pub fn forsake(&mut self, id: i64) {
        self.leases.forsake(id);
    }

    /// The leases that there are.
    pub fn leases(&self) -> Vec<i64> {
        self.leases.ids()
    }

    /// How long a lease has left, and its keys.
    pub fn time_to_live(&self, request: &PbLeaseTimeToLiveRequest) -> PbLeaseTimeToLiveResponse {
        let left = self.leases.left(self.now, request.id);
        let (ttl, granted_ttl) = left.unwrap_or((-1, 0));
        let keys = if request.keys && left.is_some() {
            self.keys.attached(request.id)
        } else {
            Vec::new()
        };
        PbLeaseTimeToLiveResponse {
            header: Some(self.header()),
            id: request.id,
            ttl,
            granted_ttl,
            keys,
        }
    }

    /// Begins a watch on a stream.
    pub fn watch(&mut self, stream: StreamId, wanted: Wanted) {
        self.watches.create(&self.keys, stream, wanted);
    }

    /// Ends a watch.
    pub fn cancel(&mut self, stream: StreamId, id: i64) {
        self.watches.cancel(&self.keys, stream, id);
    }

    /// Tells a stream how far the keys have come.
    pub fn progress(&mut self, stream: StreamId) {
        self.watches.progress(&self.keys, stream);
    }

    /// Forgets a stream and its watches.
    pub fn close(&mut self, stream: StreamId) {
        self.watches.close(stream);
    }

    /// What is to be told to streams since this was asked for last.
    pub fn told(&mut self) -> Vec<(StreamId, PbWatchResponse)> {
        self.watches.take()
    }
}

/// The rest of it tells one etcd from another.
pub fn header(revision: i64) -> PbResponseHeader {
    PbResponseHeader {
        revision,
        ..PbResponseHeader::default()
    }
}

/// Whether a range can be read, whatever there is.
pub fn check_range(request: &PbRangeRequest) -> Result<(), Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    let bounds = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if request.sort_order != 0 || request.sort_target != 0 || bounds != [0; 4] {
        return Err(Refusal::NotModelled("order and bounds of a range"));
    }
    Ok(())
}

/// Whether a key can be put, whatever there is.
pub fn check_put(request: &PbPutRequest) -> Result<(), Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if request.ignore_value || request.ignore_lease {
        return Err(Refusal::NotModelled("a put that keeps what was there"));
    }
    Ok(())
}

/// Whether keys can be deleted, whatever there is.
pub fn check_delete(request: &PbDeleteRequest) -> Result<(), Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    Ok(())
}

/// Reads a range, in a transaction as it stands there.
pub fn range(keys: &Keys, request: &PbRangeRequest) -> Result<PbRangeResponse, Refusal> {
    keys.check(request.revision)?;
    let revision = match request.revision {
        ..=0 => keys.revision(),
        revision => revision,
    };
    let mut kvs = keys.at(&Span::new(&request.key, &request.range_end), revision);
    let count = i64::try_from(kvs.len()).unwrap();
    let mut more = false;
    if request.count_only {
        kvs.clear();
    } else if request.limit > 0 {
        more = count > request.limit;
        kvs.truncate(usize::try_from(request.limit).unwrap());
    }
    if request.keys_only {
        for kv in &mut kvs {
            kv.value.clear();
        }
    }
    Ok(PbRangeResponse {
        header: Some(header(keys.revision())),
        kvs,
        more,
        count,
    })
}

/// Puts a key, as a part of a transaction.
pub fn put(keys: &mut Keys, request: &PbPutRequest) -> PbPutResponse {
    let before = keys.put(&request.key, &request.value, request.lease);
    PbPutResponse {
        header: Some(header(keys.revision())),
        prev_kv: before.filter(|_| request.prev_kv),
    }
}

/// Deletes keys, as a part of a transaction.
pub fn delete(keys: &mut Keys, request: &PbDeleteRequest) -> PbDeleteResponse {
    let before = keys.delete(&Span::new(&request.key, &request.range_end));
    PbDeleteResponse {
        header: Some(header(keys.revision())),
        deleted: i64::try_from(before.len()).unwrap(),
        prev_kvs: if request.prev_kv { before } else { Vec::new() },
    }
}
