//! Where a request goes: to the node that leads the slot of its key, as the cluster's map has it, or to any node.
//!
//! ```text
//! call ─► leader by the map ──fails──► any node, which passes on what another one leads
//!            ▲                            │ the answer says so (`led_at`)
//!            └──── map, asked for anew ◄──┘
//! ```
//!
//! The map is asked for in the background, when the first call is made, when an answer tells that it was passed on, and
//! when a node did not answer; never by the clock. A map may name addresses that lead elsewhere from where this client
//! stands: a node is sent nothing but requests for its map until it has said that it is the node meant, of the same
//! database. All of this saves a way and costs nothing when it fails, since any node takes any request.

use crate::clock;
use crate::connect::{Node, connect_lazily};
use crate::limits::{DOWN_TIME, MAP_NODES_MAX, MAP_TIMEOUT, MAP_WAIT_MAX, MAP_WAIT_MIN, SILENCE_SUSPICIOUS};
use crate::tasks::{self, Task};
use futures::future::join_all;
use rdb_proto::types::Slot;
use rdb_proto::v1;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex as AsyncMutex;

/// The nodes that are known, and what they lead.
pub(crate) struct Nodes {
    known: Mutex<Known>,
    /// Held by whoever asks for the map: there is one at a time.
    asking: AsyncMutex<Asking>,
    /// Whether something told that the map is out of date, or it was never asked for.
    is_outdated: AtomicBool,
    task: Mutex<Option<Task<()>>>,
    /// Highest seq that any answer named: `retried_since` of a retry.
    pub(crate) known_seq: AtomicU64,
}

struct Known {
    all: Vec<Candidate>,
    /// Position of the node in use. Any value is right: it only spreads luck.
    current: usize,
    map: Map,
}

struct Candidate {
    node: Node,
    /// Named by the user, and so asked even if the map does not know it.
    is_given: bool,
    /// Whether it said that it is the node that the map means.
    is_checked: bool,
    /// When it failed last, others come first until then.
    down_until: Option<Instant>,
}

/// What answers told so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Map {
    database: String,
    addresses: BTreeMap<u64, Arc<str>>,
    /// By first slot: last slot, and the epoch (number, node) that leads.
    led: BTreeMap<u32, (u32, (u64, u64))>,
}

struct Asking {
    /// When an answer came last.
    last: Option<Instant>,
    wait: Duration,
}

impl Asking {
    /// Whether it is time to ask again: at once when there is a silent node, else after the wait.
    fn is_time(&self, is_urgent: bool) -> bool {
        let wait = if is_urgent { MAP_WAIT_MIN } else { self.wait };
        self.last
            .is_none_or(|last| clock::now().saturating_duration_since(last) >= wait)
    }
}

