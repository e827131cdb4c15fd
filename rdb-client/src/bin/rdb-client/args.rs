//! The command line: names, flags, environment and help. Nothing is decided here.

use clap::{Args, Parser, Subcommand, ValueEnum};
use rdb_client::{EventId, Expectation, Order, Seq, Timestamp, Version};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use uuid::Uuid;

const EXAMPLES: &str = "\
Examples:
  rdb-client -k Deep -p \"First write\" write
  rdb-client -k Deep read
  rdb-client subscribe --from 0 --until-caught-up -o json";

const TOPICS: &str = "\
Exit codes:
  0  done
  1  failed: standard error says what, whether anything happened, and what to do
  2  wrong usage
  3  the key does not exist, or was deleted
  4  conflict: the expectation did not hold; the message has the current version
  5  unavailable, or outcome unknown; a retry with the same --event-id is safe
  6  stored data is damaged, or differs between members (admin verify)

Consistency of reads:
  linearizable  sees every write that was acknowledged before the read began (default)
  local         what the node that is asked has; fast, may be a moment behind
  --at SEQ      the key as it was at that seq; the same answer from every node, for ever

Environment:
  RDB_SERVER, or SERVER_IP and SERVER_PORT; ETCD (as for rdb-server), RDB_DB; RDB_COLLECTION; RDB_OUTPUT; RDB_TIMEOUT;
  TRACE_LEVEL (the client's own log on standard error: error, warn, info, debug, trace); NO_COLOR";

/// Write, read and follow the events of an RDB database.
#[derive(Debug, Parser)]
#[command(name = "rdb-client", version, before_help = EXAMPLES, after_long_help = TOPICS, max_term_width = 110)]
#[command(infer_long_args = false, disable_help_subcommand = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command, before or after its name.
#[derive(Debug, Clone, Args)]
pub(crate) struct Globals {
    /// Any node or nodes of the database [default: 127.0.0.1:2048, or SERVER_IP:SERVER_PORT]
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT,…",
        env = "RDB_SERVER",
        help_heading = "Connection"
    )]
    pub(crate) server: Option<String>,

    #[arg(long, global = true, hide = true, env = "SERVER_IP")]
    pub(crate) server_ip: Option<String>,

    #[arg(long, global = true, hide = true, env = "SERVER_PORT")]
    pub(crate) server_port: Option<String>,

    /// Find the nodes through etcd, when no server is named [ETCD_USER, ETCD_PASSWORD, ETCD_CA, ETCD_CERT, ETCD_KEY: as for
    /// rdb-server]
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT,…",
        env = "ETCD",
        help_heading = "Connection"
    )]
    pub(crate) etcd: Option<String>,

    /// Name of the database in etcd [default: rdb]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "RDB_DB",
        help_heading = "Connection"
    )]
    pub(crate) db: Option<String>,

    #[arg(long, global = true, hide = true, env = "ETCD_USER")]
    pub(crate) etcd_user: Option<String>,

    #[arg(
        long,
        global = true,
        hide = true,
        env = "ETCD_PASSWORD",
        hide_env_values = true
    )]
    pub(crate) etcd_password: Option<String>,

    #[arg(long, global = true, hide = true, env = "ETCD_CA")]
    pub(crate) etcd_ca: Option<String>,

    #[arg(long, global = true, hide = true, env = "ETCD_CERT")]
    pub(crate) etcd_cert: Option<String>,

    #[arg(long, global = true, hide = true, env = "ETCD_KEY")]
    pub(crate) etcd_key: Option<String>,

    /// For the whole command, retries included, as in 500ms, 10s or 2m [default: 10s; none for subscribe, import,
    /// export, bench and admin verify]
    #[arg(long, global = true, value_name = "DURATION", env = "RDB_TIMEOUT", help_heading = "Connection",
          value_parser = parse_timeout)]
    pub(crate) timeout: Option<Duration>,

    /// Key of the entity
    #[arg(short, long, global = true, value_name = "KEY", help_heading = "What")]
    pub(crate) key: Option<String>,

    /// Payload; `-` reads it from standard input
    #[arg(
        short,
        long,
        global = true,
        value_name = "TEXT",
        help_heading = "What",
        allow_negative_numbers = true
    )]
    pub(crate) payload: Option<String>,

    /// Collection of the key [default: default]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "RDB_COLLECTION",
        help_heading = "What"
    )]
    pub(crate) collection: Option<String>,

    /// Text for people, or JSON for programs, one object a line [default: text]
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        env = "RDB_OUTPUT",
        help_heading = "Output"
    )]
    pub(crate) output: Option<Format>,

    #[arg(
        long,
        global = true,
        hide = true,
        env = "TRACE_LEVEL",
        default_value = "error"
    )]
    pub(crate) trace_level: String,

    #[arg(long, global = true, hide = true, env = "NO_COLOR")]
    pub(crate) no_color: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write one event to a key; it is durable when this returns
    #[command(before_help = "\
