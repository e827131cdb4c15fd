//! For how long keys take no writes when the leader of their seat is lost: what `failover` measures.

use crate::cluster::{Cluster, key_of};
use crate::lan::Lan;
use crate::time::{Stopwatch, retry_pause};
use crate::wire::Api;
use rdb_proto::v1;
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How a leader is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, for as long as it takes.
    Pause,
    /// Its packets to and from the members are dropped.
    Members,
    /// Its packets to and from etcd are dropped.
    Etcd,
}

/// The default of `LEASE_TTL`.
const LEASE: Duration = Duration::from_secs(10);

/// Their names.
pub const WAYS: [(&str, Way); 4] = [
    ("kill", Way::Kill),
    ("pause", Way::Pause),
    ("members", Way::Members),
    ("etcd", Way::Etcd),
];

/// What was measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// The longest time without a write to the lost seat, of each time; in order.
    pub pauses: Vec<Duration>,
    /// The slowest write to the other seat, of all.
    pub other: Duration,
}

impl Measured {
    /// The pause that so many percent do not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.pauses.len() * percent).div_ceil(100).max(1);
        self.pauses[rank - 1]
    }

    /// A line of the table, in milliseconds.
    pub fn line(&self, way: &str) -> String {
        let [p50, p99, max] = [50, 99, 100].map(|percent| self.percentile(percent).as_millis());
        let (times, other) = (self.pauses.len(), self.other.as_millis());
        format!("{way:<8} {times:>5} {p50:>6} {p99:>6} {max:>6}   {other:>6}")
    }
}

/// Loses the leader of seat 0.0 so many times.
pub async fn measure(cluster: &mut Cluster, lan: &Lan, way: Way, times: usize) -> Measured {
    let mut measured = Measured::default();
    for _ in 0..times {
        let (pause, other) = lose(cluster, lan, way).await;
        measured.pauses.push(pause);
        measured.other = measured.other.max(other);
    }
    measured.pauses.sort_unstable();
    measured
}

/// Loses the leader of seat 0.0 once, and gets it back.
async fn lose(cluster: &mut Cluster, lan: &Lan, way: Way) -> (Duration, Duration) {
    let status = all_there(cluster).await;
    let (victim, leads_other) = (cluster.leader(0, 0).await, cluster.leader(0, 1).await);
    let via = cluster.addresses()[leads_other];
    let probe = async |seat| Probe::start(Api::connect(via).await, key_of(&status, 0, seat));
    let (mut lost, mut other) = (probe(0).await, probe(1).await);
    lost.acknowledged().await;
    other.acknowledged().await;
    let watch = Stopwatch::start();
    strike(cluster, lan, way, victim).await;
    // The old leader may still acknowledge what it was about to. Whatever comes a second later is of the next one, or
    // nothing was lost. A leader that is cut off from etcd keeps its seat for as long as its lease lasts.
    let settled = if way == Way::Etcd { LEASE } else { Duration::ZERO } + Duration::from_secs(2);
    while watch.elapsed() < settled {
        lost.acknowledged().await;
    }
    mend(cluster, lan, way, victim).await;
    (lost.stop().await, other.stop().await)
}

async fn all_there(cluster: &Cluster) -> v1::StatusResponse {
    cluster.until_led(true).await;
    // Who was cut off before must be back: a write of the other seat would wait for two lost nodes, not for one.
    cluster.until_followed().await
}

async fn strike(cluster: &mut Cluster, lan: &Lan, way: Way, victim: usize) {
    match way {
        Way::Kill => cluster.kill(victim).await,
        Way::Pause => cluster.node(victim).signal(Signal::STOP),
        Way::Members => (0..3).filter(|n| *n != victim).for_each(|n| lan.part(victim, n)),
        Way::Etcd => lan.cut_ports(victim, cluster.etcd.ports()),
    }
}

async fn mend(cluster: &mut Cluster, lan: &Lan, way: Way, victim: usize) {
    match way {
        Way::Kill => cluster.run(victim).await,
        Way::Pause => cluster.node(victim).signal(Signal::CONT),
        Way::Members | Way::Etcd => (0..3).for_each(|n| lan.heal(n)),
    }
}

/// Writes to one key, one write at a time, for as long as it runs.
struct Probe {
    stop: Arc<AtomicBool>,
    acknowledged: watch::Receiver<u64>,
    task: JoinSet<Duration>,
}

impl Probe {
    fn start(mut api: Api, key: String) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let (tell, acknowledged) = watch::channel(0_u64);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut longest = Duration::ZERO;
            let mut since = Stopwatch::start();
            while !stopped.load(Ordering::Relaxed) {
                if api.write(&key, "x").await.is_ok() {
                    longest = longest.max(since.elapsed());
                    since = Stopwatch::start();
                    tell.send_modify(|count| *count += 1);
                } else {
                    // As a client does: one that asks again at once takes the machine from those who could answer.
                    retry_pause().await;
                }
            }
            longest
        });
        Self {
            stop,
            acknowledged,
            task,
        }
    }

    /// Waits for an acknowledgement that nobody has waited for yet.
    async fn acknowledged(&mut self) {
        self.acknowledged.changed().await.expect("it runs");
    }

    /// The longest time between two acknowledgements.
    async fn stop(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.task.join_next().await.expect("it runs");
        ended.expect("it has not failed")
    }
}
