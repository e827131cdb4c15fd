//! Keys, what they held at every revision since the last compaction, and what became of them in a transaction.

use super::refusal::Refusal;
use etcd_client::proto::{PbEvent, PbKeyValue};
use std::collections::BTreeMap;

/// Which keys are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    /// This one.
    One(Vec<u8>),
    /// From the first on, below the second.
    Between(Vec<u8>, Vec<u8>),
    /// From this one on.
    From(Vec<u8>),
}

impl Span {
    /// As requests say it.
    pub fn new(key: &[u8], end: &[u8]) -> Self {
        match end {
            [] => Self::One(key.to_vec()),
            [0] => Self::From(key.to_vec()),
            end => Self::Between(key.to_vec(), end.to_vec()),
        }
    }

    fn first(&self) -> &[u8] {
        let (Self::One(first) | Self::Between(first, _) | Self::From(first)) = self;
        first
    }

    /// Whether a key is meant.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => key == one,
            Self::Between(first, end) => first.as_slice() <= key && key < end.as_slice(),
            Self::From(first) => first.as_slice() <= key,
        }
    }
}

/// What a key held from a revision on; nothing: it was deleted there.
#[derive(Debug, Clone)]
struct Change {
    /// The revision, and the position among the changes of that.
    at: (i64, usize),
    held: Option<PbKeyValue>,
}

/// See the module. Changes are made in transactions: all up to a [`Keys::commit`] have one revision.
#[derive(Debug, Clone)]
pub struct Keys {
    history: BTreeMap<Vec<u8>, Vec<Change>>,
    /// Of the last transaction that changed something.
    revision: i64,
    /// How many changes the transaction under way has made.
    changes: usize,
    /// What was before it is gone.
    compacted: i64,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            history: BTreeMap::new(),
            revision: 1,
            changes: 0,
            compacted: -1,
        }
    }
}

impl Keys {
    /// Revision of what is seen now, in a transaction that of its own changes.
    pub fn revision(&self) -> i64 {
        self.revision + i64::from(self.changes > 0)
    }

    /// The first revision that can be read.
    pub const fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Whether a revision can be read; 0 is the last one.
    pub fn check(&self, revision: i64) -> Result<(), Refusal> {
        if revision > self.revision() {
            return Err(Refusal::Future);
        }
        if revision > 0 && revision < self.compacted {
            return Err(Refusal::Compacted);
        }
        Ok(())
    }

    /// The keys that there were at a revision, in order.
    pub fn at(&self, span: &Span, revision: i64) -> Vec<PbKeyValue> {
        let held = |(_, changes): (_, &Vec<Change>)| {
            let last = changes.iter().rfind(|change| change.at.0 <= revision)?;
            last.held.clone()
        };
        self.meant(span).filter_map(held).collect()
    }

    /// The keys that there are now, in order.
    pub fn now(&self, span: &Span) -> Vec<PbKeyValue> {
        self.at(span, self.revision())
    }

    /// Names of the keys that end with a lease, in order.
    pub fn attached(&self, lease: i64) -> Vec<Vec<u8>> {
        let all = self.now(&Span::From(Vec::new())).into_iter();
        all.filter(|kv| kv.lease == lease).map(|kv| kv.key).collect()
    }

    fn meant<'a>(&'a self, span: &'a Span) -> impl Iterator<Item = (&'a Vec<u8>, &'a Vec<Change>)> {
        let from = self.history.range(span.first().to_vec()..);
        from.take_while(|(key, _)| span.contains(key))
    }

    fn change(&mut self, key: &[u8], held: impl FnOnce(i64) -> Option<PbKeyValue>) {
        let revision = self.revision + 1;
        let change = Change {
            at: (revision, self.changes),
            held: held(revision),
        };
        self.history.entry(key.to_vec()).or_default().push(change);
        self.changes += 1;
    }

    /// Gives a key a value, and returns what it held.
    pub fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> Option<PbKeyValue> {
        let before = self.now(&Span::One(key.to_vec())).pop();
        self.change(key, |revision| {
            let (created, version) = match &before {
                Some(before) => (before.create_revision, before.version + 1),
                None => (revision, 1),
            };
            Some(PbKeyValue {
                key: key.to_vec(),
                create_revision: created,
                mod_revision: revision,
                version,
                value: value.to_vec(),
                lease,
            })
        });
        before
    }

    /// Deletes keys, and returns what they held.
    pub fn delete(&mut self, span: &Span) -> Vec<PbKeyValue> {
        let before = self.now(span);
        for kv in &before {
            self.change(&kv.key, |_| None);
        }
        before
    }

    /// Ends a transaction; what it changed, in the order of the changes.
    pub fn commit(&mut self) -> Vec<PbEvent> {
        if self.changes == 0 {
            return Vec::new();
        }
        self.revision += 1;
        self.changes = 0;
        self.since(&Span::From(Vec::new()), self.revision)
    }

    /// What changed from a revision on, in order.
    pub fn since(&self, span: &Span, revision: i64) -> Vec<PbEvent> {
        let of_key = |(key, changes): (&Vec<u8>, &Vec<Change>)| -> Vec<_> {
            let later = changes.iter().filter(|change| change.at.0 >= revision);
            later.map(|change| (change.at, event(key, change))).collect()
        };
        let mut events: Vec<_> = self.meant(span).flat_map(of_key).collect();
        events.sort_by_key(|(at, _)| *at);
        events.into_iter().map(|(_, event)| event).collect()
    }

    /// What the key of an event held before it, where that can still be read.
    pub fn before(&self, event: &PbEvent) -> Option<PbKeyValue> {
        let kv = event.kv.as_ref()?;
        let revision = kv.mod_revision - 1;
        if revision < self.compacted {
            return None;
        }
        self.at(&Span::One(kv.key.clone()), revision).pop()
    }

    /// Forgets what was before a revision.
    pub fn compact(&mut self, revision: i64) -> Result<(), Refusal> {
        if revision <= self.compacted {
            return Err(Refusal::Compacted);
        }
        if revision > self.revision {
            return Err(Refusal::Future);
        }
        self.compacted = revision;
        for changes in self.history.values_mut() {
            let last = changes.iter().rposition(|change| change.at.0 <= revision);
            // A deletion at that very revision is forgotten, too: releases before 3.4.36 and 3.5.19 do so.
            let gone = last.map_or(0, |last| last + usize::from(changes[last].held.is_none()));
            changes.drain(..gone);
        }
        self.history.retain(|_, changes| !changes.is_empty());
        Ok(())
    }
}

fn event(key: &[u8], change: &Change) -> PbEvent {
    let deleted = || PbKeyValue {
        key: key.to_vec(),
        mod_revision: change.at.0,
        ..PbKeyValue::default()
    };
    PbEvent {
        r#type: i32::from(change.held.is_none()),
        kv: Some(change.held.clone().unwrap_or_else(deleted)),
        prev_kv: None,
    }
}
