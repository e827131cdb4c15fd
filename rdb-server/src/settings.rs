//! Settings: every environment variable and flag, its default and its limits. Checked once, at the start.

use crate::limits::{EVENT_ID_WINDOW, FAILOVER_AFTER_MS, HEARTBEAT_MS, REPLACE_AFTER_S, SEGMENT_BYTES};
use clap::error::ContextKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use rdb_proto::types::GroupId;
use std::error::Error as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// A node of RDB, a distributed, replicated event database.
///
/// Without settings it starts standalone: one node, its data in ./rdb-data, gRPC on port 2048 and HTTP (health,
/// metrics) on port 2049. With ETCD it is a node of a cluster, together with all nodes that name the same etcd and DB.
/// An acknowledged write is on stable storage, in a cluster on that of WRITES nodes.
#[derive(Debug, Clone, Parser)]
#[command(name = "rdb-server", version, max_term_width = 110)]
pub struct Settings {
    /// etcd endpoints, comma separated. Empty: standalone.
    #[arg(long, env = "ETCD", default_value = "", value_name = "HOST:PORT,...")]
    pub etcd: String,

    /// User of etcd, when it asks for one.
    #[arg(long, env = "ETCD_USER", default_value = "", value_name = "NAME")]
    pub etcd_user: String,

    /// Password of that user.
    #[arg(
        long,
        env = "ETCD_PASSWORD",
        default_value = "",
        value_name = "PASSWORD",
        hide_env_values = true
    )]
    pub etcd_password: String,

    /// Who signed etcd's certificate, in PEM: connections to etcd then use TLS.
    #[arg(long, env = "ETCD_CA", default_value = "", value_name = "PATH")]
    pub etcd_ca: String,

    /// Certificate that etcd knows the node by, in PEM, when etcd asks for one.
    #[arg(long, env = "ETCD_CERT", default_value = "", value_name = "PATH")]
    pub etcd_cert: String,

    /// Key of that certificate, in PEM.
    #[arg(long, env = "ETCD_KEY", default_value = "", value_name = "PATH")]
    pub etcd_key: String,

    /// Name of the node, its own in the cluster. Default: the host name.
    #[arg(long, env = "NODE", default_value_t = host_name(), hide_default_value = true)]
    pub node: String,

    /// Address that others reach the node at.
    #[arg(long, env = "ADDRESS", default_value = "127.0.0.1", value_name = "HOST")]
    pub address: String,

    /// Address to listen on. Default: loopback when ADDRESS is loopback, else every interface.
    #[arg(long, env = "LISTEN", value_name = "IP")]
    pub listen: Option<IpAddr>,

    /// Port for gRPC. 0: any free one; the line `ready` names it.
    #[arg(long, env = "PORT", default_value_t = 2048)]
    pub port: u16,

    /// Port for health, readiness and metrics over HTTP. 0: any free one; the line `ready` names it.
    #[arg(long, env = "HTTP_PORT", default_value_t = 2049)]
    pub http_port: u16,

    /// Where data lives. Created when missing; one server at a time.
    #[arg(long, env = "DATA_DIR", default_value = "./rdb-data", value_name = "PATH")]
    pub data_dir: PathBuf,

    /// Name of the database. Fixed when it is made.
    #[arg(long, env = "DB", default_value = "rdb", value_name = "NAME")]
    pub db: String,

    /// Groups that keys are spread over, 1 to 64; each has two seats. Fixed when the database is made.
    #[arg(long, env = "SHARD_GROUPS", default_value_t = 1, value_name = "N")]
    pub shard_groups: u32,

    /// Members of a group, 1 to 7. Default: 3 in a cluster, 1 standalone. Fixed when the database is made.
    #[arg(long, env = "GROUP_SIZE", value_name = "N")]
    pub group_size: Option<u32>,

    /// Members that a write waits for. Default: the majority. Fixed when the database is made.
    #[arg(long, env = "WRITES", value_name = "N")]
    pub writes: Option<u32>,

    /// Seconds after which a node that etcd does not hear counts as gone: 2 to 300.
    #[arg(long, env = "LEASE_TTL", default_value_t = 10, value_name = "SECONDS")]
    pub lease_ttl: u64,

    /// Seconds between two signs of life for etcd: at least 1, and less than LEASE_TTL.
    #[arg(long, env = "REFRESH_INTERVAL", default_value_t = 3, value_name = "SECONDS")]
    pub refresh_interval: u64,

    /// Milliseconds after which members that do not hear a leader take its seat: at least three heartbeats.
    #[arg(long, env = "FAILOVER_AFTER", default_value_t = FAILOVER_AFTER_MS, value_name = "MILLISECONDS")]
    pub failover_after: u64,

    /// Milliseconds between two heartbeats of a leader: 10 to 10,000.
    #[arg(long, env = "HEARTBEAT_INTERVAL", default_value_t = HEARTBEAT_MS, value_name = "MILLISECONDS")]
    pub heartbeat_interval: u64,

    /// Seconds after which the members of a node that is gone move to other nodes, when there are free ones: 0 for
    /// never, or LEASE_TTL to 2592000.
    #[arg(long, env = "REPLACE_AFTER", default_value_t = REPLACE_AFTER_S, value_name = "SECONDS")]
    pub replace_after: u64,

    /// Key of the counter in etcd. Default: /rdb/{DB}/counter.
    #[arg(long, env = "COUNTER_KEY", value_name = "KEY")]
    pub counter_key: Option<String>,

    /// Largest size of a log segment, in bytes: 32 MiB to 1 GiB.
    #[arg(long, env = "SEGMENT_BYTES", default_value_t = SEGMENT_BYTES, value_name = "BYTES")]
    pub segment_bytes: u64,

    /// Events a seat for which event ids are remembered, so that a retry never doubles: 1,000 to 100,000,000.
    #[arg(
        long,
        env = "EVENT_ID_WINDOW",
        default_value_t = EVENT_ID_WINDOW,
        value_name = "EVENTS"
    )]
    pub event_id_window: u64,

    /// What to log: error, warn, info, debug, trace, or a tracing filter such as `info,rdb_server::node=debug`.
    #[arg(long, env = "TRACE_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub trace_level: String,

    /// What to do; nothing means to serve.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else the program can do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Prints the effective settings, one `NAME=value` a line, and ends.
    Config,
}

