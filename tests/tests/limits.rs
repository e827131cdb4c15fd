//! Bad input: a clear error that names the field, the limit and the value, nothing stored, and the next request
//! works (DESIGN 3, "Bad input").
#![cfg(test)]

use bytes::Bytes;
use prost::Message as _;
use rdb_proto::limits::{
    APPEND_BYTES_MAX, APPEND_EVENTS_MAX, COLLECTION_BYTES_MAX, FILTER_VALUES_MAX, KEY_BYTES_MAX,
    LIST_KEYS_PAGE_MAX, MESSAGE_BYTES_MAX, META_NAME_BYTES_MAX, META_PAIRS_MAX, META_VALUE_BYTES_MAX,
    PAYLOAD_BYTES_MAX, TAG_BYTES_MAX, TAGS_MAX, TYPE_BYTES_MAX,
};
use rdb_proto::reason::Reason;
use rdb_proto::v1::{self, subscribe_request::Start};
use rdb_tests::process::Node;
use rdb_tests::wire::{Answer, Api, Refusal, Said, append_of, assert_reason, event, write_of};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

fn text(bytes: usize) -> String {
    "x".repeat(bytes)
}

fn write(change: impl FnOnce(&mut v1::WriteRequest, &mut v1::NewEvent)) -> v1::WriteRequest {
    let mut new_event = event("x");
    let mut request = write_of("key", v1::NewEvent::default());
    change(&mut request, &mut new_event);
    request.event = Some(new_event);
    request
}

fn meta(name: usize, value: usize, pairs: usize) -> std::collections::BTreeMap<String, String> {
    let name = |n: usize| format!("{n:02}{}", text(name - 2));
    (0..pairs).map(|n| (name(n), text(value))).collect()
}

/// Demands that a limit was told with field, limit and value, and that the message has them too.
fn assert_limit<T: std::fmt::Debug>(answer: Answer<T>, field: &str, limit: usize, actual: usize) {
    let refusal = assert_reason(answer, Reason::LimitExceeded);
    assert_eq!(
        refusal.metadata.get("field").map(String::as_str),
        Some(field),
        "{refusal:?}"
    );
    assert_eq!(
        refusal.number("limit"),
        u64::try_from(limit).unwrap(),
        "{refusal:?}"
    );
    assert_eq!(
        refusal.number("actual"),
        u64::try_from(actual).unwrap(),
        "{refusal:?}"
    );
    for part in [field.to_owned(), limit.to_string(), actual.to_string()] {
        assert!(refusal.message.contains(&part), "{part} in {refusal:?}");
    }
    assert!(refusal.message.len() < 500, "a message for people: {refusal:?}");
}

fn assert_invalid<T: std::fmt::Debug>(answer: Answer<T>, field: &str) {
    let refusal = assert_reason(answer, Reason::FieldInvalid);
    assert_eq!(
        refusal.metadata.get("field").map(String::as_str),
        Some(field),
        "{refusal:?}"
    );
    assert!(refusal.message.contains(field), "{refusal:?}");
}

/// Demands that nothing was stored and that the node is well.
async fn assert_untouched(api: &mut Api) {
    assert_eq!(api.events_after(0).await.unwrap(), [], "nothing was stored");
    let written = api.write("key", "the next request works").await.unwrap();
    assert_eq!((written.seq, written.version), (1, 1), "no number was taken");
}

