//! Two nodes in one process, over loopback.

use super::peer::{DialError, Dialler};
use super::queue::Queue;
use super::*;
use crate::clock;
use crate::limits::{PEER_BATCH_BYTES, PEER_QUEUE_MESSAGES_MAX};
use crate::protocol::{Append, LogEnd, Mark, Round};
use bytes::Bytes;
use futures::future::BoxFuture;
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::event::{EventKind, NewEvent, StoredEvents};
use rdb_proto::member::RefusalReason;
use rdb_proto::numbers::{NumbersGranted, NumbersWanted};
use rdb_proto::types::{
    Epoch, EventId, GroupId, KeyName, LogIndex, Membership, Seq, Side, Timestamp, Version,
};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// Long enough for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

const DATABASE: Uuid = Uuid::from_u128(0xdb);

pub(super) fn seat(group: u32) -> SeatId {
    SeatId {
        group: GroupId(group),
        side: Side::One,
    }
}

pub(super) fn epoch(number: u64) -> Epoch {
    Epoch {
        number,
        node: NodeId(u64::MAX - number),
    }
}

pub(super) fn end(index: u64) -> LogEnd {
    LogEnd {
        epoch: epoch(index),
        index: LogIndex(index),
    }
}

pub(super) fn membership() -> Membership {
    Membership {
        number: 7,
        members: vec![NodeId(1), NodeId(2)],
        previous: vec![NodeId(3)],
    }
}

/// An entry of one event.
pub(super) fn entry(index: u64, payload_bytes: usize) -> Arc<Entry> {
    let event = NewEvent {
        kind: EventKind::Write,
        event_type: "type".to_owned(),
        tags: vec!["tag".to_owned()],
        meta: BTreeMap::new(),
        payload: Bytes::from(vec![7; payload_bytes]),
        event_id: EventId(Uuid::from_u128(u128::from(index) + 1)),
    };
    let name = KeyName::new("default", "key").unwrap();
    let events = StoredEvents::number(name, Seq(index), Version(index), Timestamp(9), vec![event]);
    Arc::new(Entry {
        index: LogIndex(index),
        epoch: epoch(1),
        body: EntryBody::Events(Arc::new(events.unwrap())),
    })
}

fn append(round: u64, entries: Vec<Arc<Entry>>) -> Message {
    Message::Append(Append {
        epoch: epoch(1),
        config: 2,
        round: Round(round),
        prev: end(4),
        entries,
        commit: LogIndex(5),
        mark: Mark {
            seq: Seq(6),
            commit: LogIndex(7),
        },
    })
}

pub(super) fn heartbeat(round: u64) -> Message {
    append(round, vec![])
}

pub(super) fn append_of(index: u64, payload_bytes: usize) -> Message {
    append(index, vec![entry(index, payload_bytes)])
}

/// One message of every kind.
fn every_kind() -> Vec<Message> {
    let epoch_start = Arc::new(Entry {
        index: LogIndex(3),
        epoch: epoch(3),
        body: EntryBody::EpochStart(membership()),
    });
    vec![
        Message::Fence {
            epoch: epoch(2),
            config: 3,
        },
        Message::FenceAck {
            epoch: epoch(2),
            end: end(8),
            commit: LogIndex(5),
            membership: membership(),
        },
        Message::Fetch {
            epoch: epoch(2),
            prev: end(0),
            last: LogIndex(9),
        },
        Message::Fetched {
            epoch: epoch(2),
            prev: end(2),
            entries: vec![epoch_start, entry(4, 10)],
        },
        append_of(5, 1000),
        Message::AppendAck {
            epoch: epoch(2),
            round: Round(3),
            matched: LogIndex(4),
        },
        Message::Mismatch {
            epoch: epoch(2),
            refused: end(3),
            hint: LogEnd::default(),
        },
        Message::Reject {
            epoch: epoch(2),
            promised: epoch(9),
            membership: membership(),
        },
        Message::PreVote {
            leader: epoch(2),
            attempt: 3,
        },
        Message::PreVoteAnswer {
            leader: epoch(2),
            attempt: 3,
            is_unheard: true,
        },
    ]
}

