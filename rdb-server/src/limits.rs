//! The server's own bounds: every queue, batch and interval has its name here.

use rdb_proto::limits::{APPEND_BYTES_MAX, APPEND_EVENTS_MAX, MESSAGE_BYTES_MAX};
use std::time::Duration;

/// Requests that wait for a seat before more are refused as overloaded.
pub const SEAT_QUEUE_MAX: usize = 4_096;

/// Requests that a seat decides in one step: enough to fill a write to the log, few enough to answer soon.
pub const SEAT_BATCH_MAX: usize = 1_024;

/// Bytes of all requests that the node has accepted and not answered yet.
pub const IN_FLIGHT_BYTES_MAX: usize = 128 << 20;

/// Changes of a log that may be under way before its seat takes no more requests: fewer than its writer's queue
/// holds, so that handing one over never blocks.
pub const PERSISTING_MAX: usize = LOG_REQUESTS_MAX / 2;

/// Entries that may be committed and not yet in the key index, before a seat takes no more requests. Decisions
/// keep the state of these in memory.
pub const INDEX_LAG_ENTRIES_MAX: u64 = 65_536;

/// Bytes of the same.
pub const INDEX_LAG_BYTES_MAX: usize = 64 << 20;

/// Entries that the key index takes in one batch, unless one commit brings more.
pub const INDEX_BATCH_ENTRIES_MAX: usize = 8_192;

/// Versions of a key that a history looks up at a time.
pub const HISTORY_PAGE_VERSIONS: usize = 256;

/// Answers that may be outstanding on one stream of appends before it reads no further requests.
pub const APPEND_STREAM_WINDOW_MAX: usize = 4_096;

/// Bytes of events in one message of a change stream or a history; one larger append still goes as one message.
pub const STREAM_MESSAGE_BYTES: usize = 256 << 10;

/// Streams of a node that are each served every live event at once.
pub const AUDIENCE_FREE: u32 = 10;

/// By how much each further one that is served events lengthens the time between two messages to each, on one processor;
/// several share it. A message costs some 40 us of CPU besides its events, so that up to 100 on two processors take a
/// twentieth of these.
pub const LISTENER_TURN: Duration = Duration::from_millis(1);

/// That time at most; who has to make way for others waits up to twice as long.
pub const LISTENER_WAIT_MAX: Duration = Duration::from_millis(50);

/// A stream that was served nothing for this long is not counted.
pub const LISTENER_QUIET: Duration = Duration::from_secs(1);

/// Live events are gathered no further than this many seqs and [`MARK_STRIDE`]: far from [`FELL_BEHIND_SEQS`].
pub const LISTENER_SEQS_MAX: u64 = 2_000;

/// Whoever lets live events gather is woken when the mark has gone on by this many seqs.
pub const MARK_STRIDE: u64 = 1_000;

/// A subscriber that was caught up and is this many seqs behind is told that it fell behind.
pub const FELL_BEHIND_SEQS: u64 = 10_000;

/// Least time between two marks on one subscription while events flow.
pub const MARK_INTERVAL: Duration = Duration::from_millis(100);

/// Most time between two marks on one subscription, whatever happens.
pub const MARK_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Time that a stopping node gives to handing its seats over, before it refuses requests.
pub const HAND_OVER_GRACE: Duration = Duration::from_secs(1);

/// Time that a stopping node gives to requests under way.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Time that it then gives to seats, logs and index. With the time before, below the five seconds that a stop may
/// take: what is not written by then is derived or was never acknowledged.
pub const CLOSE_GRACE: Duration = Duration::from_millis(2_500);

/// How often a seat's state machine is told that time passed, and a leader shows that it is there: the default of
/// `HEARTBEAT_INTERVAL`, in milliseconds.
pub const HEARTBEAT_MS: u64 = 100;

/// The default of `REPLACE_AFTER`, in seconds: longer than a machine takes to start anew, since moving a member's data
/// costs more than waiting for it.
pub const REPLACE_AFTER_S: u64 = 600;

/// How long a seat that is moved by order is waited for.
/// Below the time that a client gives one attempt.
pub const MOVE_SEAT_WAIT: Duration = Duration::from_secs(3);

