//! The steps that a server makes for every event, each by itself: `cargo bench` times them, and `steps` counts their
//! instructions. Time is noisy on most machines; counts are not.

mod codec;
mod core;
mod counts;
mod logs;

pub use counts::{Count, Counted, KEPT, count, kept, written};

use std::hint;

/// Bytes of an event's payload.
const EVENT_BYTES: usize = 256;

/// Events of a step that takes many.
const BATCH: usize = 64;

/// Makes a step once.
pub type Run = Box<dyn FnMut()>;

/// A step that a server makes often.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Its name: the room, and what happens.
    pub name: &'static str,
    /// Events of one step.
    pub events: usize,
    prepare: fn() -> Run,
}

const fn step(name: &'static str, events: usize, prepare: fn() -> Run) -> Step {
    Step {
        name,
        events,
        prepare,
    }
}

/// All of them.
pub const STEPS: &[Step] = &[
    step("core: one event, alone", 1, core::one_event_alone),
    step("core: one event, three members", 1, core::one_event_of_three),
    step("core: a batch, three members", BATCH, core::batch_of_three),
    step("codec: an append gets its numbers", 1, codec::number),
    step("codec: a message to a member and back", BATCH, codec::message),
    step("codec: a client looks at a batch", BATCH, codec::look),
    step("codec: a client reads a batch", BATCH, codec::decode),
    step("log: all of it is read", logs::EVENTS, logs::read),
    step("merge: two seats, every event", 2 * logs::EVENTS, logs::merge),
    step("merge: two seats, a filter", 2 * logs::EVENTS, logs::filter),
];

impl Step {
    /// What makes the step once, after all that is made only once.
    pub fn prepare(&self) -> Run {
        let mut run = (self.prepare)();
        run();
        run
    }
}

/// Makes a step so often; nothing else happens in here, and this is not part of anything else, so that a tool can count
/// what happens in it.
#[inline(never)]
pub fn counted(run: &mut Run, times: u32) {
    for _ in 0..hint::black_box(times) {
        run();
    }
}
