//! What a seat waits for from outside: numbers, elections, entries from its disk. Each answer becomes an input.

use super::SeatDriver;
use crate::blocking;
use crate::clock;
use crate::coordination::{Allocation, CoordinationError, Granted, Report};
use crate::fatal::{self, Report as FatalReport};
use crate::limits::READ_AGAIN_AFTER;
use crate::protocol::{AllocationId, Input, LogReadId};
use crate::storage::StorageError;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rdb_proto::entry::Entry;
use rdb_proto::types::{Epoch, LogIndex, NodeId};
use std::sync::Arc;

/// An answer from outside.
#[derive(Debug)]
pub(super) enum Answer {
    Numbers(AllocationId, Result<Allocation, CoordinationError>),
    Elected(Result<Option<Granted>, CoordinationError>),
    /// The epoch that was to be raised.
    Raised(Epoch, Result<Option<Granted>, CoordinationError>),
    GivenUp(Result<(), CoordinationError>),
    Reported(Result<(), CoordinationError>),
    Entries(LogReadId, Result<Vec<Arc<Entry>>, StorageError>),
}

pub(super) type Asking = BoxFuture<'static, Answer>;

impl SeatDriver {
    /// Waits for an answer among all the others. The embedded coordinator answers at once; a round through the
    /// task's queue would cost a wake-up.
    pub(super) fn ask(&mut self, question: impl Future<Output = Answer> + Send + 'static) {
        let mut asking: Asking = Box::pin(question);
        match (&mut asking).now_or_never() {
            Some(answer) => self.on_answer(answer),
            None => self.asking.push(asking),
        }
    }

    pub(super) fn allocate(&mut self, request: AllocationId, count: u64) {
        self.waits.asked(request, clock::monotonic());
        let coordinator = Arc::clone(&self.parts.coordinator);
        self.ask(async move { Answer::Numbers(request, coordinator.allocate(count).await) });
    }

    pub(super) fn campaign(&mut self, above: Epoch, revision: u64) {
        let (coordinator, seat) = (Arc::clone(&self.parts.coordinator), self.parts.id);
        self.ask(async move { Answer::Elected(coordinator.campaign(seat, above, revision).await) });
    }

    pub(super) fn raise(&mut self, epoch: Epoch, above: Epoch) {
        let (coordinator, seat) = (Arc::clone(&self.parts.coordinator), self.parts.id);
        self.ask(async move { Answer::Raised(epoch, coordinator.raise(seat, epoch, above).await) });
    }

    pub(super) fn give_up(&mut self, epoch: Epoch, successor: Option<NodeId>) {
        let (coordinator, seat) = (Arc::clone(&self.parts.coordinator), self.parts.id);
        self.giving_up = self.giving_up.saturating_add(1);
        self.ask(async move { Answer::GivenUp(coordinator.give_up(seat, epoch, successor).await) });
    }

    pub(super) fn report(&mut self, epoch: Epoch, report: Report) {
        let (coordinator, seat) = (Arc::clone(&self.parts.coordinator), self.parts.id);
        self.ask(async move { Answer::Reported(coordinator.report(seat, epoch, report).await) });
    }

    pub(super) fn read_log(
        &mut self,
        read: LogReadId,
        (first, last): (LogIndex, LogIndex),
        bytes_max: usize,
    ) {
        let log = self.parts.log.reader();
        self.ask(async move {
            loop {
                let log = log.clone();
                let reading = blocking::run(move || log.entries((first, last), bytes_max));
                // A join error means a panic there, which has ended the process.
                let entries = reading.await.unwrap_or_else(|_panic| Ok(vec![]));
                match entries {
                    // The system could not read now, which says nothing about what is on the disk. Damage has ended the process.
                    Err(error) if !matches!(error, StorageError::Damaged { .. }) => {
                        tracing::warn!(%error, "entries for another member cannot be read; trying again");
                        clock::sleep(READ_AGAIN_AFTER).await;
                    }
                    entries => return Answer::Entries(read, entries),
                }
            }
        });
    }

    pub(super) fn on_answer(&mut self, answer: Answer) {
        if let Answer::Numbers(request, numbers) = &answer {
            self.waits.answered(*request, numbers.is_ok(), clock::monotonic());
        }
        let input = match answer {
            Answer::Numbers(request, Ok(Allocation { first, time })) => {
                self.complained(None);
                Input::Allocated { request, first, time }
            }
            Answer::Numbers(request, Err(error)) => {
                self.complained(Some(("no numbers from the coordinator", &error)));
                Input::AllocationVoid { request }
            }
            Answer::Elected(Ok(Some(granted))) | Answer::Raised(_, Ok(Some(granted))) => {
                self.complained(None);
                let Granted { epoch, membership } = granted;
                Input::Won { epoch, membership }
            }
            Answer::Raised(epoch, Ok(None)) => Input::Lost { epoch },
            Answer::Elected(Ok(None)) => Input::NotWon,
            Answer::Elected(Err(error)) | Answer::Raised(_, Err(error)) => {
                self.complained(Some(("the seat is not granted; trying again", &error)));
                Input::NotWon
            }
            Answer::GivenUp(Ok(())) => {
                self.giving_up = self.giving_up.saturating_sub(1);
                return;
            }
            Answer::GivenUp(Err(error)) => {
                self.giving_up = self.giving_up.saturating_sub(1);
                tracing::warn!(seat = %self.parts.id, %error, "the seat could not be given up; others will take it");
                return;
            }
            Answer::Reported(result) => {
                if let Err(error) = &result {
                    tracing::debug!(seat = %self.parts.id, %error, "a report is not taken; trying again");
                }
                self.reported(result.is_ok());
                return;
            }
            Answer::Entries(_, Ok(entries)) if entries.is_empty() => return,
            Answer::Entries(read, Ok(entries)) => Input::LogRead { read, entries },
            // With WRITES = 1: nobody else need have them, so nobody gives them back.
            Answer::Entries(_, Err(error)) => fatal::io(&FatalReport {
                what: &"entries that were durable cannot be read",
                place: &error,
                safe: "nothing was changed, and nothing wrong is served",
                next: "look at the disk, or restore a backup",
            }),
        };
        self.inputs.push_back(input);
    }

    /// Tells of trouble with the coordinator once, and of its end.
    fn complained(&mut self, trouble: Option<(&'static str, &CoordinationError)>) {
        match trouble {
            Some((what, error)) if !self.is_complaining => {
                tracing::warn!(seat = %self.parts.id, %error, "{what}");
            }
            None if self.is_complaining => {
                tracing::info!(seat = %self.parts.id, "the coordinator answers again");
            }
            Some(_) | None => {}
        }
        self.is_complaining = trouble.is_some();
    }
}
