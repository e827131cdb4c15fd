//! Where it ran.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fmt;
use std::fs;
use std::path::Path;

/// Magic numbers of file systems that live in memory; see statfs(2).
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

/// What a reader needs to know to compare numbers with those of another machine.
#[derive(Debug, Serialize)]
pub struct Machine {
    processor: String,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    /// Of the data.
    file_system: String,
}

impl Machine {
    /// This one, with the data in that folder.
    pub fn here(data: &Path) -> Result<Self> {
        let processors = fs::read_to_string("/proc/cpuinfo")?;
        let value = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory =
            value(&fs::read_to_string("/proc/meminfo")?, "MemTotal").context("/proc/meminfo is odd")?;
        let kibibytes: u64 = memory
            .split_whitespace()
            .next()
            .context("/proc/meminfo is odd")?
            .parse()?;
        Ok(Self {
            processor: value(&processors, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: kibibytes.div_ceil(1 << 20),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            file_system: file_system(data)?,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            processor,
            cores,
            memory_gib,
            kernel,
            file_system,
        } = self;
        write!(
            f,
            "{processor}, {cores} cores, {memory_gib} GiB, Linux {kernel}, data on {file_system}"
        )
    }
}

/// Type and device of what holds the folder. Refuses memory: nothing would be durable there.
fn file_system(folder: &Path) -> Result<String> {
    if [TMPFS, RAMFS].contains(&rustix::fs::statfs(folder)?.f_type) {
        bail!(
            "{} is in memory, where nothing is durable; name a folder on a disk with --data",
            folder.display()
        );
    }
    let folder = folder.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let fields = mounts
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let holds = fields.filter(|fields| fields.get(1).is_some_and(|place| folder.starts_with(place)));
    let nearest = holds.max_by_key(|fields| fields.get(1).map(|place| place.len()));
    match nearest.as_deref() {
        Some([device, _, kind, ..]) => Ok(format!("{kind} on {device}")),
        Some(_) | None => bail!("{} is on no known file system", folder.display()),
    }
}

/// Load average of the last minute.
pub fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text
        .split_whitespace()
        .next()
        .context("/proc/loadavg is empty")?
        .parse()?)
}
