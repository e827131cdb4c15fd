//! One run.

use super::clients::{CLIENTS, Control, Writer, consume, fence, read_all};
use super::followers::{follow, follow_keys, follow_snapshots};
use super::ground::Ground;
use super::members;
use super::nemesis::{Fault, Nemesis};
use super::plan::Plan;
use super::site::Site;
use crate::checkers::{Violation, judge, stream};
use futures::future::try_join_all;
use rdb_client::{Event, Seq};
use rdb_proto::simulation;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use turmoil::{Builder, Sim};

/// After this long without faults a cluster that was held up only is well again: it has leaders, every client has written,
/// and every subscriber is at the end.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// The same where messages were lost: a simulated connection does not send them again, and is given up only after
/// the time of its keep-alive.
const WELL_AFTER_LOSS: Duration = Duration::from_secs(70);
/// A host is looked at so often: less makes a run longer, more makes the network slower than it says.
const TICK: Duration = Duration::from_millis(2);
/// How long calls under way may take, and the consumers of the named subscription, of which one may have gone without a word.
const ENDS_WITHIN: Duration = Duration::from_secs(40);
/// How long reading everything may take.
const READ_WITHIN: Duration = Duration::from_mins(1);
/// How long the first leaders may take.
const START_WITHIN: Duration = Duration::from_secs(30);

/// What came of a run.
#[derive(Debug, Default)]
pub struct Done {
    /// Events that were acknowledged.
    pub acknowledged: usize,
    /// Events in the stream.
    pub events: usize,
    /// Reads that were answered.
    pub reads: usize,
    /// Events that subscribers got, all together.
    pub delivered: usize,
    /// Simulated time.
    pub simulated: Duration,
    /// From the end of the faults until all was well.
    pub well_after: Duration,
    /// How often each fault came.
    pub struck: BTreeMap<Fault, u64>,
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Done {
    /// As one JSON object.
    pub fn json(&self) -> Value {
        let struck = self.struck.iter();
        json!({
            "acknowledged": self.acknowledged,
            "events": self.events,
            "reads": self.reads,
            "delivered": self.delivered,
            "simulated_ms": milliseconds(self.simulated),
            "well_after_ms": milliseconds(self.well_after),
            "faults": self.struck.values().sum::<u64>(),
            "struck": struck.map(|(fault, count)| (fault.name(), *count)).collect::<BTreeMap<_, _>>(),
        })
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let struck: Vec<String> = self
            .struck
            .iter()
            .map(|(fault, count)| format!("{} {count}", fault.name()))
            .collect();
        write!(
            f,
            "{} acknowledged, {} events, {} reads, {} delivered, {:?} simulated, well after {:?}; {}",
            self.acknowledged,
            self.events,
            self.reads,
            self.delivered,
            self.simulated,
            self.well_after,
            struck.join(", ")
        )
    }
}

/// Runs what clients do, on one host.
async fn together<F: Future<Output = turmoil::Result>>(clients: Vec<F>) -> turmoil::Result {
    try_join_all(clients).await.map(drop)
}

/// A simulation at work.
struct World<'a> {
    sim: Sim<'a>,
    site: Site,
    nemesis: Nemesis,
    control: Rc<Control>,
}

/// Runs a plan.
///
/// # Errors
/// What was broken.
pub fn run(mut plan: Plan) -> Result<Done, String> {
    let ground = Rc::new(Ground::new(plan.random.fork()));
    let entered: Rc<dyn simulation::World> = Rc::<Ground>::clone(&ground);
    let _entered = simulation::enter(entered);
    let mut sim = Builder::new()
        .rng_seed(plan.random.next())
        .simulation_duration(Duration::from_hours(1))
        .min_message_latency(Duration::from_millis(0))
        .max_message_latency(plan.latency)
        .tick_duration(TICK)
        .tcp_capacity(100_000)
        .enable_random_order()
        .build();
    let site = Site::raise(&mut sim, &plan);
    let nemesis = Nemesis::new(ground, plan.random.fork(), &plan.faults, plan.latency);
    let control = Rc::new(Control::default());
    let mut world = World {
        sim,
        site,
        nemesis,
        control,
    };
    world.clients(&mut plan);
    world.until("the first leaders", START_WITHIN, World::has_everybody_written)?;
    let end = world.sim.elapsed() + plan.storm;
    while world.sim.elapsed() < end {
        world.nemesis.act(&mut world.sim, &world.site);
        world.step()?;
    }
    world.nemesis.end(&mut world.sim, &world.site);
    let well_after = world.become_well(&plan)?;
    world.judged(well_after)
}

