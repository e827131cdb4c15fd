//! Transactions: what may be in one, what its comparisons say, and what it does.

use super::keys::{Keys, Span};
use super::leases::Leases;
use super::refusal::Refusal;
use super::state;
use etcd_client::proto::{
    PbCompare, PbCompareTarget, PbKeyValue, PbResponseHeader, PbResponseOp, PbTargetUnion, PbTxnOpRequest,
    PbTxnOpResponse, PbTxnRequest, PbTxnRequestOp, PbTxnResponse,
};
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// Most parts that one may have.
const PARTS_MAX: usize = 128;

/// Why a way is there for each transaction within one.
const EVERY_ONE: &str = "every transaction within has a way";

/// Whether a transaction may be run, whatever there is.
pub fn check(txn: &PbTxnRequest) -> Result<(), Refusal> {
    check_parts(txn, PARTS_MAX)?;
    written(&txn.success)?;
    written(&txn.failure)?;
    Ok(())
}

fn check_parts(txn: &PbTxnRequest, most: usize) -> Result<(), Refusal> {
    let parts = [txn.compare.len(), txn.success.len(), txn.failure.len()];
    let parts = parts.into_iter().max().unwrap_or_default();
    if parts > most {
        return Err(Refusal::TooManyOperations);
    }
    if txn.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Refusal::EmptyKey);
    }
    for operation in operations(&txn.success).chain(operations(&txn.failure)) {
        match operation {
            PbTxnOpRequest::RequestRange(range) => state::check_range(range)?,
            PbTxnOpRequest::RequestPut(put) => state::check_put(put)?,
            PbTxnOpRequest::RequestDeleteRange(delete) => {
                state::check_delete(delete)?;
                // etcd does not see what such a deletion and a put have in common.
                if !delete.range_end.is_empty() && delete.range_end <= delete.key {
                    return Err(Refusal::NotModelled("an open end of a deletion in a transaction"));
                }
            }
            PbTxnOpRequest::RequestTxn(inner) => check_parts(inner, most - parts)?,
        }
    }
    Ok(())
}

fn operations(of: &[PbTxnRequestOp]) -> impl Iterator<Item = &PbTxnOpRequest> {
    of.iter().filter_map(|operation| operation.request.as_ref())
}

/// What one branch could put and delete, whichever way the transactions within it go. A key that is put by one of these
/// and deleted by a later one is not noticed: etcd does not either.
fn written(branch: &[PbTxnRequestOp]) -> Result<(BTreeSet<&[u8]>, Vec<Span>), Refusal> {
    let mut puts = BTreeSet::new();
    let mut deletes: Vec<Span> = operations(branch)
        .filter_map(|operation| match operation {
            PbTxnOpRequest::RequestDeleteRange(delete) => Some(Span::new(&delete.key, &delete.range_end)),
            PbTxnOpRequest::RequestRange(_)
            | PbTxnOpRequest::RequestPut(_)
            | PbTxnOpRequest::RequestTxn(_) => None,
        })
        .collect();
    let is_twice = |key: &[u8], puts: &BTreeSet<&[u8]>, deletes: &[Span]| {
        puts.contains(key) || deletes.iter().any(|span| span.contains(key))
    };
    for operation in operations(branch) {
        if let PbTxnOpRequest::RequestTxn(inner) = operation {
            // One of the two is run: they may name the same keys.
            let (success, failure) = (written(&inner.success)?, written(&inner.failure)?);
            let both: BTreeSet<&[u8]> = success.0.union(&failure.0).copied().collect();
            if both.iter().any(|key| is_twice(key, &puts, &deletes)) {
                return Err(Refusal::DuplicateKey);
            }
            puts.extend(both);
            deletes.extend(success.1.into_iter().chain(failure.1));
        }
    }
    for operation in operations(branch) {
        if let PbTxnOpRequest::RequestPut(put) = operation {
            if is_twice(&put.key, &puts, &deletes) {
                return Err(Refusal::DuplicateKey);
            }
            puts.insert(&put.key);
        }
    }
    Ok((puts, deletes))
}

/// Which way a transaction goes, and those within that branch. All are decided before anything is done.
#[derive(Debug)]
pub struct Path {
    succeeded: bool,
    inner: Vec<Self>,
}

impl Path {
    /// As things stand.
    pub fn decide(keys: &Keys, txn: &PbTxnRequest) -> Self {
        let succeeded = txn.compare.iter().all(|compare| holds(keys, compare));
        let inner = operations(branch(txn, succeeded))
            .filter_map(|operation| match operation {
                PbTxnOpRequest::RequestTxn(inner) => Some(Self::decide(keys, inner)),
                PbTxnOpRequest::RequestRange(_)
                | PbTxnOpRequest::RequestPut(_)
                | PbTxnOpRequest::RequestDeleteRange(_) => None,
            })
            .collect();
        Self { succeeded, inner }
    }