/// Settings that cannot be used: names the variable, what it is and what it may be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{variable} is {actual}, {expected}")]
pub struct SettingsError {
    variable: &'static str,
    actual: String,
    expected: &'static str,
}

/// Why there are no settings to run with.
#[derive(Debug, Error)]
pub enum Unusable {
    /// Flags or variables that cannot be read, or a call for help.
    #[error("{}", variable_first(.0))]
    Arguments(#[source] clap::Error),
    /// A value out of its range.
    #[error("{0}")]
    Value(#[source] SettingsError),
}

/// The same error by the name of the variable, for those who set it that way and know no flags.
fn variable_first(error: &clap::Error) -> String {
    let text = |kind| error.get(kind).map(ToString::to_string);
    let (flag, value) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue));
    let mut command = Settings::command();
    command.build();
    let argument = command
        .get_arguments()
        .find(|argument| Some(argument.to_string()) == flag);
    let variable = argument.and_then(|argument| argument.get_env()?.to_str());
    match (variable, value) {
        (Some(variable), Some(value)) => {
            let why = error.source().map_or_else(String::new, |why| format!(": {why}"));
            format!("{variable} is {value:?}, which cannot be read{why}")
        }
        _ => error
            .to_string()
            .trim_start_matches("error: ")
            .trim_end()
            .to_owned(),
    }
}

impl Settings {
    /// Reads flags and environment, and checks them.
    ///
    /// # Errors
    /// [`Unusable`]: what to print, where, and the exit code; also for `--help` and `--version`.
    pub fn read() -> Result<Self, Unusable> {
        let settings = Self::try_parse().map_err(Unusable::Arguments)?;
        settings.check().map_err(Unusable::Value)?;
        Ok(settings)
    }

