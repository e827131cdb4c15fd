//! Which events pass to a subscriber: each part that is given must match, and within a part one value is enough.

use rdb_proto::event::{EventKind, Facets};

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
    pub fn matches(&self, event: &Facets) -> bool {
        let any = |values: &[String], is_match: &dyn Fn(&[u8]) -> bool| {
            values.is_empty() || values.iter().any(|value| is_match(value.as_bytes()))
        };
        any(&self.collections, &|name| name == event.collection())
            && any(&self.key_prefixes, &|prefix| event.key().starts_with(prefix))
            && any(&self.types, &|name| name == event.event_type())
            && any(&self.tags, &|tag| event.tags().any(|of_event| of_event == tag))
            && (self.kinds.is_empty() || self.kinds.iter().any(|&kind| event.is(kind)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use prost::Message as _;
    use rdb_proto::v1;

    fn event_of(collection: &str) -> Facets {
        let event = v1::Event {
            seq: 1,
            collection: collection.to_owned(),
            key: "orders/17".to_owned(),
            version: 1,
            kind: v1::EventKind::Write.into(),
            r#type: "placed".to_owned(),
            tags: list(&["eu", "new"]),
            payload: Bytes::from_static(b"not looked at"),
            ..Default::default()
        };
        Facets::of(event.encode_to_vec().into()).unwrap()
    }

    fn event() -> Facets {
        event_of("shop")
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
    #[test]
    fn an_event_of_no_collection_is_of_the_default_one() {
        let filter = |name| Filter {
            collections: list(&[name]),
            ..Filter::default()
        };
        assert!(filter("default").matches(&event_of("")));
        assert!(!filter("shop").matches(&event_of("")));
        assert!(filter("shop").matches(&event()));
    }
}