/// How long a node that catches up in a group may be away before another one is looked for: longer than it takes to
/// start again, or to take a lease anew.
pub const LEARNER_ABSENT_MAX: Duration = Duration::from_secs(30);

/// HTTP/2 window of one call: a few of the largest stream messages.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// HTTP/2 window of one connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Calls that may be open on one connection.
pub const CONNECTION_CALLS_MAX: u32 = 1_024;

/// Connections to the gRPC port that may be open at once.
pub const CONNECTIONS_MAX: usize = 4_096;

/// Files that may be open at once: every connection, and what logs, index and HTTP port need besides.
pub const OPEN_FILES: u64 = 8_192;

/// How often a silent connection is asked whether it is alive.
pub const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long a position that the database has handed out, and not resolved yet, is waited for.
pub const RESOLVE_WAIT: Duration = Duration::from_secs(5);

/// A consumer of a named subscription that says nothing for so long may be replaced.
pub const CONSUMER_HEARD_FOR: Duration = Duration::from_secs(6);

/// Longest time that a claim of a name waits for the consumer that has it.
pub const CLAIM_WAIT_MAX: Duration = Duration::from_secs(30);

/// Named subscriptions that one seat keeps: all of them are in memory.
pub const SUBSCRIPTION_NAMES_MAX: usize = 10_000;

/// How long the resolved mark may stay below a seq that was handed out before the seat that holds it is named.
pub const HELD_AFTER: Duration = Duration::from_secs(1);

/// Least time between two looks for that.
pub const HELD_LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How long a new change stream asks which seqs are handed out, with these waits in between: then it goes by what its node
/// has heard of.
pub const COUNTER_WAIT_MAX: Duration = Duration::from_secs(5);
/// See [`COUNTER_WAIT_MAX`].
pub const COUNTER_WAIT_FIRST: Duration = Duration::from_millis(20);
/// See [`COUNTER_WAIT_MAX`].
pub const COUNTER_WAIT_LONGEST: Duration = Duration::from_secs(1);

/// A node that shows a change stream's other seats, and says nothing for this long, is given up for another.
pub const PART_SILENCE_MAX: Duration = Duration::from_secs(6);

const _: () = assert!(
    PART_SILENCE_MAX.as_secs() > RESOLVE_WAIT.as_secs(),
    "an answer that is waited for is heard"
);

/// When no node has shown those seats for this long, the stream ends and says why.
pub const PART_ABSENT_MAX: Duration = Duration::from_secs(15);

/// Least time between two marks on a stream that another node makes part of its own: there every seat's mark waits for the
/// others'.
pub const PART_MARK_INTERVAL: Duration = Duration::from_millis(5);

/// The first wait before such a stream is asked for again.
pub const PART_WAIT_FIRST: Duration = Duration::from_millis(20);

/// The longest.
pub const PART_WAIT_LONGEST: Duration = Duration::from_secs(1);

/// Such streams that share a connection.
pub const PART_STREAMS_MAX: usize = 16;

/// HTTP/2 window of each: all of a connection's may lie unread at once.
pub const PART_WINDOW_BYTES: u32 = CONNECTION_WINDOW_BYTES / 16;

/// Change streams that may be open on a node: each holds a block of every seat's log in memory.
pub const SUBSCRIPTIONS_MAX: i64 = 1_000;

/// What an overloaded node tells clients to wait, in milliseconds.
pub const RETRY_AFTER_MS: u64 = 50;

const _: () = assert!(
    IN_FLIGHT_BYTES_MAX >= 2 * APPEND_BYTES_MAX,
    "two of the largest appends must be acceptable at once"
);

/// Most events that wait in a seat for the answer to the allocation before theirs. More are refused as overload.
/// At 300,000 events/s this is what arrives in 200 ms: an allocation that takes longer is in trouble.
pub const SEAT_WAITING_EVENTS_MAX: usize = 65_536;

/// Most bytes of such events.
pub const SEAT_WAITING_BYTES_MAX: usize = 64 << 20;

/// Most events of one batch, and so of one allocation: a disk write that keeps the next one waiting for
/// milliseconds only.
pub const SEAT_BATCH_EVENTS_MAX: usize = 16_384;

/// Bytes after which a batch takes no further append.
pub const SEAT_BATCH_BYTES_MAX: usize = 16 << 20;

