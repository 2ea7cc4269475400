//! Server programs and their processes: started on a fresh folder, asked what they use, always reaped.
//!
//! coffre and the servers that take the flags of redis-server get the same durability: a log file with the
//! same fsync mode, and nothing besides. The folder is on a disk, beside the compiler's output.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::Client;
use crate::error::{Context, Error, Result};
use crate::slow_fsync;
use crate::workload::SLOW_ALWAYS;

/// No server takes longer to start or to stop.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server that can be started.
#[derive(Clone)]
pub struct Program {
    /// As tables show it.
    pub name: String,
    command: String,
    is_coffre: bool,
}

impl Program {
    /// The one built with this bench.
    pub fn coffre() -> Self {
        let command = env!("CARGO_BIN_EXE_coffre").to_owned();
        Self { name: "coffre".to_owned(), command, is_coffre: true }
    }

    /// The redis-server found on the PATH.
    pub fn redis() -> Self {
        Self::peer("redis", "redis-server")
    }

    /// A server that takes the flags of redis-server.
    pub fn peer(name: &str, command: &str) -> Self {
        Self { name: name.to_owned(), command: command.to_owned(), is_coffre: false }
    }

    /// Its name and version, as it says itself. Starts it: so a program that is missing is known at once.
    pub fn version(&self) -> Result<String> {
        // What gives it a session of its own starts, whether it is there or not.
        let is_there = Command::new(&self.command).arg("--version").output();
        is_there.map_err(|source| self.not_started(source))?;
        let server = Server::start(self, "no")?;
        let info = server.client()?.call(&["INFO", "server"])?;
        // Servers made from Redis give the version of Redis that they are like as well.
        let own = field(&info, &format!("{}_version", self.name));
        let version =
            own.or_else(|| field(&info, "redis_version")).unwrap_or("of no known version");
        Ok(format!("{} {version}", self.name))
    }

    fn spawn(&self, folder: &Path, fsync: &str) -> Result<(Child, u16)> {
        let log = File::create(folder.join("log")).context("a temporary folder")?;
        let data = folder.join("data");
        // A session of its own, as services have: the kernel divides the processors among sessions first.
        let mut command = Command::new("setsid");
        command.arg(&self.command);
        command.env("RUST_LOG", "error").stdin(Stdio::null());
        let fsync = match fsync {
            SLOW_ALWAYS => {
                command.env("LD_PRELOAD", slow_fsync::build(folder)?);
                "always"
            }
            fsync => fsync,
        };
        if self.is_coffre {
            command.args(["--port", "0", "--fsync", fsync]);
            command.arg("--file").arg(data.join("donnees.txt"));
            command.stdout(Stdio::piped()).stderr(log);
            return Ok((self.run(command)?, 0));
        }
        let port = free_port().context("a free port")?;
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--maxclients", "20000"]);
        command.args(["--appendonly", "yes", "--appendfsync", fsync]).arg("--dir").arg(data);
        command.stdout(log).stderr(Stdio::null());
        Ok((self.run(command)?, port))
    }

    fn run(&self, mut command: Command) -> Result<Child> {
        command.spawn().map_err(|source| self.not_started(source))
    }

    fn not_started(&self, source: std::io::Error) -> Error {
        match self.command.as_str() {
            "redis-server" => Error::Missing { program: "redis-server", package: "redis-server" },
            command => {
                Error::Server { name: self.name.clone(), said: format!("{command}: {source}") }
            }
        }
    }
}

/// Resident memory in bytes.
pub struct Memory {
    pub resident: f64,
    /// The most that ever was.
    pub most: f64,
}

/// A running server on a free port of 127.0.0.1; killed when dropped.
pub struct Server {
    program: Program,
    fsync: &'static str,
    child: Child,
    /// Where it listens.
    pub port: u16,
    folder: TempDir,
}

