//! Numbers that nodes ask of each other: one question and one answer over a connection that stays, so that it costs a
//! round trip. What is asked, and whether an answer is of use, others decide.

use super::peer::{Peer, hello_to};
use super::{Shared, Transport};
use crate::limits::NUMBERS_ASKED_MAX;
use futures::future::BoxFuture;
use rdb_proto::member::give_numbers_response::Answer;
use rdb_proto::member::member_client::MemberClient;
use rdb_proto::member::{GiveNumbersRequest, GiveNumbersResponse, Numbers};
use rdb_proto::numbers::{NumbersGranted, NumbersWanted};
use rdb_proto::types::{NodeId, Seq, Timestamp};
use std::fmt::Debug;
use std::sync::Arc;
use tonic::Status;
use tonic::transport::Channel;

/// Who takes numbers for other nodes.
pub trait GivesNumbers: Debug + Send + Sync {
    /// `None` when it may take none now. Dropping the future leaves at most a hole.
    fn give(&self, wanted: NumbersWanted) -> BoxFuture<'static, Option<NumbersGranted>>;
}

impl Transport {
    /// Questions of other nodes go to `giver`. Only the first call counts.
    pub fn give_numbers(&self, giver: Arc<dyn GivesNumbers>) {
        drop(self.shared.giver.set(giver));
    }

    /// Asks a node for numbers, for as long as the caller waits. `None` when it cannot be reached or gives none; it may
    /// have taken some all the same.
    pub fn ask_numbers(
        &self,
        to: NodeId,
        wanted: NumbersWanted,
    ) -> BoxFuture<'static, Option<NumbersGranted>> {
        let channel = self.peers.borrow().get(&to).and_then(Peer::calls);
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            match ask(&shared, to, channel?, wanted).await {
                Ok(granted) => Some(granted),
                Err(status) => {
                    tracing::debug!(node = %to, %status, "a node gives no numbers");
                    None
                }
            }
        })
    }
}

async fn ask(
    shared: &Shared,
    to: NodeId,
    channel: Channel,
    wanted: NumbersWanted,
) -> Result<NumbersGranted, Status> {
    let request = GiveNumbersRequest {
        hello: Some(hello_to(&shared.me, to)),
        count: wanted.count,
        generation: wanted.generation,
    };
    let answer = MemberClient::new(channel).give_numbers(request).await?;
    match answer.into_inner().answer {
        Some(Answer::Numbers(numbers)) => Ok(from_wire(numbers)),
        Some(Answer::Refusal(refusal)) => Err(Status::failed_precondition(refusal.reason().as_str_name())),
        None => Err(Status::internal("it says nothing")),
    }
}

/// Has the question of a node that is welcome answered.
pub(super) async fn answer(shared: &Shared, wanted: NumbersWanted) -> Result<GiveNumbersResponse, Status> {
    if wanted.count == 0 || wanted.count > NUMBERS_ASKED_MAX {
        return Err(Status::invalid_argument("count is 0"));
    }
    let none = || Status::unavailable("this node may take no numbers now");
    let giver = shared.giver.get().ok_or_else(none)?;
    let granted = giver.give(wanted).await.ok_or_else(none)?;
    Ok(GiveNumbersResponse {
        answer: Some(Answer::Numbers(to_wire(granted))),
    })
}

const fn to_wire(granted: NumbersGranted) -> Numbers {
    Numbers {
        first: granted.first.get(),
        count: granted.count,
        time_us: granted.time.get(),
        generation: granted.generation,
    }
}

const fn from_wire(numbers: Numbers) -> NumbersGranted {
    NumbersGranted {
        first: Seq(numbers.first),
        count: numbers.count,
        time: Timestamp(numbers.time_us),
        generation: numbers.generation,
    }
}
