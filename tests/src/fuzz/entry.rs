//! Bodies of entries: on disk in a frame, between members in a message, and on their way to subscribers.
//!
//! Input: kind of the entry (a byte), then the body.

use super::{Target, named, sample};
use bytes::Bytes;
use prost::Message as _;
use rdb_proto::entry::{EntryBody, EntryKind};
use rdb_proto::event::{self, Change, Event, StoredEvents};
use rdb_proto::glance::glance;
use rdb_proto::v1;

pub(super) const TARGET: Target = Target {
    name: "entry",
    what: "bodies of log entries: memberships, batches of events, changes of cursors",
    run,
    seeds,
};

fn run(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    let body = Bytes::copy_from_slice(body);
    read_batch(&body);
    let Ok(kind) = EntryKind::from_number(*kind) else {
        return;
    };
    let Ok(read) = EntryBody::decode(kind, body.clone()) else {
        return;
    };
    assert_eq!(read.kind(), kind);
    assert_eq!(EntryBody::decode(kind, read.encode()), Ok(read.clone()));
    if let EntryBody::Events(events) = read {
        agree(&events);
    }
}

/// What subscribers and the index do with a batch, whether it is one or not.
fn read_batch(body: &Bytes) {
    let mut rest = &body[..];
    while !rest.is_empty() && event::next_seq(&mut rest).is_ok() {}
    let mut ids = Vec::new();
    drop(glance(body, &mut ids));
    let Ok(events) = event::split_batch(body.clone()) else {
        return;
    };
    let joined = event::join_batch(&events);
    assert_eq!(event::split_batch(joined).as_ref(), Ok(&events));
    for pair in events.windows(2) {
        let [before, after] = pair else { continue };
        let is_event = |bytes: &Bytes| Event::decode(bytes);
        if let (Ok(before_event), Ok(event)) = (is_event(before), is_event(after))
            && v1::Event::decode(after.clone()).is_ok_and(|event| event.before.is_none())
        {
            let change = Change::decode(&event::with_before(after, before)).expect("both parts are events");
            assert_eq!((change.event, change.before), (event, Some(before_event)));
        }
    }
}

/// The index looks at a batch without building its events; it must see what they say.
fn agree(events: &StoredEvents) {
    assert_eq!(u64::try_from(events.event_ids.len()).unwrap(), events.count());
    assert!(events.last_seq() >= events.first_seq && events.last_version() >= events.first_version);
    let is_as_written = v1::EventBatch::decode(events.encoded.clone())
        .unwrap()
        .encode_to_vec()
        == events.encoded;
    if !is_as_written {
        return;
    }
    let mut ids = Vec::new();
    let seen = glance(&events.encoded, &mut ids).expect("what can be read can be glanced at");
    assert_eq!(ids, *events.event_ids);
    assert_eq!(
        (seen.collection, seen.key, seen.first_version, seen.deletes),
        (
            events.name.collection.as_str(),
            events.name.key.as_str(),
            events.first_version,
            events.deletes
        )
    );
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let log = sample::log();
    let seed = |body: &EntryBody| {
        let mut bytes = vec![body.kind().number()];
        bytes.extend_from_slice(&body.encode());
        bytes
    };
    let bodies = log.iter().zip(1..);
    bodies
        .map(|(entry, n)| {
            named(
                &format!("{n}-{:?}", entry.body.kind()).to_lowercase(),
                seed(&entry.body),
            )
        })
        .collect()
}
