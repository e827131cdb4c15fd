//! Bounds of the client library. What the server refuses stands in [`rdb_proto::limits`].

use std::time::Duration;

/// How long a call may take, retries included, when the caller does not say.
pub const CALL_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// One attempt to reach one node. Short, because another node may answer.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// One attempt of a call when there is another node to ask; with one node an attempt may take all the time left.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// An attempt for which less is left is not begun: the deadline would turn what is known into an unknown outcome.
pub(crate) const ATTEMPT_WORTHWHILE: Duration = Duration::from_millis(5);

/// How long a member of etcd may take to tell which nodes there are, before the next one is asked.
#[cfg(feature = "etcd")]
pub(crate) const ETCD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a node may take to tell the cluster's map: what is not told soon is done without.
pub(crate) const MAP_TIMEOUT: Duration = Duration::from_secs(1);

/// Least time between two maps that are asked for, and the longest when nothing changes.
pub(crate) const MAP_WAIT_MIN: Duration = Duration::from_millis(100);
/// See [`MAP_WAIT_MIN`].
pub(crate) const MAP_WAIT_MAX: Duration = Duration::from_secs(10);

/// Nodes of a map that are looked at.
pub(crate) const MAP_NODES_MAX: usize = 64;

/// A leader that is silent for this long may lead no more, which others are asked.
pub(crate) const SILENCE_SUSPICIOUS: Duration = Duration::from_millis(500);

/// A node that failed comes after the others for this long.
pub(crate) const DOWN_TIME: Duration = Duration::from_secs(1);

/// An idle or silent connection is probed after this long.
pub(crate) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A probe without an answer for this long ends the connection.
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of one stream under way. Catching up wants the server to be ahead of the reader by several batches.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// Bytes of one connection under way: several streams at full window.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// First wait before a retry; each further one is twice as long.
pub(crate) const RETRY_DELAY_MIN: Duration = Duration::from_millis(10);

/// Longest wait before a retry.
pub(crate) const RETRY_DELAY_MAX: Duration = Duration::from_secs(1);

/// A change stream says something every second; one that is silent this long is taken for dead.
pub(crate) const STREAM_SILENCE_MAX: Duration = Duration::from_secs(15);

/// Appends under way on one stream when the caller does not say.
pub const APPEND_WINDOW_DEFAULT: usize = 256;

/// Most appends under way on one stream.
pub const APPEND_WINDOW_MAX: usize = 65_536;

/// Appends of all callers that may wait to be sent to one node.
pub(crate) const APPENDS_UNSENT_MAX: usize = 1_024;

/// Largest append, as it is sent, that shares a stream with others: one that is larger has a call of its own, so that no
/// small one waits behind it.
pub(crate) const SHARED_STREAM_BYTES_MAX: usize = 64 << 10;

/// Port of a node when an address does not name one.
pub const PORT_DEFAULT: u16 = 2048;

const _: () = assert!(
    STREAM_WINDOW_BYTES < CONNECTION_WINDOW_BYTES,
    "one stream must not use up its connection"
);