impl Server {
    /// Starts without data, and waits until it answers.
    pub fn start(program: &Program, fsync: &'static str) -> Result<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let folder = folder.context("a temporary folder")?;
        fs::create_dir(folder.path().join("data")).context("a temporary folder")?;
        let (child, port) = program.spawn(folder.path(), fsync)?;
        let mut server = Self { program: program.clone(), fsync, child, port, folder };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Stops it, starts it on its data, and returns how long it took from the start of the process to its
    /// first answer.
    pub fn restart(&mut self) -> Result<Duration> {
        // Its answer is the end of the connection.
        let _ = self.client()?.call(&["SHUTDOWN"]);
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() {
            if Instant::now() > deadline {
                return Err(self.failure("it does not stop"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        let started = Instant::now();
        (self.child, self.port) = self.program.spawn(self.folder.path(), self.fsync)?;
        self.wait_until_ready()?;
        Ok(started.elapsed())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        if let Some(stdout) = self.child.stdout.take() {
            let mut ready = String::new();
            BufReader::new(stdout).read_line(&mut ready).of_server(self.name())?;
            let port = ready.trim().rsplit(':').next().and_then(|port| port.parse().ok());
            self.port = port.ok_or_else(|| self.failure("it does not start"))?;
        }
        let deadline = Instant::now() + PATIENCE;
        // While it loads it refuses the connection, or PING.
        while self.client().and_then(|mut client| client.call(&["PING"])).is_err() {
            if self.has_ended() || Instant::now() > deadline {
                return Err(self.failure("it does not start"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// A connection to it.
    pub fn client(&self) -> Result<Client> {
        Client::connect(self.name(), self.port)
    }

    /// Its program's.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// Waits until it does not rewrite its log.
    pub fn wait_for_rewrite(&self) -> Result<()> {
        // All of them look ten times a second whether to begin.
        thread::sleep(Duration::from_millis(250));
        let deadline = Instant::now() + PATIENCE;
        let mut client = self.client()?;
        loop {
            let info = client.call(&["INFO", "persistence"])?;
            let is_idle = |name| field(&info, name).is_none_or(|value| value == "0");
            if is_idle("aof_rewrite_in_progress") && is_idle("aof_rewrite_scheduled") {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.failure("it does not finish rewriting its log"));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Processor time used so far, user and system.
    pub fn processor_time(&self) -> Result<Duration> {
        let stat = self.proc_file("stat")?;
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks =
            fields.split_whitespace().skip(11).take(2).filter_map(|it| it.parse::<f64>().ok());
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        Ok(Duration::from_secs_f64(ticks.sum::<f64>() / per_second))
    }

    /// How much of its memory is resident.
    pub fn memory(&self) -> Result<Memory> {
        let status = self.proc_file("status")?;
        let bytes = |name| {
            let kilobytes =
                field(&status, name).and_then(|it| it.split_whitespace().next()?.parse().ok());
            kilobytes.map(|it: f64| it * 1024.0).ok_or_else(|| self.failure("it is gone"))
        };
        Ok(Memory { resident: bytes("VmRSS")?, most: bytes("VmHWM")? })
    }

    /// Lets a server that has a faster form of its log write that: Redis, whose rewritten log begins with a snapshot.
    pub fn prepare_start(&self) -> Result<()> {
        if self.program.is_coffre {
            return Ok(());
        }
        self.client()?.call(&["BGREWRITEAOF"])?;
        self.wait_for_rewrite()
    }

    /// Bytes of all its files.
    pub fn disk_bytes(&self) -> Result<f64> {
        let bytes = bytes_under(&self.folder.path().join("data")).context("the data folder")?;
        Ok(bytes as f64)
    }

    fn proc_file(&self, name: &str) -> Result<String> {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).of_server(self.name())
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// What went wrong, and the last thing it logged.
    fn failure(&self, what: &str) -> Error {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let last = log.lines().rfind(|line| !line.is_empty()).unwrap_or("it logged nothing");
        Error::Server { name: self.name().to_owned(), said: format!("{what}: {last}") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of a line `name:value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Nobody else takes it soon: the system gives such ports in turn.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn bytes_under(folder: &PathBuf) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_under(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
