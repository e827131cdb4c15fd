//! What a subscriber asks for, and an event that it is held against.
//!
//! Input: length of the request (two bytes, little endian), a `SubscribeRequest`, an `Event`.

use super::{Target, named, sample};
use bytes::Bytes;
use prost::Message as _;
use rdb_proto::event::{Event, Facets, split_batch};
use rdb_proto::v1;
use rdb_server::api::selection;

pub(super) const TARGET: Target = Target {
    name: "filter",
    what: "what subscribers ask for, and which events pass",
    run,
    seeds,
};

fn run(data: &[u8]) {
    let Some((length, rest)) = data.split_first_chunk() else {
        return;
    };
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (request, event) = rest.split_at(length);
    let Ok(request) = v1::SubscribeRequest::decode(request) else {
        return;
    };
    let Ok(selection) = selection(&request) else {
        return;
    };
    let wire = request.filter.unwrap_or_default();
    assert_eq!(selection.filter.is_open(), wire == v1::Filter::default());
    let Ok(wire_event) = v1::Event::decode(event) else {
        return;
    };
    drop(Facets::of(Bytes::copy_from_slice(event)));
    // As servers write it: prost reads a map whatever its tag says it is, and passes over it as the tag says.
    let encoded = Bytes::from(wire_event.encode_to_vec());
    let Ok(event) = Event::decode(&encoded) else {
        return;
    };
    let facets = Facets::of(encoded).unwrap();
    assert_eq!(facets.seq(), event.seq);
    assert_eq!(selection.filter.matches(&facets), passes(&wire, &event));
}

/// Whether an event passes, said again in other words: each part that has values has one that fits.
fn passes(filter: &v1::Filter, event: &Event) -> bool {
    let collection = event.name.collection.as_str();
    let key = event.name.key.as_str();
    let kind = match event.kind.as_str() {
        "write" => 1,
        _ => 2,
    };
    let by_collection =
        filter.collections.is_empty() || filter.collections.iter().any(|name| name == collection);
    let by_key =
        filter.key_prefixes.is_empty() || filter.key_prefixes.iter().any(|prefix| key.starts_with(prefix));
    let by_type = filter.types.is_empty() || filter.types.contains(&event.event_type);
    let by_tag = filter.tags.is_empty() || filter.tags.iter().any(|tag| event.tags.contains(tag));
    let by_kind = filter.kinds.is_empty() || filter.kinds.contains(&kind);
    by_collection && by_key && by_type && by_tag && by_kind
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let event = split_batch(sample::events(5, 1, 1).encoded).unwrap().remove(0);
    let list = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
    let filters = [
        ("open", v1::Filter::default()),
        (
            "passes",
            v1::Filter {
                collections: list(&["shop", "default"]),
                key_prefixes: list(&["orders/"]),
                types: list(&["paid", "placed"]),
                tags: list(&["new"]),
                kinds: vec![1],
            },
        ),
        (
            "stops",
            v1::Filter {
                types: list(&["paid"]),
                kinds: vec![2, 1],
                ..Default::default()
            },
        ),
    ];
    let input = |filter| {
        let request = v1::SubscribeRequest {
            start: Some(v1::subscribe_request::Start::AfterSeq(4)),
            filter: Some(filter),
            with_before: true,
            order: v1::Order::Keys.into(),
            ..Default::default()
        };
        let request = request.encode_to_vec();
        let length = u16::try_from(request.len()).unwrap().to_le_bytes();
        [&length[..], &request, &event].concat()
    };
    filters.map(|(name, filter)| named(name, input(filter))).into()
}
