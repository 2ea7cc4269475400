//! A server process that is always reaped, and a raw client.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use coffre::journal::{Error, Recovery};

use crate::resp::read_reply;
pub use crate::resp::{Reply, request};
pub use crate::state::{State, dump, state};

/// How long a test waits for a reply, a condition or the end of a process before it fails. No test judges how
/// fast something is: what takes a second here may take this long on a slow or busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub const COFFRE: &str = env!("CARGO_BIN_EXE_coffre");

/// The variable that names the engine of the servers where that is not the data file, and its values: an engine of this
/// executable, or the members of an etcd cluster, as `--engine` has them.
pub const ENGINE: &str = "COFFRE_TEST_ENGINE";
pub const OPTIMISTIC: &str = "optimistic";

/// The program under test, which becomes a server with the flags that are added: coffre, or this executable as a server
/// with another engine.
pub fn program() -> Command {
    match std::env::var(ENGINE) {
        Ok(engine) if engine == OPTIMISTIC => {
            let mut command = Command::new(std::env::current_exe().unwrap());
            let serve = ["--ignored", "--exact", "--nocapture", "optimistic::suite::serve", "--"];
            command.args(serve);
            command
        }
        Ok(members) => {
            let mut command = Command::new(COFFRE);
            command.env("COFFRE_ENGINE", members);
            command
        }
        Err(_) => Command::new(COFFRE),
    }
}

/// Tells a server where its keys are, and more flags: in the data file at `file`, or in a keyspace of the cluster that no
/// other file has, where nothing can be said of fsync.
pub fn keep_keys_in(command: &mut Command, file: &Path, flags: &[&str]) {
    match std::env::var(ENGINE) {
        Ok(engine) if engine != OPTIMISTIC => {
            command.args(["--etcd-prefix", &format!("{}/", file.display())]);
            match flags.iter().position(|flag| *flag == "--fsync") {
                Some(place) => command.args(&flags[..place]).args(&flags[place + 2..]),
                None => command.args(flags),
            };
        }
        _ => drop(command.arg("--file").arg(file).args(flags)),
    }
}

/// Whether a server keeps its keys in a cluster: some commands are refused then.
pub fn is_cluster() -> bool {
    std::env::var(ENGINE).is_ok_and(|engine| engine != OPTIMISTIC)
}

/// Whether a server keeps its keys in the data file, where a test may look.
pub fn has_file() -> bool {
    std::env::var_os(ENGINE).is_none()
}

/// Whether a server finds its keys when it is started again.
pub fn is_durable() -> bool {
    std::env::var(ENGINE).map_or(true, |engine| engine != OPTIMISTIC)
}

/// A running coffre on a free port of 127.0.0.1.
pub struct Server {
    child: Child,
    pub port: u16,
    log: Arc<Mutex<String>>,
    logger: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts on `file` and waits until it is ready.
    pub fn start(file: &Path) -> Self {
        Self::with(file, &[])
    }

    /// The same with more flags.
    pub fn with(file: &Path, flags: &[&str]) -> Self {
        let mut command = program();
        command.args(["--port", "0"]);
        keep_keys_in(&mut command, file, flags);
        Self::spawn(command)
    }

    /// Runs `command`, which becomes a coffre, and waits until that is ready.
    pub fn spawn(command: Command) -> Self {
        Self::try_spawn(command).unwrap_or_else(|said| panic!("not ready: {said}"))
    }

