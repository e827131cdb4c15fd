//! The one error of the library: why a call failed, and whether anything happened.
//!
//! Decodes what [`rdb_proto::reason`] defines. The rule that everything rests on: `UNAVAILABLE` *with* a reason
//! promises that nothing happened; *without* one it is made by gRPC from any broken connection and promises
//! nothing, unless the connection could not be opened in the first place.

use rdb_proto::reason::{self, Happened, Reason};
use rdb_proto::types::{FieldError, Seq, Version};
use rdb_proto::v1;
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Why a call failed.
#[derive(Debug, Clone)]
pub struct Error {
    code: Code,
    reason: Option<Reason>,
    message: String,
    metadata: BTreeMap<String, String>,
    happened: Happened,
    is_transient: bool,
    attempts: u32,
}

impl Error {
    /// The server's reason. `None` when the error was made on the way (a broken connection, a deadline) or by a
    /// later release with a reason that this one does not know.
    pub const fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// One line for people, lower case, without advice.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Facts by name, as documented with each [`Reason`].
    pub const fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Whether the call changed anything. Always [`Happened::No`] for reads.
    pub const fn happened(&self) -> Happened {
        self.happened
    }

    /// How often the call was sent, or tried to be sent.
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether the same call may work later, here or at another node.
    pub const fn is_transient(&self) -> bool {
        self.is_transient
    }