/// Bytes of uncommitted entries after which a seat forms no further batch.
pub const SEAT_UNCOMMITTED_BYTES_MAX: usize = 128 << 20;

/// Events appended but not yet in the key index after which a seat forms no further batch. The core remembers key
/// and ids of each, without payload.
pub const SEAT_UNINDEXED_EVENTS_MAX: usize = 262_144;

/// Most reads and answers that wait in a seat for a round. More reads are refused as overload; more answers keep
/// the next batch from being decided.
pub const SEAT_WAITERS_MAX: usize = 65_536;

/// For how long a leader may be unheard, or without answers, before another takes its seat: the default of
/// `FAILOVER_AFTER`, in milliseconds. Six heartbeats: one lost message or a pause of half a second is no reason.
pub const FAILOVER_AFTER_MS: u64 = 600;

/// For how long a node that connects to the coordinator waits for groups that do not tell what they have seen, in
/// milliseconds. Longer than a restart of a node, shorter than an operator's patience.
pub const GUARD_WAITS_MS: u64 = 10_000;

/// By how much the counter goes ahead when a rolled back coordinator is put right: more than could have been given
/// without anybody knowing, and little enough for eight million times.
pub const COUNTER_LEAP: u64 = 1 << 40;

/// By how much the time beside the counter goes ahead then, in microseconds: twice as much as a clock may be off, so
/// that event time does not go back behind numbers that were under way.
pub const TIME_LEAP_MICROSECONDS: u64 = 20_000_000;

/// By how much the numbers of memberships go ahead then: above any change that somebody may know and that was lost.
pub const MEMBERSHIP_NUMBER_LEAP: u64 = 1 << 20;

/// Bytes of committed entries that a member keeps in memory, for members that are a little behind.
pub const SEAT_RECENT_BYTES_MAX: usize = 4 << 20;

/// Bytes of entries after which a message to a member takes no further entry.
pub const MESSAGE_ENTRIES_BYTES_MAX: usize = 1 << 20;

/// Most entries of one message to a member.
pub const MESSAGE_ENTRIES_MAX: usize = 4_096;

/// Bytes of entries that are sent to a member and not acknowledged, after which it gets no further ones: at 1 GB/s
/// what is under way in 16 ms.
pub const MEMBER_IN_FLIGHT_BYTES_MAX: usize = 16 << 20;

/// Most messages with entries that are sent to a member and not acknowledged.
pub const MEMBER_IN_FLIGHT_MESSAGES_MAX: usize = 64;

/// Most rounds that are begun by reads and candidates and not confirmed. What arrives meanwhile shares the next one,
/// so that reads cost messages by the round trip and not by the read.
pub const SEAT_ROUNDS_MAX: u64 = 4;

const _: () = assert!(
    APPEND_EVENTS_MAX <= SEAT_BATCH_EVENTS_MAX && SEAT_BATCH_EVENTS_MAX <= SEAT_WAITING_EVENTS_MAX,
    "the largest append must fit a batch, and a batch must fit the queue"
);
const _: () = assert!(
    APPEND_BYTES_MAX < SEAT_BATCH_BYTES_MAX && SEAT_BATCH_BYTES_MAX <= SEAT_WAITING_BYTES_MAX,
    "the largest append must fit a batch, and a batch must fit the queue"
);
const _: () = assert!(
    SEAT_WAITING_EVENTS_MAX <= SEAT_UNINDEXED_EVENTS_MAX,
    "a full queue must be able to drain while the index catches up"
);

/// Largest size of a segment file, by default. Small enough to be archived or checked as one piece, large enough
/// that opening the next one is rare: less than two a second at 100 MB/s.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Largest frame of a log: an append, with what its encoding adds, fits twice over.
pub const FRAME_BYTES_MAX: u32 = 16 << 20;

/// Least disk that a log claims and zeroes ahead of its end, by default. At 90 MB/s this is what is written while
/// a disk busy for 170 ms zeroes more.
pub const LOG_AHEAD_BYTES: u64 = 16 << 20;

/// Disk that is claimed and zeroed at a time: at 300 MB/s it keeps the disk for some 13 ms.
pub const LOG_CLAIM_BYTES: u64 = 4 << 20;

