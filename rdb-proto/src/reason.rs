//! The closed list of error reasons.
//!
//! A reason fixes three things: the gRPC code, whether anything happened, and what the caller should do. The
//! server encodes by this table and the client decodes by it. `UNAVAILABLE` *with* a reason promises that nothing
//! happened; a bare `UNAVAILABLE`, which gRPC makes of any reset connection, promises nothing.

use tonic::Code;

/// `domain` of the `google.rpc.ErrorInfo` that carries a reason.
pub const DOMAIN: &str = "rdb";

/// Whether a failed call changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// Nothing was changed, and nothing will be.
    No,
    /// The change may be there, or may still come.
    Maybe,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $code:ident, $happened:ident, $advice:literal;)*) => {
        /// Why a call was refused or failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in `ErrorInfo.reason`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The gRPC code it is sent with.
            pub const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)* }
            }

            /// Whether the call changed anything.
            pub const fn happened(self) -> Happened {
                match self { $(Self::$variant => Happened::$happened,)* }
            }

            /// What the caller should do next, one line for people.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

reasons! {
    /// A field has a value that it cannot have. Metadata: `field`.
    FieldInvalid = "FIELD_INVALID", InvalidArgument, No, "correct the field and call again";
    /// A field is too long, too large or too many. Metadata: `field`, `limit`, `actual`.
    LimitExceeded = "LIMIT_EXCEEDED", InvalidArgument, No, "send less and call again";
    /// The key was never written, or is deleted. Metadata: `key`.
    KeyNotFound = "KEY_NOT_FOUND", NotFound, No, "see its history with: rdb-client history -k KEY";
    /// The expectation did not hold. Metadata: `current_version`, `current_seq`.
    VersionConflict = "VERSION_CONFLICT", FailedPrecondition, No, "read the key again and decide again";
    /// The event id belongs to an event of another append. Metadata: `event_id`.
    EventIdReused = "EVENT_ID_REUSED", FailedPrecondition, No, "use a new event id for a new event";
    /// The retry is older than the window in which event ids are remembered. Metadata: `event_id`.
    RetryTooOld = "RETRY_TOO_OLD", FailedPrecondition, No, "look whether the event is there, then decide";
    /// This node does not lead the seat. Metadata: `leader`, `epoch`.
    NotLeader = "NOT_LEADER", Unavailable, No, "call the leader, or any node later";
    /// This node has no member of the seat that was asked for.
    NotMember = "NOT_MEMBER", Unavailable, No, "call a node that has one; `rdb-client status` names them";
    /// Nobody leads the seat at the moment.
    SeatVacant = "SEAT_VACANT", Unavailable, No, "call again in a moment";
    /// The leader of the seat is still recovering its log.
    SeatRecovering = "SEAT_RECOVERING", Unavailable, No, "call again in a moment";
    /// No numbers can be had from the coordinator.
    CoordinatorAway = "COORDINATOR_AWAY", Unavailable, No, "call again when the coordinator is back";
    /// The node is stopping.
    ShuttingDown = "SHUTTING_DOWN", Unavailable, No, "call another node, or this one later";
    /// The outcome is not known: the deadline passed, or the seat was lost after the append. Metadata: `event_id`.
    OutcomeUnknown = "OUTCOME_UNKNOWN", Unknown, Maybe, "call again with the same event id; it never doubles";
    /// More work is waiting than the node accepts. Metadata: `queue`, `retry_after_ms`.
    Overloaded = "OVERLOADED", ResourceExhausted, No, "wait a moment and call again";
    /// The file system of the data directory is full. Metadata: `path`, `free_bytes`.
    DiskFull = "DISK_FULL", ResourceExhausted, No, "free space on the server; writes resume by themselves";
    /// The seq is not resolved yet. Metadata: `seq`, `resolved`.
    SeqAhead = "SEQ_AHEAD", OutOfRange, No, "use a seq that the database has reached";
    /// The position belongs to another database. Metadata: `expected`, `actual`.
    WrongDatabase = "WRONG_DATABASE", FailedPrecondition, No, "check which database you are connected to";
    /// Stored data is damaged and was not served. Metadata: `file`, `byte_offset`.
    DataDamaged = "DATA_DAMAGED", DataLoss, No, "call the operator; the server names file and offset";
    /// No node has the name. Metadata: `node`.
    NodeUnknown = "NODE_UNKNOWN", NotFound, No, "`rdb-client status` names the nodes";
    /// An operator's order makes no sense as things are.
    OrderRefused = "ORDER_REFUSED", FailedPrecondition, No, "look at `rdb-client admin members`, and decide again";
    /// No subscription has the name. Metadata: `name`.
    SubscriptionUnknown = "SUBSCRIPTION_UNKNOWN", NotFound, No, "`rdb-client subscriptions list` names them";
    /// Another consumer has the named subscription. Metadata: `name`, `consumer`.
    SubscriptionHeld = "SUBSCRIPTION_HELD", FailedPrecondition, No, "claim it again later, or wait with the claim";
    /// Another consumer has taken the named subscription over. Metadata: `name`, `generation`.
    ConsumerFenced = "CONSUMER_FENCED", FailedPrecondition, No, "stop: what was not acknowledged comes to another consumer";
    /// A broken promise of the program itself. Metadata: none.
    Bug = "BUG", Internal, Maybe, "please report it with the server's log";
}

impl Reason {
    /// Finds a reason by the name in `ErrorInfo.reason`; `None` for one of a later release.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_found_by_its_name() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_name(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::from_name("NONE_SUCH"), None);
    }

    #[test]
    fn unavailable_always_means_that_nothing_happened() {
        for reason in Reason::ALL
            .iter()
            .filter(|reason| reason.code() == Code::Unavailable)
        {
            assert_eq!(reason.happened(), Happened::No, "{}", reason.as_str());
        }
    }
}
