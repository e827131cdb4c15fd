//! The directions of dependencies, as code: what a compiler cannot hold between the modules of one crate.
//!
//! Sources are scanned without comments, text in quotes and their `#[cfg(test)] mod tests`.
#![cfg(test)]
#![expect(
    clippy::string_slice,
    reason = "sources are cut at positions that a search in them gave"
)]

use rdb_proto::limits;
use rdb_proto::reason::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms of `rdb-server` and the rooms that each may use. A file or folder of `src/` that is not listed is refused.
const ROOMS: &[(&str, &[&str])] = &[
    ("protocol", &["limits", "sabotage"]),
    ("storage", &["limits", "clock", "workers", "fatal", "sabotage"]),
    ("coordination", &["limits", "clock", "sabotage"]),
    ("transport", &["protocol", "limits", "clock"]),
    ("cdc", &["storage", "limits", "clock", "blocking", "sabotage"]),
    (
        "node",
        &[
            "protocol",
            "storage",
            "coordination",
            "transport",
            "cdc",
            "settings",
            "limits",
            "clock",
            "blocking",
            "workers",
            "fatal",
            "sabotage",
        ],
    ),
    ("api", &["node", "settings", "limits", "clock"]),
    ("settings", &["limits"]),
    ("limits", &[]),
    ("clock", &[]),
    ("blocking", &[]),
    ("workers", &["clock", "fatal"]),
    ("fatal", &[]),
    ("sabotage", &[]),
    (
        "serve",
        &[
            "node",
            "api",
            "coordination",
            "storage",
            "settings",
            "limits",
            "clock",
            "fatal",
        ],
    ),
    ("main", &["serve", "settings", "fatal", "sabotage"]),
];

/// Words, and the only places under the workspace that may name them.
const NAMED_ONLY_IN: &[(&str, &[&str])] = &[
    ("sled::", &["rdb-server/src/storage/key_index"]),
    (
        "etcd_client::",
        &["rdb-server/src/coordination/etcd", "rdb-client/src/etcd.rs"],
    ),
    (
        "tonic::",
        &[
            "rdb-server/src/api",
            "rdb-server/src/transport",
            "rdb-server/src/coordination/etcd/connection.rs",
            // etcd's own client shows it there.
            "rdb-server/src/coordination/etcd/endpoints.rs",
            "rdb-client/src",
            "rdb-proto/src",
        ],
    ),
    ("Status::new(", &["rdb-server/src/api/status.rs"]),
    ("Status::with_", &["rdb-server/src/api/status.rs"]),
    (
        "SystemTime",
        &["rdb-server/src/clock.rs", "rdb-client/src/clock.rs"],
    ),
    (
        "Instant::now",
        &["rdb-server/src/clock.rs", "rdb-client/src/clock.rs"],
    ),
    (
        "simulation::",
        &[
            "rdb-proto/src/network.rs",
            "rdb-server/src/clock.rs",
            "rdb-client/src/clock.rs",
            "rdb-server/src/workers.rs",
            "rdb-server/src/blocking.rs",
            "rdb-server/src/storage/log/room.rs",
            "rdb-server/src/storage/key_index/indexes.rs",
        ],
    ),
    ("process::exit", &["rdb-server/src/fatal.rs"]),
    ("process::abort", &["rdb-server/src/fatal.rs"]),
    ("println!", &["rdb-proto/build.rs"]),
    (
        "io::stdout",
        &[
            "rdb-client/src/bin/rdb-client/output.rs",
            "rdb-server/src/main.rs",
        ],
    ),
    ("anyhow", &["rdb-server/src/main.rs", "rdb-client/src/bin"]),
];