/// Claimed space that admission leaves for entries that nobody asks room for, such as an epoch's start: some
/// hundred restarts on a full disk.
pub const LOG_RESERVE_BYTES: u64 = 64 << 10;

/// Disk that logs leave free, by default: the index and the coordinator's state need some to stop cleanly.
pub const DISK_KEEP_FREE_BYTES: u64 = 16 << 20;

/// Changes that may wait for a log's writer. A seat's own bounds are far below; this one only keeps a mistake
/// from growing without end.
pub const LOG_REQUESTS_MAX: usize = 1_024;

/// Bytes that a log's writer gathers into one write before it syncs.
pub const LOG_GATHER_BYTES_MAX: usize = 8 << 20;

/// Distance between two entries whose place in a segment is remembered: what finding an entry reads, at most.
pub const LOG_POINT_BYTES: u64 = 32 << 10;

/// Bytes that sequential reads of a log ask for at once.
pub const LOG_BLOCK_BYTES: usize = 256 << 10;

/// Entries of a block that the members of a seat are compared by: few enough to say where logs differ, many enough that
/// the digests of a large log are little to send. Never to be changed: members of different releases are compared.
pub const VERIFY_BLOCK_ENTRIES: u64 = 1_024;

/// Bytes of a log that a verify reads in a second, at most, when it is not told: a fraction of what a disk does, so that
/// nobody who is served notices.
pub const VERIFY_BYTES_PER_SECOND: u64 = 32 << 20;

/// Verifies of a node that may be under way: more would not be gentle.
pub const VERIFICATIONS_MAX: usize = 1;

/// How long a verify waits for a member to have what it is asked for.
pub const VERIFY_WAIT: Duration = Duration::from_secs(5);

/// Bytes that a verify has the system forget at a time: many times what it reads ahead, which is read twice.
pub const SCRUB_FORGET_BYTES: u64 = 8 << 20;

/// At least as large as a page of memory on any machine.
pub const SCRUB_PAGE_BYTES: u64 = 64 << 10;

/// Quiet time after which a log notes its durable mark.
pub const LOG_IDLE_MS: u64 = 20;

/// Longest time between two notes of the durable mark under load.
pub const LOG_NOTE_MS: u64 = 1_000;

/// Bytes that are checked for frames behind a torn tail, in all. Only bytes that look like the head of a frame
/// are checked, so a tail meets this bound only when it was made to.
pub const LOG_STRAY_BYTES_MAX: u64 = 4 << 30;

/// Event ids remembered per seat, by default: at 10,000 events/s a retry may come 100 s late.
pub const EVENT_ID_WINDOW: u64 = 1_000_000;

/// Memory for sled's page cache, by default.
pub const INDEX_CACHE_BYTES: u64 = 32 << 20;

/// Runs (one an entry) that a seat's index gathers in memory before it writes them to sled: the more, the more of
/// them share one write of their key's head.
pub const INDEX_OVERLAY_RUNS: usize = 65_536;

/// Memory that they may take.
pub const INDEX_OVERLAY_BYTES: usize = 12 << 20;

/// As many times either may gather while a first one is being written; then applying waits.
pub const INDEX_OVERLAYS_MAX: usize = 2;

/// Runs of a chunk of a key's older versions. A head has at most twice as many: it is written anew with every
/// overlay that touches its key.
pub const INDEX_CHUNK_RUNS: usize = 32;

/// Keys that a listing reads at once.
pub const INDEX_LIST_PAGE: usize = 256;

/// Disk that must be free before the index writes. Below [`DISK_KEEP_FREE_BYTES`], which the logs leave.
pub const INDEX_KEEP_FREE_BYTES: u64 = 8 << 20;

const _: () = assert!(
    APPEND_BYTES_MAX < MESSAGE_BYTES_MAX && MESSAGE_BYTES_MAX <= 16 << 20,
    "an append that passed as a message must fit a frame"
);
const _: () = assert!(
    SEGMENT_BYTES >= 2 * (16 << 20),
    "a segment must hold the largest frame and more"
);
const _: () = assert!(
    INDEX_KEEP_FREE_BYTES < DISK_KEEP_FREE_BYTES,
    "a log that has filled the disk must leave some to the index"
);

