//! The models that are checked.

use super::config::{Budget, Config, Start, membership};
use rdb_proto::types::Membership;

const NOTHING: Budget = Budget {
    elections: 0,
    writes: 0,
    foreign: 0,
    looks: 0,
    reads: 0,
    ticks: 0,
    crashes: 0,
    voids: 0,
    changes: 0,
    older_members: 0,
    older_epochs: 0,
    older_counter: 0,
};

/// Models that are small enough to be explored to the end in seconds.
fn small() -> Vec<Config> {
    vec![
        Config {
            budget: Budget {
                elections: 2,
                ..NOTHING
            },
            is_log_at_once: true,
            ..Config::of("two-epochs", "two epochs from empty disks", 3, 2)
        },
        Config {
            budget: Budget {
                elections: 1,
                ..NOTHING
            },
            start: Start::Split,
            ..Config::of("third-epoch", "an epoch after two that left different logs", 3, 2)
        },
        Config {
            budget: Budget {
                elections: 1,
                crashes: 1,
                ..NOTHING
            },
            is_promise_at_once: false,
            ..Config::of("one-epoch", "an epoch from empty disks, and a crash", 3, 2)
        },
        Config {
            budget: Budget {
                reads: 1,
                writes: 1,
                looks: 1,
                ..NOTHING
            },
            start: Start::Deposed,
            is_log_at_once: true,
            has_heartbeats: true,
            ..Config::of("deposed", "a leader that lost its seat and does not know", 3, 2)
        },
        Config {
            members: members(),
            budget: Budget {
                elections: 1,
                changes: 2,
                ..NOTHING
            },
            start: Start::Led,
            is_log_at_once: true,
            ..Config::of("joint", "a change of members in one epoch", 3, 2)
        },
    ]
}

/// Every model, those that end first.
pub fn all() -> Vec<Config> {
    let mut all = small();
    all.extend(elections());
    all.extend(numbers());
    all.extend(changes());
    all
}

/// Who leads, and which log survives.
fn elections() -> Vec<Config> {
    vec![
        Config {
            budget: Budget {
                elections: 2,
                writes: 1,
                ..NOTHING
            },
            ..Config::of("elections", "two epochs from empty disks, and a write", 3, 2)
        },
        Config {
            budget: Budget {
                elections: 2,
                crashes: 1,
                ..NOTHING
            },
            is_promise_at_once: false,
            has_late_wins: true,
            ..Config::of(
                "promises",
                "two epochs whose grants and promises take their time, and a crash",
                3,
                2,
            )
        },
        Config {
            budget: Budget {
                elections: 2,
                crashes: 1,
                ..NOTHING
            },
            start: Start::Split,
            ..Config::of(
                "split",
                "two more epochs after two that left different logs, and a crash",
                3,
                2,
            )
        },
        Config {
            budget: Budget {
                elections: 3,
                older_epochs: 1,
                ..NOTHING
            },
            is_log_at_once: true,
            ..Config::of("older-epochs", "a coordinator that grants a number twice", 3, 2)
        },
    ]
}

/// Numbers, marks and reads.
fn numbers() -> Vec<Config> {
    vec![
        Config {
            budget: Budget {
                elections: 1,
                reads: 1,
                ticks: 1,
                ..NOTHING
            },
            start: Start::Led,
            is_log_at_once: true,
            has_heartbeats: true,
            ..Config::of("reads", "a read at a leader that may have lost its seat", 3, 2)
        },
        Config {
            budget: Budget {
                writes: 2,
                foreign: 1,
                looks: 1,
                voids: 1,
                ..NOTHING
            },
            start: Start::Led,
            is_log_at_once: true,
            ..Config::of("numbers", "writes whose numbers come late, or not at all", 3, 2)
        },
        Config {
            budget: Budget {
                elections: 1,
                writes: 1,
                foreign: 1,
                looks: 1,
                ..NOTHING
            },
            start: Start::Led,
            is_log_at_once: true,
            has_heartbeats: true,
            ..Config::of("marks", "marks over a failover", 3, 2)
        },
        Config {
            budget: Budget {
                writes: 1,
                looks: 1,
                ..NOTHING
            },
            start: Start::Deposed,
            is_log_at_once: true,
            has_heartbeats: true,
            ..Config::of(
                "marks-of-five",
                "marks of a leader that lost its seat, and whom one still hears",
                5,
                3,
            )
        },
        Config {
            budget: Budget {
                writes: 2,
                older_counter: 1,
                ..NOTHING
            },
            start: Start::Led,
            is_log_at_once: true,
            is_stop_expected: true,
            ..Config::of("older-counter", "a counter that goes back", 3, 2)
        },
    ]
}

/// One member is replaced.
fn members() -> Vec<Membership> {
    vec![
        membership(1, &[1, 2, 3], &[]),
        membership(2, &[1, 2, 4], &[1, 2, 3]),
        membership(3, &[1, 2, 4], &[]),
    ]
}

/// Changes of members.
fn changes() -> Vec<Config> {
    vec![
        Config {
            members: members(),
            budget: Budget {
                elections: 2,
                changes: 2,
                ..NOTHING
            },
            start: Start::Led,
            is_log_at_once: true,
            has_late_wins: true,
            ..Config::of("members", "a change of members, step by step", 3, 2)
        },
        Config {
            members: members(),
            budget: Budget {
                elections: 2,
                changes: 2,
                older_members: 1,
                ..NOTHING
            },
            start: Start::Led,
            is_log_at_once: true,
            has_rejects: true,
            ..Config::of(
                "older-members",
                "a coordinator that brings the old members back",
                3,
                2,
            )
        },
    ]
}
