//! Whole clusters in one thread, from one seed: the server and the client library as they are, over a simulated network
//! and by simulated clocks, around a model of etcd.
//!
//! What is simulated: connections, by turmoil (delays, cuts, hosts that die); every clock and timer; chance; when a disk
//! answers. What is not: bytes on a disk, which are files that outlive a host that dies, as after a `kill -9`. Losing
//! what was not synced is what [`torture`](crate::torture) does to real nodes, and [`sim`](crate::sim) to the core.
//!
//! | file | what stands there |
//! |---|---|
//! | [`again`] | what makes a run the same each time |
//! | `ground` | the simulated machine ([`rdb_proto::simulation`]), and its listeners |
//! | `site` | the hosts: nodes, and the model etcd |
//! | `clients` | clients that write and read, and consumers; what they sent and were told |
//! | `followers` | subscribers of every kind |
//! | `members` | whether the members of each seat hold the same at the end |
//! | `nemesis` | which fault comes next, and whom it strikes |
//! | `plan` | what a run is made of, drawn from its seed |
//! | `run` | one run: a time in which everything goes wrong, one in which all must be well again, and the judgement |
//! | [`sweep`] | many runs, each in a process of its own |
//!
//! A violation is a promise of the contract that was broken, a node that ended by itself, or a cluster that is not well
//! again in time. A panic anywhere ends the process: the seed was printed before.

pub mod again;
mod clients;
mod followers;
mod ground;
mod members;
mod nemesis;
mod plan;
mod run;
mod site;
pub mod sweep;

pub use nemesis::Fault;
pub use plan::Plan;
pub use run::{Done, run};
