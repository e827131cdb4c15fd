//! The server's own bounds. What a client must know too stands in [`rdb_proto::limits`].

use rdb_proto::limits::{APPEND_BYTES_MAX, APPEND_EVENTS_MAX};

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
