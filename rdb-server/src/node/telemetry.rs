//! What the node tells operators: the metrics, all of them in one table, and the set-up of its own log.

use super::status::Status;
use crate::clock;
use crate::coordination::etcd::NumbersStats;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use rdb_proto::reason::Reason;
use std::fmt;
use std::time::{Duration, Instant};

/// Calls that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(missing_docs, reason = "each is the call of that name")]
pub enum Method {
    Write,
    Append,
    AppendEach,
    AppendStream,
    Delete,
    Read,
    Snapshot,
    History,
    ListKeys,
    Subscribe,
    TimesAfter,
    Claim,
    Acknowledge,
    Release,
    Seek,
    Forget,
    ListSubscriptions,
    Status,
    Map,
    MoveSeat,
    Drain,
    Undrain,
    Remove,
    EtcdRestored,
    Verify,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: Method,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabel {
    method: Method,
}

/// What an append waits for at the node that leads its key's seat, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Step {
    /// Until the seat takes it.
    Queue,
    /// Until it is decided, and numbers are asked for.
    Decide,
    /// Until its numbers come.
    Numbers,
    /// Until it is durable here.
    Disk,
    /// Until it is durable on enough other members.
    Members,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabel {
    step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SeatLabels {
    group: u32,
    seat: u32,
}

type SeatGauge = Family<SeatLabels, Gauge>;

/// The node's metrics.
pub struct Telemetry {
    registry: Registry,
    calls: Family<CallLabels, Counter>,
    call_seconds: Family<MethodLabel, Histogram>,
    append_wait_seconds: Family<StepLabel, Histogram>,
    /// Calls about a key that were passed on to another node.
    pub calls_passed_on: Counter,
    /// Events committed by seats that this node leads.
    pub events_committed: Counter,
    /// Events sent to subscribers.
    pub events_streamed: Counter,
    /// Change streams that are open.
    pub subscribers: Gauge,
    /// Connections to the gRPC port that are open.
    pub connections: Gauge,
    /// Connections that were closed at once, since there were too many.
    pub connections_refused: Counter,
    log_sync_seconds: Histogram,
    log_written_bytes: Counter,
    counter_seq: Gauge,
    resolved_seq: Gauge,
    resolved_held_seconds: Gauge,
    disk_free: Gauge,
    seat_epoch: SeatGauge,
    seat_last_index: SeatGauge,
    seat_commit_index: SeatGauge,
    seat_indexed_index: SeatGauge,
    seat_resolved_seq: SeatGauge,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Telemetry")
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl Telemetry {
    /// All metrics at zero.
    pub fn new() -> Self {
        Self::counting(&NumbersStats::default())
    }

    /// The same, with what a coordinator counts about numbers.
    pub fn counting(numbers: &NumbersStats) -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_05, 2.0, 16));
        let mut this = Self {
            registry: Registry::with_prefix("rdb"),
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(seconds),
            append_wait_seconds: Family::new_with_constructor(seconds),
            calls_passed_on: Counter::default(),
            events_committed: Counter::default(),
            events_streamed: Counter::default(),
            subscribers: Gauge::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            log_sync_seconds: seconds(),
            log_written_bytes: Counter::default(),
            counter_seq: Gauge::default(),
            resolved_seq: Gauge::default(),
            resolved_held_seconds: Gauge::default(),
            disk_free: Gauge::default(),
            seat_epoch: Family::default(),
            seat_last_index: Family::default(),
            seat_commit_index: Family::default(),
            seat_indexed_index: Family::default(),
            seat_resolved_seq: Family::default(),
        };
        this.register_node();
        this.register_stream();
        this.register_numbers(numbers);
        this.register_seats();
        this
    }

