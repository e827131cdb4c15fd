//! DESIGN 3, "Durability" and "Exactly once on retry": every acknowledged event is in the stream, once, with the
//! seq and version that its client was told and the body that its client sent. What was refused is not there, and
//! nothing is there that nobody sent.

use super::{Verdict, Violation};
use crate::workload::{History, Told};
use rdb_proto::event::Event;
use rdb_proto::types::EventId;
use std::collections::HashMap;

const RULE: &str = "durability (DESIGN 3)";

/// Judges a run.
///
/// # Errors
/// The first event that is lost, doubled, changed or invented.
pub fn check(history: &History, stream: &[Event]) -> Verdict {
    let mut stored: HashMap<EventId, &Event> = HashMap::with_capacity(stream.len());
    for event in stream {
        if let Some(first) = stored.insert(event.event_id, event) {
            let (id, first, again) = (event.event_id, first.seq, event.seq);
            return Violation::of(
                RULE,
                format!("event {id} is stored twice, at seq {first} and at seq {again}"),
            );
        }
    }
    let mut sent_and_stored = 0;
    for operation in &history.operations {
        for (position, sent) in operation.events.iter().enumerate() {
            let id = sent.event_id;
            let found = stored.get(&id);
            sent_and_stored += usize::from(found.is_some());
            if let Some(event) = found {
                let is_as_sent = event.name.key.as_str() == operation.key
                    && event.kind == operation.kind
                    && event.payload == sent.payload;
                if !is_as_sent {
                    let what = format!("event {id} at seq {} is not what was sent: {sent:?}", event.seq);
                    return Violation::of(RULE, what);
                }
            }
            match (&operation.told, found) {
                (Told::Acknowledged { placed, .. }, None) => {
                    let what = format!(
                        "event {id}, acknowledged at seq {}, is lost",
                        placed[position].seq
                    );
                    return Violation::of(RULE, what);
                }
                (Told::Acknowledged { placed, .. }, Some(event)) => {
                    let told = placed[position];
                    if (told.seq, told.version) != (event.seq, event.version) {
                        let (seq, version) = (event.seq, event.version);
                        let what =
                            format!("event {id} was told as {told:?}, but is at {seq}, version {version}");
                        return Violation::of(RULE, what);
                    }
                }
                (Told::Conflict { .. } | Told::Refused, Some(event)) => {
                    let what = format!("event {id} was refused, but is stored at seq {}", event.seq);
                    return Violation::of(RULE, what);
                }
                (Told::Conflict { .. } | Told::Refused, None) | (Told::Unknown, _) => {}
            }
        }
    }
    if sent_and_stored != stream.len() {
        let what = format!(
            "the stream has {} events, of which only {sent_and_stored} were sent",
            stream.len()
        );
        return Violation::of(RULE, what);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::example::{assert_violated, event, id, run};
    use rdb_proto::event::EventKind;
    use rdb_proto::types::{Seq, Version};

    #[test]
    fn rejects_a_lost_acknowledged_event() {
        let (history, mut stream) = run();
        stream.remove(3);
        assert_violated(check(&history, &stream), "is lost");
    }

    #[test]
    fn rejects_an_event_stored_twice() {
        let (history, mut stream) = run();
        let mut again = stream[0].clone();
        again.seq = Seq(9);
        stream.push(again);
        assert_violated(check(&history, &stream), "stored twice");
    }

    #[test]
    fn rejects_another_body_key_or_kind() {
        let damages: [fn(&mut Event); 3] = [
            |event| event.payload = "x".into(),
            |event| event.name = rdb_proto::types::KeyName::new("", "c").unwrap(),
            |event| event.kind = EventKind::Delete,
        ];
        for damage in damages {
            let (history, mut stream) = run();
            damage(&mut stream[1]);
            assert_violated(check(&history, &stream), "not what was sent");
        }
    }

    #[test]
    fn rejects_another_place_than_was_told() {
        let (history, mut stream) = run();
        stream[5].version = Version(7);
        assert_violated(check(&history, &stream), "was told as");
    }

    #[test]
    fn rejects_a_refused_event_that_is_stored() {
        for refused in [100, 101] {
            let (history, mut stream) = run();
            let mut event = event(9, "a", 4, EventKind::Write);
            event.event_id = id(refused);
            event.payload = format!("event {refused}").into();
            stream.push(event);
            assert_violated(check(&history, &stream), "was refused");
        }
    }

    #[test]
    fn rejects_an_event_that_nobody_sent() {
        let (history, mut stream) = run();
        stream.push(event(9, "a", 4, EventKind::Write));
        assert_violated(check(&history, &stream), "of which only 7 were sent");
    }
}