Examples:
  rdb-client write -k Deep -p \"First write\"
  rdb-client write -k orders/17 --type shipped --expect 3 --file order.json
  date | rdb-client write -k clock -p -")]
    Write(WriteArgs),

    /// Delete a key with a delete event; its history stays readable
    #[command(before_help = "\
Examples:
  rdb-client delete -k Deep
  rdb-client delete -k orders/17 --expect 4")]
    Delete(DeleteArgs),

    /// Read the latest event of a key; linearizable unless asked otherwise
    #[command(before_help = "\
Examples:
  rdb-client read -k Deep
  rdb-client read -k Deep --at 8123
  rdb-client read -k Deep -o json | jq -r .payload")]
    Read(ReadArgs),

    /// Read several keys as they were at one moment: no write is seen without those before it
    #[command(before_help = "\
Examples:
  rdb-client snapshot account/1 account/2
  rdb-client snapshot account/1 account/2 --at 8123 -o json")]
    Snapshot(SnapshotArgs),

    /// List the events of a key in the order of their versions
    #[command(before_help = "\
Examples:
  rdb-client history -k Deep
  rdb-client history -k orders/17 --backwards --limit 10")]
    History(HistoryArgs),

    /// List the keys of a collection in byte order, deleted ones included
    #[command(before_help = "\
Examples:
  rdb-client keys
  rdb-client keys --prefix orders/ --limit 100 -o json")]
    Keys(KeysArgs),

    /// Append several events to one key: all of them or none
    #[command(before_help = "\
Examples:
  rdb-client append -k orders/17 --file events.ndjson
  printf '%s\\n' '{\"payload\":\"a\",\"type\":\"note\"}' '{\"payload\":\"b\"}' | rdb-client append -k Deep --file -")]
    Append(AppendArgs),

    /// Import a file of JSON lines, one event a line; events of a key keep the order of the file
    #[command(before_help = "\
Examples:
  rdb-client import events.ndjson
  rdb-client import earthquakes.ndjson --key-field net --type-field type --id-field id")]
    Import(ImportArgs),

    /// Export events as JSON lines, in the order of their seqs, up to what is there now
    #[command(before_help = "\
Examples:
  rdb-client export > everything.ndjson
  rdb-client export --from 8000 --to 8123")]
    Export(ExportArgs),

    /// Follow the change stream: every event once, in the order of seqs, over lost connections
    #[command(before_help = "\
Examples:
  rdb-client subscribe
  rdb-client subscribe --from 8123 --prefix orders/ --type shipped -o json
  rdb-client subscribe --until-caught-up | wc -l
  rdb-client subscribe --from-time 15m
  rdb-client subscribe --name mails --from 0
  rdb-client subscribe --snapshot --format debezium > changes.ndjson")]
    Subscribe(SubscribeArgs),

    /// Look at named subscriptions, set their position, forget them
    #[command(subcommand)]
    Subscriptions(SubscriptionsCommand),

    /// Show whether the database is healthy, its nodes, groups and seats
    #[command(before_help = "\
Examples:
  rdb-client status
  rdb-client status --watch
  rdb-client status --until-healthy --timeout 1m
  rdb-client status -o json | jq .counter")]
    Status(StatusArgs),

    /// Look at the members of groups, and move them: drain, replace and remove nodes
    #[command(subcommand)]
    Admin(AdminCommand),

    /// Measure this database from here; adds events to the collection `bench` unless --collection says otherwise
    #[command(subcommand)]
    Bench(BenchCommand),

    /// Print a completion script for a shell
    #[command(before_help = "\