    /// Checks what clap cannot.
    ///
    /// # Errors
    /// [`SettingsError`] for the first setting that is out of its range.
    pub fn check(&self) -> Result<(), SettingsError> {
        let is_name = |name: &str| {
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            (1..=64).contains(&name.len()) && name.bytes().all(is_plain)
        };
        let name_rule = "must be 1 to 64 letters, digits, `.`, `_` or `-`";
        range(is_name(&self.node), "NODE", &self.node, name_rule)?;
        range(is_name(&self.db), "DB", &self.db, name_rule)?;
        range(
            !self.address.is_empty(),
            "ADDRESS",
            &"empty",
            "must be a host name or an IP address",
        )?;
        range(
            (1..=64).contains(&self.shard_groups),
            "SHARD_GROUPS",
            &self.shard_groups,
            "must be 1 to 64",
        )?;
        self.check_cluster()?;
        range(
            (32 << 20..=1 << 30).contains(&self.segment_bytes),
            "SEGMENT_BYTES",
            &self.segment_bytes,
            "must be 33554432 to 1073741824",
        )?;
        range(
            (1_000..=100_000_000).contains(&self.event_id_window),
            "EVENT_ID_WINDOW",
            &self.event_id_window,
            "must be 1000 to 100000000",
        )
    }

    fn check_cluster(&self) -> Result<(), SettingsError> {
        if self.is_standalone() {
            let rule = "must be 1 in standalone mode; a cluster needs ETCD";
            range(self.group_size() == 1, "GROUP_SIZE", &self.group_size(), rule)?;
            range(self.writes() == 1, "WRITES", &self.writes(), rule)?;
        }
        self.check_etcd()?;
        range(
            (1..=7).contains(&self.group_size()),
            "GROUP_SIZE",
            &self.group_size(),
            "must be 1 to 7",
        )?;
        range(
            (1..=self.group_size()).contains(&self.writes()),
            "WRITES",
            &self.writes(),
            "must be 1 to GROUP_SIZE",
        )?;
        range(
            (2..=300).contains(&self.lease_ttl),
            "LEASE_TTL",
            &self.lease_ttl,
            "must be 2 to 300",
        )?;
        range(
            (1..self.lease_ttl).contains(&self.refresh_interval),
            "REFRESH_INTERVAL",
            &self.refresh_interval,
            "must be at least 1, and less than LEASE_TTL",
        )?;
        range(
            (10..=10_000).contains(&self.heartbeat_interval),
            "HEARTBEAT_INTERVAL",
            &self.heartbeat_interval,
            "must be 10 to 10000",
        )?;
        range(
            (self.heartbeat_interval.saturating_mul(3)..=600_000).contains(&self.failover_after),
            "FAILOVER_AFTER",
            &self.failover_after,
            "must be at least three times HEARTBEAT_INTERVAL, and at most 600000",
        )?;
        range(
            self.replace_after == 0 || (self.lease_ttl..=2_592_000).contains(&self.replace_after),
            "REPLACE_AFTER",
            &self.replace_after,
            "must be 0 for never, or LEASE_TTL to 2592000",
        )?;
        range(
            self.counter_key().starts_with('/') && self.counter_key().len() <= 256,
            "COUNTER_KEY",
            &self.counter_key(),
            "must begin with `/` and have at most 256 bytes",
        )
    }

    fn check_etcd(&self) -> Result<(), SettingsError> {
        let endpoints = self.endpoints();
        range(
            endpoints.iter().all(|endpoint| is_endpoint(endpoint)),
            "ETCD",
            &self.etcd,
            "must be HOST:PORT, or several with commas between them",
        )?;
        let has = |scheme: &str| endpoints.iter().any(|endpoint| endpoint.starts_with(scheme));
        range(
            self.etcd_ca.is_empty() || !has("http://"),
            "ETCD",
            &self.etcd,
            "must not have http:// when ETCD_CA is set: connections then use TLS",
        )?;
        range(
            !self.etcd_ca.is_empty() || !has("https://"),
            "ETCD_CA",
            &"empty",
            "must name who signed etcd's certificate when ETCD has https://",
        )?;
        range(
            self.etcd_cert.is_empty() || !self.etcd_ca.is_empty(),
            "ETCD_CERT",
            &self.etcd_cert,
            "must be empty without ETCD_CA",
        )?;
        range(
            self.etcd_cert.is_empty() == self.etcd_key.is_empty(),
            "ETCD_KEY",
            if self.etcd_key.is_empty() {
                &"empty"
            } else {
                &self.etcd_key
            },
            "must be set if ETCD_CERT is, and only then",
        )
    }

