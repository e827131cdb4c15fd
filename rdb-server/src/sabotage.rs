//! Named mistakes that a test build can make on purpose, so that the tests prove that they would notice.
//!
//! Without the feature `sabotage` every `is` is a constant `false` and costs nothing. With it, the process that
//! runs the tests selects one mistake by name with `select` before it starts; a promise whose mistake turns no
//! test red is not tested.

macro_rules! sabotages {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// A mistake. The name is what `select` takes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Sabotage {
            $($(#[$doc])* $variant,)*
        }

        impl Sabotage {
            /// Every mistake.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

sabotages! {
    /// A decision does not see what was decided before it and still waits for numbers (rule 6.6).
    DecideIgnoresWaiting = "decide_ignores_waiting";
    /// A conflict or duplicate is told before the entries it rests on are committed (rule 6.6).
    ConflictFromUncommitted = "conflict_from_uncommitted";
    /// Event ids are not looked at: a retry is written a second time (rule 6.6).
    DuplicateUnchecked = "duplicate_unchecked";
    /// Expectations are not looked at (rule 6.6).
    ExpectationUnchecked = "expectation_unchecked";
    /// The resolved candidate ignores what is uncommitted or in flight (section 7).
    MarkTooEarly = "mark_too_early";
    /// The leader counts its own entries before they are durable (rule 6.3.4).
    CommitBeforePersisted = "commit_before_persisted";
    /// Every event of an append gets an entry and a disk write of its own (section 3, atomic append).
    SplitAppend = "split_append";
    /// Entries are acknowledged without waiting for the disk (section 8).
    NoFsync = "no_fsync";
    /// Entries of which the disk said that they could not be written are acknowledged (rule 6.3.3).
    DiskErrorIgnored = "disk_error_ignored";
    /// The end of the log is taken as it stands, its checks not looked at (section 8).
    TornTailKept = "torn_tail_kept";
    /// Damage before the durable mark is cut like a torn tail (section 8).
    DamageCut = "damage_cut";
    /// The window of event ids starts empty after a restart (rule 6.6).
    WindowNotRecovered = "window_not_recovered";
    /// An ack whose entries became durable after a higher epoch was promised is sent to the old leader (rule 6.3.3).
    AckAfterFence = "ack_after_fence";
    /// A member acknowledges the end of its log, not what matched (rule 6.2).
    AckLogEnd = "ack_log_end";
    /// A member acknowledges entries before they are durable (rule 6.3.3).
    AckBeforeFsync = "ack_before_fsync";
    /// A restarted leader goes on under the epoch that the leader key names (section 5).
    EpochKeptOverRestart = "epoch_kept_over_restart";
    /// An epoch of the same number is obeyed, whoever's it is (rule 6.3.1).
    EqualEpochAccepted = "equal_epoch_accepted";
    /// Any ack counts for the latest round (rule 6.3.7).
    AckWithoutRound = "ack_without_round";
    /// Any answer to any request for numbers is used (rule 6.5).
    LateAllocationTaken = "late_allocation_taken";
    /// A round is confirmed as soon as it is begun (section 7).
    MarkWithoutAcks = "mark_without_acks";
    /// Reads and marks are allowed before the epoch-start is committed (rule 6.7, section 7).
    ReadBeforeStartCommits = "read_before_start_commits";
    /// Entries of older epochs commit by themselves (rule 6.3.4).
    CommitWithoutOwnEpoch = "commit_without_own_epoch";
    /// A seat is recovered from R - 1 members (rule 6.3.5).
    RecoverFromFewer = "recover_from_fewer";
    /// A promise is acted upon without being durable (rule 6.3.1).
    PromiseNotPersisted = "promise_not_persisted";
    /// Numbers are not compared with what was known when they were asked for (rule 6.3.6).
    Rule6Removed = "rule6_removed";
    /// The wire carries the candidate of the round in place of the confirmed mark (section 7).
    CandidateAsMark = "candidate_as_mark";
    /// The resolved candidate ignores numbers that are on their way (section 7).
    InFlightBranchRemoved = "in_flight_branch_removed";
    /// The resolved candidate ignores what is uncommitted (section 7).
    FirstUncommittedBranchRemoved = "first_uncommitted_branch_removed";
    /// While members change, a seat is recovered from R of the old members only (rule 6.3.8).
    RecoverFromOldOnly = "recover_from_old_only";
    /// While members change, a seat is recovered from R of the new members only (rule 6.3.8).
    RecoverFromNewOnly = "recover_from_new_only";
    /// While members change, W of the old members commit (rule 6.3.8).
    CommitOnOld = "commit_on_old";
    /// Messages under an older membership are accepted (rule 6.3.8).
    LowerConfigAccepted = "lower_config_accepted";
    /// A candidate keeps its own membership though a log names a newer one (rule 6.3.8).
    HigherConfigIgnored = "higher_config_ignored";
    /// A candidate leads under an older membership than it has seen the number of (rule 6.3.8).
    OwnConfigIgnored = "own_config_ignored";
    /// Numbers are asked for of a coordinator that may have been rolled back (rule 6.5).
    RollbackUnguarded = "rollback_unguarded";
    /// A consumer that was replaced goes on moving the position (section 7).
    ConsumerUnfenced = "consumer_unfenced";
    /// Cursors are forgotten with the process (section 7).
    CursorsNotRecovered = "cursors_not_recovered";
    /// The change stream takes a seat's next entry before another seat's earlier one (section 7).
    MergeBySeat = "merge_by_seat";
    /// Events of seats elsewhere are shown without waiting for what may come before them (section 7).
    PartsUnawaited = "parts_unawaited";
    /// A stream in the order of keys shows a seat's events when the others can add none before them (section 7).
    KeysAwaitOthers = "keys_await_others";
    /// A mark of a stream in the order of keys is that of the furthest seat (section 7).
    MarkOfAnyPart = "mark_of_any_part";
    /// A stream has caught up with what its node knows of, whatever was acknowledged elsewhere (section 7).
    CaughtUpAtMark = "caught_up_at_mark";
    /// A snapshot of a stream is of one seq less than the stream goes on with (section 7).
    SnapshotSeam = "snapshot_seam";
    /// Numbers that a node took for another one are given to the next who asks, too (rule 6.5).
    CombinerReusesRange = "combiner_reuses_range";
    /// Each key of a snapshot is read as it is when its turn comes (rule 6.7).
    SnapshotTorn = "snapshot_torn";
    /// A member that lost entries tells a winner where its log ends, and stands (section 8).
    DamagedVotes = "damaged_votes";
    /// Members are compared by the heads of their entries, not by what these hold (section 8).
    VerifyByHeads = "verify_by_heads";
    /// A log counts as repaired with the first entry of the epoch that was promised when it was damaged (section 8).
    RepairedTooEarly = "repaired_too_early";
}

#[cfg(not(feature = "sabotage"))]
/// Whether this mistake is to be made: never in this build.
#[inline]
pub const fn is(_mistake: Sabotage) -> bool {
    false
}

#[cfg(feature = "sabotage")]
pub use chosen::{is, select};

#[cfg(feature = "sabotage")]
mod chosen {
    use super::Sabotage;
    use std::sync::OnceLock;

    static CHOSEN: OnceLock<Sabotage> = OnceLock::new();

    /// Whether this mistake is to be made.
    pub fn is(mistake: Sabotage) -> bool {
        CHOSEN.get() == Some(&mistake)
    }

    /// Selects the mistake that this process makes from now on. Returns whether there is one of that name and
    /// none was selected before.
    #[must_use]
    pub fn select(name: &str) -> bool {
        let found = Sabotage::ALL.iter().find(|mistake| mistake.as_str() == name);
        found.is_some_and(|mistake| CHOSEN.set(*mistake).is_ok())
    }
}
