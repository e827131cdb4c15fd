//! A subscriber of the change stream, as a node serves it: reads each seat's committed entries and mark from a member,
//! its node's own where there is one, merges by seq and passes on what no mark holds back (DESIGN 7).

use super::checks::Verdict;
use super::checks::feed::Feed;
use super::plan::MILLI;
use super::world::{Event, World};
use crate::random::Random;
use rdb_proto::types::{SeatId, Seq};

/// A subscriber.
#[derive(Debug)]
pub(super) struct Subscriber {
    node: usize,
    random: Random,
    pub(super) feed: Feed,
}

impl Subscriber {
    pub(super) const fn new(node: usize, random: Random) -> Self {
        Self {
            node,
            random,
            feed: Feed::new(Seq::ZERO),
        }
    }
}

impl World {
    pub(super) fn poll(&mut self, subscriber: usize) -> Verdict {
        let again = 20 * MILLI + self.subscribers[subscriber].random.below(200 * MILLI);
        self.queue.push(self.now + again, Event::Poll(subscriber));
        let node = self.subscribers[subscriber].node;
        let moves = self.subscribers[subscriber].random.one_in(100);
        if moves || !self.nodes[node].is_up {
            let count = self.nodes.len();
            self.subscribers[subscriber].node = self.subscribers[subscriber].random.position(count);
            return Ok(());
        }
        let position = self.subscribers[subscriber].feed.position();
        let mut mark = Seq(u64::MAX);
        let mut seqs = Vec::new();
        let seats: Vec<SeatId> = self.seats().collect();
        for seat in seats {
            let Some(source) = self.source(subscriber, node, seat) else {
                return Ok(());
            };
            let member = &self.nodes[source].members[&seat];
            let (resolved, _) = member.resolved;
            mark = mark.min(resolved);
            let committed = usize::try_from(member.shown.commit.get()).unwrap();
            for entry in member.disk.log()[..committed.min(member.disk.log().len())]
                .iter()
                .rev()
            {
                let Some((first, last)) = entry.seqs() else {
                    continue;
                };
                if last <= position {
                    break;
                }
                seqs.extend((first.get()..=last.get()).map(Seq).filter(|seq| *seq > position));
            }
        }
        if mark <= position {
            return Ok(());
        }
        seqs.retain(|seq| *seq <= mark);
        seqs.sort_unstable();
        self.subscribers[subscriber].feed.arrives(&seqs, mark)
    }

    /// The node that tells this node about a seat.
    fn source(&mut self, subscriber: usize, node: usize, seat: SeatId) -> Option<usize> {
        if self.members[&seat.group].members.contains(&self.nodes[node].id) {
            return Some(node);
        }
        let members = &self.members[&seat.group].members;
        let position = self.subscribers[subscriber].random.position(members.len());
        let chosen = self.place_of(members[position]);
        let is_there = self.nodes[chosen].is_up
            && self.network.reaches(chosen, node)
            && self.nodes[chosen].members.contains_key(&seat);
        is_there.then_some(chosen)
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = SeatId> + use<> {
        let groups = self.plan.groups;
        (0..groups).flat_map(|group| {
            rdb_proto::types::Side::BOTH.map(|side| SeatId {
                group: rdb_proto::types::GroupId(group),
                side,
            })
        })
    }
}