    /// Whether the node is alone, without etcd.
    pub fn is_standalone(&self) -> bool {
        self.endpoints().is_empty()
    }

    /// The endpoints of etcd; none in standalone mode.
    pub fn endpoints(&self) -> Vec<String> {
        let endpoints = self.etcd.split(',').map(str::trim);
        endpoints
            .filter(|endpoint| !endpoint.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// N: members of a group.
    pub fn group_size(&self) -> u32 {
        let default = if self.is_standalone() { 1 } else { 3 };
        self.group_size.unwrap_or(default)
    }

    /// W: members that a write waits for.
    pub fn writes(&self) -> u32 {
        self.writes
            .unwrap_or_else(|| (self.group_size() / 2).saturating_add(1))
    }

    /// For how long a node may be gone before its members move to others; `None`: for ever.
    pub fn replace_after(&self) -> Option<Duration> {
        (self.replace_after > 0).then(|| Duration::from_secs(self.replace_after))
    }

    /// The key of the counter in etcd.
    pub fn counter_key(&self) -> String {
        self.counter_key
            .clone()
            .unwrap_or_else(|| format!("/rdb/{}/counter", self.db))
    }

    /// The address to listen on.
    pub fn listen_ip(&self) -> IpAddr {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let reached_at: Option<IpAddr> = self.address.parse().ok();
        match (self.listen, reached_at) {
            (Some(listen), _) => listen,
            (None, Some(ip)) if ip.is_loopback() => ip,
            (None, None) if self.address == "localhost" => loopback,
            (None, _) => IpAddr::from([0, 0, 0, 0]),
        }
    }

    /// The groups of the database.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..self.shard_groups).map(GroupId)
    }

    /// Names and effective values, in the order of `--help`.
    pub fn effective(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ETCD", self.etcd.clone()),
            ("ETCD_USER", self.etcd_user.clone()),
            ("ETCD_PASSWORD", hidden(&self.etcd_password).to_owned()),
            ("ETCD_CA", self.etcd_ca.clone()),
            ("ETCD_CERT", self.etcd_cert.clone()),
            ("ETCD_KEY", self.etcd_key.clone()),
            ("NODE", self.node.clone()),
            ("ADDRESS", self.address.clone()),
            ("LISTEN", self.listen_ip().to_string()),
            ("PORT", self.port.to_string()),
            ("HTTP_PORT", self.http_port.to_string()),
            ("DATA_DIR", self.data_dir.display().to_string()),
            ("DB", self.db.clone()),
            ("SHARD_GROUPS", self.shard_groups.to_string()),
            ("GROUP_SIZE", self.group_size().to_string()),
            ("WRITES", self.writes().to_string()),
            ("LEASE_TTL", self.lease_ttl.to_string()),
            ("REFRESH_INTERVAL", self.refresh_interval.to_string()),
            ("FAILOVER_AFTER", self.failover_after.to_string()),
            ("HEARTBEAT_INTERVAL", self.heartbeat_interval.to_string()),
            ("REPLACE_AFTER", self.replace_after.to_string()),
            ("COUNTER_KEY", self.counter_key()),
            ("SEGMENT_BYTES", self.segment_bytes.to_string()),
            ("EVENT_ID_WINDOW", self.event_id_window.to_string()),
            ("TRACE_LEVEL", self.trace_level.clone()),
        ]
    }
}

fn range(
    is_in: bool,
    variable: &'static str,
    actual: &dyn ToString,
    expected: &'static str,
) -> Result<(), SettingsError> {
    if is_in {
        return Ok(());
    }
    Err(SettingsError {
        variable,
        actual: actual.to_string(),
        expected,
    })
}

