//! What was measured, counted by each client and added up.

use crate::failure::Failure;
use crate::look::Look;
use crate::output::Output;
use hdrhistogram::Histogram;
use rdb_client::Error;
use serde::Serialize;
use std::time::Duration;

/// Digits of a latency that are right.
const DIGITS: u8 = 3;
/// Longer latencies count as this long.
const LATENCY_MAX: Duration = Duration::from_hours(1);

/// What one client counted.
#[derive(Debug)]
pub(crate) struct Tally {
    latencies: Histogram<u64>,
    events: u64,
    requests: u64,
    bytes: u64,
    errors: u64,
    retries: u64,
    first_error: Option<Error>,
}

impl Tally {
    pub(crate) fn new() -> Result<Self, Failure> {
        let longest = u64::try_from(LATENCY_MAX.as_micros()).unwrap_or(u64::MAX);
        let latencies = Histogram::new_with_bounds(1, longest, DIGITS);
        Ok(Self {
            latencies: latencies.map_err(|error| Failure::Usage(error.to_string()))?,
            events: 0,
            requests: 0,
            bytes: 0,
            errors: 0,
            retries: 0,
            first_error: None,
        })
    }

    /// Counts one request of `events` events.
    pub(crate) fn done(&mut self, events: u64, attempts: u32, latency: Duration) {
        self.requests = self.requests.saturating_add(1);
        self.events = self.events.saturating_add(events);
        self.retries = self.retries.saturating_add(u64::from(attempts.saturating_sub(1)));
        self.latency(latency);
    }

    pub(crate) fn latency(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(us.max(1));
    }

    pub(crate) const fn bytes(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(crate) const fn events(&self) -> u64 {
        self.events
    }

    /// Takes over what went wrong elsewhere, and nothing else.
    pub(crate) fn add_errors(&mut self, other: Self) {
        self.errors = self.errors.saturating_add(other.errors);
        self.retries = self.retries.saturating_add(other.retries);
        self.first_error = self.first_error.take().or(other.first_error);
    }

    /// Counts the payloads of all events, when each has this size.
    pub(crate) fn count_bytes(&mut self, size: u32) {
        self.bytes = self.events.saturating_mul(size.into());
    }

    pub(crate) fn failed(&mut self, error: Error) {
        self.errors = self.errors.saturating_add(1);
        if self.first_error.is_none() {
            self.first_error = Some(error);
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        // Cannot fail: both have the same bounds.
        if let Err(error) = self.latencies.add(&other.latencies) {
            tracing::error!(%error, "latencies of a client are left out");
        }
        self.events = self.events.saturating_add(other.events);
        self.requests = self.requests.saturating_add(other.requests);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.add_errors(other);
    }
}

/// The result, as it is printed. New fields come at the end.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    events: u64,
    requests: u64,
    seconds: f64,
    events_per_s: f64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    max_us: u64,
    errors: u64,
    bench: &'static str,
    clients: u32,
    batch: u32,
    size: u32,
    rate: Option<u32>,
    bytes: u64,
    requests_per_s: f64,
    p999_us: u64,
    mean_us: f64,
    retries: u64,
    first_error: Option<String>,
    #[serde(flatten)]
    appends: Option<Appends>,
    #[serde(skip)]
    failure: Option<Error>,
}

/// How long appends took, where the report's latencies are of something else.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Appends {
    append_p50_us: u64,
    append_p90_us: u64,
    append_p99_us: u64,
    append_max_us: u64,
}

impl Appends {
    pub(crate) fn of(tally: &Tally) -> Self {
        let at = |quantile| tally.latencies.value_at_quantile(quantile);
        Self {
            append_p50_us: at(0.5),
            append_p90_us: at(0.9),
            append_p99_us: at(0.99),
            append_max_us: tally.latencies.max(),
        }
    }
}

