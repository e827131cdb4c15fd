//! Stories of one node's guard. Group 0 is of the nodes 1, 2, 3 and group 1 of 4, 5, 6, with W = 2, so R = 2; the
//! guard is of node 1.

use super::super::testing::select_sabotage;
use super::*;
use rdb_proto::types::Side;

const SEAT: SeatId = SeatId {
    group: GroupId(1),
    side: Side::Zero,
};

fn membership(number: u64, members: &[u64]) -> Membership {
    Membership {
        number,
        members: members.iter().copied().map(NodeId).collect(),
        previous: vec![],
    }
}

/// The coordinator's state, or all that a node has seen of it: two groups, and how far the counter is.
fn state(generation: u64, revision: u64, counter: u64) -> Seen {
    let members = [
        (GroupId(0), membership(1, &[1, 2, 3])),
        (GroupId(1), membership(1, &[4, 5, 6])),
    ];
    Seen {
        generation,
        revision,
        counter: Seq(counter),
        members: BTreeMap::from(members),
        ..Seen::default()
    }
}

struct Story {
    guard: Guard,
    now: u64,
}

impl Story {
    fn new(seen: Seen) -> Self {
        select_sabotage();
        Self {
            guard: Guard::new(NodeId(1), 2, seen, QuestionId(0)),
            now: 0,
        }
    }

    fn step(&mut self, input: GuardInput) -> Vec<String> {
        let mut effects = vec![];
        self.guard.step(Tick(self.now), input, &mut effects);
        effects.iter().map(ToString::to_string).collect()
    }

    fn connected(&mut self, state: Seen) -> Vec<String> {
        self.step(GuardInput::Connected(state))
    }

    fn told(&mut self, from: u64, question: u64, seen: Seen) -> Vec<String> {
        self.step(GuardInput::PeerSeen {
            from: NodeId(from),
            question: QuestionId(question),
            seen,
        })
    }

    fn read(&mut self, question: u64, state: Seen) -> Vec<String> {
        self.step(GuardInput::State {
            question: QuestionId(question),
            state: Some(state),
        })
    }

    fn is_open(&self) -> bool {
        self.guard.may_allocate()
    }

    /// A guard that has opened on a coordinator at revision 50, counter 100.
    fn opened() -> Self {
        let mut story = Self::new(Seen::default());
        story.connected(state(0, 50, 100));
        story.told(2, 1, state(0, 50, 100));
        story.told(4, 1, state(0, 40, 90));
        story.told(6, 1, state(0, 40, 90));
        story.read(2, state(0, 51, 101));
        assert!(story.is_open());
        story
    }
}

#[test]
fn numbers_are_asked_for_once_r_members_of_every_group_told_and_the_coordinator_is_not_below_it() {
    let mut story = Story::new(Seen::default());
    assert!(!story.is_open(), "a node that starts is closed");
    assert_eq!(
        story.connected(state(0, 50, 100)),
        [
            "ask 2 for seen q1",
            "ask 3 for seen q1",
            "ask 4 for seen q1",
            "ask 5 for seen q1",
            "ask 6 for seen q1"
        ]
    );
    assert_eq!(story.told(2, 1, state(0, 50, 100)), [""; 0], "group 0: 1 and 2");
    assert_eq!(story.told(4, 1, state(0, 50, 100)), [""; 0], "group 1: 4 alone");
    assert_eq!(
        story.step(GuardInput::Tick),
        ["ask 3 for seen q1", "ask 5 for seen q1", "ask 6 for seen q1"]
    );
    assert_eq!(story.told(5, 1, state(0, 52, 103)), ["read state q2"]);
    assert!(
        !story.is_open(),
        "what was read before 5 told may be older than that"
    );
    assert_eq!(story.read(2, state(0, 52, 103)), [""; 0]);
    assert!(story.is_open());
}

