//! What a simulation puts in the place of the machine: the network, the time of day, chance, and threads.
//!
//! It is of one thread, on which everything that is simulated runs; [`world`] is `None` everywhere else. Server and client
//! ask for it where they would turn to the machine, and nowhere else: [`network`](crate::network), the two `clock.rs`,
//! and in the server `workers.rs`, `blocking.rs`, `storage/log/room.rs` and `storage/key_index/indexes.rs`.

use crate::network::Dialled;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// A simulated machine, or several: which one is asked follows from what runs.
pub trait World {
    /// Opens a connection.
    fn dial(&self, host: String, port: u16) -> Dialled;

    /// The time of day, since 1970. Timers and measured durations are tokio's, whose clock the simulation owns.
    fn time_of_day(&self) -> Duration;

    /// A number drawn from the seed.
    fn random(&self) -> u64;
}

thread_local! {
    static WORLD: RefCell<Option<Rc<dyn World>>> = const { RefCell::new(None) };
}

/// The simulation that this thread runs; `None` on a real machine.
pub fn world() -> Option<Rc<dyn World>> {
    WORLD.with_borrow(Clone::clone)
}

/// From now on this thread runs a simulation, until what comes back is dropped.
#[must_use = "dropping it ends the simulation"]
pub fn enter(world: Rc<dyn World>) -> Entered {
    WORLD.set(Some(world));
    Entered(())
}

/// The thread is in a simulation for as long as this lives.
pub struct Entered(());

impl fmt::Debug for Entered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entered")
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        WORLD.set(None);
    }
}

/// 128 bits of chance; `None` on a real machine.
pub fn random_bits() -> Option<u128> {
    let world = world()?;
    Some(u128::from(world.random()) << 64 | u128::from(world.random()))
}
