//! Runs `scripts/*.txt`: annotated transcripts of a member alone in its group, or of several.
//!
//! `> command` is a line of [`super::testing`] or, after `> cluster`, of [`super::cluster`]; the lines below it are its effects, `#` says why. With
//! `RDB_REWRITE_SCRIPTS=1` the effects are written anew; review the difference.

use super::cluster::Cluster;
use super::testing::World;
use std::path::{Path, PathBuf};

fn transcript(script: &str) -> String {
    let mut world = World::new();
    let mut cluster: Option<Cluster> = None;
    let mut run = |command: &str| match &mut cluster {
        Some(cluster) => cluster.run(command),
        None if command.starts_with("cluster") => {
            cluster = Some(Cluster::parse(command));
            vec![]
        }
        None => world.run(command),
    };
    let mut text = String::new();
    for line in script.lines() {
        let is_kept = line.starts_with(['#', '>']) || line.is_empty();
        if is_kept {
            text.push_str(line);
            text.push('\n');
        }
        for effect in line.strip_prefix("> ").map(&mut run).into_iter().flatten() {
            text.push_str(&effect);
            text.push('\n');
        }
    }
    text
}

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/protocol/scripts");
    let mut paths: Vec<_> = folder
        .read_dir()
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    paths.sort();
    paths
}

#[test]
fn every_script_runs_as_written() {
    let is_rewriting = std::env::var_os("RDB_REWRITE_SCRIPTS").is_some();
    for path in scripts() {
        let script = std::fs::read_to_string(&path).unwrap();
        let actual = transcript(&script);
        if is_rewriting {
            std::fs::write(&path, actual).unwrap();
        } else {
            assert_eq!(actual, script, "{}", path.display());
        }
    }
}
