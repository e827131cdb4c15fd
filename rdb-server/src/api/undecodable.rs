//! Answers for messages that are too large or not what the call takes.
//!
//! The gRPC library refuses them before any call sees them, with codes of its own and without a reason: `INTERNAL`,
//! as if the server were at fault, for bytes that it cannot decode. Here they become what every other bad input is.

use super::status::CallError;
use http::Response;
use rdb_proto::limits::MESSAGE_BYTES_MAX;
use rdb_proto::types::FieldError;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::util::MapResponseLayer;

const UNDECODABLE: &str = "failed to decode Protobuf message";
const TOO_LARGE: &str = "decoded message length too large";

/// Corrects every response that goes through it.
pub(super) type CorrectLayer = MapResponseLayer<fn(Response<Body>) -> Response<Body>>;

/// The layer for the gRPC server.
pub(super) fn layer() -> CorrectLayer {
    MapResponseLayer::new(correct)
}

/// Only a refusal has its status in the head of the response; an answer has it behind the body.
fn correct<B>(mut response: Response<B>) -> Response<B> {
    let Some(status) = Status::from_header_map(response.headers()) else {
        return response;
    };
    if let Some(error) = blamed_on_the_caller(&status) {
        let corrected = Status::from(error).add_header(response.headers_mut());
        if let Err(status) = corrected {
            tracing::debug!(%status, "the reason of a refusal does not fit a header");
        }
    }
    response
}

/// The same for the end of a stream of requests.
pub(super) fn corrected(status: Status) -> Status {
    blamed_on_the_caller(&status).map_or(status, Status::from)
}

fn blamed_on_the_caller(status: &Status) -> Option<CallError> {
    let message = status.message();
    if status.code() == Code::Internal && message.starts_with(UNDECODABLE) {
        return Some(FieldError::invalid("request", format!("cannot be decoded: {message}")).into());
    }
    if status.code() == Code::OutOfRange && message.contains(TOO_LARGE) {
        let digits: String = message
            .chars()
            .skip_while(|c| !c.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect();
        let actual = digits.parse().unwrap_or(usize::MAX);
        let limit = MESSAGE_BYTES_MAX;
        return Some(
            FieldError::Limit {
                field: "request",
                limit,
                actual,
                unit: "bytes",
            }
            .into(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::StatusExt as _;

    fn answered(status: &Status) -> Status {
        let mut response = Response::new(());
        status.add_header(response.headers_mut()).unwrap();
        Status::from_header_map(correct(response).headers()).unwrap()
    }

    #[test]
    fn bytes_that_are_no_message_are_the_callers_fault() {
        let status = answered(&Status::internal(
            "failed to decode Protobuf message: invalid varint",
        ));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.get_error_details().error_info().unwrap().reason,
            "FIELD_INVALID"
        );
    }

    #[test]
    fn a_message_that_is_too_large_says_how_large() {
        let message =
            "Error, decoded message length too large: found 20000000 bytes, the limit is: 16777216 bytes";
        let status = answered(&Status::out_of_range(message));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.message(),
            "request has 20000000 bytes, the limit is 16777216"
        );
        assert_eq!(
            status.get_error_details().error_info().unwrap().metadata["actual"],
            "20000000"
        );
    }

    #[test]
    fn other_refusals_pass_as_they_are() {
        for status in [Status::internal("something else"), Status::not_found(UNDECODABLE)] {
            assert_eq!(answered(&status).code(), status.code());
        }
    }
}
