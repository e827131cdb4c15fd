//! The servers of one session: started, watched, and ended whatever happens.

use anyhow::{Context, Result, bail};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take until it answers.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a server may take to end before it is killed.
const END_MAX: Duration = Duration::from_secs(5);
/// Time between two looks at something that gives no notice: a server that starts, a process that ends.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Lines of a server's log that are shown when it fails.
const LOG_LINES: usize = 5;

/// How a server is told to end. Its data is thrown away, so none has to be gentle unless it needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// At once.
    Kill,
    /// PostgreSQL's fast shutdown: killed, it would leave shared memory behind.
    Interrupt,
}

/// The servers of one session and the folder that holds all they write.
#[derive(Debug)]
pub struct Servers {
    home: PathBuf,
    running: RefCell<Vec<Running>>,
}

#[derive(Debug)]
struct Running {
    name: String,
    command: Command,
    child: Child,
    ending: Ending,
}

impl Servers {
    /// None yet; `home` is made, and removed in the end. Other users may pass through it: PostgreSQL refuses to run as root.
    pub fn new(home: PathBuf) -> Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder
            .mode(0o755)
            .create(&home)
            .with_context(|| format!("cannot make {}", home.display()))?;
        fs::create_dir(home.join("data"))?;
        Ok(Self {
            home,
            running: RefCell::default(),
        })
    }

    /// A new folder for the data of `name`. What stands there is what counts as used disk.
    pub fn data(&self, name: &str) -> Result<PathBuf> {
        let folder = self.home.join("data").join(name);
        fs::create_dir(&folder)?;
        Ok(folder)
    }

    /// A new file that is no data.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.home.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// The folder for everything that is no data.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Starts a server that ends with this process at the latest.
    pub fn start(&mut self, name: &str, ending: Ending, user: Option<&User>, command: &[&str]) -> Result<()> {
        self.start_with(name, ending, user, &[], command)
    }

    /// The same, with variables of the environment.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a part of how one process is started"
    )]
    pub fn start_with(
        &mut self,
        name: &str,
        ending: Ending,
        user: Option<&User>,
        variables: &[(&str, &str)],
        command: &[&str],
    ) -> Result<()> {
        let log = File::create(self.log(name))?;
        // The kernel sends this when the thread ends that started it: the main thread does, and with it this process.
        let signal = match ending {
            Ending::Kill => "KILL",
            Ending::Interrupt => "INT",
        };
        let mut wrapped = vec!["--pdeathsig".to_owned(), signal.to_owned()];
        wrapped.extend(user.map(User::flags).unwrap_or_default());
        wrapped.push("--".to_owned());
        let mut wrapper = Command::new("setpriv");
        wrapper
            .args(wrapped)
            .args(command)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.running.get_mut().push(Running {
            name: name.to_owned(),
            child: spawned(&mut wrapper)?,
            command: wrapper,
            ending,
        });
        Ok(())
    }

    /// Ends all servers, and starts each again as it was started.
    pub fn restart(&self) -> Result<()> {
        let mut running = self.running.borrow_mut();
        running.iter_mut().for_each(end);
        for server in running.iter_mut() {
            server.child = spawned(&mut server.command)?;
        }
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.home.join(format!("{name}.log"))
    }

    /// Tries until it works, a server has ended, or too much time has passed.
    pub async fn wait_for<T>(&mut self, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        loop {
            let tried = tokio::time::timeout(START_MAX, attempt())
                .await
                .unwrap_or_else(|late| Err(late.into()));
            match tried {
                Ok(done) => return Ok(done),
                Err(error) if begin.elapsed() > START_MAX => return Err(error.context("it does not answer")),
                Err(_) => tokio::time::sleep(LOOK_INTERVAL).await,
            }
            self.check()?;
        }
    }

    /// An error when a server has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        for server in self.running.get_mut() {
            if let Some(status) = server.child.try_wait()? {
                let name = &server.name;
                let log = fs::read_to_string(self.home.join(format!("{name}.log"))).unwrap_or_default();
                let lines: Vec<_> = log.lines().rev().take(LOG_LINES).collect();
                let tail = lines.into_iter().rev().collect::<Vec<_>>().join("\n  ");
                bail!("{name} ended ({status})\n  {tail}");
            }
        }
        Ok(())
    }

    /// Processor time of all servers so far, with that of their child processes.
    pub fn cpu(&self) -> Result<Duration> {
        let processes = processes()?;
        let ticks: u64 = self.tree(&processes).map(|(_, process)| process.ticks).sum();
        Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
    }

    /// Resident memory of all servers with their child processes, in bytes. What several share counts once: the kernel
    /// gives each its part.
    pub fn memory(&self) -> Result<u64> {
        let processes = processes()?;
        let mut kibibytes = 0;
        for (pid, _) in self.tree(&processes) {
            // A process that has just ended has none.
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
            kibibytes += line
                .and_then(|line| line.split_whitespace().next()?.parse().ok())
                .unwrap_or(0);
        }
        Ok(kibibytes * 1024)
    }

    /// Bytes of disk that the data takes.
    pub fn disk(&self) -> Result<u64> {
        allocated(&self.home.join("data"))
    }

    /// The servers and all that descend from them.
    fn tree<'a>(&self, all: &'a HashMap<u32, Process>) -> impl Iterator<Item = (u32, &'a Process)> {
        let running = self.running.borrow();
        let roots: Vec<u32> = running.iter().map(|server| server.child.id()).collect();
        all.iter().filter_map(move |(pid, process)| {
            let mut ancestor = *pid;
            loop {
                if roots.contains(&ancestor) {
                    return Some((*pid, process));
                }
                ancestor = all.get(&ancestor)?.parent;
            }
        })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.running.get_mut().iter_mut().for_each(end);
        if let Err(error) = fs::remove_dir_all(&self.home) {
            eprintln!("cannot remove {}: {error}", self.home.display());
        }
    }
}