/// A node with one seat, in a runtime of its own, so that it can be killed.
struct TestNode {
    id: NodeId,
    transport: Transport,
    mail: Receiver<SeatMail>,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl TestNode {
    fn start(id: u64) -> Self {
        Self::start_at(id, DATABASE, "127.0.0.1:0".parse().unwrap())
    }

    fn start_at(id: u64, database: Uuid, address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let guard = runtime.enter();
        let me = Identity {
            node: NodeId(id),
            database,
            incarnation: clock::new_uuid(),
        };
        let tasks = TaskTracker::new();
        let transport = Transport::new(me, tasks.clone(), CancellationToken::new());
        let (sender, mail) = mpsc::channel(PEER_QUEUE_MESSAGES_MAX);
        transport.register(seat(1), sender);
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder().add_service(transport.service());
        drop(tasks.spawn(async move { server.serve_with_incoming(incoming).await.unwrap() }));
        drop(guard);
        Self {
            id: NodeId(id),
            transport,
            mail,
            address,
            runtime: Some(runtime),
        }
    }

    /// Its peers from now on.
    fn knows(&self, peers: &[(NodeId, SocketAddr)]) {
        let _in_runtime = self.runtime.as_ref().map(Runtime::enter);
        let addresses = peers.iter().map(|(node, address)| (*node, address.to_string()));
        self.transport.set_peers(&addresses.collect());
    }

    fn at(&self) -> (NodeId, SocketAddr) {
        (self.id, self.address)
    }

    async fn next(&mut self) -> SeatMail {
        let mail = clock::within(PATIENCE, self.mail.recv()).await;
        mail.expect("mail comes in time").expect("the transport lives")
    }

    /// Sends until something of it arrives: what is sent before a stream is open may be lost.
    async fn reaches(&self, other: &mut Self) {
        let mut ticks = clock::ticks(Duration::from_millis(10));
        let arrived = async {
            loop {
                tokio::select! {
                    mail = other.mail.recv() => return mail,
                    _ = ticks.tick() => self.transport.send(other.id, seat(1), heartbeat(0)),
                }
            }
        };
        let mail = clock::within(PATIENCE, arrived).await.expect("something arrives");
        assert_eq!(mail, Some(message(self.id, heartbeat(0))));
    }

    /// The next message that is not one that [`TestNode::reaches`] sent.
    async fn next_but_greetings(&mut self) -> SeatMail {
        loop {
            let mail = self.next().await;
            if !matches!(&mail, SeatMail::Message { message, .. } if *message == heartbeat(0)) {
                return mail;
            }
        }
    }

    fn dialler(&self, to: (NodeId, SocketAddr)) -> Dialler {
        let queue = Arc::new(Queue::default());
        Dialler::new(&self.transport.shared, to.0, &to.1.to_string(), &queue)
    }

    /// Like SIGKILL: nothing is said, the kernel closes what is open.
    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.kill();
    }
}

fn message(from: NodeId, message: Message) -> SeatMail {
    SeatMail::Message { from, message }
}

/// Two nodes that know and reach each other.
async fn pair() -> (TestNode, TestNode) {
    let (mut a, mut b) = (TestNode::start(1), TestNode::start(2));
    a.knows(&[a.at(), b.at()]);
    b.knows(&[a.at(), b.at()]);
    a.reaches(&mut b).await;
    b.reaches(&mut a).await;
    (a, b)
}

#[tokio::test]
async fn messages_of_every_kind_arrive_as_they_were_sent_in_both_directions() {
    let (mut a, mut b) = pair().await;
    for sent in every_kind() {
        a.transport.send(b.id, seat(1), sent.clone());
        b.transport.send(a.id, seat(1), sent);
    }
    for sent in every_kind() {
        assert_eq!(b.next_but_greetings().await, message(a.id, sent.clone()));
        assert_eq!(a.next_but_greetings().await, message(b.id, sent));
    }
    let (sent, received) = (a.transport.stats(), b.transport.stats());
    assert_eq!(sent.peers_connected.get(), 1);
    assert_eq!(sent.messages_sent.get(), received.messages_received.get());
    assert_eq!(sent.bytes_sent.get(), received.bytes_received.get());
}

#[tokio::test]
async fn messages_arrive_in_the_order_in_which_they_were_sent() {
    let (a, mut b) = pair().await;
    let count = 2_000;
    for round in 1..=count {
        // Several batches: one in a hundred messages is of half a batch.
        let bytes = if round % 100 == 0 {
            PEER_BATCH_BYTES / 2
        } else {
            10
        };
        a.transport.send(b.id, seat(1), append_of(round, bytes));
    }
    for round in 1..=count {
        let mail = b.next_but_greetings().await;
        assert!(
            matches!(&mail, SeatMail::Message { message: Message::Append(append), .. } if append.round == Round(round)),
            "{mail:?} is not of round {round}"
        );
    }
}

