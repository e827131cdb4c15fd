//! The combiner: requests for numbers that are passed on to another node, whose txn serves them with its own
//! (DESIGN 6.5).
//!
//! | this node | asks |
//! |---|---|
//! | has etcd, and races with nobody | etcd: there is no shorter way |
//! | lost a race for the counter | the controller, for [`COMBINER_PREFERRED`]: the requests of all who race wait there for one txn |
//! | waits for etcd, or has no connection that was judged | the controller, then any live node, while it waits on |
//!
//! The last is what a leader lives on that is cut off from etcd alone: it goes on for as long as nobody took its seat.
//!
//! **An optimisation only:** the txn alone makes numbers unique, and what is passed on is never passed on again: a node
//! that asks another one refuses what others ask of it, since two that ask each other would both wait in vain. Numbers
//! are taken over connections that were judged, so the asked node refuses when it has none, and the asker takes nothing
//! of another generation, and nothing at or below what it had seen before it asked (rule 6.3.6). What comes after it
//! stopped waiting nobody reads: a hole.

use super::allocator::Wanted;
use super::session::Numbers;
use super::{EtcdCoordinator, Shared};
use crate::clock;
use crate::coordination::Allocation;
use crate::limits::{
    COMBINER_PATIENCE_MIN, COMBINER_PATIENCE_TXNS, COMBINER_PREFERRED, COMBINER_TIMEOUT_HEARTBEATS,
    COMBINER_TIMEOUT_MIN,
};
use futures::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;
use rdb_proto::numbers::{NumbersGranted, NumbersWanted};
use rdb_proto::types::{NodeId, Seq};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch as channel};

/// The ways to the other nodes.
pub trait Colleagues: fmt::Debug + Send + Sync {
    /// Asks a node to take numbers. `None` when it does not, as far as can be told: they are holes if it did.
    fn ask(&self, node: NodeId, wanted: NumbersWanted) -> BoxFuture<'static, Option<NumbersGranted>>;
}

/// What is counted about numbers. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct NumbersStats {
    /// Txns on the counter that gave numbers.
    pub txns: Counter,
    /// Txns that another node's was before.
    pub races_lost: Counter,
    /// Requests that those txns served.
    pub served: Counter,
    /// Those of them that other nodes passed on.
    pub served_for_others: Counter,
    /// Requests of this node that another node's txn served.
    pub passed_on: Counter,
}

impl EtcdCoordinator {
    /// Requests for numbers may be passed on to these from now on. Only the first call counts.
    pub fn pass_on_to(&self, colleagues: Arc<dyn Colleagues>) {
        // Whoever calls twice means the same.
        drop(self.shared.colleagues.set(colleagues));
    }

    /// What is counted about numbers.
    pub fn numbers_stats(&self) -> NumbersStats {
        self.shared.numbers_stats.clone()
    }

    /// Takes numbers for another node, by a txn of this one. `None` when there is no connection that was judged, or it
    /// is of another generation, or this node asks another one itself, or no numbers came.
    ///
    /// **Cancel safety**: dropping this future leaves at most a hole.
    pub async fn give(&self, wanted: NumbersWanted) -> Option<NumbersGranted> {
        let NumbersWanted { count, generation } = wanted;
        if count == 0 || !self.shared.may_give(generation) {
            return None;
        }
        let (reply, answer) = oneshot::channel();
        let wanted = Wanted {
            count,
            passed_on: Some(generation),
            reply,
        };
        // Nobody waits for a place in the queue: who asks is better served elsewhere.
        self.wanted.try_send(wanted).ok()?;
        let mut is_asking = self.shared.is_asking.subscribe();
        let Allocation { first, time } = tokio::select! {
            biased;
            answer = answer => answer.ok()?.ok()?,
            _ = is_asking.wait_for(|is_asking| *is_asking) => return None,
        };
        Some(NumbersGranted {
            first,
            count,
            time,
            generation,
        })
    }
}

impl Shared {
    fn may_give(&self, generation: u64) -> bool {
        match &*self.numbers.borrow() {
            Numbers::Open(open) => open.generation == generation,
            Numbers::Unguarded => self.known().mirror.generation() == generation,
            Numbers::Closed | Numbers::Judged => false,
        }
    }
}

/// Whom an allocator asks instead of etcd.
#[derive(Debug)]
pub(super) struct Combiner {
    shared: Arc<Shared>,
    /// Who is asked first, until then.
    preferred: Option<(NodeId, Instant)>,
    /// Until then a lost race is no reason to ask the controller: it did not answer.
    avoided_until: Option<Instant>,
}

