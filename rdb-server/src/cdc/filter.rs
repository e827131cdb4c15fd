//! Which events pass to a subscriber: each part that is given must match, and within a part one value is enough.

use rdb_proto::event::{Event, EventKind};

/// A subscriber's filter. A part without values lets everything through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Names of collections.
    pub collections: Vec<String>,
    /// Beginnings of keys.
    pub key_prefixes: Vec<String>,
    /// Event types.
    pub types: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Kinds.
    pub kinds: Vec<EventKind>,
}

impl Filter {
    /// Whether every event passes.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this event passes.
    pub fn matches(&self, event: &Event) -> bool {
        let any = |values: &[String], is_match: &dyn Fn(&str) -> bool| {
            values.is_empty() || values.iter().any(|value| is_match(value))
        };
        any(&self.collections, &|name| name == event.name.collection.as_str())
            && any(&self.key_prefixes, &|prefix| {
                event.name.key.as_str().starts_with(prefix)
            })
            && any(&self.types, &|name| name == event.event_type)
            && any(&self.tags, &|tag| {
                event.tags.iter().any(|of_event| of_event == tag)
            })
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use rdb_proto::types::{EventId, KeyName, Seq, Timestamp, Version};

    fn event() -> Event {
        Event {
            seq: Seq(1),
            name: KeyName::new("shop", "orders/17").unwrap(),
            version: Version(1),
            kind: EventKind::Write,
            event_type: "placed".to_owned(),
            tags: vec!["eu".to_owned(), "new".to_owned()],
            meta: std::collections::BTreeMap::new(),
            payload: Bytes::new(),
            event_id: EventId::from_bytes(&[1; 16]).unwrap(),
            time: Timestamp(1),
        }
    }

    fn list(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    #[test]
    fn one_value_of_a_part_is_enough_and_each_part_must_match() {
        let open = Filter::default;
        assert!(open().matches(&event()));
        assert!(
            Filter {
                types: list(&["paid", "placed"]),
                ..open()
            }
            .matches(&event())
        );
        assert!(
            Filter {
                tags: list(&["new"]),
                key_prefixes: list(&["orders/"]),
                ..open()
            }
            .matches(&event())
        );
        assert!(
            !Filter {
                types: list(&["placed"]),
                tags: list(&["us"]),
                ..open()
            }
            .matches(&event())
        );
        assert!(
            !Filter {
                collections: list(&["default"]),
                ..open()
            }
            .matches(&event())
        );
        assert!(
            !Filter {
                kinds: vec![EventKind::Delete],
                ..open()
            }
            .matches(&event())
        );
    }
}
