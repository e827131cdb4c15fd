//! DESIGN 3, "Linearizable" and "CDC": seqs strictly ascend in the stream, event time never goes back along them,
//! and they agree with real time across all keys: what was acknowledged before another write was sent has the
//! lower seq.

use super::{Verdict, Violation};
use crate::workload::{History, Tick};
use rdb_proto::event::Event;
use rdb_proto::types::{EventId, Seq};
use std::collections::HashMap;

const RULE: &str = "order (DESIGN 3)";

/// Judges a run.
///
/// # Errors
/// The first pair out of order.
pub fn check(history: &History, stream: &[Event]) -> Verdict {
    for pair in stream.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        if after.seq <= before.seq {
            return Violation::of(RULE, format!("seq {} comes after seq {}", after.seq, before.seq));
        }
        if after.time < before.time {
            let what = format!(
                "time goes back from {} to {} at seq {}",
                before.time, after.time, after.seq
            );
            return Violation::of(RULE, what);
        }
    }
    real_time(history, stream)
}

/// Sweeps over the moments of the run: a write that is sent must get a seq above every one acknowledged so far.
fn real_time(history: &History, stream: &[Event]) -> Verdict {
    let seqs: HashMap<EventId, Seq> = stream.iter().map(|event| (event.event_id, event.seq)).collect();
    let mut moments: Vec<(Tick, Moment)> = Vec::new();
    for operation in &history.operations {
        let placed = operation
            .events
            .iter()
            .filter_map(|sent| seqs.get(&sent.event_id).copied());
        let (Some(first), Some(last)) = (placed.clone().min(), placed.max()) else {
            continue;
        };
        moments.push((operation.sent, Moment::Sent(first)));
        moments.extend(
            operation
                .acknowledged_at()
                .map(|at| (at, Moment::Acknowledged(last))),
        );
    }
    moments.sort_unstable_by_key(|(tick, _)| *tick);
    let mut acknowledged = Seq::ZERO;
    for (_, moment) in moments {
        match moment {
            Moment::Acknowledged(last) => acknowledged = acknowledged.max(last),
            Moment::Sent(first) if first <= acknowledged => {
                let what = format!("a write sent after seq {acknowledged} was acknowledged got seq {first}");
                return Violation::of(RULE, what);
            }
            Moment::Sent(_) => {}
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Moment {
    Sent(Seq),
    Acknowledged(Seq),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::example::{assert_violated, run};
    use rdb_proto::types::Timestamp;

    #[test]
    fn rejects_a_seq_that_goes_back_or_repeats() {
        let (history, mut stream) = run();
        stream.swap(0, 1);
        assert_violated(check(&history, &stream), "comes after");
        let (history, mut stream) = run();
        stream[3].seq = stream[2].seq;
        assert_violated(check(&history, &stream), "comes after");
    }

    #[test]
    fn rejects_a_time_that_goes_back() {
        let (history, mut stream) = run();
        stream[4].time = Timestamp(1);
        assert_violated(check(&history, &stream), "time goes back");
    }

    #[test]
    fn rejects_a_seq_against_real_time() {
        let (mut history, stream) = run();
        // The delete (seq 5) was acknowledged at 12. Were the first append sent only then, its seq would be too low.
        history.operations[1].sent = Tick(13);
        assert_violated(check(&history, &stream), "got seq 2");
    }

    #[test]
    fn rejects_an_unknown_write_that_happened_against_real_time() {
        let (mut history, mut stream) = run();
        stream.rotate_right(1);
        for (event, seq) in stream.iter_mut().zip(1..) {
            event.seq = Seq(seq);
            event.time = Timestamp(seq);
        }
        history.operations[7].sent = Tick(30);
        assert_violated(check(&history, &stream), "got seq 1");
    }
}