#[test]
fn a_connection_that_is_over_closes_and_what_was_told_before_the_next_one_is_no_answer() {
    let mut story = Story::opened();
    story.step(GuardInput::Disconnected);
    assert!(!story.is_open());
    story.connected(state(0, 60, 110));
    assert_eq!(story.told(2, 1, state(0, 60, 110)), [""; 0]);
    assert_eq!(story.told(4, 1, state(0, 60, 110)), [""; 0]);
    assert_eq!(story.told(5, 1, state(0, 60, 110)), [""; 0]);
    assert!(!story.is_open(), "these were answers to the session before");
    story.told(3, 3, state(0, 60, 110));
    story.told(5, 3, state(0, 60, 110));
    assert_eq!(story.told(6, 3, state(0, 60, 110)), ["read state q4"]);
    story.read(2, state(0, 60, 110));
    assert!(!story.is_open(), "an answer to the reading before");
    story.read(4, state(0, 60, 110));
    assert!(story.is_open());
}

/// C8 of the review: group 0 knows of less than the restored counter, group 1 of more.
#[test]
fn a_counter_below_what_another_group_has_seen_is_a_rollback() {
    let mut story = Story::new(state(0, 30, 70));
    story.connected(state(0, 40, 80));
    story.told(3, 1, state(0, 30, 70));
    story.told(4, 1, state(0, 50, 100));
    story.told(5, 1, state(0, 50, 99));
    let begun = story.read(2, state(0, 40, 80));
    let counter = 100 + COUNTER_LEAP;
    let expected = format!(
        "begin q3 generation 1 after 0 counter {counter} time {TIME_LEAP_MICROSECONDS} \
         [0 config 1048577 [1, 2, 3]] [1 config 1048577 [4, 5, 6]]"
    );
    assert_eq!(begun, [expected]);
    assert!(!story.is_open());
    // Another node's txn was first: that is as good.
    assert_eq!(story.read(3, state(1, 42, counter + 3)), [""; 0]);
    assert!(story.is_open());
    assert_eq!(story.guard.generation(), 1);
}

#[test]
fn a_rollback_that_nobody_knows_of_by_its_counter_shows_in_revision_epoch_or_members() {
    let mut newer = state(0, 50, 100);
    newer.epochs.insert(SEAT, 7);
    newer.members.insert(GroupId(1), membership(3, &[4, 5, 7]));
    let mut epochs = state(0, 50, 100);
    epochs.members.clone_from(&newer.members);
    let mut members = state(0, 50, 100);
    members.epochs.clone_from(&newer.epochs);
    let mut revision = newer.clone();
    revision.revision = 49;
    for restored in [epochs, members, revision] {
        let mut story = Story::new(newer.clone());
        story.connected(restored.clone());
        story.told(2, 1, newer.clone());
        story.told(4, 1, newer.clone());
        assert_eq!(story.told(7, 1, newer.clone()), ["read state q2"]);
        let begun = story.read(2, restored);
        assert_eq!(begun.len(), 1);
        assert!(begun[0].contains("[1.0 epoch 7]"), "{begun:?}");
        assert!(begun[0].contains("[1 config 1048579 [4, 5, 7]]"), "{begun:?}");
    }
}

#[test]
fn members_that_nobody_told_of_before_are_asked_too() {
    let mut story = Story::new(Seen::default());
    story.connected(state(0, 50, 100));
    story.told(2, 1, state(0, 50, 100));
    story.told(4, 1, state(0, 50, 100));
    story.told(5, 1, state(0, 50, 100));
    let mut changed = state(0, 60, 100);
    changed.members.insert(GroupId(1), membership(2, &[4, 7, 8]));
    assert_eq!(
        story.read(2, changed.clone()),
        ["ask 3 for seen q1", "ask 7 for seen q1", "ask 8 for seen q1"]
    );
    assert!(!story.is_open());
    assert_eq!(story.told(8, 1, changed.clone()), ["read state q3"]);
    story.read(3, changed);
    assert!(story.is_open());
}

#[test]
fn a_joint_membership_is_asked_for_r_of_the_old_and_r_of_the_new() {
    let mut joint = state(0, 50, 100);
    let previous = vec![NodeId(4), NodeId(5), NodeId(6)];
    let membership = Membership {
        previous,
        ..membership(2, &[4, 7, 8])
    };
    joint.members.insert(GroupId(1), membership);
    let mut story = Story::new(Seen::default());
    story.connected(joint.clone());
    story.told(2, 1, joint.clone());
    story.told(7, 1, joint.clone());
    story.told(8, 1, joint.clone());
    assert_eq!(story.told(4, 1, joint.clone()), [""; 0]);
    assert_eq!(story.told(6, 1, joint), ["read state q2"]);
}