    /// The table: name, meaning, metric. README repeats it, and a test compares the two.
    fn register_node(&mut self) {
        let r = &mut self.registry;
        let release = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "Release of the server", release);
        r.register(
            "calls",
            "Calls answered, by method and reason (OK when they succeeded)",
            self.calls.clone(),
        );
        r.register(
            "calls_passed_on",
            "Calls about a key that another node had to answer",
            self.calls_passed_on.clone(),
        );
        r.register_with_unit(
            "call",
            "Time from a request's arrival to its answer",
            Unit::Seconds,
            self.call_seconds.clone(),
        );
        r.register_with_unit(
            "append_wait",
            "Time that appends of seats led here waited, by step",
            Unit::Seconds,
            self.append_wait_seconds.clone(),
        );
        r.register(
            "events_committed",
            "Events committed by seats led here",
            self.events_committed.clone(),
        );
        r.register(
            "connections",
            "Connections to the gRPC port that are open",
            self.connections.clone(),
        );
        r.register(
            "connections_refused",
            "Connections closed at once, since too many were open",
            self.connections_refused.clone(),
        );
        r.register_with_unit(
            "log_sync",
            "Time of one write and fdatasync of a log",
            Unit::Seconds,
            self.log_sync_seconds.clone(),
        );
        r.register(
            "log_written_bytes",
            "Bytes written to logs",
            self.log_written_bytes.clone(),
        );
        r.register(
            "disk_free_bytes",
            "Free bytes on the file system of DATA_DIR",
            self.disk_free.clone(),
        );
    }

    /// The table's part for the change stream.
    fn register_stream(&mut self) {
        let r = &mut self.registry;
        r.register(
            "events_streamed",
            "Events sent to subscribers",
            self.events_streamed.clone(),
        );
        r.register(
            "subscribers",
            "Change streams that are open",
            self.subscribers.clone(),
        );
        r.register(
            "counter_seq",
            "Last seq known to be handed out",
            self.counter_seq.clone(),
        );
        r.register(
            "resolved_seq",
            "No event at or below it is still to come",
            self.resolved_seq.clone(),
        );
        r.register_with_unit(
            "resolved_held",
            "How long the resolved mark has stood still although later seqs were handed out; 0 when it follows",
            Unit::Seconds,
            self.resolved_held_seconds.clone(),
        );
    }

    /// The table's part for numbers; all zero for a node that stands alone.
    fn register_numbers(&mut self, numbers: &NumbersStats) {
        let r = &mut self.registry;
        r.register(
            "counter_txns",
            "Txns of this node on etcd's counter that gave numbers",
            numbers.txns.clone(),
        );
        r.register(
            "counter_races_lost",
            "Txns of this node on etcd's counter that another node's was before",
            numbers.races_lost.clone(),
        );
        r.register(
            "number_requests_served",
            "Requests for numbers that txns of this node served, other nodes' included",
            numbers.served.clone(),
        );
        r.register(
            "number_requests_served_for_others",
            "Those of them that other nodes passed on",
            numbers.served_for_others.clone(),
        );
        r.register(
            "number_requests_passed_on",
            "Requests for numbers of this node that a txn of another node served",
            numbers.passed_on.clone(),
        );
    }

    /// The table's part for each seat.
    fn register_seats(&mut self) {
        let r = &mut self.registry;
        r.register(
            "seat_epoch",
            "Number of the epoch the seat is led under",
            self.seat_epoch.clone(),
        );
        r.register(
            "seat_last_index",
            "Last entry in the seat's log",
            self.seat_last_index.clone(),
        );
        r.register(
            "seat_commit_index",
            "Last committed entry of the seat",
            self.seat_commit_index.clone(),
        );
        r.register(
            "seat_indexed_index",
            "Last entry in the seat's key index",
            self.seat_indexed_index.clone(),
        );
        r.register(
            "seat_resolved_seq",
            "Resolved mark of the seat",
            self.seat_resolved_seq.clone(),
        );
    }

    /// Counts one call and its time.
    pub fn called(&self, method: Method, refused: Option<Reason>, began: Instant) {
        let reason = refused.map_or("OK", Reason::as_str);
        self.calls.get_or_create(&CallLabels { method, reason }).inc();
        let took = clock::monotonic().saturating_duration_since(began);
        self.call_seconds
            .get_or_create(&MethodLabel { method })
            .observe(took.as_secs_f64());
    }

    /// Counts one step of appends that went together.
    pub fn waited(&self, step: Step, took: Duration) {
        self.append_wait_seconds
            .get_or_create(&StepLabel { step })
            .observe(took.as_secs_f64());
    }

    /// Counts one write and sync of a log.
    pub fn synced(&self, bytes: u64, took: Duration) {
        self.log_written_bytes.inc_by(bytes);
        self.log_sync_seconds.observe(took.as_secs_f64());
    }

    /// The metrics in the OpenMetrics text format, with the gauges set from `status`.
    pub fn render(&self, status: &Status) -> String {
        let set = |gauge: &Gauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.counter_seq, status.counter.get());
        set(&self.resolved_seq, status.resolved.get());
        let held = status
            .held
            .map(|held| clock::monotonic().saturating_duration_since(held.since));
        set(&self.resolved_held_seconds, held.unwrap_or_default().as_secs());
        set(&self.disk_free, status.disk_free_bytes);
        for seat in &status.seats {
            let labels = SeatLabels {
                group: seat.id.group.0,
                seat: seat.id.side.number(),
            };
            let view = &seat.view;
            set(&self.seat_epoch.get_or_create(&labels), view.epoch.number);
            set(
                &self.seat_last_index.get_or_create(&labels),
                view.last_index.get(),
            );
            set(
                &self.seat_commit_index.get_or_create(&labels),
                view.commit_index.get(),
            );
            set(
                &self.seat_indexed_index.get_or_create(&labels),
                view.indexed_index.get(),
            );
            set(
                &self.seat_resolved_seq.get_or_create(&labels),
                view.resolved.get(),
            );
        }
        self.text()
    }

    /// The metrics in that format, the gauges as they were set last.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(fmt::Error) => unreachable!("writing to a string does not fail"),
        }
    }
}