Examples:
  rdb-client completions bash > /etc/bash_completion.d/rdb-client
  rdb-client completions fish > ~/.config/fish/completions/rdb-client.fish")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SubscriptionsCommand {
    /// Show every named subscription: its position, how far behind it is, who has it
    List,

    /// Set the position of a named subscription; the consumer that has it is refused from then on
    #[command(before_help = "\
Examples:
  rdb-client subscriptions seek mails 8123 --dry-run
  rdb-client subscriptions seek mails 0")]
    Seek(SeekArgs),

    /// Forget a named subscription; the consumer that has it is refused from then on
    Forget(ForgetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SeekArgs {
    /// Name of the subscription
    pub(crate) name: String,

    /// Where it goes on after
    #[arg(value_name = "SEQ", value_parser = parse_seq)]
    pub(crate) seq: Seq,

    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    /// Name of the subscription
    pub(crate) name: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Show which node has a member of which group, what it leads, and how far behind it is
    Members,

    /// Give a seat to another member of its group
    #[command(before_help = "\
Examples:
  rdb-client admin move-seat 0.1 --to n3
  rdb-client admin move-seat 0.1 --to n3 --dry-run")]
    MoveSeat(MoveSeatArgs),

    /// Move all members of a node to others, so that it can be taken away; it gets none until --undo
    #[command(before_help = "\
Examples:
  rdb-client admin drain n3 --dry-run
  rdb-client admin drain n3 --wait --timeout 10m
  rdb-client admin drain n3 --undo")]
    Drain(DrainArgs),

    /// Replace the members of a node, which may be gone, without waiting for REPLACE_AFTER
    #[command(before_help = "\
Examples:
  rdb-client admin replace n3
  rdb-client admin replace n3 --with n4 --wait")]
    Replace(ReplaceArgs),

    /// Forget a node that is stopped and has no members
    #[command(before_help = "\
Examples:
  rdb-client admin remove n3")]
    Remove(NodeArgs),

    /// Say that etcd was restored from a backup: no seq comes twice, and every seat is elected anew
    ///
    /// All nodes are asked what they have seen of etcd. Then one txn puts it right: seqs leap by 2^40, and epochs and
    /// members go up to what was seen. That is done whether or not etcd looks older; where it was not needed, nothing
    /// but the leap comes of it. It is refused while too few members of a group can be asked: have them up first.
    #[command(before_help = "\
Examples:
  rdb-client admin etcd-restored --dry-run
  rdb-client admin etcd-restored")]
    EtcdRestored(EtcdRestoredArgs),

    /// Read all logs from disk and check them, and compare the members of each seat, while the database serves
    ///
    /// Each node reads at a gentle rate. Nothing is changed, and a node with damage goes on. What to do is said beside the
    /// damage: a node that is started again gets what is lost from the other members, once all of these are whole. Exits
    /// with 6 when anything is damaged or not the same on all members, and with 5 when not everything could be looked at.
    #[command(before_help = "\
Examples:
  rdb-client admin verify
  rdb-client admin verify n3 --rate 200
  rdb-client admin verify --seat 0.1 -o json")]
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// The keys
    #[arg(value_name = "KEY", required = true)]
    pub(crate) keys: Vec<String>,

    /// As the database stood at this seq
    #[arg(long, value_name = "SEQ", value_parser = parse_seq)]
    pub(crate) at: Option<Seq>,
}

#[derive(Debug, Args)]
pub(crate) struct MoveSeatArgs {
    /// The seat, as in 0.1: group 0, seat 1
    #[arg(value_name = "GROUP.SEAT", value_parser = parse_seat)]
    pub(crate) seat: (u32, u32),

    /// Name of the node that is to lead it
    #[arg(long, value_name = "NODE")]
    pub(crate) to: String,

    /// Only say whether it could be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Name of the node
    pub(crate) node: String,

    /// Let it have members again
    #[arg(long, conflicts_with = "wait")]
    pub(crate) undo: bool,

    /// Return when it has no members, at the latest after --timeout
    #[arg(long)]
    pub(crate) wait: bool,

    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReplaceArgs {
    /// Name of the node
    pub(crate) node: String,

    /// Name of the node that takes its place [default: of those that are free, the one with the fewest members]
    #[arg(long, value_name = "NODE")]
    pub(crate) with: Option<String>,

    /// Return when it has no members, at the latest after --timeout
    #[arg(long)]
    pub(crate) wait: bool,

    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// Name of the node
    pub(crate) node: String,

    /// Only say whether it could be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Names of the nodes whose logs are read [default: all that have members]
    #[arg(value_name = "NODE")]
    pub(crate) nodes: Vec<String>,

    /// Only these seats, as in 0.1: group 0, seat 1
    #[arg(long = "seat", value_name = "GROUP.SEAT", value_parser = parse_seat)]
    pub(crate) seats: Vec<(u32, u32)>,

    /// How much each node reads in a second, at most [default: 32]
    #[arg(
        long,
        value_name = "MIB_PER_SECOND",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) rate: u64,
}

#[derive(Debug, Args)]
pub(crate) struct EtcdRestoredArgs {
    /// Also when too few members of a group can be asked: what only the others have seen is not counted
    #[arg(long)]
    pub(crate) anyway: bool,

    /// Only say what would be set, and who cannot be asked
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    /// Event type
    #[arg(
        long = "type",
        value_name = "TYPE",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) event_type: String,

    /// Tag of the event; may be given up to 32 times
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,

    /// Metadata of the event; may be given up to 32 times
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub(crate) meta: Vec<(String, String)>,

    /// What must be true of the key: any, absent, exists, or its exact version
    #[arg(long, value_name = "any|absent|exists|VERSION", default_value = "any", value_parser = parse_expectation)]
    pub(crate) expect: Expectation,

    /// Event id; give the same one again to repeat a write whose outcome is unknown [default: a new one]
    #[arg(long, value_name = "UUID", value_parser = parse_event_id)]
    pub(crate) event_id: Option<EventId>,

    /// Read the payload from this file
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// What must be true of the key: any, absent, exists, or its exact version
    #[arg(long, value_name = "any|absent|exists|VERSION", default_value = "exists", value_parser = parse_expectation)]
    pub(crate) expect: Expectation,

    /// Event id; give the same one again to repeat a delete whose outcome is unknown [default: a new one]
    #[arg(long, value_name = "UUID", value_parser = parse_event_id)]
    pub(crate) event_id: Option<EventId>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    /// Show it again and again, every second or as often as told; ends by Ctrl-C, or --timeout
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "1s",
          value_parser = parse_timeout)]
    pub(crate) watch: Option<Duration>,

    /// Wait until every seat takes writes; exits with 5 when that takes longer than --timeout
    #[arg(long)]
    pub(crate) until_healthy: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// Read the key as it was when the database stood at this seq [default: now]
    #[arg(long, value_name = "SEQ", value_parser = parse_seq)]
    pub(crate) at: Option<Seq>,

    /// How fresh; not used with --at
    #[arg(long, value_name = "LEVEL", default_value = "linearizable")]
    pub(crate) consistency: Level,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// Sees every write that was acknowledged before the read began
    Linearizable,
    /// What the node that is asked has
    Local,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// First version to list [default: the first, or the last with --backwards]
    #[arg(long, value_name = "VERSION", value_parser = parse_version)]
    pub(crate) from: Option<Version>,

    /// Newest first
    #[arg(long)]
    pub(crate) backwards: bool,

    /// At most this many events [default: all]
    #[arg(long, value_name = "EVENTS")]
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    /// Only keys that begin with this
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,

    /// At most this many keys [default: all]
    #[arg(long, value_name = "KEYS")]
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct AppendArgs {
    /// JSON lines with `payload` (or `payload_base64`), `type`, `tags`, `meta`, `event_id`; `-` is standard input
    #[arg(long, value_name = "FILE.ndjson")]
    pub(crate) file: PathBuf,

    /// What must be true of the key before the first event: any, absent, exists, or its exact version
    #[arg(long, value_name = "any|absent|exists|VERSION", default_value = "any", value_parser = parse_expectation)]
    pub(crate) expect: Expectation,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// One JSON object a line; the whole line becomes the payload; `-` is standard input
    #[arg(value_name = "FILE.ndjson")]
    pub(crate) file: PathBuf,

    /// Field that holds the key: text or a number
    #[arg(long, value_name = "FIELD", default_value = "key")]
    pub(crate) key_field: String,

    /// Event type of every event
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "type_field")]
    pub(crate) event_type: Option<String>,

    /// Field that holds the event type; lines without it have none
    #[arg(long, value_name = "FIELD")]
    pub(crate) type_field: Option<String>,

    /// Field that is unique within its key; with it, importing the same file again adds nothing twice
    #[arg(long, value_name = "FIELD")]
    pub(crate) id_field: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Only events with a greater seq
    #[arg(long, value_name = "SEQ", default_value = "0", value_parser = parse_seq)]
    pub(crate) from: Seq,

    /// Only events up to this seq [default: all that is there]
    #[arg(long, value_name = "SEQ", value_parser = parse_seq)]
    pub(crate) to: Option<Seq>,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "a flag is a bool")]
