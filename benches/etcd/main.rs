//! coffre in front of an etcd cluster beside a bare HTTP client of the same cluster, in the same run:
//! `cargo bench --bench etcd`. It needs `etcd`, and prints the table of docs/cluster.md.
//!
//! Three members, a coffre and the load share this machine. What is compared takes turns; each row is the median of the
//! rounds. The bare client is the same library with the same JSON gateway, and puts without conditions: what is left to
//! gain. No figure is checked here.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(4);
const CLIENTS: usize = 50;
const KEYS: u32 = 100_000;
const VALUE: &str = "0123456789abcdef";

/// Children that end with the bench.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Something that answers requests, by one connection for each client.
trait Target: Sync {
    /// Does operations until `until` and counts them; adds how long each took, in nanoseconds, to `ns`.
    fn work(&self, until: Instant, count: &AtomicU64, ns: &mut Vec<u64>) -> Result<()>;
}

/// The members themselves.
struct Bare {
    agent: ureq::Agent,
    urls: Vec<String>,
    is_read: bool,
    next: AtomicU64,
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn key() -> String {
    format!("key:{:012}", fastrand::u32(..KEYS))
}

impl Target for Bare {
    fn work(&self, until: Instant, count: &AtomicU64, ns: &mut Vec<u64>) -> Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) as usize;
        let path = if self.is_read { "/v3/kv/range" } else { "/v3/kv/put" };
        let url = [&self.urls[number % self.urls.len()], path].concat();
        while Instant::now() < until {
            let key = base64(&format!("/bare/{}", key()));
            let body = match self.is_read {
                true => format!("{{\"key\":\"{key}\"}}"),
                false => format!("{{\"key\":\"{key}\",\"value\":\"{}\"}}", base64(VALUE)),
            };
            let started = Instant::now();
            let mut reply = self.agent.post(&url).send(body.as_bytes())?;
            reply.body_mut().read_to_vec()?;
            ns.push(started.elapsed().as_nanos() as u64);
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A coffre.
struct Coffre {
    port: u16,
    pipeline: usize,
    command: fn() -> String,
}

impl Target for Coffre {
    fn work(&self, until: Instant, count: &AtomicU64, ns: &mut Vec<u64>) -> Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        while Instant::now() < until {
            let request: String = (0..self.pipeline).map(|_| (self.command)()).collect();
            let started = Instant::now();
            stream.write_all(request.as_bytes())?;
            for _ in 0..self.pipeline {
                line.clear();
                reader.read_line(&mut line)?;
                if line.starts_with('-') {
                    return Err(line.trim().into());
                }
                // The value of a GET is a line of its own.
                if line.starts_with('$') && !line.starts_with("$-1") {
                    reader.read_line(&mut line)?;
                }
            }
            ns.push(started.elapsed().as_nanos() as u64);
            count.fetch_add(self.pipeline as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Operations per second, and the median latency in milliseconds.
fn measure(target: &dyn Target, clients: usize) -> Result<(f64, f64)> {
    let (count, until) = (AtomicU64::new(0), Instant::now() + TIME);
    let latencies: Result<Vec<_>> = thread::scope(|scope| {
        let work = || {
            let mut ns = Vec::new();
            target.work(until, &count, &mut ns).map(|()| ns)
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a client panicked")?).collect()
    });
    let mut ns = latencies?.concat();
    ns.sort_unstable();
    let median = ns.get(ns.len() / 2).copied().unwrap_or(0);
    Ok((count.into_inner() as f64 / TIME.as_secs_f64(), median as f64 / 1e6))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Starts three members and a coffre; returns their addresses.
fn start(children: &mut Children, folder: &std::path::Path) -> Result<(Vec<String>, u16)> {
    let ports: Vec<_> = (0..6).map(|_| free_port()).collect::<Result<_>>()?;
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let all = (0..3).map(|number| format!("m{number}={}", url(ports[2 * number + 1])));
    let all = all.collect::<Vec<_>>().join(",");
    for number in 0..3 {
        let (client, peer) = (url(ports[2 * number]), url(ports[2 * number + 1]));
        let child = Command::new("etcd")
            .args(["--name", &format!("m{number}"), "--logger", "zap", "--log-level", "error"])
            .arg("--data-dir")
            .arg(folder.join(format!("m{number}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &all])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        children.0.push(child);
    }
    let urls: Vec<_> = (0..3).map(|number| url(ports[2 * number])).collect();
    let engine = urls.iter().map(|url| url.trim_start_matches("http://")).collect::<Vec<_>>();
    let engine = format!("etcd://{}", engine.join(","));
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut coffre = Command::new(env!("CARGO_BIN_EXE_coffre"))
            .args(["--port", "0", "--engine", &engine])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        let stdout = coffre.stdout.take().ok_or("no standard output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        children.0.push(coffre);
        if let Some(port) = line.trim().rsplit(':').next().and_then(|port| port.parse().ok()) {
            return Ok((urls, port));
        }
        if Instant::now() > deadline {
            return Err("the cluster does not get ready".into());
        }
        thread::sleep(Duration::from_millis(500));
    }
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut children = Children(Vec::new());
    let (urls, port) = start(&mut children, folder.path())?;
    let bare = |is_read| Bare {
        agent: ureq::Agent::config_builder()
            .max_idle_connections(CLIENTS)
            .max_idle_connections_per_host(CLIENTS)
            .build()
            .new_agent(),
        urls: urls.clone(),
        is_read,
        next: AtomicU64::new(0),
    };
    let coffre = |pipeline, command| Coffre { port, pipeline, command };
    let set = || format!("SET {} {VALUE}\r\n", key());
    let get = || format!("GET {}\r\n", key());
    let incr = || format!("INCR count:{}\r\n", fastrand::u32(..KEYS));
    let targets: [(&str, usize, Box<dyn Target>); 9] = [
        ("bare client, put", 1, Box::new(bare(false))),
        ("coffre, SET", 1, Box::new(coffre(1, set))),
        ("bare client, range", 1, Box::new(bare(true))),
        ("coffre, GET", 1, Box::new(coffre(1, get))),
        ("bare client, put", CLIENTS, Box::new(bare(false))),
        ("coffre, SET", CLIENTS, Box::new(coffre(1, set))),
        ("coffre, SET, pipeline 16", CLIENTS, Box::new(coffre(16, set))),
        ("coffre, INCR", CLIENTS, Box::new(coffre(1, incr))),
        ("coffre, GET", CLIENTS, Box::new(coffre(1, get))),
    ];
    let mut results: Vec<(Vec<f64>, Vec<f64>)> = vec![Default::default(); targets.len()];
    for round in 0..ROUNDS {
        eprintln!("round {} of {ROUNDS}", round + 1);
        for ((_, clients, target), (throughputs, latencies)) in targets.iter().zip(&mut results) {
            let (throughput, latency) = measure(&**target, *clients)?;
            throughputs.push(throughput);
            latencies.push(latency);
        }
    }
    println!("| clients | what | operations/s | of the bare client | p50 ms |");
    println!("|---|---|---|---|---|");
    let mut beside = 0.0;
    for ((name, clients, _), (throughputs, latencies)) in targets.iter().zip(results) {
        let throughput = median(throughputs);
        if name.starts_with("bare") {
            beside = throughput;
        }
        let (ratio, latency) = (throughput / beside, median(latencies));
        println!("| {clients} | {name} | {throughput:.0} | {ratio:.2} | {latency:.2} |");
    }
    Ok(())
}
