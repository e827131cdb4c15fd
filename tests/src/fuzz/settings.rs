//! Settings of a server.
//!
//! Input: lines, each a flag without its dashes, a `=` and a value.

use super::{Target, named};
use clap::Parser as _;
use rdb_server::settings::Settings;

pub(super) const TARGET: Target = Target {
    name: "settings",
    what: "flags and variables of the server",
    run,
    seeds,
};

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some(settings) = read(text.lines().map(|line| format!("--{line}"))) else {
        return;
    };
    let values = settings.effective();
    // What the server says that it goes by must mean the same when it is set. The password it does not say.
    let said = values.iter().filter(|(name, _)| *name != "ETCD_PASSWORD");
    let flags = said.map(|(name, value)| format!("--{}={value}", name.to_lowercase().replace('_', "-")));
    let again = read(flags).expect("settings that were said can be set");
    let without_password = |settings: &Settings| {
        let mut values = settings.effective();
        values.retain(|(name, _)| *name != "ETCD_PASSWORD");
        values
    };
    assert_eq!(without_password(&again), without_password(&settings));
    assert_eq!(again.endpoints(), settings.endpoints());
}

/// Settings that can be used.
fn read(flags: impl Iterator<Item = String>) -> Option<Settings> {
    let settings = Settings::try_parse_from(std::iter::once("rdb-server".to_owned()).chain(flags)).ok()?;
    settings.check().ok()?;
    Some(settings)
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    vec![
        named(
            "standalone",
            "node=n1\naddress=10.0.0.1\nport=0\nhttp-port=2049\ndata-dir=/var/lib/rdb\ndb=rdb",
        ),
        named(
            "cluster",
            "etcd=http://e1:2379, http://[::1]:2379,e3:2379\netcd-user=u\netcd-password=p\nshard-groups=64\n\
             group-size=5\nwrites=3\nlease-ttl=10\nrefresh-interval=3\nfailover-after=600\nheartbeat-interval=100\n\
             replace-after=0\ncounter-key=/rdb/rdb/counter",
        ),
        named(
            "tls",
            "etcd=https://e1:2379\netcd-ca=/ca.pem\netcd-cert=/c.pem\netcd-key=/k.pem\nlisten=::1\naddress=localhost",
        ),
        named(
            "limits",
            "segment-bytes=33554432\nevent-id-window=1000\ntrace-level=info,rdb_server::node=debug",
        ),
    ]
}
