//! Limits that a client must know too. The server's own bounds are in its `limits.rs`.
//!
//! Crossing one is refused with `LIMIT_EXCEEDED`, naming field, limit and actual value, before anything changes.

/// Longest key, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 1_024;

/// Longest name of a collection, in bytes.
pub const COLLECTION_BYTES_MAX: usize = 128;

/// Longest event type, in bytes of UTF-8.
pub const TYPE_BYTES_MAX: usize = 256;

/// Most tags of one event.
pub const TAGS_MAX: usize = 32;

/// Longest tag, in bytes of UTF-8.
pub const TAG_BYTES_MAX: usize = 256;

/// Most metadata pairs of one event.
pub const META_PAIRS_MAX: usize = 32;

/// Longest name of a metadata pair, in bytes of UTF-8.
pub const META_NAME_BYTES_MAX: usize = 128;

/// Longest value of a metadata pair, in bytes of UTF-8.
pub const META_VALUE_BYTES_MAX: usize = 4_096;

/// Largest payload of one event, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// Most events of one append.
pub const APPEND_EVENTS_MAX: usize = 1_000;

/// Largest append, in bytes of all its parts together.
pub const APPEND_BYTES_MAX: usize = 8 << 20;

/// Largest gRPC message. Twice an append, so that a limit above is what a caller meets first.
pub const MESSAGE_BYTES_MAX: usize = 2 * APPEND_BYTES_MAX;

/// Most values in one part of a subscription's filter.
pub const FILTER_VALUES_MAX: usize = 64;

/// Longest name of a subscription, in bytes of UTF-8.
pub const SUBSCRIPTION_NAME_BYTES_MAX: usize = 256;

/// Most keys in a page of a key listing.
pub const LIST_KEYS_PAGE_MAX: usize = 1_000;

/// Most names of subscriptions of a page of a listing, and most seqs whose times are asked for at once.
pub const LIST_SUBSCRIPTIONS_PAGE_MAX: usize = 1_000;

/// Most keys of one snapshot.
pub const SNAPSHOT_KEYS_MAX: usize = 1_000;

/// Slots that keys are hashed to. Part of the on-disk format: never change it.
pub const SLOTS: u16 = 1_024;

const _: () = assert!(
    PAYLOAD_BYTES_MAX < APPEND_BYTES_MAX,
    "one event of the largest payload must fit an append"
);
const _: () = assert!(
    APPEND_BYTES_MAX < MESSAGE_BYTES_MAX,
    "an append must fit a message"
);