    /// Whether all on this way can be done: leases first, then revisions, as etcd looks at them.
    pub fn check(&self, keys: &Keys, leases: &Leases, txn: &PbTxnRequest) -> Result<(), Refusal> {
        self.check_each(txn, &mut |operation| match operation {
            PbTxnOpRequest::RequestPut(put) => leases.check(put.lease),
            PbTxnOpRequest::RequestRange(_)
            | PbTxnOpRequest::RequestDeleteRange(_)
            | PbTxnOpRequest::RequestTxn(_) => Ok(()),
        })?;
        self.check_each(txn, &mut |operation| match operation {
            PbTxnOpRequest::RequestRange(range) => keys.check(range.revision),
            PbTxnOpRequest::RequestPut(_)
            | PbTxnOpRequest::RequestDeleteRange(_)
            | PbTxnOpRequest::RequestTxn(_) => Ok(()),
        })
    }

    fn check_each(
        &self,
        txn: &PbTxnRequest,
        check: &mut dyn FnMut(&PbTxnOpRequest) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut inner = self.inner.iter();
        for operation in operations(branch(txn, self.succeeded)) {
            check(operation)?;
            if let PbTxnOpRequest::RequestTxn(txn) = operation {
                let path = inner.next().expect(EVERY_ONE);
                path.check_each(txn, check)?;
            }
        }
        Ok(())
    }

    /// Does what is on this way.
    pub fn apply(&self, keys: &mut Keys, txn: &PbTxnRequest) -> Result<PbTxnResponse, Refusal> {
        let mut inner = self.inner.iter();
        let mut responses = Vec::new();
        for operation in operations(branch(txn, self.succeeded)) {
            let response = match operation {
                PbTxnOpRequest::RequestRange(range) => {
                    PbTxnOpResponse::ResponseRange(state::range(keys, range)?)
                }
                PbTxnOpRequest::RequestPut(put) => PbTxnOpResponse::ResponsePut(state::put(keys, put)),
                PbTxnOpRequest::RequestDeleteRange(delete) => {
                    PbTxnOpResponse::ResponseDeleteRange(state::delete(keys, delete))
                }
                PbTxnOpRequest::RequestTxn(txn) => {
                    let path = inner.next().expect(EVERY_ONE);
                    PbTxnOpResponse::ResponseTxn(path.apply(keys, txn)?)
                }
            };
            responses.push(PbResponseOp {
                response: Some(response),
            });
        }
        Ok(PbTxnResponse {
            // Those within tell no revision.
            header: Some(PbResponseHeader::default()),
            succeeded: self.succeeded,
            responses,
        })
    }
}

fn branch(txn: &PbTxnRequest, succeeded: bool) -> &[PbTxnRequestOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

fn holds(keys: &Keys, compare: &PbCompare) -> bool {
    let found = keys.now(&Span::new(&compare.key, &compare.range_end));
    if found.is_empty() {
        // No value compares with the one of a key that is not there; its numbers are 0.
        return compare.target() != PbCompareTarget::Value && is_so(compare, &PbKeyValue::default());
    }
    found.iter().all(|kv| is_so(compare, kv))
}

fn is_so(compare: &PbCompare, kv: &PbKeyValue) -> bool {
    let (number, value): (i64, &[u8]) = match &compare.target_union {
        Some(
            PbTargetUnion::Version(number)
            | PbTargetUnion::CreateRevision(number)
            | PbTargetUnion::ModRevision(number)
            | PbTargetUnion::Lease(number),
        ) => (*number, &[]),
        Some(PbTargetUnion::Value(value)) => (0, value),
        None => (0, &[]),
    };
    let ordering = match compare.target() {
        PbCompareTarget::Version => kv.version.cmp(&number),
        PbCompareTarget::Create => kv.create_revision.cmp(&number),
        PbCompareTarget::Mod => kv.mod_revision.cmp(&number),
        PbCompareTarget::Lease => kv.lease.cmp(&number),
        PbCompareTarget::Value => kv.value.as_slice().cmp(value),
    };
    // The type of what is asked for cannot be named outside of the client.
    match compare.result().as_str_name() {
        "EQUAL" => ordering == Ordering::Equal,
        "NOT_EQUAL" => ordering != Ordering::Equal,
        "LESS" => ordering == Ordering::Less,
        "GREATER" => ordering == Ordering::Greater,
        other => panic!("there is no comparison {other}"),
    }
}