fn spawned(command: &mut Command) -> Result<Child> {
    command.spawn().context("cannot run setpriv (of util-linux)")
}

fn end(server: &mut Running) {
    if server.ending == Ending::Interrupt {
        let pid = i32::try_from(server.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let told =
            pid.is_some_and(|pid| rustix::process::kill_process(pid, rustix::process::Signal::INT).is_ok());
        let begin = Instant::now();
        while told && begin.elapsed() < END_MAX && matches!(server.child.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
    // Both fail only when it has ended already.
    drop(server.child.kill());
    drop(server.child.wait());
}

#[derive(Debug)]
struct Process {
    parent: u32,
    /// Of itself, and of its children that have ended.
    ticks: u64,
}

fn processes() -> Result<HashMap<u32, Process>> {
    let mut all = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that has just ended has no such file any more.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if let Some(process) = parse_stat(&stat) {
            all.insert(pid, process);
        }
    }
    Ok(all)
}

/// The name, in brackets, may hold anything; what follows is counted from its end. See proc_pid_stat(5).
fn parse_stat(stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>());
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        ticks: ticks.sum::<Result<_, _>>().ok()?,
    })
}

fn allocated(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        // Servers remove files while this reads.
        let Ok(metadata) = entry
            .as_ref()
            .map_err(std::io::Error::kind)
            .and_then(|entry| fs::symlink_metadata(entry.path()).map_err(|error| error.kind()))
        else {
            continue;
        };
        sum += if metadata.is_dir() {
            allocated(&entry?.path())?
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(sum)
}

/// A port of loopback that nobody listens on.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Who a server runs as, when not as the user of this program.
#[derive(Debug)]
pub struct User {
    name: String,
    uid: u32,
    gid: u32,
}

impl User {
    /// The user of that name when this program runs as root; nobody else may become another user, nor has to.
    pub fn instead_of_root(name: &str) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd")?;
        let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let found = users
            .lines()
            .map(fields)
            .find(|fields| fields.first().is_some_and(|first| first == name));
        match found.as_deref() {
            Some([_, _, uid, gid, ..]) => Ok(Some(Self {
                name: name.to_owned(),
                uid: uid.parse()?,
                gid: gid.parse()?,
            })),
            Some(_) | None => bail!("there is no user `{name}`, and the server refuses to run as root"),
        }
    }

    /// Gives it a folder.
    pub fn own(&self, folder: &Path) -> Result<()> {
        Ok(std::os::unix::fs::chown(folder, Some(self.uid), Some(self.gid))?)
    }

    fn flags(&self) -> Vec<String> {
        let Self { name, .. } = self;
        [
            format!("--reuid={name}"),
            format!("--regid={}", self.gid),
            "--init-groups".to_owned(),
        ]
        .into()
    }

    /// A command that ends by itself, run as this user.
    pub fn run(user: Option<&Self>, command: &[&str]) -> Result<String> {
        let program = user.map_or_else(Vec::new, |user| {
            let mut program = vec!["setpriv".to_owned()];
            program.extend(user.flags());
            program.push("--".to_owned());
            program
        });
        let words: Vec<&str> = program
            .iter()
            .map(String::as_str)
            .chain(command.iter().copied())
            .collect();
        output(&words)
    }
}

/// What a command that ends by itself says.
pub fn output<S: AsRef<OsStr>>(command: &[S]) -> Result<String> {
    let [program, arguments @ ..] = command else {
        bail!("no command")
    };
    let shown = program.as_ref().display();
    let done = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let done = done.with_context(|| format!("cannot run {shown}"))?;
    if !done.status.success() {
        bail!(
            "{shown} failed ({}): {}",
            done.status,
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name() {
        let line = "7 (a) b 9) S 3 7 7 0 -1 4 1 2 3 4 10 20 30 40 20 0 1 0";
        let process = parse_stat(line).unwrap();
        assert_eq!((process.parent, process.ticks), (3, 100));
    }

    #[test]
    fn a_server_ends_with_its_session() {
        let home = std::env::temp_dir().join(format!("compare-test-{}", std::process::id()));
        let mut servers = Servers::new(home.clone()).unwrap();
        servers
            .start("sleeper", Ending::Kill, None, &["sleep", "1000"])
            .unwrap();
        let pid = servers.running.get_mut()[0].child.id();
        servers.check().unwrap();
        drop(servers);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!home.exists());
    }

    #[test]
    fn a_restarted_server_is_another_process_of_the_same_command() {
        let home = std::env::temp_dir().join(format!("compare-test-again-{}", std::process::id()));
        let mut servers = Servers::new(home).unwrap();
        servers
            .start("sleeper", Ending::Kill, None, &["sleep", "1000"])
            .unwrap();
        let first = servers.running.get_mut()[0].child.id();
        servers.restart().unwrap();
        servers.check().unwrap();
        assert_ne!(servers.running.get_mut()[0].child.id(), first);
        assert!(!Path::new(&format!("/proc/{first}")).exists());
    }

    #[tokio::test]
    async fn a_server_that_ends_is_noticed() {
        let home = std::env::temp_dir().join(format!("compare-test-ends-{}", std::process::id()));
        let mut servers = Servers::new(home).unwrap();
        servers
            .start(
                "brief",
                Ending::Kill,
                None,
                &["sh", "-c", "echo no space; exit 3"],
            )
            .unwrap();
        let error = servers
            .wait_for(async || -> Result<()> { bail!("not yet") })
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("brief ended") && error.contains("no space"),
            "{error}"
        );
    }
}
