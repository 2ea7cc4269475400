//! Three coffres in front of three members, and all that can happen to them while clients work: is what the clients saw
//! strictly serializable, is nothing acknowledged lost, nothing done twice?
//!
//! `COFFRE_CLUSTER_SECONDS` asks for more time, `COFFRE_SEED` for the faults of a run before. That the check can fail is
//! shown by engines with a bug in them, which this executable serves itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::broken;
use super::cluster::{Cluster, MEMBERS, is_installed};
use super::net::{Host, Net};
use super::wrong_clock;
use crate::harness::{COFFRE, Client, Reply, Server, folder, on_request, wait_until};
use crate::histories::{self, Fault, Round};

/// Coffres in front of the cluster.
const COFFRES: usize = 3;

/// How a coffre is started on a machine.
type Program = fn(&Host) -> Command;

fn coffre(host: &Host) -> Command {
    host.command(COFFRE)
}

/// Coffres that are killed and started again at the same addresses.
struct Coffres {
    hosts: Vec<Host>,
    servers: Vec<Server>,
    engine: String,
    program: Program,
    /// A library that makes the clock of the last one wrong.
    clock: PathBuf,
    _folder: tempfile::TempDir,
}

impl Coffres {
    fn start(hosts: &[Host], engine: String, program: Program) -> Self {
        let (folder, _) = folder();
        let clock = wrong_clock::build(folder.path());
        let (hosts, servers) = (hosts.to_vec(), Vec::new());
        let mut all = Self { hosts, servers, engine, program, clock, _folder: folder };
        let hosts = all.hosts.clone();
        for number in 0..hosts.len() {
            let server = all.server(number, 0);
            all.servers.push(server);
        }
        all
    }

    /// Starts a coffre, again and again while the cluster does not answer.
    fn server(&self, number: usize, port: u16) -> Server {
        let mut server = None;
        wait_until("a coffre starts", || {
            server = Server::try_spawn(self.command(number, port)).ok();
            server.is_some()
        });
        server.unwrap()
    }

    fn command(&self, number: usize, port: u16) -> Command {
        let host = &self.hosts[number];
        let mut command = (self.program)(host);
        command.args(["--port", &port.to_string(), "--bind", &host.address]);
        command.args(["--protected-mode", "no", "--engine", &self.engine, "--etcd-timeout", "2"]);
        if number + 1 == COFFRES {
            command.env("LD_PRELOAD", &self.clock);
        }
        command
    }

    fn address(&self, number: usize) -> SocketAddr {
        SocketAddr::new(self.hosts[number].address.parse().unwrap(), self.servers[number].port)
    }

    fn kill_and_restart(&mut self, number: usize) {
        let server = &mut self.servers[number];
        server.signal("KILL");
        server.wait();
        self.servers[number] = self.server(number, self.servers[number].port);
    }
}

/// One fault, from its beginning to its end; returns what it was.
fn one_fault(
    cluster: &mut Cluster,
    coffres: &mut Coffres,
    net: Option<&Net>,
    random: &mut fastrand::Rng,
) -> String {
    let (member, coffre) = (random.usize(..MEMBERS), random.usize(..COFFRES));
    let kind = random.usize(..if net.is_some() { 13 } else { 7 });
    let time = Duration::from_millis(random.u64(300..3_500));
    let leader = if random.bool() { cluster.leader().unwrap_or(member) } else { member };
    match (kind, net) {
        (0 | 1, _) => {
            cluster.kill(leader);
            thread::sleep(time);
            cluster.start_member(leader);
            format!("kill -9 of member {leader}")
        }
        (2, _) => {
            cluster.signal(leader, "STOP");
            thread::sleep(time);
            cluster.signal(leader, "CONT");
            format!("member {leader} was stopped")
        }
        (3 | 4, _) => {
            coffres.kill_and_restart(coffre);
            format!("kill -9 of coffre {coffre}")
        }
        (5, _) => {
            coffres.servers[coffre].signal("STOP");
            thread::sleep(time);
            coffres.servers[coffre].signal("CONT");
            format!("coffre {coffre} was stopped")
        }
        (6, _) => {
            let others = [(member + 1) % MEMBERS, (member + 2) % MEMBERS];
            others.iter().for_each(|other| cluster.kill(*other));
            thread::sleep(time);
            others.iter().for_each(|other| cluster.start_member(*other));
            "there was no majority".to_owned()
        }
        (7..=9, Some(net)) => {
            let number = if kind == 9 { MEMBERS + coffre } else { leader };
            net.hosts[number].set_connected(false);
            thread::sleep(time);
            net.hosts[number].set_connected(true);
            format!("machine {number} was cut off")
        }
        (12, Some(_)) => {
            cluster.fill_disk(leader);
            thread::sleep(time);
            cluster.free_disk(leader);
            // A member that could not write has ended.
            cluster.kill(leader);
            cluster.start_member(leader);
            format!("the disk of member {leader} was full")
        }
        (_, Some(net)) => {
            let other = if kind == 10 { (leader + 1) % MEMBERS } else { MEMBERS + coffre };
            net.hosts[leader].set_heard_by(&net.hosts[other], false);
            thread::sleep(time);
            net.hosts[leader].set_heard_by(&net.hosts[other], true);
            format!("machine {leader} was not heard by {other}")
        }
        (_, None) => unreachable!("there are fewer kinds"),
    }
}

