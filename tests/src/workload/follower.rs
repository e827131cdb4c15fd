//! A subscriber that goes on where it was, when its node comes back or at another.

use crate::checkers::{Verdict, Violation, marks, stream};
use crate::time::pause;
use crate::wire::{Api, Said};
use rdb_proto::event::Event;
use rdb_proto::types::Seq;
use std::net::SocketAddr;
use tokio::sync::watch;

/// Follows the stream from the beginning, over all starts of nodes.
#[derive(Debug, Default)]
pub struct Follower {
    /// Last seq of an event or of a mark.
    at: u64,
    pieces: Vec<Vec<Event>>,
    /// What the stream said against its own marks: the first of it.
    contradiction: Option<Violation>,
}

impl Follower {
    /// Follows until the node goes away.
    pub async fn follow(mut self, mut api: Api) -> Self {
        let (_open, never) = watch::channel(None);
        self.piece(&mut api, &never).await;
        self
    }

    /// Follows, also over times when a node is away, until there is a last seq and it is reached. Whenever its stream ends,
    /// it goes on at the next of these nodes, and after the last at the first.
    pub async fn follow_up_to(mut self, nodes: Vec<SocketAddr>, upto: watch::Receiver<Option<u64>>) -> Self {
        for node in nodes.iter().cycle() {
            if self.is_done(&upto) {
                break;
            }
            if let Ok(mut api) = Api::try_connect(*node).await {
                self.piece(&mut api, &upto).await;
            }
            pause().await;
        }
        self
    }

    fn is_done(&self, upto: &watch::Receiver<Option<u64>>) -> bool {
        upto.borrow().is_some_and(|upto| self.at >= upto)
    }

    /// Follows one subscription to its end.
    async fn piece(&mut self, api: &mut Api, upto: &watch::Receiver<Option<u64>>) {
        let mut said = Vec::new();
        if let Ok(mut changes) = api.subscribe(self.at).await {
            while !self.is_done(upto)
                && let Ok(Some(next)) = changes.next().await
            {
                match &next {
                    Said::Change(event) => self.at = self.at.max(event.seq.get()),
                    Said::Resolved { seq, .. } => self.at = self.at.max(*seq),
                    Said::Opened { .. } | Said::CaughtUp(_) | Said::FellBehind(_) => {}
                }
                said.push(next);
            }
        }
        let contradiction = marks::check(&said).err();
        self.contradiction = self.contradiction.take().or(contradiction);
        self.pieces
            .push(said.into_iter().filter_map(Said::event).collect());
    }

    /// Events that it got.
    pub fn delivered(&self) -> usize {
        self.pieces.iter().map(Vec::len).sum()
    }

    /// Judges what it got up to where it stands, and from there on what the stream is at its end.
    ///
    /// # Errors
    /// The first mark that was contradicted, or event that was lost, repeated, added or changed.
    pub fn judge(&self, all: &[Event]) -> Verdict {
        if let Some(contradiction) = &self.contradiction {
            return Err(contradiction.clone());
        }
        let mut pieces = self.pieces.clone();
        let after = all.iter().filter(|event| event.seq.get() > self.at);
        pieces.push(after.cloned().collect());
        stream::check_resumed(all, Seq(0), &pieces)
    }
}