/// Every limit of one event, one above it.
#[tokio::test]
async fn every_limit_of_an_event_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    let over = [
        ("key", KEY_BYTES_MAX, 1_025, write(|r, _| r.key = text(1_025))),
        (
            "key",
            KEY_BYTES_MAX,
            10 << 20,
            write(|r, _| r.key = text(10 << 20)),
        ),
        (
            "collection",
            COLLECTION_BYTES_MAX,
            129,
            write(|r, _| r.collection = text(129)),
        ),
        ("type", TYPE_BYTES_MAX, 257, write(|_, e| e.r#type = text(257))),
        ("tags", TAGS_MAX, 33, write(|_, e| e.tags = vec![text(1); 33])),
        ("tag", TAG_BYTES_MAX, 257, write(|_, e| e.tags = vec![text(257)])),
        ("meta", META_PAIRS_MAX, 33, write(|_, e| e.meta = meta(5, 1, 33))),
        (
            "meta name",
            META_NAME_BYTES_MAX,
            129,
            write(|_, e| e.meta = meta(129, 1, 1)),
        ),
        (
            "meta value",
            META_VALUE_BYTES_MAX,
            4_097,
            write(|_, e| e.meta = meta(5, 4_097, 1)),
        ),
        (
            "payload",
            PAYLOAD_BYTES_MAX,
            (4 << 20) + 1,
            write(|_, e| e.payload = text((4 << 20) + 1).into()),
        ),
    ];
    for (field, limit, actual, request) in over {
        assert_limit(api.write_request(request).await, field, limit, actual);
    }
    assert_untouched(&mut api).await;
}

/// Every limit, exactly at it, is taken and comes back.
#[tokio::test]
async fn what_is_at_its_limit_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    let request = write(|request, event| {
        request.collection = text(COLLECTION_BYTES_MAX);
        request.key = text(KEY_BYTES_MAX);
        event.r#type = text(TYPE_BYTES_MAX);
        event.tags = vec![text(TAG_BYTES_MAX); TAGS_MAX];
        event.meta = meta(META_NAME_BYTES_MAX, META_VALUE_BYTES_MAX, META_PAIRS_MAX);
        event.payload = text(PAYLOAD_BYTES_MAX).into();
    });
    api.write_request(request.clone()).await.unwrap();
    let read = v1::ReadRequest {
        collection: request.collection.clone(),
        key: request.key.clone(),
        ..Default::default()
    };
    let stored = api.read_request(read).await.unwrap();
    let sent = request.event.unwrap();
    assert_eq!(
        (stored.event_type, stored.tags, stored.meta),
        (sent.r#type, sent.tags, sent.meta)
    );
    assert_eq!(stored.payload, sent.payload);

    let many: Vec<&str> = vec!["x"; APPEND_EVENTS_MAX];
    assert_eq!(
        api.append(append_of("many", &many)).await.unwrap().len(),
        APPEND_EVENTS_MAX
    );
    // Each event counts its payload and its id.
    let half = text(APPEND_BYTES_MAX / 4 - 16);
    let large = append_of("large", &[&half, &half, &half, &half]);
    assert_eq!(api.append(large).await.unwrap().len(), 4);
    assert_eq!(api.history("large").await.unwrap()[3].payload.len(), half.len());
}

/// Every limit of an append.
#[tokio::test]
async fn every_limit_of_an_append_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    assert_invalid(api.append(append_of("key", &[])).await, "events");
    let many: Vec<&str> = vec!["x"; APPEND_EVENTS_MAX + 1];
    assert_limit(
        api.append(append_of("key", &many)).await,
        "events",
        APPEND_EVENTS_MAX,
        APPEND_EVENTS_MAX + 1,
    );
    let large = text(APPEND_BYTES_MAX / 4);
    let bytes = APPEND_BYTES_MAX + 4 * 16;
    let append = append_of("key", &[&large, &large, &large, &large]);
    assert_limit(api.append(append).await, "events", APPEND_BYTES_MAX, bytes);
    let twice = v1::AppendRequest {
        events: vec![event("x"); 2],
        ..append_of("key", &[])
    };
    assert_invalid(api.append(twice).await, "event_id");
    let bad = v1::AppendRequest {
        events: vec![
            event("x"),
            v1::NewEvent {
                tags: vec![text(257)],
                ..event("y")
            },
        ],
        ..append_of("key", &[])
    };
    assert_limit(api.append(bad).await, "tag", TAG_BYTES_MAX, 257);
    assert_untouched(&mut api).await;
}