/// What a pure state machine cannot contain.
const NEVER_IN_PROTOCOL: &[&str] = &[
    "async ",
    ".await",
    "std::time",
    "std::fs",
    "std::io",
    "std::net",
    "std::thread",
    "std::sync::Mutex",
    "std::env",
    "rand::",
    "Uuid::new",
    "HashMap",
    "HashSet",
    "tokio",
    "tracing",
    "tonic",
    "sled",
    "etcd_client",
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust source of the product, by its path from the workspace, without what does not count.
fn sources() -> BTreeMap<String, String> {
    let root = workspace();
    let mut found = BTreeMap::new();
    let mut open: Vec<PathBuf> = ["rdb-server", "rdb-client", "rdb-proto"]
        .map(|name| root.join(name))
        .into();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            if !is_test_file(&name) {
                found.insert(name, without_noise(&fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.len() > 5, "the sources are where this test looks for them");
    found
}

/// By its name, or because its parent declares it for tests only: `#[cfg(test)]` before `mod NAME;`.
fn is_test_file(name: &str) -> bool {
    let path = Path::new(name);
    let stem = path.file_stem().unwrap().to_str().unwrap();
    let parent = workspace().join(path.with_file_name("mod.rs"));
    let declared = fs::read_to_string(parent).unwrap_or_default();
    let is_declared_for_tests = declared.contains(&format!("#[cfg(test)]\nmod {stem};"));
    name.ends_with("/tests.rs")
        || name.contains("/tests/")
        || name.ends_with("_tests.rs")
        || is_declared_for_tests
}

/// Blanks comments and text in quotes, and cuts `#[cfg(test)] mod …` off. Lines keep their numbers.
fn without_noise(source: &str) -> String {
    let mut clean = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r#\"") {
            rest.find("\"#").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            end_of_text(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("'\\\"'") {
            4
        } else {
            0
        };
        if skipped == 0 {
            clean.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            clean.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
            rest = &rest[skipped..];
        }
    }
    let tests = clean.find("#[cfg(test)]\nmod ").unwrap_or(clean.len());
    clean.truncate(tests);
    clean
}

fn end_of_text(quoted: &str) -> usize {
    let mut escaped = false;
    for (position, c) in quoted.char_indices().skip(1) {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return position + 1,
            _ => escaped = false,
        }
    }
    quoted.len()
}

/// Room of a file of `rdb-server/src`; `None` for `lib.rs`.
fn room_of(name: &str) -> Option<&str> {
    let path = name.strip_prefix("rdb-server/src/")?;
    let room = path.split('/').next()?;
    let room = room.strip_suffix(".rs").unwrap_or(room);
    (room != "lib").then_some(room)
}

/// Rooms that a source names with `crate::`, `rdb_server::` or a `super::` that leaves its own room; with line numbers.
fn rooms_named(name: &str, source: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for prefix in ["crate::", "rdb_server::"] {
        for (position, _) in source.match_indices(prefix) {
            let before = source[..position].chars().next_back();
            if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                let line = 1 + source[..position].matches('\n').count();
                let path = &source[position + prefix.len()..];
                found.extend(first_segments(path).into_iter().map(|room| (line, room)));
            }
        }
    }
    let depth = name.matches('/').count() - 2;
    let is_folder_root = name.ends_with("/mod.rs");
    let ups = if is_folder_root { depth } else { depth + 1 };
    let leaving = "super::".repeat(ups);
    for (position, _) in source.match_indices(&leaving) {
        let line = 1 + source[..position].matches('\n').count();
        let segments = first_segments(&source[position + leaving.len()..]);
        let is_room = |room: &String| ROOMS.iter().any(|(known, _)| known == room);
        // Within `mod a { … }` of one file, `super` stays in the room; only the name of a room gives it away.
        found.extend(segments.into_iter().filter(is_room).map(|room| (line, room)));
    }
    found
}

/// First segment of a path, or of each path of a list: `a::b` gives a; `{a, b::{c}}` gives a and b.
fn first_segments(path: &str) -> Vec<String> {
    let word = |text: &str| {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let Some(list) = path.strip_prefix('{') else {
        return vec![word(path)];
    };
    let mut depth = 0_usize;
    let mut names = vec![word(list.trim_start())];
    for (position, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(word(list[position + 1..].trim_start())),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// Dependencies point inward only (DESIGN 4). Method: every path that names a room, against the table of allowed
/// edges. Red when, say, `protocol` names `storage`.
#[test]
fn rooms_use_only_the_rooms_that_they_may() {
    let rooms: BTreeMap<_, _> = ROOMS.iter().copied().collect();
    let mut faults = Vec::new();
    for (name, source) in sources() {
        let Some(room) = room_of(&name) else { continue };
        let Some(allowed) = rooms.get(room) else {
            faults.push(format!(
                "{name}: room {room} is not in the table of tests/tests/tidy.rs"
            ));
            continue;
        };
        for (line, used) in rooms_named(&name, &source) {
            if used != room && rooms.contains_key(used.as_str()) && !allowed.contains(&used.as_str()) {
                faults.push(format!("{name}:{line}: {room} may not use {used}"));
            }
        }
    }
    assert_none(&faults);
}

/// What is hard to replace, or must stay in one hand, is named in one place.
#[test]
fn some_words_stand_in_one_place_only() {
    let mut faults = Vec::new();
    for (name, source) in sources() {
        for (word, places) in NAMED_ONLY_IN {
            if !places.iter().any(|place| name.starts_with(place)) {
                for (line, text) in source.lines().enumerate() {
                    if text.contains(word) {
                        faults.push(format!(
                            "{name}:{}: {word} may only stand in {places:?}",
                            line + 1
                        ));
                    }
                }
            }
        }
    }
    assert_none(&faults);
}

/// The core is pure (DESIGN 4), so that the same code runs in the simulator and in the model checker.
#[test]
fn the_protocol_is_pure() {
    let mut faults = Vec::new();
    for (name, source) in sources() {
        if room_of(&name) == Some("protocol") {
            for (line, text) in source.lines().enumerate() {
                let impure = NEVER_IN_PROTOCOL.iter().filter(|word| text.contains(**word));
                faults.extend(impure.map(|word| format!("{name}:{}: {word} is not pure", line + 1)));
            }
        }
    }
    assert_none(&faults);
}

fn readme() -> String {
    fs::read_to_string(workspace().join("README.md")).unwrap()
}

/// A newcomer who follows a path in ARCHITECTURE or README finds something there. Method: every word in backticks
/// that begins with the name of a folder at the top.
#[test]
fn every_path_that_the_documents_name_is_there() {
    const TOP: [&str; 6] = [
        "rdb-server/",
        "rdb-client/",
        "rdb-proto/",
        "tests/",
        "scripts/",
        "deploy/",
    ];
    let mut faults = Vec::new();
    for document in ["ARCHITECTURE.md", "README.md"] {
        let text = fs::read_to_string(workspace().join(document)).unwrap();
        let quoted = text.split('`').skip(1).step_by(2);
        let words = quoted.flat_map(str::split_whitespace);
        for path in words.filter(|word| TOP.iter().any(|top| word.starts_with(top))) {
            let folder = path.split(['*', '{']).next().unwrap_or(path);
            if !workspace().join(folder).exists() {
                faults.push(format!("{document}: there is no {path}"));
            }
        }
    }
    assert_none(&faults);
}

/// Names of the settings: each `env = "NAME"` of the server's table.
fn settings() -> BTreeSet<String> {
    let source = fs::read_to_string(workspace().join("rdb-server/src/settings.rs")).unwrap();
    let names: BTreeSet<String> = source
        .split("env = \"")
        .skip(1)
        .filter_map(|rest| Some(rest.split('"').next()?.to_owned()))
        .collect();
    assert!(names.len() > 5, "the settings are where this test looks for them");
    names
}

/// A person finds every setting in README.
#[test]
fn every_setting_is_documented() {
    let readme = readme();
    let missing: Vec<_> = settings()
        .into_iter()
        .filter(|name| !readme.contains(&format!("`{name}`")))
        .collect();
    assert_none(&missing);
}

/// The files of `deploy/` by their names.
fn deploy() -> BTreeMap<String, String> {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    };
    fs::read_dir(workspace().join("deploy"))
        .unwrap()
        .map(read)
        .collect()
}

/// The variable that a line sets: `NAME: …` or `- name: NAME` of YAML, `ENV NAME=…` of an image, `Environment=NAME=…`
/// of a unit.
fn variable_set_by(line: &str) -> Option<&str> {
    let line = line.trim();
    let ways = ["- name: ", "ENV ", "Environment="];
    let rest = ways
        .iter()
        .find_map(|way| line.strip_prefix(*way))
        .unwrap_or(line);
    let name = rest.split([':', '=']).next()?;
    let is_capital = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    (!name.is_empty() && name.chars().all(is_capital)).then_some(name)
}

/// A variable that the server does not know would be ignored without a word. Method: every line of `deploy/` that sets
/// one; other names may only be parts of a value, as `$(NAME)`.
#[test]
fn every_variable_that_deploy_sets_is_a_setting() {
    let settings = settings();
    let mut faults = Vec::new();
    for (file, text) in deploy() {
        let set: BTreeSet<&str> = text.lines().filter_map(variable_set_by).collect();
        for name in &set {
            if !settings.contains(*name) && !text.contains(&format!("$({name})")) {
                faults.push(format!("deploy/{file}: the server has no setting {name}"));
            }
        }
        let is_cluster = ["compose.yaml", "kubernetes.yaml"].contains(&file.as_str());
        if is_cluster && !["ETCD", "NODE", "ADDRESS"].iter().all(|name| set.contains(name)) {
            faults.push(format!(
                "deploy/{file}: a node of a cluster needs ETCD, NODE and ADDRESS"
            ));
        }
    }
    assert_none(&faults);
}

/// What `deploy/` says of RDB is so: the paths that are probed, the release, the Rust that it is built with.
#[test]
fn deploy_names_what_there_is() {
    let release = env!("CARGO_PKG_VERSION");
    let named = [
        ("rdb-server:", release),
        ("rdb-etcd:", release),
        ("FROM rust:", concat!(env!("CARGO_PKG_RUST_VERSION"), "-")),
    ];
    let http = fs::read_to_string(workspace().join("rdb-server/src/api/http.rs")).unwrap();
    let mut faults = Vec::new();
    for (file, text) in deploy() {
        for (what, expected) in named {
            if text.split(what).skip(1).any(|rest| !rest.starts_with(expected)) {
                faults.push(format!("deploy/{file}: not {what}{expected}"));
            }
        }
        for path in text.lines().filter_map(|line| line.trim().strip_prefix("path: ")) {
            if !http.contains(&format!(".route(\"{path}\"")) {
                faults.push(format!("deploy/{file}: the server does not answer {path}"));
            }
        }
    }
    assert_none(&faults);
}

/// A person finds every metric in README. Method: each `register("NAME"` and `register_with_unit("NAME"` of the
/// server's table of metrics.
#[test]
fn every_metric_is_documented() {
    let readme = readme();
    let source = fs::read_to_string(workspace().join("rdb-server/src/node/telemetry.rs")).unwrap();
    let names: BTreeSet<String> = source
        .split("r.register")
        .skip(1)
        .filter_map(|rest| rest.split('"').nth(1))
        .map(|name| format!("rdb_{name}"))
        .collect();
    assert!(names.len() > 5, "the metrics are where this test looks for them");
    let missing: Vec<_> = names
        .into_iter()
        .filter(|name| !readme.contains(name.as_str()))
        .collect();
    assert_none(&missing);
}

/// A person finds every reason of an error in README, with its gRPC code.
#[test]
fn every_reason_is_documented() {
    let readme = readme();
    let line = |reason: &&Reason| {
        let name = format!("`{}`", reason.as_str());
        let code = format!("{:?}", reason.code()).to_uppercase();
        let row = readme
            .lines()
            .find(|line| line.starts_with('|') && line.contains(&name));
        !row.is_some_and(|row| row.replace('_', "").contains(&code))
    };
    let missing: Vec<_> = Reason::ALL
        .iter()
        .filter(line)
        .map(|reason| reason.as_str().to_owned())
        .collect();
    assert_none(&missing);
}

/// The limits that README tells are the limits that hold.
#[test]
fn every_limit_is_documented_with_its_value() {
    let readme = readme();
    let limits = [
        ("key", limits::KEY_BYTES_MAX),
        ("collection", limits::COLLECTION_BYTES_MAX),
        ("type", limits::TYPE_BYTES_MAX),
        ("tags", limits::TAGS_MAX),
        ("tag", limits::TAG_BYTES_MAX),
        ("metadata pairs", limits::META_PAIRS_MAX),
        ("metadata name", limits::META_NAME_BYTES_MAX),
        ("metadata value", limits::META_VALUE_BYTES_MAX),
        ("payload", limits::PAYLOAD_BYTES_MAX),
        ("events of an append", limits::APPEND_EVENTS_MAX),
        ("bytes of an append", limits::APPEND_BYTES_MAX),
        ("gRPC message", limits::MESSAGE_BYTES_MAX),
        ("values in one part of a filter", limits::FILTER_VALUES_MAX),
        ("keys a page", limits::LIST_KEYS_PAGE_MAX),
        ("subscriptions a page", limits::LIST_SUBSCRIPTIONS_PAGE_MAX),
    ];
    let mut missing = Vec::new();
    for (what, value) in limits {
        let value = if value >= 1 << 20 {
            format!("{} MiB", value >> 20)
        } else if value >= 1_000 {
            format!("{},{:03}", value / 1_000, value % 1_000)
        } else {
            value.to_string()
        };
        let is_row = |line: &str| {
            let mut cells = line.split('|').map(str::trim);
            cells.nth(1) == Some(what) && cells.next().is_some_and(|cell| cell.starts_with(&value))
        };
        if !readme.lines().any(is_row) {
            missing.push(format!("README.md: a row `| {what} | {value} … |` is missing"));
        }
    }
    assert_none(&missing);
}

mod the_scan_itself {
    use super::*;

    #[test]
    fn comments_texts_and_tests_do_not_count() {
        let source = "use a; // crate::api\n/* crate::node\n */ \"crate::cdc \\\" crate::x\" b\n#[cfg(test)]\nmod tests { crate::api }";
        assert_eq!(without_noise(source), "use a; \n\n  b\n");
    }

    #[test]
    fn every_path_that_names_a_room_is_found() {
        let named = |source| {
            let found = rooms_named("rdb-server/src/protocol/seat.rs", source);
            found.into_iter().map(|(_, room)| room).collect::<Vec<_>>()
        };
        assert_eq!(named("use crate::api::Write;"), ["api"]);
        assert_eq!(
            named("use crate::{clock, node::{a, b}, api};"),
            ["clock", "node", "api"]
        );
        assert_eq!(named("fn f() -> crate::storage::Log {}"), ["storage"]);
        assert_eq!(named("use super::super::storage::Log;"), ["storage"]);
        assert_eq!(
            named("use super::commit; pub(crate) fn f() {}"),
            Vec::<String>::new()
        );
        assert_eq!(named("use my_crate::api;"), Vec::<String>::new());
    }

    #[test]
    fn every_way_to_set_a_variable_is_found() {
        assert_eq!(variable_set_by("  ETCD: etcd:2379"), Some("ETCD"));
        assert_eq!(variable_set_by("            - name: NODE"), Some("NODE"));
        assert_eq!(variable_set_by("ENV DATA_DIR=/var/lib/rdb"), Some("DATA_DIR"));
        assert_eq!(
            variable_set_by("Environment=DATA_DIR=/var/lib/rdb"),
            Some("DATA_DIR")
        );
        for other in [
            "",
            "# ETCD: no",
            "USER 10001:10001",
            "- name: rdb-server",
            "image: rdb-server:0.1.0",
        ] {
            assert_eq!(variable_set_by(other), None, "{other}");
        }
    }

    #[test]
    fn a_file_is_in_the_room_of_its_first_folder() {
        assert_eq!(room_of("rdb-server/src/storage/log/frame.rs"), Some("storage"));
        assert_eq!(room_of("rdb-server/src/clock.rs"), Some("clock"));
        assert_eq!(room_of("rdb-server/src/lib.rs"), None);
        assert_eq!(room_of("rdb-client/src/lib.rs"), None);
    }
}
