//! Named mutations: for each promise a fault, built into the server behind its feature `sabotage`, that must turn a
//! case red. `scripts/sabotage` builds that server and holds this table to its word.

use std::io;
use std::ops::Range;

/// Makes this process make the mistake for all of its life.
///
/// # Errors
/// When there is none of that name, or this build can make none.
#[cfg(feature = "sabotage")]
pub fn select(name: &str) -> io::Result<()> {
    if rdb_server::sabotage::select(name) {
        return Ok(());
    }
    Err(io::Error::other(format!("there is no mutant {name}")))
}

/// Makes this process make the mistake for all of its life.
///
/// # Errors
/// When there is none of that name, or this build can make none.
#[cfg(not(feature = "sabotage"))]
pub fn select(_name: &str) -> io::Result<()> {
    Err(io::Error::other("built without the feature sabotage"))
}

/// A fault in the server, and what must notice it.
#[derive(Debug, Clone, Copy)]
pub struct Mutation {
    /// Value of `RDB_SABOTAGE`.
    pub name: &'static str,
    /// The promise that it breaks.
    pub promise: &'static str,
    /// File of `tests/tests/` that must go red.
    pub test: &'static str,
    /// Case of that file that must go red.
    pub case: &'static str,
    /// Whether [whole simulated clusters](crate::whole) must notice too, in one of their first [`WHOLE_SEEDS`].
    pub is_seen_whole: bool,
}

/// Runs of whole simulated clusters, one of which must be red where [`Mutation::is_seen_whole`].
pub const WHOLE_SEEDS: Range<u64> = 1..21;

impl Mutation {
    const fn seen_whole(self) -> Self {
        Self {
            is_seen_whole: true,
            ..self
        }
    }
}

const fn mutation(
    name: &'static str,
    promise: &'static str,
    test: &'static str,
    case: &'static str,
) -> Mutation {
    Mutation {
        name,
        promise,
        test,
        case,
        is_seen_whole: false,
    }
}

const KILLED: &str = "every_acknowledged_event_survives_kill_9_and_none_doubles";

/// All of them.
pub const MUTATIONS: &[Mutation] = &[
    mutation("commit_before_persisted", "durability", "crash", KILLED),
    mutation("split_append", "atomic append", "crash", KILLED),
    mutation(
        "no_fsync",
        "durability over a loss of power",
        "torture",
        "nodes_that_lose_power_at_once_lose_nothing",
    ),
    mutation(
        "disk_error_ignored",
        "durability over errors of a disk",
        "scorecard",
        "what_is_acknowledged_survives_a_disk_of_which_a_call_fails",
    ),
    mutation(
        "duplicate_unchecked",
        "exactly once on retry",
        "standalone",
        "a_retry_with_the_same_event_id_never_doubles",
    )
    .seen_whole(),
    mutation(
        "window_not_recovered",
        "exactly once on retry, after a restart",
        "standalone",
        "a_retry_with_the_same_event_id_never_doubles",
    ),
    mutation(
        "expectation_unchecked",
        "expectations",
        "standalone",
        "an_expectation_that_does_not_hold_is_a_conflict",
    )
    .seen_whole(),
    mutation(
        "decide_ignores_waiting",
        "expectations, under load",
        "crash",
        KILLED,
    )
    .seen_whole(),
    mutation(
        "mark_too_early",
        "resolved marks",
        "stream",
        "the_stream_is_complete_from_any_start_and_marks_are_never_contradicted",
    )
    .seen_whole(),
    mutation(
        "consumer_unfenced",
        "one consumer at a time",
        "subscriptions",
        "whoever_takes_a_name_over_fences_who_had_it",
    ),
    mutation(
        "cursors_not_recovered",
        "a named subscription goes on",
        "subscriptions",
        "a_position_that_was_acknowledged_survives",
    ),
    mutation(
        "merge_by_seat",
        "one order over all seats",
        "stream",
        "the_stream_is_complete_from_any_start_and_marks_are_never_contradicted",
    )
    .seen_whole(),
    mutation(
        "parts_unawaited",
        "one order over all nodes",
        "changes",
        "every_node_shows_the_whole_stream_while_nodes_die",
    )
    .seen_whole(),
    mutation(
        "caught_up_at_mark",
        "a stream that has caught up has shown all there was",
        "changes",
        "a_stream_that_has_caught_up_has_shown_what_any_node_acknowledged_before_it",
    ),
    mutation(
        "mark_of_any_part",
        "marks of a stream in the order of keys",
        "by_keys",
        "every_node_shows_each_keys_events_in_order_while_nodes_die",
    ),
    mutation(
        "keys_await_others",
        "no key waits for another's seat",
        "by_keys",
        "a_seat_that_stands_still_delays_only_its_own_keys",
    ),
    mutation(
        "snapshot_seam",
        "a snapshot goes over into changes",
        "changes",
        "a_snapshot_goes_over_into_changes_without_a_seam",
    ),
    mutation(
        "torn_tail_kept",
        "torn tail",
        "damage",
        "a_torn_tail_costs_at_most_the_last_write",
    ),
    mutation(
        "damage_cut",
        "damage is never cut",
        "damage",
        "a_flipped_bit_is_refused_or_does_no_harm",
    ),
    mutation(
        "damaged_votes",
        "a damaged member abstains",
        "damage",
        "a_damaged_member_elects_nobody_and_does_not_lead",
    ),
    mutation(
        "verify_by_heads",
        "members are compared by what they hold",
        "verify",
        "an_entry_that_differs_with_a_right_check_is_found_by_comparing",
    ),
    mutation(
        "rollback_unguarded",
        "an etcd that went back",
        "restored",
        "a_node_that_knows_less_than_the_copy_gets_no_number_twice",
    ),
    mutation(
        "snapshot_torn",
        "several keys as of one seq",
        "snapshot",
        "no_snapshot_sees_a_write_without_the_one_before_it",
    ),
    mutation(
        "combiner_reuses_range",
        "numbers that another node took",
        "combiner",
        "no_number_comes_twice_when_the_node_that_is_asked_is_killed",
    )
    .seen_whole(),
];