impl Combiner {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            preferred: None,
            avoided_until: None,
        }
    }

    /// Who is asked before etcd; nobody by the controller, whom all others ask.
    pub(super) fn preferred(&self) -> Option<NodeId> {
        let (node, until) = self.preferred?;
        let is_controller = self.shared.view.borrow().controller == Some(self.shared.node);
        (!is_controller && clock::monotonic() < until).then_some(node)
    }

    /// Who is to be asked after a lost race; nobody when this node is the controller, or the controller does not
    /// answer.
    pub(super) fn after_a_race(&self) -> Option<NodeId> {
        let is_avoided = self.avoided_until.is_some_and(|until| clock::monotonic() < until);
        self.controller()
            .filter(|_| !is_avoided && self.shared.colleagues.get().is_some())
    }

    pub(super) fn prefer(&mut self, node: NodeId) {
        self.preferred = later().map(|until| (node, until));
    }

    /// Asks who is asked before etcd, and not for long: etcd itself is there as well. `txn` is how long a txn takes: where
    /// that is long, so is the answer, and who gives it up races with the node that was about to give it.
    pub(super) async fn ask_first(&mut self, node: NodeId, count: u64, txn: Duration) -> Option<Allocation> {
        let half = self.shared.settings.heartbeat_interval / 2;
        let txns = txn
            .saturating_mul(COMBINER_PATIENCE_TXNS)
            .min(COMBINER_TIMEOUT_MIN);
        let patience = COMBINER_PATIENCE_MIN.max(half).max(txns);
        self.ask(node, count, patience).await
    }

    /// Asks a node. One that does not answer in time is not asked first any more.
    async fn ask(&mut self, node: NodeId, count: u64, timeout: Duration) -> Option<Allocation> {
        let colleagues = Arc::clone(self.shared.colleagues.get()?);
        let floor = self.shared.floor();
        let generation = self.shared.known().mirror.generation();
        let wanted = NumbersWanted { count, generation };
        let asking = Asking::begin(&self.shared.is_asking);
        let answer = clock::within(timeout, colleagues.ask(node, wanted)).await;
        drop(asking);
        let granted = answer
            .flatten()
            .filter(|granted| is_of_use(granted, wanted, floor));
        let Some(NumbersGranted { first, time, .. }) = granted else {
            tracing::debug!(%node, "a node that was asked for numbers gave none");
            self.preferred = self.preferred.filter(|(preferred, _)| *preferred != node);
            if self.controller() == Some(node) {
                self.avoided_until = later();
            }
            return None;
        };
        self.shared
            .saw_counter(Seq(first.get().saturating_add(count).saturating_sub(1)));
        Some(Allocation { first, time })
    }

    /// Asks one node after the other until one gives numbers. That one is asked first for a while.
    pub(super) async fn ask_anybody(&mut self, count: u64) -> Option<Allocation> {
        let last = self.preferred.map(|(node, _)| node);
        let mut order: Vec<NodeId> = last.into_iter().chain(self.controller()).collect();
        for node in self.others() {
            if !order.contains(&node) {
                order.push(node);
            }
        }
        order.dedup();
        let heartbeat = self.shared.settings.heartbeat_interval;
        let timeout = COMBINER_TIMEOUT_MIN.max(heartbeat.saturating_mul(COMBINER_TIMEOUT_HEARTBEATS));
        for node in order {
            if let Some(allocation) = self.ask(node, count, timeout).await {
                self.prefer(node);
                return Some(allocation);
            }
        }
        None
    }

    fn controller(&self) -> Option<NodeId> {
        let controller = self.shared.view.borrow().controller;
        controller.filter(|node| *node != self.shared.node)
    }

    fn others(&self) -> Vec<NodeId> {
        let view = self.shared.view.borrow();
        let live = view.nodes.iter().filter(|(_, info)| info.is_live);
        let others = live
            .map(|(node, _)| *node)
            .filter(|node| *node != self.shared.node);
        others.collect()
    }
}

/// For as long as it is there, this node asks another one.
struct Asking<'a>(&'a channel::Sender<bool>);

impl<'a> Asking<'a> {
    fn begin(is_asking: &'a channel::Sender<bool>) -> Self {
        is_asking.send_replace(true);
        Self(is_asking)
    }
}

impl Drop for Asking<'_> {
    /// Also when whoever asked stopped waiting.
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

fn later() -> Option<Instant> {
    clock::monotonic().checked_add(COMBINER_PREFERRED)
}

/// Whether numbers are those that were asked for, and above all that had been seen by then.
fn is_of_use(granted: &NumbersGranted, wanted: NumbersWanted, floor: Seq) -> bool {
    granted.count == wanted.count && granted.generation == wanted.generation && granted.first > floor
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_proto::types::Timestamp;

    #[test]
    fn only_numbers_as_asked_for_and_above_what_was_seen_are_of_use() {
        let wanted = NumbersWanted {
            count: 3,
            generation: 2,
        };
        let granted = NumbersGranted {
            first: Seq(8),
            count: 3,
            time: Timestamp(1),
            generation: 2,
        };
        assert!(is_of_use(&granted, wanted, Seq(7)));
        assert!(
            !is_of_use(&granted, wanted, Seq(8)),
            "the counter was seen there before"
        );
        let fewer = NumbersGranted { count: 2, ..granted };
        assert!(!is_of_use(&fewer, wanted, Seq(7)));
        for generation in [1, 3] {
            let other = NumbersGranted {
                generation,
                ..granted
            };
            assert!(!is_of_use(&other, wanted, Seq(7)));
        }
    }
}