pub(crate) struct SubscribeArgs {
    /// Only events with a greater seq; 0 means all
    #[arg(long, value_name = "SEQ", default_value = "0", value_parser = parse_seq)]
    pub(crate) from: Seq,

    /// Only events that come from now on
    #[arg(long, conflicts_with = "from")]
    pub(crate) from_now: bool,

    /// Only events from this time on, as in 2026-11-20T21:30:00Z, or from so long ago, as in 15m
    #[arg(long, value_name = "TIME|DURATION", conflicts_with_all = ["from", "from_now"], value_parser = parse_from_time)]
    pub(crate) from_time: Option<FromTime>,

    /// Begin with a snapshot: of what is there, only the latest event of each key, and none of deleted keys
    #[arg(long, conflicts_with_all = ["from", "from_now", "from_time"])]
    pub(crate) snapshot: bool,

    /// Go on in the middle of the snapshot of this seq, with --from; a run that ends there says how
    #[arg(long, value_name = "SEQ", requires = "from", conflicts_with_all = ["snapshot", "from_now", "from_time"],
          value_parser = parse_snapshot_seq)]
    pub(crate) snapshot_of: Option<Seq>,

    /// End when everything that was acknowledged before has come
    #[arg(long)]
    pub(crate) until_caught_up: bool,

    /// End after this many events
    #[arg(long, value_name = "EVENTS")]
    pub(crate) limit: Option<u64>,

    /// Keep the position in the database under this name: go on there, and acknowledge what was printed. Waits while
    /// another consumer has the name. --from is where a new name begins
    #[arg(long, value_name = "NAME", conflicts_with_all = ["from_now", "from_time", "snapshot", "snapshot_of"])]
    pub(crate) name: Option<String>,

    /// In which order events come. By key they come sooner, each key's in their order; what comes after the last mark comes
    /// again when a run goes on
    #[arg(long, value_name = "ORDER", default_value = "seq", conflicts_with = "name")]
    pub(crate) order: StreamOrder,

    /// Only events of this type; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) types: Vec<String>,

    /// Only events with this tag; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,

    /// Only events of keys that begin with this; may be given several times
    #[arg(long = "prefix", value_name = "PREFIX")]
    pub(crate) prefixes: Vec<String>,

    /// Form of the lines, one JSON object each
    #[arg(long, value_name = "FORM")]
    pub(crate) format: Option<StreamFormat>,

    /// Add to each JSON line the event before it of the same key, as `before`; null when there is none
    #[arg(long)]
    pub(crate) before: bool,

    /// Show marks too, as {"resolved":SEQ}: nothing at or below one is still to come
    #[arg(long)]
    pub(crate) resolved: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StreamOrder {
    /// All of them by their seqs
    Seq,
    /// Those of each key by their seqs, each as soon as it is committed
    Key,
}