impl World<'_> {
    fn clients(&mut self, plan: &mut Plan) {
        self.control.writers.set(plan.writers);
        let mut writing = Vec::new();
        for n in 0..plan.writers {
            let mut servers = self.site.nodes.clone();
            let first = n % servers.len();
            servers.rotate_left(first);
            let writer = Writer {
                name: format!("w{n}"),
                servers,
                random: plan.random.fork(),
                control: Rc::clone(&self.control),
                versions: BTreeMap::new(),
                written: 0,
            };
            writing.push(writer.run());
        }
        let [writers, subscribers, consumers] = CLIENTS;
        self.sim.client(writers, together(writing));
        // One at each node, and one that goes from node to node.
        let mut followed: Vec<Vec<String>> = self.site.nodes.iter().map(|node| vec![node.clone()]).collect();
        followed.push(self.site.nodes.clone());
        let mut following: Vec<Pin<Box<dyn Future<Output = turmoil::Result>>>> = Vec::new();
        for (n, servers) in followed.into_iter().enumerate() {
            following.push(Box::pin(follow(
                format!("s{n}"),
                servers,
                Rc::clone(&self.control),
            )));
        }
        let (servers, control) = (self.site.nodes.clone(), Rc::clone(&self.control));
        following.push(Box::pin(follow_keys("keys".to_owned(), servers, control)));
        let (servers, control) = (self.site.nodes.clone(), Rc::clone(&self.control));
        let taking = follow_snapshots("snapshots".to_owned(), servers, control, plan.random.fork());
        following.push(Box::pin(taking));
        self.sim.client(subscribers, together(following));
        let consuming = (0..2).map(|n| {
            let (servers, control) = (self.site.nodes.clone(), Rc::clone(&self.control));
            consume(format!("c{n}"), servers, control, plan.random.fork())
        });
        self.sim.client(consumers, together(consuming.collect()));
    }

    /// Lets a little time pass; whether every client has ended.
    fn step(&mut self) -> Result<bool, String> {
        self.sim.step().map_err(|error| error.to_string())
    }

    fn until(&mut self, what: &str, limit: Duration, is_so: impl Fn(&Self) -> bool) -> Result<(), String> {
        let end = self.sim.elapsed() + limit;
        while !is_so(self) {
            if self.sim.elapsed() >= end {
                let positions = self.control.positions.borrow();
                let acknowledged = self.control.acknowledged.borrow();
                return Err(format!(
                    "waited {limit:?} for {what}; acknowledged {acknowledged:?}, highest {}, subscribers at {positions:?}",
                    self.control.highest.get()
                ));
            }
            self.step()?;
        }
        Ok(())
    }

    /// Since the count was begun anew.
    fn has_everybody_written(&self) -> bool {
        self.control.acknowledged.borrow().len() == self.control.writers.get()
    }

    /// How long it took until there were leaders, everybody had written and every subscriber was at the end.
    fn become_well(&mut self, plan: &Plan) -> Result<Duration, String> {
        let healed = self.sim.elapsed();
        let limit = if plan.faults.contains(&Fault::Cut) {
            WELL_AFTER_LOSS
        } else {
            WELL_AFTER
        };
        self.control.acknowledged.borrow_mut().clear();
        self.until("everybody to write", limit, Self::has_everybody_written)?;
        self.control.is_over.set(true);
        let highest = self.control.highest.get();
        let left = (healed + limit).saturating_sub(self.sim.elapsed());
        self.until("subscribers to be at the end", left, |world| {
            let positions = world.control.positions.borrow();
            positions.len() == world.site.nodes.len() + 2 && positions.values().all(|at| *at >= highest)
        })?;
        let well_after = self.sim.elapsed().saturating_sub(healed);
        self.until("writers to end", ENDS_WITHIN, |world| {
            world.control.writing.get() == 0
        })?;
        let writing_last = fence(self.site.nodes.clone(), Rc::clone(&self.control));
        self.sim.client("fence", writing_last);
        self.until("consumers to be at the end", ENDS_WITHIN, |world| {
            world.control.is_consumed()
        })?;
        Ok(well_after)
    }

    /// Reads everything by every node, and judges.
    fn judged(mut self, well_after: Duration) -> Result<Done, String> {
        let ends = self.sim.elapsed() + READ_WITHIN;
        while !self.step()? {
            if self.sim.elapsed() >= ends {
                return Err("clients do not end".to_owned());
            }
        }
        let upto = self.control.upto.get().unwrap_or_default();
        let all: Rc<RefCell<Vec<Vec<Event>>>> = Rc::default();
        for node in self.site.nodes.clone() {
            let reading = read_all(node.clone(), upto, Rc::clone(&all));
            self.sim.client(format!("read-{node}"), reading);
        }
        self.sim
            .client("members", members::compare(self.site.nodes.clone()));
        let ends = self.sim.elapsed() + READ_WITHIN;
        while !self.step()? {
            if self.sim.elapsed() >= ends {
                return Err("not every stream and every log can be read to its end".to_owned());
            }
        }
        let all = all.take();
        let first = all.first().cloned().unwrap_or_default();
        let broken = |who: &str, violation: Violation| format!("{who}: {violation}");
        for (node, events) in self.site.nodes.iter().zip(&all) {
            stream::check(&first, Seq::ZERO, events).map_err(|violation| broken(node, violation))?;
        }
        let history = self.control.history.take();
        judge(&history, &first).map_err(|violation| violation.to_string())?;
        let seen = self.control.seen.take();
        for (name, events) in &seen {
            stream::check(&first, Seq::ZERO, events).map_err(|violation| broken(name, violation))?;
        }
        let (snapshots, keys_then) = (self.control.snapshots.take(), self.control.keys_then.take());
        if snapshots.is_empty() || keys_then.is_empty() {
            let (snapshots, keys_then) = (snapshots.len(), keys_then.len());
            return Err(format!(
                "{snapshots} snapshots came to their end, {keys_then} reads of keys were answered"
            ));
        }
        for shown in snapshots {
            shown
                .judge(&first)
                .map_err(|violation| broken("snapshots", violation))?;
        }
        for then in keys_then {
            then.judge(&first)
                .map_err(|violation| broken("keys as of one seq", violation))?;
        }
        let handled: Vec<Event> = self.control.handled.take().into_values().collect();
        stream::check(&first, Seq::ZERO, &handled).map_err(|violation| broken("consumers", violation))?;
        Ok(Done {
            acknowledged: history.acknowledged(),
            events: first.len(),
            reads: history.observations.len(),
            delivered: seen.values().map(Vec::len).sum(),
            simulated: self.sim.elapsed(),
            well_after,
            struck: self.nemesis.struck,
        })
    }
}
