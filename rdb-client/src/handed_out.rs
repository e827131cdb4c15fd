//! What a stream in the order of keys has handed out above its position, so that nothing is handed out twice when it goes
//! on over another connection.
//!
//! By slot rather than by key: the events of a slot stand in one log, so they come in the order of seqs; and there are only
//! so many slots.

use crate::subscribe::EventBatch;
use crate::{Error, Event, Seq};
use bytes::{Bytes, BytesMut};
use rdb_proto::event::{push_to_batch, split_batch};
use rdb_proto::types::Slot;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct HandedOut(BTreeMap<Slot, Last>);

/// The last events of a slot, [`Seq::ZERO`] when there was none.
#[derive(Debug, Default)]
struct Last {
    handed_out: Seq,
    heard_on_this_connection: Seq,
}

impl HandedOut {
    /// From here on, events above the position come again.
    pub(crate) fn begin_connection(&mut self) {
        for last in self.0.values_mut() {
            last.heard_on_this_connection = Seq::ZERO;
        }
    }

    /// Nothing at or below the position comes again.
    pub(crate) fn move_on(&mut self, position: Seq) {
        self.0.retain(|_, last| last.handed_out > position);
    }

    /// Takes in what came: how many events, and those of them that were not handed out before.
    pub(crate) fn take_in(
        &mut self,
        encoded: Bytes,
        position: Seq,
    ) -> Result<(u64, Option<EventBatch>), Error> {
        let (mut came, mut seqs) = (0_u64, Vec::new());
        let mut new = BytesMut::new();
        for event in split_batch(encoded).map_err(Error::bad_answer)? {
            came = came.saturating_add(1);
            let Event { seq, name, .. } = Event::decode(&event).map_err(Error::bad_answer)?;
            let last = self.0.entry(name.slot()).or_default();
            let before = last.heard_on_this_connection.max(position);
            if seq <= before {
                return Err(Error::bad_answer(format_args!("seq {seq} came after {before}")));
            }
            last.heard_on_this_connection = seq;
            if seq > last.handed_out {
                last.handed_out = seq;
                push_to_batch(&mut new, &event);
                seqs.push(seq);
            }
        }
        Ok((came, EventBatch::of(new.freeze(), &seqs)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use rdb_proto::v1;

    fn batch(events: &[(u64, &str)]) -> Bytes {
        let event = |(seq, key): &(u64, &str)| v1::Event {
            seq: *seq,
            key: (*key).to_owned(),
            version: 1,
            kind: v1::EventKind::Write.into(),
            event_id: vec![1; 16].into(),
            ..Default::default()
        };
        let events = events.iter().map(event).collect();
        v1::EventBatch { events }.encode_to_vec().into()
    }

    fn take(handed_out: &mut HandedOut, position: u64, events: &[(u64, &str)]) -> Option<Vec<u64>> {
        let (came, new) = handed_out.take_in(batch(events), Seq(position)).ok()?;
        assert_eq!(usize::try_from(came), Ok(events.len()));
        let events = new.map_or_else(Vec::new, |new| new.decode().unwrap());
        Some(events.iter().map(|event| event.seq.get()).collect())
    }

    #[test]
    fn what_comes_again_is_left_out_and_what_is_new_is_not() {
        let mut handed_out = HandedOut::default();
        assert_eq!(
            take(&mut handed_out, 2, &[(5, "a"), (3, "b"), (8, "a")]),
            Some(vec![5, 3, 8])
        );
        handed_out.begin_connection();
        assert_eq!(
            take(&mut handed_out, 2, &[(3, "b"), (4, "b"), (5, "a")]),
            Some(vec![4])
        );
        assert_eq!(take(&mut handed_out, 2, &[(8, "a"), (9, "a")]), Some(vec![9]));
        handed_out.move_on(Seq(4));
        assert_eq!(handed_out.0.len(), 1, "of b everything is below the position");
        handed_out.begin_connection();
        assert_eq!(take(&mut handed_out, 4, &[(6, "b"), (9, "a")]), Some(vec![6]));
    }

    #[test]
    fn a_key_that_goes_back_on_a_connection_is_an_error() {
        for wrong in [&[(5, "a"), (5, "a")][..], &[(6, "a"), (5, "a")], &[(2, "a")]] {
            assert_eq!(take(&mut HandedOut::default(), 2, wrong), None, "{wrong:?}");
        }
    }
}