#[tokio::test]
async fn each_seat_gets_its_own_messages_and_others_are_dropped_and_counted() {
    let (a, mut b) = pair().await;
    let (sender, mut second) = mpsc::channel(1);
    b.transport.register(seat(2), sender);
    for round in 1..=3 {
        a.transport.send(b.id, seat(2), heartbeat(round));
        a.transport.send(b.id, seat(3), heartbeat(round));
    }
    a.transport.send(b.id, seat(1), heartbeat(4));
    assert_eq!(b.next_but_greetings().await, message(a.id, heartbeat(4)));
    // The queue of seat 2 has room for one, and there is no seat 3.
    assert_eq!(second.try_recv(), Ok(message(a.id, heartbeat(1))));
    assert!(second.try_recv().is_err());
    assert_eq!(b.transport.stats().inbound_dropped.get(), 5);
}

/// A server that takes connections and never says anything. Nothing is read, so nothing leaves the queue.
#[tokio::test]
async fn a_silent_peer_costs_a_bounded_queue_and_is_never_called_unreachable() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut a = TestNode::start(1);
    a.knows(&[(NodeId(9), silent.local_addr().unwrap())]);
    let (_first, _) = silent.accept().await.unwrap();
    for round in 0..3 * u64::try_from(PEER_QUEUE_MESSAGES_MAX).unwrap() {
        a.transport.send(NodeId(9), seat(1), heartbeat(round));
    }
    let stats = a.transport.stats();
    assert!(stats.outbound_dropped.get() >= 2 * u64::try_from(PEER_QUEUE_MESSAGES_MAX).unwrap());
    // The second connection says that the first attempt was given up.
    let second = clock::within(PATIENCE, silent.accept()).await;
    assert!(second.is_some());
    assert!(a.mail.try_recv().is_err());
    assert_eq!(stats.connections_refused.get(), 0);
    assert_eq!((stats.messages_sent.get(), stats.peers_connected.get()), (0, 0));
}

#[tokio::test]
async fn a_message_to_a_stranger_is_dropped_and_counted() {
    let a = TestNode::start(1);
    a.transport.send(NodeId(5), seat(1), heartbeat(1));
    assert_eq!(a.transport.stats().outbound_dropped.get(), 1);
}

/// DESIGN 5: the common case of a failover is a process that is gone, and it must not wait for a silence.
#[tokio::test]
async fn a_killed_peer_is_told_to_every_seat_at_once() {
    let (mut a, mut b) = pair().await;
    let (sender, mut second) = mpsc::channel(8);
    a.transport.register(seat(2), sender);
    let killed = clock::monotonic();
    b.kill();
    assert_eq!(a.next_but_greetings().await, SeatMail::Unreachable(b.id));
    let took = clock::monotonic().saturating_duration_since(killed);
    assert!(took < Duration::from_millis(200), "took {took:?}");
    assert_eq!(second.recv().await, Some(SeatMail::Unreachable(b.id)));
}

#[tokio::test]
async fn a_peer_that_comes_back_at_its_address_is_reached_again() {
    let (mut a, mut b) = pair().await;
    b.kill();
    assert_eq!(a.next_but_greetings().await, SeatMail::Unreachable(b.id));
    let mut b = TestNode::start_at(2, DATABASE, b.address);
    a.reaches(&mut b).await;
    b.knows(&[a.at()]);
    b.transport.send(a.id, seat(1), heartbeat(8));
    loop {
        match a.next().await {
            SeatMail::Unreachable(node) => assert_eq!(node, b.id),
            mail @ SeatMail::Message { .. } => break assert_eq!(mail, message(b.id, heartbeat(8))),
        }
    }
}

#[tokio::test]
async fn a_peer_that_moved_is_reached_at_its_new_address_and_one_that_left_is_let_go() {
    let (a, mut b) = pair().await;
    let mut moved = TestNode::start(2);
    a.knows(&[moved.at()]);
    a.reaches(&mut moved).await;
    while b.mail.try_recv().is_ok() {}

    let before = a.transport.stats().outbound_dropped.get();
    a.knows(&[]);
    a.transport.send(b.id, seat(1), heartbeat(5));
    assert!(a.transport.stats().outbound_dropped.get() > before);
    assert!(b.mail.try_recv().is_err());
}

