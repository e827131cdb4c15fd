//! Subscribers of every kind: in the order of seqs, in that of keys, and such that begin with a snapshot.

use super::clients::Control;
use crate::checkers::held::Shown;
use crate::random::Random;
use rdb_client::{Client, EventBatch, Filter, KeyName, Message, Order, Seq, Start, Subscription, Version};
use rdb_server::clock;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Subscribers look up after this long: the last event may have come before they were told that it was the last.
pub(super) const LOOKS_UP_AFTER: Duration = Duration::from_millis(100);
/// Longest time between two snapshots, in milliseconds.
const BETWEEN_SNAPSHOTS_MS: u64 = 5_000;

/// Follows the stream from its beginning, until it is told how far that goes.
pub(super) async fn follow(name: String, servers: Vec<String>, control: Rc<Control>) -> turmoil::Result {
    let client = Client::connect(&servers)?;
    let subscription = client.subscribe(Start::After(Seq::ZERO), Filter::default());
    control.seen.borrow_mut().insert(name.clone(), Vec::new());
    let mut following = Following::new(name, subscription, control);
    while !following.is_done() {
        if let Some(batch) = following.next().await? {
            following.position = batch.last_seq();
            following.saw(&batch)?;
        }
        following.tell();
    }
    Ok(())
}

/// The same in the order of keys: of each key every version, one after the other.
pub(super) async fn follow_keys(name: String, servers: Vec<String>, control: Rc<Control>) -> turmoil::Result {
    let client = Client::connect(&servers)?;
    let subscription = client.subscribe(Start::After(Seq::ZERO), Filter::default());
    let mut following = Following::new(name, subscription.in_order_of(Order::Keys), control);
    let mut versions: BTreeMap<KeyName, Version> = BTreeMap::new();
    while !following.is_done() {
        let batch = following.next().await?;
        following.tell();
        let Some(batch) = batch else { continue };
        for event in batch.decode()? {
            let before = versions
                .insert(event.name.clone(), event.version)
                .unwrap_or_default();
            if event.version != before.next() {
                let (name, key, version) = (&following.name, &event.name, event.version);
                return Err(format!("{name}: version {version} of {key} came after {before}").into());
            }
        }
        following.saw(&batch)?;
    }
    let mut seen = following.control.seen.borrow_mut();
    let events = seen.entry(following.name.clone()).or_default();
    events.sort_by_key(|event| event.seq);
    Ok(())
}

/// Takes one snapshot of the stream after the other.
pub(super) async fn follow_snapshots(
    name: String,
    servers: Vec<String>,
    control: Rc<Control>,
    mut random: Random,
) -> turmoil::Result {
    let client = Client::connect(&servers)?;
    while control.upto.get().is_none() {
        let subscription = client.subscribe(Start::After(Seq::ZERO), Filter::default());
        let mut following = Following::new(name.clone(), subscription.with_snapshot(), Rc::clone(&control));
        let mut events = Vec::new();
        let upto = loop {
            if let Some(batch) = following.next().await? {
                events.extend(batch.decode()?);
            }
            // Of an empty database there is none.
            let as_of = following.subscription.snapshot().unwrap_or_default();
            if following.mark > Seq::ZERO && following.mark >= as_of {
                break following.mark;
            }
        };
        let as_of = following.subscription.snapshot().unwrap_or_default();
        control.snapshots.borrow_mut().push(Shown { as_of, upto, events });
        clock::sleep(Duration::from_millis(random.below(BETWEEN_SNAPSHOTS_MS))).await;
    }
    Ok(())
}

/// A subscription, and how far it has come.
struct Following {
    name: String,
    subscription: Subscription,
    control: Rc<Control>,
    position: Seq,
    mark: Seq,
}

impl Following {
    fn new(name: String, subscription: Subscription, control: Rc<Control>) -> Self {
        Self {
            name,
            subscription,
            control,
            position: Seq::ZERO,
            mark: Seq::ZERO,
        }
    }

    /// Whether everything has come.
    fn is_done(&self) -> bool {
        let upto = self.control.upto.get();
        upto.is_some_and(|upto| self.position >= upto)
    }

    /// Says how far it has come.
    fn tell(&self) {
        let mut positions = self.control.positions.borrow_mut();
        positions.insert(self.name.clone(), self.position);
    }

    /// The next events, if some come soon. Marks may not go back, and no event comes below one.
    async fn next(&mut self) -> Result<Option<EventBatch>, Box<dyn std::error::Error>> {
        let (name, mark) = (&self.name, self.mark);
        let said = clock::within(LOOKS_UP_AFTER, self.subscription.next()).await;
        let batch = match said.transpose().map_err(|error| format!("{name}: {error}"))? {
            Some(Message::Events(batch)) if batch.first_seq() <= mark => {
                return Err(format!("{name}: {batch:?} came after the mark {mark}").into());
            }
            Some(Message::Resolved { seq, .. } | Message::CaughtUp { seq }) if seq < mark => {
                return Err(format!("{name}: the mark went back from {mark} to {seq}").into());
            }
            Some(Message::Events(batch)) => Some(batch),
            Some(Message::Resolved { seq, .. } | Message::CaughtUp { seq }) => {
                self.mark = seq;
                self.position = self.position.max(seq);
                None
            }
            Some(Message::Opened { .. } | Message::FellBehind { .. } | Message::Interrupted(_)) | None => {
                None
            }
        };
        Ok(batch)
    }

    /// Keeps the events, to be judged at the end.
    fn saw(&self, batch: &EventBatch) -> turmoil::Result {
        let mut seen = self.control.seen.borrow_mut();
        seen.entry(self.name.clone()).or_default().extend(batch.decode()?);
        Ok(())
    }
}
