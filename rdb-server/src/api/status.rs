//! The only constructor of gRPC statuses: an error's reason decides code, text and `google.rpc.ErrorInfo`.

use crate::node::NodeError;
use rdb_proto::event::EventError;
use rdb_proto::reason::{DOMAIN, Reason};
use rdb_proto::types::FieldError;
use rdb_proto::v1;
use std::collections::HashMap;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

/// Anything that a call can end with instead of an answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// What the caller sent cannot be.
    Field(FieldError),
    /// The node said no.
    Node(NodeError),
    /// Another node said no, with a reason.
    Forwarded(Box<Status>),
}

impl From<FieldError> for CallError {
    fn from(error: FieldError) -> Self {
        Self::Field(error)
    }
}

impl From<NodeError> for CallError {
    fn from(error: NodeError) -> Self {
        Self::Node(error)
    }
}

impl From<EventError> for CallError {
    /// What another node sent cannot be.
    fn from(error: EventError) -> Self {
        let details = ErrorDetails::with_error_info(Reason::Bug.as_str(), DOMAIN, HashMap::new());
        let status = Status::with_error_details(Reason::Bug.code(), error.to_string(), details);
        Self::Forwarded(Box::new(status))
    }
}

impl CallError {
    /// Why.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Forwarded(status) => reason_of(status).unwrap_or(Reason::Bug),
            Self::Field(FieldError::Limit { .. }) => Reason::LimitExceeded,
            Self::Field(FieldError::Invalid { .. }) => Reason::FieldInvalid,
            Self::Node(error) => error.reason(),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Field(error) => error.to_string(),
            Self::Node(error) => error.to_string(),
            Self::Forwarded(status) => status.message().to_owned(),
        }
    }

    fn metadata(&self) -> HashMap<String, String> {
        let named = |pairs: Vec<(&'static str, String)>| {
            pairs
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        };
        match self {
            Self::Field(FieldError::Limit {
                field, limit, actual, ..
            }) => named(vec![
                ("field", (*field).to_owned()),
                ("limit", limit.to_string()),
                ("actual", actual.to_string()),
            ]),
            Self::Field(FieldError::Invalid { field, .. }) => named(vec![("field", (*field).to_owned())]),
            Self::Node(error) => named(error.metadata()),
            Self::Forwarded(status) => status
                .get_details_error_info()
                .map(|info| info.metadata)
                .unwrap_or_default(),
        }
    }

    /// The same, inside a stream that goes on.
    pub(crate) fn into_failure(self) -> v1::Failure {
        v1::Failure {
            code: self.reason().code().into(),
            reason: self.reason().as_str().to_owned(),
            message: self.message(),
            metadata: self.metadata().into_iter().collect(),
        }
    }
}

/// The reason that a status of another node names.
pub(crate) fn reason_of(status: &Status) -> Option<Reason> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN)
        .then(|| Reason::from_name(&info.reason))
        .flatten()
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        let reason = error.reason();
        let details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, error.metadata());
        Self::with_error_details(reason.code(), error.message(), details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_reason_field_limit_and_actual_value() {
        let error = FieldError::Limit {
            field: "key",
            limit: 1_024,
            actual: 2_000,
            unit: "bytes",
        };
        let status = Status::from(CallError::from(error));
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.domain.as_str(), info.reason.as_str()),
            ("rdb", "LIMIT_EXCEEDED")
        );
        assert_eq!(info.metadata["field"], "key");
        assert_eq!(info.metadata["limit"], "1024");
        assert_eq!(info.metadata["actual"], "2000");
    }

    #[test]
    fn shutting_down_promises_that_nothing_happened() {
        let status = Status::from(CallError::from(NodeError::ShuttingDown));
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(
            status.get_error_details().error_info().unwrap().reason,
            "SHUTTING_DOWN"
        );
    }
}