const _: () = assert!(
    MESSAGE_ENTRIES_BYTES_MAX < MEMBER_IN_FLIGHT_BYTES_MAX,
    "a message must fit what may be under way"
);

/// By how much each member in the order of standing lets the one before it stand first, in milliseconds.
pub const STAND_STEP_MS: u64 = 100;

/// How long a node leads both seats of a group before it hands one over: a member that came back must have time to
/// catch up, and a restart must not make seats wander.
pub const SPREAD_AFTER: Duration = Duration::from_secs(2);

/// Messages of other members that may wait for a seat; more are lost, and sent again.
pub const SEAT_MAIL_MAX: usize = 4_096;

/// How long a node that passes a request on waits for the connection to the other node.
pub const FORWARD_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a node may take to tell what it has seen of etcd, connection included, before it is asked again.
pub const SEEN_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Questions of other nodes about it that may wait.
pub const SEEN_QUESTIONS_MAX: usize = 64;

/// How often at least what a node has seen of etcd is written to its disk, while it changes.
pub const SEEN_WRITTEN_EVERY: Duration = Duration::from_secs(1);

/// For how long the judging of an etcd is nobody's concern: after that, operators are told what it waits for.
pub const GUARD_TOLD_AFTER: Duration = Duration::from_secs(2);

/// How often an operator's word that etcd was restored is acted on anew, when seats or members change meanwhile.
pub const RESTORED_TRIES_MAX: usize = 5;

/// Groups that one txn puts right, with up to five operations each; etcd takes 128 in one, by default.
pub const RESTART_GROUPS_MAX: usize = 20;

/// How often the controller looks how etcd is: two requests, so that an idle cluster stays quiet.
pub const ETCD_LOOK_EVERY: Duration = Duration::from_mins(3);

/// An etcd that keeps what is older does not compact by itself, or hardly: many times what is recommended.
pub const ETCD_HISTORY_AGE_MAX: Duration = Duration::from_hours(3);

/// Fewer revisions than these, some ten megabytes, are nobody's concern, however old they are.
pub const ETCD_HISTORY_REVISIONS_MIN: i64 = 100_000;

/// How long a call to etcd may take.
pub const ETCD_CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection to etcd may take.
pub const ETCD_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a connection to etcd is asked whether it is alive: etcd cuts one that asks more than once in five seconds.
pub const ETCD_KEEP_ALIVE: Duration = Duration::from_secs(6);

/// How long the answer may take.
pub const ETCD_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Least and longest wait before etcd is tried again.
pub const ETCD_RETRY_MIN: Duration = Duration::from_millis(100);
/// See [`ETCD_RETRY_MIN`].
pub const ETCD_RETRY_MAX: Duration = Duration::from_secs(1);

/// Requests for numbers that may wait on a node: each seat has at most one.
pub const ETCD_ALLOCATIONS_MAX: usize = 256;

/// Requests for the counter's value that may wait on a node, and that one reading serves.
pub const ETCD_LATEST_MAX: usize = 1_024;

/// Requests for numbers that one txn serves.
pub const ALLOCATION_MERGE_MAX: usize = 256;

/// Most numbers that one node may ask of another: [`ALLOCATION_MERGE_MAX`] requests of [`SEAT_BATCH_EVENTS_MAX`] each.
pub const NUMBERS_ASKED_MAX: u64 = 1 << 22;

/// How long a node that lost a race for the counter waits for the node that serves all who race, at least; half a
/// heartbeat, where that is more. Many times what an answer takes, and little enough that a write is hardly slower for it
/// when that node is cut off: etcd itself is there, and is asked then.
pub const COMBINER_PATIENCE_MIN: Duration = Duration::from_millis(50);

/// The same where txns take long: so many of them, up to [`COMBINER_TIMEOUT_MIN`]. The node that is asked needs two: one is
/// under way there, and the next one is for whoever asks; each may lose a race.
pub const COMBINER_PATIENCE_TXNS: u32 = 4;

/// How long a node that has no numbers from etcd waits for those of another one, at least: short enough to try the next
/// one within the second. Where heartbeats are slower, since nodes are far from each other,
/// it is [`COMBINER_TIMEOUT_HEARTBEATS`] of them.
pub const COMBINER_TIMEOUT_MIN: Duration = Duration::from_millis(200);