    /// Name of the gRPC code, as in `FAILED_PRECONDITION`.
    pub const fn code_name(&self) -> &'static str {
        code_name(self.code)
    }

    /// Version of the key that a conflict names.
    pub fn current_version(&self) -> Option<Version> {
        self.fact("current_version").map(Version)
    }

    /// Database's resolved seq, where a read or a subscription asked for one ahead of it.
    pub fn resolved(&self) -> Option<Seq> {
        self.fact("resolved").map(Seq)
    }

    fn fact(&self, name: &str) -> Option<u64> {
        self.metadata.get(name)?.parse().ok()
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.fact("retry_after_ms").map(Duration::from_millis)
    }

    pub(crate) fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// For calls that change nothing, whatever becomes of them.
    pub(crate) fn of_a_read(mut self) -> Self {
        self.happened = Happened::No;
        self
    }

    /// The error ended a stream. What a reason promises holds for the one request that it answers; of others on
    /// the stream it says nothing. Only a connection that was never open proves that none of them was stored.
    pub(crate) fn of_a_stream(&self) -> Self {
        let happened = match self.reason {
            Some(_) => Happened::Maybe,
            None => self.happened,
        };
        Self {
            happened,
            ..self.clone()
        }
    }

    /// The key is at another version than was demanded.
    #[cfg(test)]
    pub(crate) fn conflict(current: Version) -> Self {
        let current = ("current_version".to_owned(), current.to_string());
        Self {
            metadata: BTreeMap::from([current]),
            ..Self::new(Reason::VersionConflict, "conflict")
        }
    }

    /// An earlier attempt may have been stored, and this last error says nothing about that one.
    pub(crate) fn into_unknown(self, attempts: u32) -> Self {
        let reason = Reason::OutcomeUnknown;
        let message = match self.reason {
            Some(Reason::OutcomeUnknown) => self.message,
            _ if attempts > 1 => format!(
                "outcome unknown after {attempts} attempts, the last: {}",
                self.message
            ),
            _ => format!("outcome unknown: {}", self.message),
        };
        Self {
            code: reason.code(),
            reason: Some(reason),
            message,
            metadata: self.metadata,
            happened: reason.happened(),
            is_transient: true,
            attempts,
        }
    }

    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code: reason.code(),
            reason: Some(reason),
            message: message.into(),
            metadata: BTreeMap::new(),
            happened: reason.happened(),
            is_transient: is_transient(reason),
            attempts: 0,
        }
    }

    /// What a server sent is not what any server sends.
    pub(crate) fn bad_answer(problem: impl fmt::Display) -> Self {
        Self::new(
            Reason::Bug,
            format!("the server's answer is not valid: {problem}"),
        )
    }

    /// No answer came in time. For a write, it may have happened.
    pub(crate) fn deadline() -> Self {
        Self {
            code: Code::DeadlineExceeded,
            reason: None,
            message: "no answer before the deadline".to_owned(),
            metadata: BTreeMap::new(),
            happened: Happened::Maybe,
            is_transient: true,
            attempts: 0,
        }
    }

    /// There is nobody to ask. Nothing was sent.
    #[cfg(feature = "etcd")]
    pub(crate) fn unreachable(message: String) -> Self {
        Self {
            code: Code::Unavailable,
            message,
            happened: Happened::No,
            ..Self::deadline()
        }
    }

    /// A leader that was silent was replaced. For a write, it may have happened.
    pub(crate) fn moved(address: &str) -> Self {
        Self {
            code: Code::Unavailable,
            message: format!("no answer from {address}, and another node leads the key now"),
            ..Self::deadline()
        }
    }

    /// The connection ended between two messages of a stream.
    pub(crate) fn stream_ended() -> Self {
        Self {
            code: Code::Unavailable,
            message: "the server ended the stream".to_owned(),
            ..Self::deadline()
        }
    }

    /// A stream that must speak every second did not.
    pub(crate) fn silent(after: Duration) -> Self {
        Self {
            message: format!("the server was silent for {} s", after.as_secs()),
            ..Self::deadline()
        }
    }

    pub(crate) fn from_status(status: &Status, address: &str) -> Self {
        let info = status
            .get_details_error_info()
            .filter(|info| info.domain == reason::DOMAIN);
        if let Some(info) = info {
            let metadata = info.metadata.into_iter().collect();
            return Self::from_info(status.code(), &info.reason, status.message(), metadata);
        }
        if let Some(problem) = connect_problem(status) {
            return Self {
                code: Code::Unavailable,
                message: format!("cannot connect to {address}: {problem}"),
                happened: Happened::No,
                ..Self::deadline()
            };
        }
        let is_refusal = is_refusal(status.code());
        let message = status.message();
        Self {
            code: status.code(),
            message: match (is_refusal, message.is_empty()) {
                (_, true) => format!("{address}: {}", status.code()),
                (true, false) => message.to_owned(),
                (false, false) => format!("{address}: {message}"),
            },
            happened: if is_refusal { Happened::No } else { Happened::Maybe },
            is_transient: !is_refusal,
            ..Self::deadline()
        }
    }

    pub(crate) fn from_failure(failure: v1::Failure) -> Self {
        let code = Code::from_i32(failure.code);
        Self::from_info(code, &failure.reason, &failure.message, failure.metadata)
    }

    /// An error that a server of ours made. A reason of a later release keeps the promise of its code.
    fn from_info(code: Code, reason: &str, message: &str, metadata: BTreeMap<String, String>) -> Self {
        let reason = Reason::from_name(reason);
        let (happened, is_transient) = match reason {
            Some(reason) => (reason.happened(), is_transient(reason)),
            None if code == Code::Unavailable => (Happened::No, true),
            None if is_refusal(code) || code == Code::ResourceExhausted => (Happened::No, false),
            None => (Happened::Maybe, false),
        };
        Self {
            code,
            reason,
            message: message.to_owned(),
            metadata,
            happened,
            is_transient,
            attempts: 0,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {}

impl From<FieldError> for Error {
    fn from(error: FieldError) -> Self {
        let (reason, facts) = match &error {
            FieldError::Limit {
                field, limit, actual, ..
            } => (
                Reason::LimitExceeded,
                vec![
                    ("field", (*field).to_owned()),
                    ("limit", limit.to_string()),
                    ("actual", actual.to_string()),
                ],
            ),
            FieldError::Invalid { field, .. } => (Reason::FieldInvalid, vec![("field", (*field).to_owned())]),
        };
        Self {
            metadata: facts
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            ..Self::new(reason, error.to_string())
        }
    }
}

/// Whether the same call may work later. Matched without `_`, so that a new reason must be decided here.
const fn is_transient(reason: Reason) -> bool {
    match reason {
        Reason::NotLeader
        | Reason::NotMember
        | Reason::SeatVacant
        | Reason::SeatRecovering
        | Reason::CoordinatorAway
        | Reason::ShuttingDown
        | Reason::OutcomeUnknown
        | Reason::Overloaded => true,
        Reason::FieldInvalid
        | Reason::LimitExceeded
        | Reason::KeyNotFound
        | Reason::VersionConflict
        | Reason::EventIdReused
        | Reason::RetryTooOld
        | Reason::DiskFull
        | Reason::SeqAhead
        | Reason::WrongDatabase
        | Reason::NodeUnknown
        | Reason::OrderRefused
        | Reason::SubscriptionUnknown
        | Reason::SubscriptionHeld
        | Reason::ConsumerFenced
        | Reason::DataDamaged
        | Reason::Bug => false,
    }
}

/// Codes that gRPC itself answers with before a method runs, or that say that the request cannot be served.
const fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated
    )
}