/// Values that a field cannot have, in every call that takes a key.
#[tokio::test]
async fn a_value_that_cannot_be_is_refused_by_the_name_of_its_field() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    for key in ["", "a\0b", "line\nbreak", "\u{7f}", "\u{85}"] {
        let key = key.to_owned();
        assert_invalid(
            api.write_request(write(|r, _| r.key.clone_from(&key))).await,
            "key",
        );
        assert_invalid(api.append(append_of(&key, &["x"])).await, "key");
        assert_invalid(api.delete(&key).await, "key");
        assert_invalid(api.read(&key).await, "key");
        assert_invalid(api.history(&key).await, "key");
    }
    for collection in ["a b", "ä", "a/b", "a\0"] {
        let request = write(|r, _| collection.clone_into(&mut r.collection));
        assert_invalid(api.write_request(request).await, "collection");
    }
    for id in [&[1; 15][..], &[1; 17], &[0; 16], b"not-a-uuid"] {
        let request = write(|_, e| e.event_id = Bytes::copy_from_slice(id));
        assert_invalid(api.write_request(request).await, "event_id");
    }
    assert_invalid(
        api.write_request(write(|_, e| e.tags = vec![String::new()]))
            .await,
        "tag",
    );
    let unnamed = write(|_, e| e.meta = [(String::new(), "x".to_owned())].into());
    assert_invalid(api.write_request(unnamed).await, "meta name");
    let no_event = v1::WriteRequest {
        key: "key".to_owned(),
        ..Default::default()
    };
    assert_invalid(api.write_request(no_event).await, "event");
    let with_payload = v1::DeleteRequest {
        key: "key".to_owned(),
        event: Some(event("a delete has no payload")),
        ..Default::default()
    };
    assert_invalid(api.delete_request(with_payload).await, "payload");
    assert_untouched(&mut api).await;
}

/// Enum values of another release, negative and huge numbers.
#[tokio::test]
async fn unknown_enum_values_and_absurd_numbers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    for kind in [4, 99, -1, i32::MIN, i32::MAX] {
        let request = write(|r, _| r.expect = Some(v1::Expectation { kind, version: 0 }));
        assert_invalid(api.write_request(request).await, "expect");
        let read = v1::ReadRequest {
            key: "key".to_owned(),
            consistency: kind,
            ..Default::default()
        };
        assert_invalid(api.read_request(read).await, "consistency");
        let subscribe = v1::SubscribeRequest {
            filter: Some(v1::Filter {
                kinds: vec![kind],
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_invalid(first(&mut api, subscribe).await, "kind");
    }
    let version_without_exact = write(|r, _| r.expect = Some(v1::Expectation { kind: 1, version: 7 }));
    assert_invalid(api.write_request(version_without_exact).await, "expect");
    assert_reason(api.read_at("key", u64::MAX).await, Reason::SeqAhead);
    let page = v1::ListKeysRequest {
        limit: u32::MAX,
        ..Default::default()
    };
    assert_limit(
        api.list_keys(page).await,
        "limit",
        LIST_KEYS_PAGE_MAX,
        usize::try_from(u32::MAX).unwrap(),
    );
    assert_untouched(&mut api).await;
    let all = v1::HistoryRequest {
        key: "key".to_owned(),
        limit: u64::MAX,
        ..Default::default()
    };
    assert_eq!(api.history_request(all).await.unwrap().len(), 1);
}

/// Nothing is ever added to a stranger's number: the highest there is, is only a number that is not reached yet.
#[tokio::test]
async fn a_retry_that_names_the_highest_seq_there_is_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    for since in [u64::MAX, u64::MAX - 1, 1 << 63] {
        let request = v1::WriteRequest {
            retried_since: Some(since),
            ..write(|_, _| {})
        };
        let stored = api.write_request(request.clone()).await.unwrap();
        let again = api.write_request(request).await.unwrap();
        assert_eq!((again.seq, again.duplicate), (stored.seq, true));
    }
    assert_eq!(api.events_after(0).await.unwrap().len(), 3);
}

type Part = fn(&mut v1::Filter, Vec<String>);

/// First thing that a subscription says; a refusal may come as the answer or as the end of the stream.
async fn first(api: &mut Api, request: v1::SubscribeRequest) -> Answer<Said> {
    Ok(api
        .subscribe_request(request)
        .await?
        .next()
        .await?
        .expect("it says something"))
}

/// Limits of a subscription.
#[tokio::test]
async fn every_limit_of_a_subscription_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    let parts: [(&str, Part); 4] = [
        ("collections", |filter, values| filter.collections = values),
        ("key_prefixes", |filter, values| filter.key_prefixes = values),
        ("types", |filter, values| filter.types = values),
        ("tags", |filter, values| filter.tags = values),
    ];
    for (field, part) in parts {
        let mut filter = v1::Filter::default();
        part(&mut filter, vec![text(1); FILTER_VALUES_MAX + 1]);
        let request = v1::SubscribeRequest {
            filter: Some(filter),
            ..Default::default()
        };
        assert_limit(
            first(&mut api, request).await,
            field,
            FILTER_VALUES_MAX,
            FILTER_VALUES_MAX + 1,
        );
    }
    let not_now = v1::SubscribeRequest {
        start: Some(Start::FromNow(false)),
        ..Default::default()
    };
    assert_invalid(first(&mut api, not_now).await, "from_now");
    let no_uuid = v1::SubscribeRequest {
        database_id: "not a uuid".to_owned(),
        ..Default::default()
    };
    let refusal = first(&mut api, no_uuid).await.unwrap_err();
    assert!(
        [Some(Reason::FieldInvalid), Some(Reason::WrongDatabase)].contains(&refusal.reason),
        "{refusal:?}"
    );
    assert_untouched(&mut api).await;
}