impl From<StreamOrder> for Order {
    fn from(order: StreamOrder) -> Self {
        match order {
            StreamOrder::Seq => Self::Seqs,
            StreamOrder::Key => Self::Keys,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StreamFormat {
    /// The event, as every command prints it
    Json,
    /// CloudEvents 1.0, structured
    Cloudevents,
    /// The envelope of Debezium, without schema: rows of the key before and after
    Debezium,
}

/// Where a subscription begins in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FromTime {
    At(Timestamp),
    Ago(Duration),
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Measure appends: how many a second are durable, and after how long
    #[command(before_help = "\
Examples:
  rdb-client bench append --clients 64 --duration 10s
  rdb-client bench append --stream --events 1000000
  rdb-client bench append --clients 16 --batch 100 --rate 50000 -o json")]
    Append(BenchAppendArgs),

    /// Measure linearizable reads of keys that are there
    #[command(before_help = "\
Examples:
  rdb-client bench read --clients 16
  rdb-client bench read --rate 5000 --duration 30s -o json")]
    Read(BenchReadArgs),

    /// Measure catching up: each client reads the whole change stream, or --events of it
    #[command(before_help = "\
Examples:
  rdb-client bench subscribe
  rdb-client bench subscribe --decode --clients 4")]
    Subscribe(BenchSubscribeArgs),

    /// Measure the way of an event from its append to every subscriber, at a fixed rate
    ///
    /// How long the appends themselves took stands beside it: append_p50_us and so on in JSON.
    #[command(before_help = "\
Examples:
  rdb-client bench latency
  rdb-client bench latency --rate 20000 --clients 4 --duration 30s
  rdb-client bench latency --keys 100 --order key
  rdb-client bench latency --subscribers 100 --slow 1")]
    Latency(BenchLatencyArgs),
}

/// How much work, from how many clients. Every bench takes these; what one has no use for, it ignores.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Clients at work at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) clients: u32,

    /// End after this many events in all [default: no end before --duration]
    #[arg(long, value_name = "N")]
    pub(crate) events: Option<u64>,

    /// End after this long [default: 10s, or none with --events]
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub(crate) duration: Option<Duration>,

    /// Payload of an event, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(..=4_194_304))]
    pub(crate) size: u32,

    /// Events of one request
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) batch: u32,