/// What was asked for, for the report.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Shape {
    pub(crate) bench: &'static str,
    pub(crate) clients: u32,
    pub(crate) batch: u32,
    pub(crate) size: u32,
    pub(crate) rate: Option<u32>,
}

impl Report {
    pub(crate) fn new(shape: Shape, tally: Tally, took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        let at = |quantile| tally.latencies.value_at_quantile(quantile);
        Self {
            events: tally.events,
            requests: tally.requests,
            seconds: rounded(seconds),
            events_per_s: per_second(tally.events, seconds),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            max_us: tally.latencies.max(),
            errors: tally.errors,
            bench: shape.bench,
            clients: shape.clients,
            batch: shape.batch,
            size: shape.size,
            rate: shape.rate,
            bytes: tally.bytes,
            requests_per_s: per_second(tally.requests, seconds),
            p999_us: at(0.999),
            mean_us: rounded(tally.latencies.mean()),
            retries: tally.retries,
            first_error: tally.first_error.as_ref().map(Error::to_string),
            appends: None,
            failure: tally.first_error,
        }
    }

    /// Says beside the latencies how long the appends took.
    pub(crate) const fn with_appends(mut self, appends: Appends) -> Self {
        self.appends = Some(appends);
        self
    }

    pub(crate) fn write(self, output: &mut Output) -> Result<(), Failure> {
        if self.events == 0
            && let Some(error) = self.failure
        {
            return Err(Failure::read(format!("bench {}", self.bench))(error));
        }
        if output.is_json() {
            output.json(&self)?;
            return Ok(());
        }
        let rate = output.paint(Look::Bold, format_args!("{:.0} events/s", self.events_per_s));
        output.text(format_args!(
            "{rate}   {} events, {} requests, {:.2} s, {} clients",
            self.events, self.requests, self.seconds, self.clients
        ))?;
        output.text(format_args!(
            "latency   p50 {} us   p90 {} us   p99 {} us   p99.9 {} us   max {} us",
            self.p50_us, self.p90_us, self.p99_us, self.p999_us, self.max_us
        ))?;
        if let Some(appends) = &self.appends {
            output.text(format_args!(
                "appends   p50 {} us   p90 {} us   p99 {} us   max {} us",
                appends.append_p50_us, appends.append_p90_us, appends.append_p99_us, appends.append_max_us
            ))?;
        }
        if self.retries > 0 {
            output.text(format_args!("retries   {}", self.retries))?;
        }
        if let Some(error) = &self.first_error {
            let errors = output.paint(Look::Red, format_args!("errors    {}", self.errors));
            output.text(format_args!("{errors}, the first: {error}"))?;
        }
        Ok(())
    }
}

fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        rounded(to_f64(count) / seconds)
    } else {
        0.0
    }
}

/// Counts of a bench are far below 2^52; beyond `u32` this loses nothing that is printed.
fn to_f64(count: u64) -> f64 {
    let high = u32::try_from(count >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(count & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

/// Three digits behind the point.
fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts read these names.
    #[test]
    fn a_report_begins_with_the_fields_of_the_interface() {
        let mut tally = Tally::new().unwrap();
        tally.done(10, 1, Duration::from_micros(400));
        tally.done(10, 2, Duration::from_micros(900));
        let report = Report::new(Shape::default(), tally, Duration::from_millis(500));
        let json = serde_json::to_string(&report).unwrap();
        let begin = r#"{"events":20,"requests":2,"seconds":0.5,"events_per_s":40.0,"p50_us":400,"p90_us":900,"p99_us":900,"max_us":900,"errors":0,"#;
        assert!(json.starts_with(begin), "{json}");
        assert!(json.contains(r#""retries":1"#), "{json}");
    }

    #[test]
    fn a_count_becomes_a_float_without_loss() {
        assert_eq!(to_f64(0).to_bits(), 0.0_f64.to_bits());
        assert_eq!(to_f64((5 << 32) + 7).to_bits(), 21_474_836_487.0_f64.to_bits());
    }
}