/// A refusal that says that the bytes are not what they must be, and promises that nothing happened.
fn assert_not_understood(answer: Answer<Bytes>, what: &str) -> Refusal {
    let refusal = answer.expect_err("it is refused");
    assert_eq!(refusal.code, Code::InvalidArgument, "{what}: {refusal:?}");
    assert!(!refusal.message.is_empty(), "{what}: {refusal:?}");
    refusal
}

/// Bytes that are no message, on every call: an error, never a panic; the next request works.
#[tokio::test]
async fn garbage_is_an_error_and_the_next_request_works() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    let calls = [
        "/rdb.v1.Data/Write",
        "/rdb.v1.Data/Append",
        "/rdb.v1.Data/Delete",
        "/rdb.v1.Data/Read",
        "/rdb.v1.Data/History",
        "/rdb.v1.Data/ListKeys",
        "/rdb.v1.Changes/Subscribe",
    ];
    // A field that never ends, a length beyond the message, a wrong wire type, nested groups.
    let garbage: [&[u8]; 4] = [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x12\x7fx",
        b"\x09abcdefgh",
        &[0x0b; 300],
    ];
    for call in calls {
        for bytes in garbage {
            assert_not_understood(api.raw(call, bytes).await, call);
        }
    }
    // Invalid UTF-8 in the key (field 2 of Write, field 2 of Read).
    for call in ["/rdb.v1.Data/Write", "/rdb.v1.Data/Read"] {
        let refusal = assert_not_understood(api.raw(call, b"\x12\x02\xc3\x28").await, call);
        assert!(
            refusal.message.contains("UTF-8") && refusal.message.contains("key"),
            "{refusal:?}"
        );
    }
    // Unknown fields of a later release are passed over, as protobuf has it: this is a write with one.
    let mut newer = write_of("newer", event("x")).encode_to_vec();
    newer.extend(b"\xfa\x07\x03abc");
    api.raw("/rdb.v1.Data/Write", &newer).await.unwrap();
    assert_eq!(api.read("newer").await.unwrap().seq.get(), 1);
}

/// A message above the limit of gRPC is refused without being taken in.
#[tokio::test]
async fn a_message_above_the_limit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    let request = write(|_, event| event.payload = text(MESSAGE_BYTES_MAX + 1).into());
    let refusal = api.write_request(request).await.unwrap_err();
    let refusing = [Code::InvalidArgument, Code::OutOfRange, Code::ResourceExhausted];
    assert!(refusing.contains(&refusal.code), "{refusal:?}");
    assert!(
        refusal.message.contains(&MESSAGE_BYTES_MAX.to_string()),
        "{refusal:?}"
    );
    assert_untouched(&mut node.api().await).await;
}

/// Whatever somebody sends to the two ports, the node goes on.
#[tokio::test]
async fn bytes_that_are_no_grpc_and_no_http_harm_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let garbage: [Vec<u8>; 5] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0xff; 100_000],
        [&preface[..], &[0xff; 1_000]].concat(),
        [
            &preface[..],
            b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
            b"\x00\xff\xff\x01\x05\x00\x00\x00\x01",
        ]
        .concat(),
        Vec::new(),
    ];
    for address in [node.grpc, node.http] {
        for bytes in &garbage {
            let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
            // The node may hang up before it has read everything, or after.
            drop(socket.write_all(bytes).await);
            drop(socket.shutdown().await);
            let mut answer = Vec::new();
            drop(rdb_tests::time::soon("the end of the connection", socket.read_to_end(&mut answer)).await);
        }
    }
    assert_eq!(node.get("/health").await.0, 200);
    assert_untouched(&mut node.api().await).await;
    assert!(!node.log().contains("panicked"), "{}", node.log());
    node.stop().await;
}
