//! Disks that can lose their power: ext4 in a file behind a loop device, shut down without writing what it has not
//! written yet.
//!
//! It takes root, `mkfs.ext4`, loop devices, and `python3` for one ioctl, since no tool that every machine has sends it
//! and this workspace has no unsafe code. [`bites`] tells whether all of that is there and takes effect.

use crate::time::{PATIENCE, maybe, pause};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Room on a disk. The file behind it is sparse: it takes what is written.
const BYTES: u64 = 1 << 30;

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, for each file system named, in one breath.
const SHUT_DOWN: &str = "
import fcntl, os, struct, sys
opened = [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]
for disk in opened:
    fcntl.ioctl(disk, 0x8004587d, struct.pack('I', 2))
";

/// A disk, plugged in. Dropped, it is unplugged.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mounted_at: PathBuf,
}

impl Disk {
    /// Makes an empty one in a directory, under a name of its own.
    ///
    /// # Errors
    /// Why that cannot be done on this machine.
    pub fn make(directory: &Path, name: &str) -> Result<Self, String> {
        let image = directory.join(format!("{name}.ext4"));
        let mounted_at = directory.join(name);
        let told = |error: std::io::Error| error.to_string();
        fs::File::create(&image)
            .and_then(|file| file.set_len(BYTES))
            .map_err(told)?;
        fs::create_dir(&mounted_at).map_err(told)?;
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &image])?;
        let disk = Self { image, mounted_at };
        disk.mount()?;
        Ok(disk)
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        &self.mounted_at
    }

    /// Plugs it in anew, after its power was cut and whoever used it has ended.
    ///
    /// # Errors
    /// What the machine says.
    pub async fn plug_in(&self) -> Result<(), String> {
        // Whoever has ended may hold it for a moment longer.
        let letting_go = async {
            while run("umount", &[&self.mounted_at]).is_err() {
                pause().await;
            }
        };
        if maybe(PATIENCE, letting_go).await.is_none() {
            run("umount", &[&self.mounted_at])?;
        }
        self.mount()
    }

    fn mount(&self) -> Result<(), String> {
        // The loop device goes with the mount, however this process ends.
        let arguments = ["-o", "loop"].map(Path::new);
        run(
            "mount",
            &[arguments[0], arguments[1], &self.image, &self.mounted_at],
        )
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, since a process that was just killed may still use it. Nothing is mounted after a failed start.
        drop(run("umount", &["-l".as_ref(), &self.mounted_at]));
    }
}

/// Takes the power from disks, all at once.
///
/// # Errors
/// What the machine says.
pub fn cut_power(disks: &[Disk]) -> Result<(), String> {
    let paths = disks.iter().map(Disk::path);
    let arguments: Vec<&Path> = ["-c", SHUT_DOWN]
        .map(Path::new)
        .into_iter()
        .chain(paths)
        .collect();
    run("python3", &arguments)
}

/// Whether a loss of power can be had here, and takes what was not synced, and only that.
///
/// # Errors
/// Why not.
pub async fn bites(directory: &Path) -> Result<(), String> {
    let disks = [Disk::make(directory, "probe")?];
    let at = |name| disks[0].path().join(name);
    let told = |error: std::io::Error| error.to_string();
    fs::write(at("synced"), "kept").map_err(told)?;
    for path in [at("synced"), disks[0].path().to_owned()] {
        let file = fs::File::open(path).map_err(told)?;
        file.sync_all().map_err(told)?;
    }
    fs::write(at("unsynced"), "lost").map_err(told)?;
    cut_power(&disks)?;
    disks[0].plug_in().await?;
    let read = |name| fs::read_to_string(at(name)).unwrap_or_default();
    if read("synced") != "kept" {
        return Err("a loss of power takes what was synced".to_owned());
    }
    if read("unsynced") == "lost" {
        return Err("a loss of power takes nothing".to_owned());
    }
    Ok(())
}

fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let done = command.output().map_err(|error| format!("{program}: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(format!("{program} says: {why}"))
}
