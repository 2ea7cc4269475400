//! A cluster of three members on this machine, always reaped.

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::net::Host;
use crate::harness::{signal, wait_until};

/// Members of a cluster.
pub const MEMBERS: usize = 3;

/// See the module.
pub struct Cluster {
    members: Vec<Member>,
    flags: Vec<String>,
    /// `http`, or `https` for its clients.
    scheme: &'static str,
    /// Each member has a disk of its own.
    has_disks: bool,
    /// What `etcdctl` is told to be let in.
    control: Vec<String>,
    folder: tempfile::TempDir,
}

struct Member {
    host: Host,
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

/// Whether this machine has etcd; says so if not.
pub fn is_installed() -> bool {
    let version = Command::new("etcd").arg("--version").stdout(Stdio::null()).status();
    let is_there = version.is_ok_and(|status| status.success());
    if !is_there {
        println!("SKIPPED: this machine has no etcd");
    }
    is_there
}

/// Free ports: nothing else here asks for those meanwhile.
fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

impl Cluster {
    /// Starts a cluster, and waits until it has a leader.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same with more flags for each member.
    pub fn with(flags: &[&str]) -> Self {
        Self::on(&[(); MEMBERS].map(|()| Host::here()), flags)
    }

    /// The same, with this certificate and its key for members and clients.
    pub fn with_tls(cert: &str, key: &str) -> Self {
        let flags = ["--cert-file", cert, "--key-file", key, "--trusted-ca-file", cert];
        let flags = [&flags[..], &["--client-cert-auth"]].concat();
        let control = ["--cacert", cert, "--cert", cert, "--key", key].map(str::to_owned);
        let here = [(); MEMBERS].map(|()| Host::here());
        Self::make(&here, &flags, "https", control.to_vec())
    }

    /// The same on these machines, one for each member.
    pub fn on(hosts: &[Host], flags: &[&str]) -> Self {
        Self::make(hosts, flags, "http", Vec::new())
    }

    fn make(hosts: &[Host], flags: &[&str], scheme: &'static str, control: Vec<String>) -> Self {
        // In memory where that is possible: a hundred tests wait for its fsyncs, which are not what they test.
        let memory = PathBuf::from("/dev/shm");
        let folder = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let member = |host: &Host| {
            let [client_port, peer_port] =
                if host.is_apart() { [2379, 2380] } else { free_ports() };
            Member { host: host.clone(), client_port, peer_port, child: None }
        };
        let mut cluster = Self {
            members: hosts.iter().map(member).collect(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            scheme,
            control,
            has_disks: hosts.iter().all(Host::is_apart),
            folder: folder.unwrap(),
        };
        if cluster.has_disks {
            cluster.mount_disks();
            // What it keeps of the past must have room on them, however long the test takes.
            let flags = "--snapshot-count 5000 --max-wals 1 --max-snapshots 1 --auto-compaction-mode revision \
                         --auto-compaction-retention 2000";
            cluster.flags.extend(flags.split_whitespace().map(str::to_owned));
        }
        (0..MEMBERS).for_each(|number| cluster.start_member(number));
        cluster.wait_until_ready();
        cluster
    }

    /// As `--engine` has it.
    pub fn engine(&self) -> String {
        let members = self.members.iter().map(Member::endpoint);
        format!("etcd://{}", members.collect::<Vec<_>>().join(","))
    }

    /// Starts a member, again if it was killed.
    pub fn start_member(&mut self, number: usize) {
        let peer = |(number, member): (usize, &Member)| {
            format!("m{number}=http://{}:{}", member.host.address, member.peer_port)
        };
        let all = self.members.iter().enumerate().map(peer).collect::<Vec<_>>().join(",");
        let Member { host, client_port, peer_port, .. } = &self.members[number];
        let client = format!("{}://{}:{client_port}", self.scheme, host.address);
        let peer = format!("http://{}:{peer_port}", host.address);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("m{number}.log")))
            .unwrap();
        let mut command = host.command("etcd");
        command.args(["--name", &format!("m{number}"), "--logger", "zap", "--log-level", "error"]);
        let place = if self.has_disks { self.disk(number) } else { self.folder.path().to_owned() };
        command.arg("--data-dir").arg(place.join(format!("m{number}")));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &all, "--initial-cluster-state", "new"]);
        command.args(["--heartbeat-interval", "100", "--election-timeout", "1000"]);
        command.args(&self.flags);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.members[number].child = Some(child.unwrap());
    }

    /// `kill -9`, reaped.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.members[number].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Gives each member a small disk of its own, if this machine allows it; before they are started.
    fn mount_disks(&self) {
        for number in 0..MEMBERS {
            let place = self.disk(number);
            std::fs::create_dir(&place).unwrap();
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", "size=768m", "tmpfs"]).arg(&place);
            let status = mount.stderr(Stdio::null()).status();
            assert!(status.is_ok_and(|status| status.success()), "a disk cannot be mounted");
        }
    }

    fn disk(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("disk{number}"))
    }

    /// Leaves no room on the disk of a member.
    pub fn fill_disk(&self, number: usize) {
        let mut filler = File::create(self.disk(number).join("filler")).unwrap();
        while filler.write_all(&[0; 1 << 20]).is_ok() {}
    }

    /// Gives the room back.
    pub fn free_disk(&self, number: usize) {
        std::fs::remove_file(self.disk(number).join("filler")).unwrap();
    }

    /// Sends a signal to a member.
    pub fn signal(&self, number: usize, name: &str) {
        if let Some(child) = &self.members[number].child {
            signal(child.id(), name);
        }
    }

    /// What `etcdctl` says, asked of one member.
    pub fn control(&self, number: usize, words: &[&str]) -> Result<String, String> {
        let endpoint = format!("{}://{}", self.scheme, self.members[number].endpoint());
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint, "--command-timeout", "2s"]);
        let output = command.args(&self.control).args(words).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// The number of the member that leads, as one of them says.
    pub fn leader(&self) -> Option<usize> {
        (0..MEMBERS).filter(|number| self.members[*number].child.is_some()).find(|number| {
            let status = self.control(*number, &["endpoint", "status"]);
            // Address, number, version, size, whether it leads, ...
            status.is_ok_and(|status| status.split(", ").nth(4) == Some("true"))
        })
    }

    /// Waits until a majority answers.
    pub fn wait_until_ready(&self) {
        let ready = || (0..MEMBERS).any(|number| self.control(number, &["get", "nothing"]).is_ok());
        wait_until("the cluster has a leader", ready);
    }
}

impl Member {
    fn endpoint(&self) -> String {
        format!("{}:{}", self.host.address, self.client_port)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..MEMBERS).for_each(|number| self.kill(number));
        if self.has_disks {
            for number in 0..MEMBERS {
                let _ = Command::new("umount").arg("-l").arg(self.disk(number)).status();
            }
        }
    }
}
