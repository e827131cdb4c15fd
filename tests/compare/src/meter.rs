//! How much was done, how long it took, and what it cost whom.

use crate::servers::Servers;
use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::fs;
use std::time::{Duration, Instant};

/// Digits of a latency that are right.
const DIGITS: u8 = 3;
/// Longer latencies count as this long, in microseconds.
const LATENCY_MAX: u64 = 3_600_000_000;

/// Latencies in microseconds.
pub type Latencies = Histogram<u64>;

/// None yet.
pub fn latencies() -> Result<Latencies> {
    Ok(Histogram::new_with_max(LATENCY_MAX, DIGITS)?)
}

/// Adds one.
pub fn record(latencies: &mut Latencies, latency: Duration) {
    latencies.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
}

/// What one work came to in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// Events written, read or delivered.
    pub events: u64,
    /// In how long.
    pub seconds: f64,
    /// Events a second.
    pub rate: f64,
    /// Of requests, or from append to subscriber; milliseconds.
    pub p50_ms: Option<f64>,
    /// The same.
    pub p99_ms: Option<f64>,
    /// Processor time of all servers an event, microseconds.
    pub server_us: f64,
    /// Processor time of the load generator, with the client's library in it, an event, microseconds.
    pub client_us: f64,
    /// Part of the machine's processors that everybody else used meanwhile: other programs, and the kernel for nobody.
    pub others: f64,
}

/// Clocks at the beginning of a work.
#[derive(Debug)]
pub struct Meter {
    begin: Instant,
    server: Duration,
    client: Duration,
    busy: Duration,
}

impl Meter {
    /// From now on.
    pub fn start(servers: &Servers) -> Result<Self> {
        Ok(Self {
            begin: Instant::now(),
            server: servers.cpu()?,
            client: own_cpu()?,
            busy: machine()?,
        })
    }

    /// Until now.
    pub fn stop(&self, servers: &Servers) -> Result<Used> {
        Ok(Used {
            wall: self.begin.elapsed(),
            server: servers.cpu()?.saturating_sub(self.server),
            client: own_cpu()?.saturating_sub(self.client),
            busy: machine()?.saturating_sub(self.busy),
        })
    }
}

/// What was used between two moments.
#[derive(Debug)]
pub struct Used {
    wall: Duration,
    server: Duration,
    client: Duration,
    busy: Duration,
}

impl Used {
    /// What it came to.
    pub fn cell(&self, events: u64, latencies: Option<&Latencies>) -> Result<Cell> {
        let cores = std::thread::available_parallelism()?.get();
        let others = self.busy.saturating_sub(self.server + self.client);
        let an_event = |cpu: Duration| cpu.as_secs_f64() * 1e6 / float(events.max(1));
        let percentile = |percent| {
            latencies
                .filter(|all| !all.is_empty())
                .map(|all| float(all.value_at_percentile(percent)) / 1e3)
        };
        Ok(Cell {
            events,
            seconds: self.wall.as_secs_f64(),
            rate: float(events) / self.wall.as_secs_f64(),
            p50_ms: percentile(50.0),
            p99_ms: percentile(99.0),
            server_us: an_event(self.server),
            client_us: an_event(self.client),
            // Ticks are coarse: in a short time there may seem to be more than all.
            others: (others.as_secs_f64() / self.wall.as_secs_f64() / float(u64::try_from(cores)?)).min(1.0),
        })
    }
}

/// No number here is so large that it loses a digit that is shown.
pub fn float(number: u64) -> f64 {
    number as f64
}

fn own_cpu() -> Result<Duration> {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Ok(Duration::new(
        u64::try_from(time.tv_sec)?,
        u32::try_from(time.tv_nsec)?,
    ))
}

/// Time that the machine's processors were busy since it started, all together.
fn machine() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields = line
        .split_whitespace()
        .skip(1)
        .map(str::parse::<u64>)
        .collect::<Result<Vec<_>, _>>()?;
    // user, nice, system, idle, waiting for disks, interrupts (2), taken by the host; guests count as user.
    let ticks: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|i| fields.get(*i)).sum();
    Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_what_they_were() {
        let mut all = latencies().unwrap();
        for milliseconds in [1, 5, 5, 5, 7_200_000] {
            record(&mut all, Duration::from_millis(milliseconds));
        }
        let used = Used {
            wall: Duration::from_secs(2),
            server: Duration::ZERO,
            client: Duration::ZERO,
            busy: Duration::ZERO,
        };
        let cell = used.cell(10, Some(&all)).unwrap();
        assert!((cell.p50_ms.unwrap() / 5.0 - 1.0).abs() < 0.01, "{cell:?}");
        assert!(
            (cell.p99_ms.unwrap() / 3_600_000.0 - 1.0).abs() < 0.01,
            "{cell:?}"
        );
        assert!((cell.rate - 5.0).abs() < 0.01, "{cell:?}");
    }
}