/// Why the connection could not be opened; `None` when it was open.
fn connect_problem(status: &Status) -> Option<String> {
    let mut source = status.source();
    while let Some(error) = source {
        if error.downcast_ref::<tonic::ConnectError>().is_some() {
            return Some(root_cause(error));
        }
        source = error.source();
    }
    None
}

/// The first cause of what a client of gRPC says, or its own message.
#[cfg(feature = "etcd")]
pub(crate) fn cause_of(status: &Status) -> String {
    match status.source() {
        Some(source) => root_cause(source),
        None => status.message().to_owned(),
    }
}

fn root_cause(mut error: &(dyn StdError + 'static)) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic_types::ErrorDetails;

    fn with_info(reason: &str, code: Code) -> Status {
        let facts = HashMap::from([("current_version".to_owned(), "8".to_owned())]);
        let details = ErrorDetails::with_error_info(reason, reason::DOMAIN, facts);
        Status::with_error_details(code, "said by the server", details)
    }

    #[test]
    fn a_reason_is_read_with_its_facts() {
        let status = with_info("VERSION_CONFLICT", Code::FailedPrecondition);
        let error = Error::from_status(&status, "n1:2048");
        assert_eq!(error.reason(), Some(Reason::VersionConflict));
        assert_eq!(error.current_version(), Some(Version(8)));
        assert_eq!(error.happened(), Happened::No);
        assert_eq!(error.message(), "said by the server");
        assert!(!error.is_transient());
    }

    #[test]
    fn unavailable_promises_that_nothing_happened_only_with_our_info() {
        let ours = Error::from_status(&with_info("SEAT_VACANT", Code::Unavailable), "n1:2048");
        assert_eq!((ours.happened(), ours.is_transient()), (Happened::No, true));
        let later = Error::from_status(&with_info("NOT_YET_INVENTED", Code::Unavailable), "n1:2048");
        assert_eq!((later.happened(), later.reason()), (Happened::No, None));
        let bare = Error::from_status(&Status::unavailable("reset"), "n1:2048");
        assert_eq!((bare.happened(), bare.is_transient()), (Happened::Maybe, true));
    }

    #[test]
    fn a_connection_that_was_never_open_changed_nothing() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = Status::from_error(Box::new(tonic::ConnectError(Box::new(refused))));
        let error = Error::from_status(&status, "n1:2048");
        assert_eq!((error.happened(), error.is_transient()), (Happened::No, true));
        assert_eq!(error.message(), "cannot connect to n1:2048: connection refused");
    }

    #[test]
    fn a_field_error_keeps_field_limit_and_actual() {
        let error = Error::from(FieldError::check_limit("key", 1_025, 1_024, "bytes").unwrap_err());
        assert_eq!(error.reason(), Some(Reason::LimitExceeded));
        assert_eq!(error.metadata().get("actual").map(String::as_str), Some("1025"));
        assert_eq!(error.code_name(), "INVALID_ARGUMENT");
    }
}