    /// The same, or what it said if it ended before it was ready.
    pub fn try_spawn(mut command: Command) -> Result<Self, String> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("RUST_LOG", "info");
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let sink = Arc::clone(&log);
        let logger = thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                sink.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        // A server of this executable is a test, of which the test's own lines tell first.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let ready = lines.find(|line| line.contains("coffre ready on "));
        let port = ready.and_then(|ready| ready.rsplit(':').next()?.trim().parse().ok());
        // After a minute it tells that it is still running: it would end where that is not read.
        thread::spawn(move || lines.for_each(drop));
        let mut server = Self { child, port: 0, log, logger: Some(logger) };
        match port {
            Some(port) => {
                server.port = port;
                Ok(server)
            }
            None => Err(format!("{}: {}", server.wait(), server.log())),
        }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it has logged `text`, and returns all it has logged.
    pub fn expect_log(&self, text: &str) -> String {
        wait_until(text, || self.log().contains(text));
        self.log()
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// `kill -9`, and a start on the same file, which finds all that was acknowledged. On an engine that
    /// [keeps](is_durable) nothing it goes on instead.
    pub fn restart(self, file: &Path) -> Self {
        self.restart_with(file, &[])
    }

    /// The same with more flags.
    pub fn restart_with(self, file: &Path, flags: &[&str]) -> Self {
        if !is_durable() {
            return self;
        }
        self.kill();
        Self::with(file, flags)
    }

    /// `kill -9`, reaped.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.wait();
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(mut self) -> (ExitStatus, String) {
        self.signal("TERM");
        let status = self.wait();
        (status, self.log())
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(logger) = self.logger.take() {
                    logger.join().unwrap();
                }
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(status.unwrap().success());
}

/// Runs coffre to its end: exit code, and what it said on standard error.
pub fn run_to_end(arguments: &[&dyn AsRef<OsStr>]) -> (i32, String) {
    let mut command = Command::new(COFFRE);
    command.env("RUST_LOG", "off").stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::piped());
    for argument in arguments {
        command.arg(argument);
    }
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("coffre does not end");
        }
        thread::sleep(Duration::from_millis(2));
    }
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code().unwrap_or(-1), said)
}

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(port: u16) -> Self {
        Self::of(TcpStream::connect(("127.0.0.1", port)).unwrap())
    }

    /// Connects as soon as a server listens there; `None` once `is_over`.
    pub fn connect_at_last(address: SocketAddr, is_over: impl Fn() -> bool) -> Option<Self> {
        let deadline = Instant::now() + PATIENCE;
        while !is_over() {
            match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
                Ok(stream) => return Some(Self::of(stream)),
                Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
            }
            thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// A client on a connection that is there.
    pub fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Exactly so many bytes.
    pub fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Everything until the server closes.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.reader.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Everything until the server closes, `None` if that takes longer.
    pub fn read_within(&mut self, time: Duration) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.set_read_timeout(Some(time)).unwrap();
        let end = self.reader.read_to_end(&mut bytes);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        end.is_ok().then_some(bytes)
    }

    /// One reply, or `None` where the connection ends.
    pub fn try_reply(&mut self) -> Option<Reply> {
        match read_reply(&mut self.reader, &mut Vec::new()) {
            Err(error) if error.kind() == ErrorKind::InvalidData => panic!("{error}"),
            reply => reply.ok(),
        }
    }

    /// The bytes of one reply.
    pub fn raw_reply(&mut self) -> Vec<u8> {
        let mut raw = Vec::new();
        read_reply(&mut self.reader, &mut raw).unwrap();
        raw
    }

    pub fn reply(&mut self) -> Reply {
        self.try_reply().expect("a reply")
    }

    /// Sends a request as an array and reads its reply.
    pub fn call(&mut self, words: &[&[u8]]) -> Reply {
        self.send(&request(words));
        self.reply()
    }

    /// Sends an inline line and reads its reply.
    pub fn line(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }
}

/// A field of `INFO`.
pub fn info(client: &mut Client, name: &str) -> String {
    info_of(client, "", name)
}

/// A field of a section of `INFO`.
pub fn info_of(client: &mut Client, section: &str, name: &str) -> String {
    let info = String::from_utf8(client.line(&format!("INFO {section}")).into_bytes()).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} is not in {info}")).to_owned()
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Calls `attempt` with a time of `first`, then of twice that, and so on, until it says that what must come before
/// the end of that time did so.
pub fn with_enough_time<T>(first: Duration, mut attempt: impl FnMut(Duration) -> Option<T>) -> T {
    let mut time = first;
    while time < PATIENCE {
        if let Some(result) = attempt(time) {
            return result;
        }
        time *= 2;
    }
    panic!("{:?} was not enough", time / 2);
}

/// A folder that vanishes, and the data file in it.
pub fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("donnees.txt");
    (folder, file)
}

/// A number from the environment, for longer runs on request.
pub fn on_request(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |number| number.parse().expect(name))
}

/// Opens a data file in this process. Another test's child, between its fork and its exec, may for a
/// moment hold the lock of a file that was closed here.
pub fn recover(file: &Path) -> Result<Recovery, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Recovery::begin(file) {
            Err(Error::Held { .. }) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    status_of(pid, "VmRSS") * 1024
}

/// A number in `/proc/PID/status`, as it stands there.
pub fn status_of(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

/// How many file descriptors a process has.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Processor time a process has used.
pub fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(10 * ticks)
}

/// A command that runs coffre on a free port under limits of the shell: `ulimit` and its arguments.
pub fn limited(file: &Path, limits: &str, flags: &[&str]) -> Command {
    let (mut command, program) = (Command::new("sh"), program());
    command.args(["-c", &format!("ulimit {limits} && exec \"$0\" \"$@\"")]);
    command.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.args(["--port", "0"]);
    keep_keys_in(&mut command, file, flags);
    command
}