/// Ends a round when it is dropped.
struct End<'r>(&'r Round);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
    }
}

/// Clients at work for a while; what they saw that cannot be, and how many operations there were.
fn history(
    program: Program,
    net: Option<&Net>,
    has_faults: bool,
    time: Duration,
) -> (Vec<String>, usize) {
    let here = vec![Host::here(); MEMBERS + COFFRES];
    let hosts = net.map_or(&here, |net| &net.hosts);
    let mut cluster = Cluster::on(&hosts[..MEMBERS], &[]);
    let mut coffres = Coffres::start(&hosts[MEMBERS..], cluster.engine(), program);
    let seed = on_request("COFFRE_SEED", fastrand::u64(..1 << 32));
    println!("COFFRE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let round = Round::new(Fault::Cluster);
    let addresses: Vec<_> = (0..COFFRES).map(|number| coffres.address(number)).collect();
    let started = Instant::now();
    let ops = thread::scope(|scope| {
        // The clients end with the faults, even if those fail.
        let end = End(&round);
        let threads = histories::start(scope, &round, &addresses, seed, false);
        while started.elapsed() < time {
            match has_faults {
                true => {
                    let what = one_fault(&mut cluster, &mut coffres, net, &mut random);
                    println!("{:.1} s: {what}", started.elapsed().as_secs_f64());
                    thread::sleep(Duration::from_millis(random.u64(0..2_500)));
                }
                false => thread::sleep(time / 10),
            }
        }
        cluster.wait_until_ready();
        drop(end);
        threads.into_iter().map(|thread| thread.join().ok()).collect::<Vec<_>>()
    });
    let Some(ops) = ops.into_iter().collect::<Option<Vec<_>>>().map(|all| all.concat()) else {
        return (vec!["a client was answered what nothing explains".to_owned()], 0);
    };
    for address in &addresses {
        let takes_writes = || {
            let client = Client::connect_at_last(*address, || false);
            client.is_some_and(|mut client| client.line("SET ready 1") == Reply::ok())
        };
        wait_until("each coffre takes writes again", takes_writes);
    }
    let count = ops.len();
    (histories::judge(&round, ops, addresses[0], seed, 1), count)
}

#[test]
#[ignore = "needs etcd"]
fn a_history_of_a_cluster_under_faults_is_strictly_serializable() {
    if !is_installed() {
        return;
    }
    let seconds = on_request("COFFRE_CLUSTER_SECONDS", 20);
    let net = Net::new(MEMBERS + COFFRES);
    let (found, count) = history(coffre, net.as_ref(), true, Duration::from_secs(seconds));
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(count > 100, "too little was done to tell anything: {count}");
}

/// Some seconds of work on a broken engine, again if nothing was found.
fn is_found(program: Program, has_faults: bool) -> bool {
    (0..12).any(|_| {
        let (found, count) = history(program, None, has_faults, Duration::from_secs(6));
        println!("{count} operations; found: {:?}", found.first());
        !found.is_empty()
    })
}

#[test]
#[ignore = "needs etcd"]
fn an_engine_that_compares_nothing_is_found() {
    if is_installed() {
        assert!(is_found(broken::comparing_nothing, false));
    }
}

#[test]
#[ignore = "needs etcd"]
fn an_engine_that_reads_from_any_member_is_found() {
    if is_installed() {
        assert!(is_found(broken::reading_from_any_member, true));
    }
}

#[test]
#[ignore = "needs etcd"]
fn an_engine_that_does_twice_what_may_have_been_done_is_found() {
    if is_installed() {
        assert!(is_found(broken::doing_twice, true));
    }
}