    /// Requests a second in all, at fixed times; latency counts from those times [default: as fast as answers come;
    /// 1000 for latency]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,

    /// Use one connection for all clients instead of one each
    #[arg(long)]
    pub(crate) shared: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchAppendArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    /// Keys to spread the events over [default: one for each client]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) keys: Option<u32>,

    /// Use one pipelined append stream for each client instead of one call after the other
    #[arg(long)]
    pub(crate) stream: bool,

    /// Requests under way on one stream
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) window: u32,
}

#[derive(Debug, Args)]
pub(crate) struct BenchReadArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    /// Read at most this many different keys
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) keys: u32,
}

#[derive(Debug, Args)]
pub(crate) struct BenchSubscribeArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    /// Decode each event as an application would, instead of counting them
    #[arg(long)]
    pub(crate) decode: bool,

    /// In which order events come
    #[arg(long, value_name = "ORDER", default_value = "seq")]
    pub(crate) order: StreamOrder,
}

#[derive(Debug, Args)]
pub(crate) struct BenchLatencyArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    /// Keys to spread the events over
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) keys: u32,

    /// Subscribers, each of which gets every event; latency is that of all deliveries
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) subscribers: u32,

    /// Further subscribers, which take a message a second and are not measured
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub(crate) slow: u32,

    /// In which order events come
    #[arg(long, value_name = "ORDER", default_value = "seq")]
    pub(crate) order: StreamOrder,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be more than nothing".to_owned()),
        Ok(timeout) => Ok(timeout),
        Err(error) => Err(format!("{error}; write for example 500ms, 10s or 2m")),
    }
}

fn parse_number(text: &str) -> Result<u64, String> {
    u64::from_str(text).map_err(|_not_a_number| format!("must be a whole number from 0 to {}", u64::MAX))
}

fn parse_seq(text: &str) -> Result<Seq, String> {
    parse_number(text).map(Seq)
}

fn parse_snapshot_seq(text: &str) -> Result<Seq, String> {
    match parse_seq(text)? {
        Seq::ZERO => Err("must be the seq of a snapshot, 1 or more".to_owned()),
        seq => Ok(seq),
    }
}

