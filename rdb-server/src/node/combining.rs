//! Joins the coordinator's combiner with the transport: requests for numbers go to other nodes, and theirs come here
//! (DESIGN 6.5). Nothing is decided on the way.

use crate::coordination::etcd::{Colleagues, EtcdCoordinator};
use crate::transport::{GivesNumbers, Transport};
use futures::future::BoxFuture;
use rdb_proto::numbers::{NumbersGranted, NumbersWanted};
use rdb_proto::types::NodeId;
use std::sync::{Arc, Weak};

/// The other nodes, to the coordinator.
#[derive(Debug)]
struct Others(Transport);

impl Colleagues for Others {
    fn ask(&self, node: NodeId, wanted: NumbersWanted) -> BoxFuture<'static, Option<NumbersGranted>> {
        self.0.ask_numbers(node, wanted)
    }
}

/// The coordinator, to other nodes. It holds the transport, and shall not be held by it.
#[derive(Debug)]
struct Giver(Weak<EtcdCoordinator>);

impl GivesNumbers for Giver {
    fn give(&self, wanted: NumbersWanted) -> BoxFuture<'static, Option<NumbersGranted>> {
        let coordinator = self.0.upgrade();
        Box::pin(async move { coordinator?.give(wanted).await })
    }
}

/// From now on this node asks others for numbers, and takes some for them.
pub(super) fn connect(coordinator: &Arc<EtcdCoordinator>, transport: &Transport) {
    coordinator.pass_on_to(Arc::new(Others(transport.clone())));
    transport.give_numbers(Arc::new(Giver(Arc::downgrade(coordinator))));
}