/// Gives numbers of generation 2 only.
#[derive(Debug, Default)]
struct Counting(AtomicU64);

impl GivesNumbers for Counting {
    fn give(&self, wanted: NumbersWanted) -> BoxFuture<'static, Option<NumbersGranted>> {
        let before = self.0.fetch_add(wanted.count, Ordering::Relaxed);
        let granted = NumbersGranted {
            first: Seq(before).next(),
            count: wanted.count,
            time: Timestamp(9),
            generation: 2,
        };
        Box::pin(async move { (wanted.generation == 2).then_some(granted) })
    }
}

#[tokio::test]
async fn numbers_are_asked_for_and_given() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    let stranger = TestNode::start_at(3, Uuid::from_u128(1), "127.0.0.1:0".parse().unwrap());
    b.transport.give_numbers(Arc::<Counting>::default());
    stranger.transport.give_numbers(Arc::<Counting>::default());
    a.knows(&[b.at(), stranger.at()]);
    let ask = async |node, count, generation| {
        let wanted = NumbersWanted { count, generation };
        let asking = a.transport.ask_numbers(node, wanted);
        clock::within(PATIENCE, asking).await.expect("an answer")
    };
    let first = ask(b.id, 3, 2).await.expect("numbers");
    assert_eq!((first.first, first.count, first.generation), (Seq(1), 3, 2));
    assert_eq!(ask(b.id, 1, 2).await.expect("numbers").first, Seq(4));
    assert_eq!(
        ask(b.id, 1, 1).await,
        None,
        "of a generation that it may not give"
    );
    assert_eq!(ask(stranger.id, 1, 2).await, None, "of another database");
    assert_eq!(ask(NodeId(5), 1, 2).await, None, "nobody there");
    let nobody = b.transport.ask_numbers(
        a.id,
        NumbersWanted {
            count: 1,
            generation: 2,
        },
    );
    assert_eq!(nobody.await, None, "a node that gives none, and is not known");
}

#[tokio::test]
async fn a_node_of_another_database_is_refused() {
    let a = TestNode::start(1);
    let other = TestNode::start_at(2, Uuid::from_u128(1), "127.0.0.1:0".parse().unwrap());
    let error = a.dialler(other.at()).dial().await.unwrap_err();
    assert!(matches!(error, DialError::Refused(RefusalReason::OtherDatabase)));
    assert_eq!(other.transport.stats().streams_refused.get(), 1);
}

/// An emptied disk comes back as a new node at the old address: messages for the old one are not for it.
#[tokio::test]
async fn a_node_that_is_not_the_one_that_is_meant_refuses() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    let error = a.dialler((NodeId(3), b.address)).dial().await.unwrap_err();
    assert!(matches!(error, DialError::Refused(RefusalReason::OtherNode)));
}

#[tokio::test]
async fn of_two_streams_of_a_node_the_newer_one_is_read() {
    let (a, b) = (TestNode::start(1), TestNode::start(2));
    let dialler = a.dialler(b.at());
    let mut first = dialler.dial().await.unwrap();
    let mut second = dialler.dial().await.unwrap();
    let ended = clock::within(PATIENCE, first.ended()).await.unwrap();
    assert!(ended.is_none(), "the older stream ends in order: {ended:?}");
    assert!(
        clock::within(Duration::from_millis(20), second.ended())
            .await
            .is_none()
    );
}

#[tokio::test]
async fn every_task_ends_when_the_node_stops() {
    let tasks = TaskTracker::new();
    let stopping = CancellationToken::new();
    let me = Identity {
        node: NodeId(1),
        database: DATABASE,
        incarnation: DATABASE,
    };
    let transport = Transport::new(me, tasks.clone(), stopping.clone());
    let mut b = TestNode::start(2);
    transport.set_peers(&[(b.id, b.address.to_string())].into());
    transport.send(b.id, seat(1), heartbeat(1));
    assert_eq!(b.next().await, message(NodeId(1), heartbeat(1)));
    stopping.cancel();
    tasks.close();
    assert!(clock::within(PATIENCE, tasks.wait()).await.is_some());
    assert_eq!(transport.stats().peers_connected.get(), 0);
}
