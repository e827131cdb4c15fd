//! Why a request is refused: what etcd says, word by word.

use tonic::{Code, Status};

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It names no key.
    EmptyKey,
    /// A transaction puts a key twice, or puts one that it deletes.
    DuplicateKey,
    /// A transaction has too many parts.
    TooManyOperations,
    /// It asks for what is compacted away.
    Compacted,
    /// It asks for a revision that is not there yet.
    Future,
    /// There is no such lease.
    NoLease,
    /// There is one already.
    LeaseExists,
    /// A lease is to last for longer than is possible.
    TooLong,
    /// The model cannot do it, since the product does not ask for it. etcd can.
    NotModelled(&'static str),
}

impl Refusal {
    /// As the client sees it.
    pub fn status(self) -> Status {
        let (code, message) = match self {
            Self::EmptyKey => (Code::InvalidArgument, "key is not provided"),
            Self::DuplicateKey => (Code::InvalidArgument, "duplicate key given in txn request"),
            Self::TooManyOperations => (Code::InvalidArgument, "too many operations in txn request"),
            Self::Compacted => (Code::OutOfRange, "mvcc: required revision has been compacted"),
            Self::Future => (Code::OutOfRange, "mvcc: required revision is a future revision"),
            Self::NoLease => (Code::NotFound, "requested lease not found"),
            Self::LeaseExists => (Code::FailedPrecondition, "lease already exists"),
            Self::TooLong => (Code::OutOfRange, "too large lease TTL"),
            Self::NotModelled(what) => return Status::unimplemented(format!("not modelled: {what}")),
        };
        Status::new(code, format!("etcdserver: {message}"))
    }
}