/// A password is not for logs.
const fn hidden(password: &str) -> &'static str {
    if password.is_empty() { "" } else { "(set)" }
}

/// A host and a port, perhaps with a scheme before them.
fn is_endpoint(text: &str) -> bool {
    let plain = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .unwrap_or(text);
    let parts = plain.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "node".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &[&str]) -> Settings {
        Settings::parse_from(["rdb-server"].iter().chain(arguments))
    }

    #[test]
    fn errors_name_variable_value_and_range() {
        let refused = |arguments: &[&str]| settings(arguments).check().unwrap_err().to_string();
        assert_eq!(
            refused(&["--shard-groups", "65"]),
            "SHARD_GROUPS is 65, must be 1 to 64"
        );
        assert_eq!(
            refused(&["--segment-bytes", "7"]),
            "SEGMENT_BYTES is 7, must be 33554432 to 1073741824"
        );
        assert!(refused(&["--etcd", "localhost"]).starts_with("ETCD is localhost, must be HOST:PORT"));
        assert!(refused(&["--group-size", "3"]).contains("a cluster needs ETCD"));
        assert_eq!(
            refused(&["--etcd", "a:1,https://b:1"]),
            "ETCD_CA is empty, must name who signed etcd's certificate when ETCD has https://"
        );
        assert!(refused(&["--etcd", "a:1,http://b:1", "--etcd-ca", "ca"]).contains("must not have http://"));
        let cert = ["--etcd", "a:1", "--etcd-cert", "cert"];
        assert!(refused(&cert).starts_with("ETCD_CERT is cert, must be empty without ETCD_CA"));
        let with_ca = [&cert[..], &["--etcd-ca", "ca"]].concat();
        assert!(refused(&with_ca).starts_with("ETCD_KEY is empty, must be set"));
        let refused = |arguments: &[&str]| refused(&[&["--etcd", "a:1,b:2"], arguments].concat());
        assert_eq!(
            refused(&["--writes", "4"]),
            "WRITES is 4, must be 1 to GROUP_SIZE"
        );
        assert!(refused(&["--refresh-interval", "10"]).contains("less than LEASE_TTL"));
        assert!(refused(&["--failover-after", "299"]).contains("three times HEARTBEAT_INTERVAL"));
        assert!(refused(&["--node", "a b"]).starts_with("NODE is a b, must be"));
    }

    #[test]
    fn a_write_waits_for_the_majority() {
        let writes = |size: &str| settings(&["--etcd", "a:1", "--group-size", size]).writes();
        assert_eq!(["1", "2", "3", "4", "5"].map(writes), [1, 2, 2, 3, 3]);
        assert_eq!(settings(&["--etcd", "a:1"]).group_size(), 3);
        assert_eq!(settings(&[]).writes(), 1);
    }

    #[test]
    fn a_value_that_cannot_be_read_is_named_by_its_variable() {
        let error = Settings::try_parse_from(["rdb-server", "--segment-bytes", "many"]).unwrap_err();
        assert_eq!(
            Unusable::Arguments(error).to_string(),
            "SEGMENT_BYTES is \"many\", which cannot be read: invalid digit found in string"
        );
    }

    #[test]
    fn it_listens_beyond_loopback_only_when_others_must_reach_it() {
        assert!(settings(&[]).listen_ip().is_loopback());
        assert!(settings(&["--address", "10.0.0.7"]).listen_ip().is_unspecified());
        assert!(
            settings(&["--address", "10.0.0.7", "--listen", "127.0.0.1"])
                .listen_ip()
                .is_loopback()
        );
    }

    #[test]
    fn every_setting_is_in_the_effective_list() {
        let command = Settings::command();
        let variables: Vec<_> = command.get_arguments().filter_map(|a| a.get_env()).collect();
        let effective = settings(&[]).effective();
        assert_eq!(
            variables,
            effective.iter().map(|(name, _)| *name).collect::<Vec<_>>()
        );
    }
}
