//! The logs of a node read from its disk and checked, while it serves.

use crate::Error;
use crate::connect::{Attempt, Client};
use crate::retry::CallKind;
use futures::Stream;
use rdb_proto::v1;
use rdb_proto::v1::verify_response::Found;
use std::fmt;
use std::sync::Arc;
use tonic::{Status, Streaming};

/// A seat's log that is to be read, from its first entry on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifySeat {
    /// Number of the group.
    pub group: u32,
    /// 0 or 1.
    pub seat: u32,
    /// The last entry; it must be committed, as in [`crate::SeatStatus::commit`].
    pub up_to: u64,
}

/// What a node found in the log of a seat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Number of the group.
    pub group: u32,
    /// 0 or 1.
    pub seat: u32,
    /// What it is.
    pub found: FindingKind,
}

/// See [`Finding`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FindingKind {
    /// Entries that passed every check.
    Block(VerifiedBlock),
    /// An entry that did not; what stands behind it was not looked at.
    Damage {
        /// The entry.
        index: u64,
        /// File, offset and what is wrong there.
        what: String,
        /// Whether a start of the node finds it too, and gives that part up, to get it from other members.
        is_found_at_start: bool,
    },
    /// The last that is said of the seat.
    End {
        /// The last entry that passed; 0 means none.
        last: u64,
        /// Why nothing more was looked at.
        reason: VerifyEnd,
    },
}

/// Entries that passed every check. Where two members of a seat have a block of the same indexes, the digests are the
/// same, or the logs differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedBlock {
    /// First entry.
    pub first: u64,
    /// Last entry.
    pub last: u64,
    /// Bytes of the entries' bodies.
    pub bytes: u64,
    /// What the block is compared by.
    pub digest: Vec<u8>,
}

/// Why a log was not read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyEnd {
    /// It was read as far as asked for, or up to a damage.
    Done,
    /// The member does not have the rest yet.
    Behind,
    /// The member lost a part of its log, and gets it from the others.
    Repairing,
    /// The node has no member of the seat.
    NotHere,
    /// For a reason that this release does not know.
    Unknown,
}

/// What a node finds, as it reads.
pub struct Findings {
    address: Arc<str>,
    stream: Streaming<v1::VerifyResponse>,
}

impl Client {
    /// Has a node read its logs of these seats from its disk and check every entry, while it serves; no more than so many
    /// bytes a second, where 0 leaves that to the node. The timeout of the client is for the beginning only.
    ///
    /// # Errors
    /// `NODE_UNKNOWN`; `ORDER_REFUSED` when the node is not live or does not answer; `OVERLOADED` while another verify of
    /// it is under way; and as for every read.
    pub async fn verify(
        &self,
        node: &str,
        seats: &[VerifySeat],
        bytes_per_second: u64,
    ) -> Result<Findings, Error> {
        let to_wire = |seat: &VerifySeat| v1::VerifySeat {
            group: seat.group,
            seat: seat.seat,
            up_to: seat.up_to,
        };
        let request = v1::VerifyRequest {
            node: node.to_owned(),
            seats: seats.iter().map(to_wire).collect(),
            bytes_per_second,
        };
        let make = |attempt: Attempt| {
            // No timeout goes with it: what is opened lasts longer than the call.
            let request = tonic::Request::new(request.clone());
            async move {
                let answer = attempt.node.admin().verify(request).await?;
                Ok::<_, Status>((attempt.node.address, answer.into_inner()))
            }
        };
        let ((address, stream), _attempts) = self.call(CallKind::Read, None, make).await?;
        Ok(Findings { address, stream })
    }
}

impl Findings {
    /// The next finding; `None` at the end.
    ///
    /// # Errors
    /// The node went away. Nothing of it is asked again.
    pub async fn next(&mut self) -> Result<Option<Finding>, Error> {
        let message = self.stream.message().await;
        let message = message.map_err(|status| Error::from_status(&status, &self.address))?;
        message.map(from_wire).transpose()
    }

    /// The findings as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<Finding, Error>> + Send {
        futures::stream::try_unfold(self, |mut findings| async {
            let next = findings.next().await?;
            Ok(next.map(|finding| (finding, findings)))
        })
    }
}

impl fmt::Debug for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Findings")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn from_wire(message: v1::VerifyResponse) -> Result<Finding, Error> {
    let v1::VerifyResponse { group, seat, found } = message;
    let found = match found {
        Some(Found::Block(block)) => FindingKind::Block(VerifiedBlock {
            first: block.first,
            last: block.last,
            bytes: block.bytes,
            digest: block.digest.into(),
        }),
        Some(Found::Damage(damage)) => FindingKind::Damage {
            index: damage.index,
            what: damage.what,
            is_found_at_start: damage.is_found_at_start,
        },
        Some(Found::End(end)) => FindingKind::End {
            last: end.last,
            reason: match v1::VerifyEndReason::try_from(end.reason) {
                Ok(v1::VerifyEndReason::Done) => VerifyEnd::Done,
                Ok(v1::VerifyEndReason::Behind) => VerifyEnd::Behind,
                Ok(v1::VerifyEndReason::Repairing) => VerifyEnd::Repairing,
                Ok(v1::VerifyEndReason::NotHere) => VerifyEnd::NotHere,
                Err(_later) => VerifyEnd::Unknown,
            },
        },
        None => return Err(Error::bad_answer("a finding of a later release")),
    };
    Ok(Finding { group, seat, found })
}