impl Nodes {
    pub(crate) fn new(given: Vec<Node>) -> Self {
        let candidate = |node| Candidate {
            node,
            is_given: true,
            is_checked: false,
            down_until: None,
        };
        Self {
            known: Mutex::new(Known {
                all: given.into_iter().map(candidate).collect(),
                current: 0,
                map: Map::default(),
            }),
            asking: AsyncMutex::new(Asking {
                last: None,
                wait: MAP_WAIT_MIN,
            }),
            is_outdated: AtomicBool::new(true),
            task: Mutex::new(None),
            known_seq: AtomicU64::new(0),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic while the lock was held left what is right as well.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Addresses, for people.
    pub(crate) fn addresses(&self) -> Vec<Arc<str>> {
        let known = self.known();
        known
            .all
            .iter()
            .map(|one| Arc::clone(&one.node.address))
            .collect()
    }

    /// Whether there is another node to ask.
    pub(crate) fn are_several(&self) -> bool {
        self.known().in_order().count() > 1
    }

    /// The node in use.
    pub(crate) fn any(&self) -> Option<Node> {
        self.known().in_order().next().cloned()
    }

    /// The node that leads a slot, when it is known and answers.
    pub(crate) fn leader(self: &Arc<Self>, slot: Slot) -> Option<Node> {
        if self.is_outdated.load(Ordering::Relaxed) {
            self.ask_in_background();
        }
        self.known().leader(slot).cloned()
    }

    /// Goes on with the next node, unless somebody else has already left this one. One that did not answer, rather than
    /// refuse, is asked after the others for a while, and has to say again who it is.
    pub(crate) fn leave(&self, node: &Node, has_answered: bool) {
        self.is_outdated.store(true, Ordering::Relaxed);
        self.known().leave(node, has_answered);
    }

    /// An answer told who leads: empty, or the address of the node that the request was passed on to.
    pub(crate) fn note_led_at(&self, address: &str) {
        if !address.is_empty() {
            self.is_outdated.store(true, Ordering::Relaxed);
        }
    }

    /// Completes when another node leads the slot than the one that was asked, and is silent: that one may never answer.
    pub(crate) async fn moved(&self, slot: Slot, from: &Node) {
        loop {
            clock::sleep(SILENCE_SUSPICIOUS).await;
            self.ask(Some(from)).await;
            let known = self.known();
            if known.map.leader(slot).is_some_and(|now| **now != *from.address) {
                return;
            }
        }
    }

    fn ask_in_background(self: &Arc<Self>) {
        let is_time = match self.asking.try_lock() {
            Ok(asking) => asking.is_time(false),
            Err(_another_asks) => false,
        };
        if !is_time {
            return;
        }
        self.is_outdated.store(false, Ordering::Relaxed);
        let nodes = Arc::clone(self);
        let task = tasks::spawn(async move { nodes.ask(None).await });
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// Asks for the map, one node after the other until one answers, and those last who are thought to be silent. What
    /// changes nothing is asked for less and less often.
    async fn ask(&self, silent: Option<&Node>) {
        let mut asking = self.asking.lock().await;
        if !asking.is_time(silent.is_some()) {
            return;
        }
        let (nodes, database) = self.known().to_ask(silent);
        let mut is_news = false;
        for (node, must_match) in nodes {
            let answer = map_of(&node).await;
            if let Some(answer) = answer.filter(|answer| !must_match || answer.database_id == database) {
                is_news = self.learn(answer).await;
                break;
            }
        }
        asking.wait = if is_news {
            MAP_WAIT_MIN
        } else {
            asking.wait.saturating_mul(2).min(MAP_WAIT_MAX)
        };
        asking.last = Some(clock::now());
    }

    /// Takes a map in, and checks the nodes in it that were not. Returns whether anything was new.
    async fn learn(&self, answer: v1::MapResponse) -> bool {
        let database = answer.database_id.clone();
        let (mut is_news, unchecked) = self.known().take_in(&answer);
        let checks = unchecked.into_iter().map(async |(id, node)| {
            let own = map_of(&node).await;
            (
                node,
                own.filter(|own| own.node == id && own.database_id == database),
            )
        });
        for (node, own) in join_all(checks).await {
            let Some(own) = own else {
                tracing::debug!(node = %node.address, "the map's node is not reached from here");
                continue;
            };
            let mut known = self.known();
            known.checked(node);
            known.map.merge(&own);
            is_news = true;
        }
        is_news
    }
}

impl Known {
    /// Those that may be asked anything, the one in use first and those that failed lately last.
    fn in_order(&self) -> impl Iterator<Item = &Node> {
        let now = clock::now();
        let (before, from) = self.all.split_at(self.current.min(self.all.len()));
        let may_be_asked = |one: &&Candidate| one.is_given || one.is_checked;
        let usable = from.iter().chain(before).filter(may_be_asked);
        let is_down = move |one: &Candidate| one.down_until.is_some_and(|until| until > now);
        let up = usable.clone().filter(move |one| !is_down(one));
        up.chain(usable.filter(move |one| is_down(one)))
            .map(|one| &one.node)
    }

    /// Those that are asked for the map, and of which database it must be when they are not to be trusted without.
    fn to_ask(&self, silent: Option<&Node>) -> (Vec<(Node, bool)>, String) {
        let trusted = self.in_order().map(|node| (node.clone(), false));
        let others = self.all.iter().filter(|one| !one.is_given && !one.is_checked);
        let others = others.map(|one| (one.node.clone(), true));
        let mut nodes: Vec<(Node, bool)> = trusted.chain(others).collect();
        nodes.sort_by_key(|(node, _)| silent.is_some_and(|silent| silent.address == node.address));
        (nodes, self.map.database.clone())
    }

    fn leader(&self, slot: Slot) -> Option<&Node> {
        let address = self.map.leader(slot)?;
        let one = self
            .all
            .iter()
            .find(|one| one.is_checked && one.node.address == *address)?;
        Some(&one.node)
    }

    fn leave(&mut self, node: &Node, has_answered: bool) {
        let count = self.all.len();
        let Some(position) = self.all.iter().position(|one| one.node.address == node.address) else {
            return;
        };
        if self.current == position {
            self.current = position.saturating_add(1) % count.max(1);
            tracing::debug!(from = %node.address, "going on with the next node");
        }
        if let Some(one) = self.all.get_mut(position).filter(|_| !has_answered) {
            one.is_checked = false;
            one.down_until = clock::now().checked_add(DOWN_TIME);
        }
    }

    /// Returns whether the map changed, and the nodes in it that are still to be checked.
    fn take_in(&mut self, answer: &v1::MapResponse) -> (bool, Vec<(u64, Node)>) {
        let is_news = self.map.merge(answer);
        let in_use = self.any_address();
        let addresses = &self.map.addresses;
        self.all
            .retain(|one| one.is_given || addresses.values().any(|address| one.node.address == *address));
        let position = self
            .all
            .iter()
            .position(|one| Some(&one.node.address) == in_use.as_ref());
        self.current = position.unwrap_or_default();
        let of = |address: &Arc<str>| self.all.iter().find(|one| one.node.address == *address);
        let unchecked = addresses.iter().filter_map(|(id, address)| match of(address) {
            Some(one) if one.is_checked => None,
            Some(one) => Some((*id, one.node.clone())),
            None => Some((*id, connect_lazily(address).ok()?)),
        });
        (is_news, unchecked.take(MAP_NODES_MAX).collect())
    }

    fn any_address(&self) -> Option<Arc<str>> {
        let one = self.all.get(self.current)?;
        Some(Arc::clone(&one.node.address))
    }

    fn checked(&mut self, node: Node) {
        if let Some(one) = self.all.iter_mut().find(|one| one.node.address == node.address) {
            one.is_checked = true;
            one.down_until = None;
        } else {
            self.all.push(Candidate {
                node,
                is_given: false,
                is_checked: true,
                down_until: None,
            });
        }
    }
}

impl Map {
    fn leader(&self, slot: Slot) -> Option<&Arc<str>> {
        let slot = u32::from(slot.0);
        let (_, (last, (_, node))) = self.led.range(..=slot).next_back()?;
        self.addresses.get(node).filter(|_| slot <= *last)
    }

    /// Takes in what is newer in an answer. Returns whether anything was.
    fn merge(&mut self, answer: &v1::MapResponse) -> bool {
        if self.database != answer.database_id {
            *self = Self {
                database: answer.database_id.clone(),
                ..Self::default()
            };
        }
        let mut is_news = false;
        let named = answer.nodes.iter().filter(|node| !node.address.is_empty());
        let addresses: BTreeMap<u64, Arc<str>> = named
            .map(|node| (node.id, node.address.as_str().into()))
            .collect();
        if addresses != self.addresses {
            self.addresses = addresses;
            is_news = true;
        }
        for led in &answer.led {
            let found = (led.last, (led.epoch, led.leader));
            let known = self.led.get(&led.first);
            if known.is_none_or(|(last, epoch)| *last != found.0 || *epoch < found.1) {
                self.led.insert(led.first, found);
                is_news = true;
            }
        }
        is_news
    }
}

async fn map_of(node: &Node) -> Option<v1::MapResponse> {
    let mut client = node.cluster();
    let asked = Box::pin(client.map(v1::MapRequest {}));
    let answer = clock::Deadline::after(Some(MAP_TIMEOUT)).run(asked).await;
    match answer.ok()? {
        Ok(answer) => Some(answer.into_inner()),
        Err(status) => {
            tracing::debug!(node = %node.address, %status, "no map of the cluster");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(given: &[&str]) -> Nodes {
        Nodes::new(
            given
                .iter()
                .map(|address| connect_lazily(address).unwrap())
                .collect(),
        )
    }

    /// A map of two halves, led by the nodes 1 and 2 under this epoch.
    fn answer(first: u64, second: u64, epoch: u64) -> v1::MapResponse {
        let node = |id| v1::MapNode {
            id,
            address: format!("n{id}:1"),
        };
        let led = |(first, leader)| v1::LedSlots {
            first,
            last: first + 511,
            leader,
            epoch,
        };
        v1::MapResponse {
            database_id: "d".to_owned(),
            node: 1,
            nodes: vec![node(1), node(2), node(3)],
            led: [(0, first), (512, second)].map(led).into(),
        }
    }

    fn in_use(nodes: &Nodes) -> String {
        nodes.any().unwrap().address.to_string()
    }

    #[tokio::test]
    async fn a_node_that_fails_is_left_once_and_comes_after_the_others() {
        let nodes = nodes(&["a:1", "b:1", "c:1"]);
        let first = nodes.any().unwrap();
        nodes.leave(&first, false);
        nodes.leave(&first, false);
        assert_eq!(in_use(&nodes), "b:1");
        nodes.leave(&nodes.any().unwrap(), false);
        assert_eq!(in_use(&nodes), "c:1");
        nodes.leave(&nodes.any().unwrap(), false);
        assert_eq!(
            in_use(&nodes),
            "a:1",
            "all failed: the one that did so first is tried again"
        );
    }

    #[tokio::test]
    async fn a_node_of_the_map_is_used_only_once_it_was_checked() {
        let nodes = nodes(&["n1:1"]);
        let (_, unchecked) = nodes.known().take_in(&answer(1, 2, 7));
        assert_eq!(unchecked.len(), 3);
        assert!(nodes.known().leader(Slot(0)).is_none());
        let (_, second) = unchecked.into_iter().nth(1).unwrap();
        nodes.known().checked(second.clone());
        let leader = |slot| {
            nodes
                .known()
                .leader(Slot(slot))
                .map(|node| node.address.to_string())
        };
        assert_eq!(
            (leader(511), leader(512), leader(1023)),
            (None, Some("n2:1".to_owned()), Some("n2:1".to_owned()))
        );
        assert!(nodes.are_several());
        nodes.leave(&second, true);
        assert!(leader(512).is_some(), "it refused, and is there");
        nodes.leave(&second, false);
        assert_eq!(leader(512), None, "it must be checked again");
        assert!(!nodes.are_several());
    }

    #[test]
    fn of_two_maps_the_newer_epoch_counts() {
        let mut map = Map::default();
        assert!(map.merge(&answer(1, 2, 7)));
        assert!(!map.merge(&answer(3, 3, 6)));
        assert_eq!(map.leader(Slot(0)).map(|address| &**address), Some("n1:1"));
        assert!(map.merge(&answer(3, 3, 8)));
        assert_eq!(map.leader(Slot(0)).map(|address| &**address), Some("n3:1"));
        let other = v1::MapResponse {
            database_id: "e".to_owned(),
            ..answer(2, 2, 1)
        };
        assert!(map.merge(&other));
        assert_eq!(map.leader(Slot(0)).map(|address| &**address), Some("n2:1"));
    }
}