#[test]
fn a_group_that_cannot_be_reached_holds_numbers_up_for_ten_seconds_and_then_is_gone_on_without() {
    let mut story = Story::new(Seen::default());
    story.connected(state(0, 50, 100));
    story.told(2, 1, state(0, 50, 100));
    story.told(4, 1, state(0, 50, 100));
    story.now = GUARD_WAITS_MS - 1;
    assert_eq!(story.step(GuardInput::Tick).len(), 3);
    story.now = GUARD_WAITS_MS;
    assert_eq!(story.step(GuardInput::Tick).last().unwrap(), "read state q2");
    assert_eq!(story.read(2, state(0, 50, 100)), ["without groups 1"]);
    assert!(story.is_open());
}

/// The members of a group that did not tell keep themselves safe; others of its members may be newer than those known.
#[test]
fn a_group_that_did_not_tell_keeps_its_members_key_when_the_coordinator_is_put_right() {
    let mut story = Story::new(state(0, 50, 100));
    story.connected(state(0, 40, 80));
    story.told(2, 1, state(0, 50, 100));
    story.now = GUARD_WAITS_MS;
    story.step(GuardInput::Tick);
    let begun = story.read(2, state(0, 40, 80));
    assert!(begun[0].contains("[0 config 1048577 [1, 2, 3]]"), "{begun:?}");
    assert!(!begun[0].contains("[1 config"), "{begun:?}");
}

#[test]
fn a_reading_that_failed_is_made_again() {
    let mut story = Story::new(state(0, 50, 100));
    story.connected(state(0, 40, 80));
    story.told(2, 1, state(0, 50, 100));
    story.told(4, 1, state(0, 50, 100));
    story.told(5, 1, state(0, 50, 100));
    let failed = |question| GuardInput::State {
        question: QuestionId(question),
        state: None,
    };
    assert_eq!(story.step(failed(2)), [""; 0]);
    assert_eq!(story.step(GuardInput::Tick), ["read state q3"]);
    assert!(story.read(3, state(0, 40, 80))[0].starts_with("begin q4 "));
    assert_eq!(
        story.step(failed(4)),
        [""; 0],
        "whether the txn was run is not known"
    );
    assert_eq!(story.step(GuardInput::Tick), ["read state q5"]);
    story.read(5, state(1, 41, 100 + COUNTER_LEAP));
    assert!(story.is_open());
}

#[test]
fn an_open_guard_that_hears_of_a_later_generation_asks_anew() {
    let mut story = Story::opened();
    let asked = story.step(GuardInput::Learned(state(1, 41, 101 + COUNTER_LEAP)));
    assert_eq!(asked.first().unwrap(), "ask 2 for seen q3");
    assert!(!story.is_open());
}

#[test]
fn what_a_node_learns_while_it_is_open_is_not_judged() {
    let mut story = Story::opened();
    assert_eq!(story.step(GuardInput::Learned(state(0, 99, 500))), [""; 0]);
    assert_eq!(story.guard.seen().counter, Seq(500));
    assert!(story.is_open());
}

/// An older backup still, from before the first one was put right: its generation is below.
#[test]
fn a_second_rollback_gets_a_generation_above_the_first() {
    let mut story = Story::new(state(1, 41, 100 + COUNTER_LEAP));
    story.connected(state(0, 30, 60));
    story.told(2, 1, state(1, 41, 100 + COUNTER_LEAP));
    story.told(4, 1, state(0, 50, 100));
    story.told(5, 1, state(0, 50, 100));
    let begun = story.read(2, state(0, 30, 60));
    let counter = 100 + 2 * COUNTER_LEAP;
    let expected = format!("begin q3 generation 2 after 0 counter {counter} ");
    assert!(begun[0].starts_with(&expected), "{begun:?}");
}
