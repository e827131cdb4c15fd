//! Rules 6.1, 6.3.1 and 6.3.3: a member tells others only what is durable, and helps nobody below its promise.

use super::{Verdict, broken};
use crate::sim::disk::Disk;
use rdb_proto::types::{Epoch, LogIndex, SeatId};
use rdb_server::protocol::Message;

const RULE: &str = "told is durable (DESIGN 6.1, 6.3.3)";

/// A member that obeys this epoch, durably or not, sends a message while its disk is in this state.
///
/// # Errors
/// When it tells more than that.
pub fn check(seat: SeatId, obeys: Epoch, disk: &Disk, message: &Message) -> Verdict {
    let promised = |epoch: &Epoch| {
        if disk.promised() >= *epoch {
            return Ok(());
        }
        broken(
            RULE,
            format!(
                "seat {seat}: {message} is told, and only {} is durably promised",
                disk.promised()
            ),
        )
    };
    match message {
        Message::FenceAck { epoch, .. } => promised(epoch),
        Message::AppendAck { epoch, matched, .. } => {
            if *epoch != obeys {
                return broken(
                    RULE,
                    format!("seat {seat}: {message} is told after {obeys} was promised"),
                );
            }
            promised(epoch)?;
            let durable: LogIndex = disk.durable();
            if *matched <= durable {
                return Ok(());
            }
            broken(
                RULE,
                format!("seat {seat}: {message} is told, and only {durable} entries are durable"),
            )
        }
        Message::Fence { .. }
        | Message::Fetch { .. }
        | Message::Fetched { .. }
        | Message::Append(_)
        | Message::Mismatch { .. }
        | Message::Reject { .. }
        | Message::PreVote { .. }
        | Message::PreVoteAnswer { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{SEAT, assert_broken, epoch, start};
    use super::*;
    use rdb_server::protocol::{PersistTicket, Round};

    #[test]
    fn rejects_a_promise_and_an_entry_that_are_not_durable() {
        let mut disk = Disk::default();
        disk.promise(epoch(1), 1);
        disk.write(PersistTicket(1), None, vec![start(1, 1)]);
        let ack = Message::AppendAck {
            epoch: epoch(1),
            round: Round::default(),
            matched: LogIndex(1),
        };
        assert_broken(check(SEAT, epoch(1), &disk, &ack), "only 0@0 is durably promised");
        disk.promise_synced();
        assert_broken(check(SEAT, epoch(1), &disk, &ack), "only 0 entries are durable");
        disk.begin_sync();
        disk.synced();
        check(SEAT, epoch(1), &disk, &ack).unwrap();
        assert_broken(
            check(SEAT, epoch(2), &disk, &ack),
            "is told after 2@1 was promised",
        );
    }
}
