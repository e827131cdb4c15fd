//! A full disk (DESIGN 3, "Overload"): writes are refused, reads and streams go on, and when there is space again
//! writes work without a restart.
#![cfg(test)]

use rdb_proto::reason::Reason;
use rdb_tests::process::Node;
use rdb_tests::say;
use rdb_tests::time::soon;
use rdb_tests::wire::{Api, Refusal, Said};
use std::path::Path;
use std::process::Command;

/// A small file system in memory, taken away when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `Err` says why there can be none.
    fn mount(megabytes: u32) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can mount a small disk".to_owned());
        }
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .output();
        match mount {
            Ok(done) if done.status.success() => Ok(Self(dir)),
            Ok(done) => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
            Err(error) => Err(format!("mount: {error}")),
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.path()).status();
        assert!(
            unmounted.is_ok_and(|status| status.success()),
            "{} is unmounted",
            self.path().display()
        );
    }
}

const PAYLOAD_BYTES: usize = 256 << 10;

/// Writes until no key can be written any more, since each seat has claimed space of its own; how many writes were
/// acknowledged, and the last refusal.
async fn fill(api: &mut Api, payload: &str) -> (u64, Refusal) {
    const KEYS: u64 = 10;
    let (mut written, mut refused_in_a_row) = (0, 0);
    for n in 0..10_000 {
        match api.write(&format!("k{}", n % KEYS), payload).await {
            Ok(_) => (written, refused_in_a_row) = (written + 1, 0),
            Err(refusal) if refused_in_a_row == KEYS => return (written, refusal),
            Err(_) => refused_in_a_row += 1,
        }
    }
    panic!("the disk never gets full");
}

/// Red when a full disk ends the node, loses something, stops reads or streams, or needs a restart.
#[tokio::test]
async fn a_full_disk_refuses_writes_and_nothing_else() {
    let disk = match SmallDisk::mount(192) {
        Ok(disk) => disk,
        Err(reason) => return say(&format!("skipped: {reason}")),
    };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 48 << 20]).unwrap();
    let node = Node::start(&disk.path().join("data")).await;
    let mut api = node.api().await;
    let mut following = api.subscribe(0).await.unwrap();
    let payload = "p".repeat(PAYLOAD_BYTES);

    let (written, refusal) = fill(&mut api, &payload).await;
    assert_eq!(
        (refusal.reason, refusal.code),
        (Some(Reason::DiskFull), Reason::DiskFull.code()),
        "{refusal:?}"
    );
    assert!(refusal.metadata.contains_key("path"), "{refusal:?}");
    assert!(refusal.number("free_bytes") < 192 << 20, "{refusal:?}");
    assert!(written > 20, "{written} writes of {PAYLOAD_BYTES} bytes fit");

    // Reads and streams go on, the one that was open too, and the node says why it refuses.
    for _ in 0..written {
        following.next_event().await.unwrap();
    }
    assert_eq!(api.read("k0").await.unwrap().payload.len(), PAYLOAD_BYTES);
    let all = api.events_after(0).await.unwrap();
    assert_eq!(
        u64::try_from(all.len()).unwrap(),
        written,
        "what was acknowledged is there, and nothing else"
    );
    let status = api.status().await.unwrap();
    assert_ne!(status.nodes[0].refuses_writes, "", "{status:?}");
    for _ in 0..20 {
        assert_eq!(
            api.write("k0", &payload).await.unwrap_err().reason,
            Some(Reason::DiskFull)
        );
    }

    // Space again: writes work without a restart, and the open stream shows them.
    std::fs::remove_file(&ballast).unwrap();
    let again = soon("writes after there is space again", async {
        loop {
            match api.write("k0", "space again").await {
                Ok(result) => return result,
                Err(refusal) => assert_eq!(refusal.reason, Some(Reason::DiskFull), "{refusal:?}"),
            }
        }
    });
    let again = again.await;
    loop {
        if let Some(Said::Change(event)) = following.next().await.unwrap() {
            assert_eq!(
                (event.seq.get(), &event.payload[..]),
                (again.seq, &b"space again"[..])
            );
            break;
        }
    }
    node.stop().await;

    // A restart finds the same events.
    let node = Node::start(&disk.path().join("data")).await;
    let now = node.api().await.events_after(0).await.unwrap();
    assert_eq!(now[..all.len()], all[..]);
    assert_eq!(now.len(), all.len() + 1);
    node.stop().await;
}