fn parse_from_time(text: &str) -> Result<FromTime, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(FromTime::Ago(ago));
    }
    let wrong =
        "write a time with its zone, as in 2026-11-20T21:30:00Z, or how long ago, as in 15m, 2h or 3days";
    let time: jiff::Timestamp = text.parse().map_err(|_not_a_time| wrong.to_owned())?;
    let micros =
        u64::try_from(time.as_microsecond()).map_err(|_negative| "must not be before 1970".to_owned())?;
    Ok(FromTime::At(Timestamp(micros)))
}

fn parse_version(text: &str) -> Result<Version, String> {
    parse_number(text).map(Version)
}

fn parse_expectation(text: &str) -> Result<Expectation, String> {
    match text {
        "any" => Ok(Expectation::Any),
        "absent" => Ok(Expectation::Absent),
        "exists" => Ok(Expectation::Exists),
        number => parse_version(number)
            .map(Expectation::Exact)
            .map_err(|_not_a_number| "must be any, absent, exists or a version".to_owned()),
    }
}

fn parse_event_id(text: &str) -> Result<EventId, String> {
    let id = Uuid::parse_str(text).map_err(|error| error.to_string())?;
    EventId::from_bytes(id.as_bytes()).map_err(|error| error.to_string())
}

fn parse_seat(text: &str) -> Result<(u32, u32), String> {
    let parts = text
        .split_once('.')
        .and_then(|(group, seat)| Some((group.parse().ok()?, seat.parse().ok()?)));
    parts
        .filter(|(_, seat)| *seat < 2)
        .ok_or_else(|| "must be a group and a seat, as in 0.1".to_owned())
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for words in [
            &["rdb-client", "-k", "Deep", "-p", "x", "write"][..],
            &["rdb-client", "write", "-k", "Deep", "-p", "x"],
            &["rdb-client", "-k", "Deep", "write", "-p", "x"],
        ] {
            let cli = Cli::try_parse_from(words).unwrap();
            assert_eq!(
                (cli.globals.key.as_deref(), cli.globals.payload.as_deref()),
                (Some("Deep"), Some("x"))
            );
        }
    }

    #[test]
    fn a_subscription_begins_at_one_place() {
        let begins = |flags: &str| {
            let words = ["rdb-client", "subscribe"]
                .into_iter()
                .chain(flags.split_whitespace());
            Cli::try_parse_from(words).is_ok()
        };
        for good in [
            "",
            "--from 3",
            "--from-now",
            "--from-time 15m",
            "--snapshot",
            "--snapshot-of 9 --from 0",
            "--snapshot-of 9 --from 3",
        ] {
            assert!(begins(good), "{good}");
        }
        for wrong in [
            "--from 3 --from-now",
            "--from 3 --from-time 15m",
            "--from-now --from-time 15m",
            "--snapshot --from 0",
            "--snapshot --from-now",
            "--snapshot --from-time 15m",
            "--snapshot --snapshot-of 9 --from 3",
            "--snapshot-of 9",
            "--snapshot-of 9 --from-now",
            "--snapshot-of 0 --from 0",
        ] {
            assert!(!begins(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_time_has_a_zone_or_is_a_while_ago() {
        let at = FromTime::At(Timestamp(1_795_210_200_500_000));
        assert_eq!(parse_from_time("2026-11-20T21:30:00.5Z"), Ok(at));
        assert_eq!(parse_from_time("2026-11-20T22:30:00.5+01:00"), Ok(at));
        assert_eq!(parse_from_time("15m"), Ok(FromTime::Ago(Duration::from_mins(15))));
        for wrong in [
            "2026-11-20T21:30:00",
            "2026-11-20",
            "yesterday",
            "-15m",
            "1969-12-31T23:59:59Z",
            "",
        ] {
            assert!(parse_from_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_expectation_is_a_word_or_a_version() {
        assert_eq!(parse_expectation("absent"), Ok(Expectation::Absent));
        assert_eq!(parse_expectation("7"), Ok(Expectation::Exact(Version(7))));
        for wrong in ["-1", "18446744073709551616", "none", ""] {
            assert!(parse_expectation(wrong).is_err(), "{wrong}");
        }
    }
}