/// See [`COMBINER_TIMEOUT_MIN`]; fewer than those after which a leader counts as lost.
pub const COMBINER_TIMEOUT_HEARTBEATS: u32 = 2;

/// For how long a node passes its requests on after it lost a race for the counter, or etcd did not answer it: long
/// enough that racing again now and then costs nothing, short enough to learn soon that nobody else races.
pub const COMBINER_PREFERRED: Duration = Duration::from_secs(1);

/// A node that lost a race for the counter waits for up to 2, 4, 8 times what the lost txn took, and no longer: eight
/// times, so that a handful of nodes that cannot combine are rarely in each other's way.
pub const RACE_DOUBLINGS_MAX: u32 = 3;

/// No such wait is longer: several of them fit into [`OWN_TXN_PATIENCE`].
pub const RACE_WAIT_MAX: Duration = Duration::from_millis(50);

/// How long etcd may take before other nodes are asked as well: more than a stall of its disk mostly lasts, since
/// whoever answers second leaves a hole; and little enough that a leader that lost etcd alone writes again in a second.
pub const OWN_TXN_PATIENCE: Duration = Duration::from_millis(500);

/// Keys of a snapshot that are read at once: some of them at other nodes, and each may be an event of the largest size.
pub const SNAPSHOT_READS_MAX: usize = 8;

/// Bytes of a snapshot's answers after which no further key is answered: with one more event of the largest size they
/// fit a message.
pub const SNAPSHOT_BYTES: usize = MESSAGE_BYTES_MAX / 2;

/// By how much the clock may be behind the time of the last event before the log says so.
pub const CLOCK_OFF_MAX: Duration = Duration::from_secs(10);

/// How long other nodes are waited for when somebody asks for the status of the whole.
pub const STATUS_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a member waits before it reads entries again that the system could not read.
pub const READ_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Messages with entries that a seat keeps while its log or its index is behind; more are lost, and sent again.
pub const STALLED_MAIL_MAX: usize = 64;

/// Messages that wait for another node before more are dropped: as many as a node with 1,000 members of seats sends
/// in four heartbeats.
pub const PEER_QUEUE_MESSAGES_MAX: usize = 4_096;

/// Bytes of the same: what four seats at full speed have under way.
pub const PEER_QUEUE_BYTES_MAX: usize = 64 << 20;

/// Bytes after which a batch to another node takes no further message: large enough to cost nothing by the batch,
/// small enough that a heartbeat does not wait behind it for long (20 ms at 100 MB/s).
pub const PEER_BATCH_BYTES: usize = 2 << 20;

/// Largest batch on the wire.
pub const EXCHANGE_BYTES_MAX: usize = 32 << 20;

/// What a message between nodes counts with, beside its entries.
pub const MESSAGE_WEIGHT_MIN: usize = 256;

/// What an entry in it counts with, beside its body.
pub const ENTRY_WEIGHT_MIN: usize = 64;

/// Time for another node to take a connection and welcome this node.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Time between two attempts to connect to another node, at first; it doubles with each.
pub const BACK_OFF: Duration = Duration::from_millis(50);

/// Most time between two such attempts.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// How often the connection to another node is asked whether it is alive.
pub const PEER_KEEP_ALIVE: Duration = Duration::from_secs(1);

/// How long the answer may take before the connection counts as broken. Far above a failover: seats notice silence
/// themselves, this only lets a path that does not work be tried anew.
pub const PEER_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Refused nodes that operators are told of.
pub const REFUSALS_TOLD_MAX: usize = 64;

const _: () = assert!(
    PEER_BATCH_BYTES + MESSAGE_ENTRIES_BYTES_MAX + (16 << 20) < EXCHANGE_BYTES_MAX,
    "a batch that is nearly full must fit with one more message that is, and the largest frame"
);
const _: () = assert!(
    MEMBER_IN_FLIGHT_BYTES_MAX < PEER_QUEUE_BYTES_MAX
        && MEMBER_IN_FLIGHT_MESSAGES_MAX < PEER_QUEUE_MESSAGES_MAX,
    "what one seat may have under way must fit the queue"
);
