//! Keys and values of etcd, as a listing brings them.
//!
//! Input: lines, each a key, a `=` and a value. Keys are below `/rdb/rdb/`, except those that begin with `/`.

use super::{Target, named};
use rdb_server::coordination::etcd::reread;

pub(super) const TARGET: Target = Target {
    name: "etcd",
    what: "keys and values of etcd",
    run,
    seeds,
};

const COUNTER: &str = "/rdb/rdb/counter";

fn run(data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n');
    let pairs = lines.filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b'=')?;
        let key = std::str::from_utf8(&line[..at]).ok()?;
        let key = if key.starts_with('/') {
            key.to_owned()
        } else {
            format!("/rdb/rdb/{key}")
        };
        Some((key, &line[at + 1..]))
    });
    let pairs: Vec<(String, &[u8])> = pairs.collect();
    let listed: Vec<(&str, &[u8])> = pairs.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let written = reread("rdb", COUNTER, &listed);
    assert_eq!(written.len(), listed.len());
    for ((key, _), written) in listed.iter().zip(written) {
        let Some(written) = written else { continue };
        let again = reread("rdb", COUNTER, &[(key, &written)]);
        assert_eq!(again, [Some(written)], "what was written under {key} reads back");
    }
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    const NODE: &str = "018f0000-0000-7000-8000-000000000001";
    let config = format!(
        r#"config={{"format":1,"database":"{NODE}","groups":2,"group_size":3,"writes":2,"slots":1024,"counter":"{COUNTER}","generation":0}}"#
    );
    let counter = format!(r#"{COUNTER}={{"format":1,"seq":17,"time_us":1700000000000000,"generation":0}}"#);
    let id = format!(r#"ids/n1={{"format":1,"node":7,"directory":"{NODE}"}}"#);
    let live = format!(
        r#"live/7={{"format":1,"name":"n1","address":"127.0.0.1:2048","release":"0.1.0","incarnation":"{NODE}"}}"#
    );
    let controller = format!(r#"controller={{"format":1,"node":7,"incarnation":"{NODE}"}}"#);
    let members = r#"groups/0/members={"format":1,"number":2,"members":[7,8,9],"previous":[],"learners":[10],"leaving":9}"#;
    let epoch = r#"groups/0/seats/1/epoch={"format":1,"number":3,"successor":8}"#;
    let leader =
        format!(r#"groups/0/seats/1/leader={{"format":1,"node":7,"number":3,"incarnation":"{NODE}"}}"#);
    let report = r#"groups/0/seats/1/report={"format":1,"node":7,"number":3,"as_of":40,"established":2,"caught_up":[10]}"#;
    let leaving = r#"leaving/9={"format":1,"to":10}"#;
    let lines = [
        &config,
        &counter,
        &id,
        &live,
        &controller,
        members,
        epoch,
        &leader,
        report,
        leaving,
    ];
    let mut seeds: Vec<_> = lines
        .iter()
        .map(|line| {
            let key = line.split('=').next().unwrap_or_default();
            named(key.trim_start_matches('/').replace('/', "-").as_str(), *line)
        })
        .collect();
    seeds.push(named("all", lines.join("\n")));
    seeds
}
