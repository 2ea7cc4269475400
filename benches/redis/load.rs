//! Load: redis-benchmark where it can, threads of our own where it cannot.
//!
//! Keys are `key:` and twelve digits, as redis-benchmark makes them; values are 16 bytes. Children and
//! threads end with the value that stands for them.

use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, poll};

use crate::client::{Client, append_request};
use crate::error::{Context, Error, Result};
use crate::server::Server;

/// Keys that reads and overwrites choose from.
pub const KEYSPACE: u32 = 100_000;

/// Of YCSB: how much more often the first keys are asked for.
const ZIPF_EXPONENT: f64 = 0.99;

const VALUE: &str = "0123456789abcdef";
const READ_PERCENT: u32 = 80;
const LOADERS: u32 = 2;
const LOAD_PIPELINE: usize = 500;

/// What a load achieved.
pub struct Outcome {
    /// How many operations were answered.
    pub operations: f64,
    /// Operations per second.
    pub throughput: f64,
    /// Latencies in milliseconds, as far as they are known: p50, p99, p99.9.
    pub latencies: [Option<f64>; 3],
}

/// How redis-benchmark is run.
#[derive(Clone, Copy)]
pub struct Standard {
    pub operation: &'static str,
    pub clients: u32,
    pub pipeline: u32,
    /// Not threads: with these it sees the end of a run only every 250 ms.
    pub processes: u32,
    pub requests: u32,
}

/// Says what to install if redis-benchmark is not there.
pub fn find_redis_benchmark() -> Result<()> {
    let output = Command::new("redis-benchmark").arg("--version").output();
    let missing = Error::Missing { program: "redis-benchmark", package: "redis-tools" };
    output.map(drop).map_err(|_| missing)
}

impl Standard {
    /// Runs it to its end, shared by as many processes as asked for.
    pub fn run(self, server: &Server) -> Result<Outcome> {
        let Self { clients, requests, processes, .. } = self;
        let part = Self { clients: clients / processes, requests: requests / processes, ..self };
        let outcomes = thread::scope(|scope| {
            let run = || scope.spawn(move || part.run_process(server));
            let parts: Vec<_> = (0..processes).map(|_| run()).collect();
            parts.into_iter().map(|part| joined(part.join())).collect::<Result<Vec<_>>>()
        })?;
        let sum = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).sum();
        let mean = |index: usize| {
            let sum: f64 = outcomes.iter().filter_map(|outcome| outcome.latencies[index]).sum();
            Some(sum / f64::from(processes))
        };
        Ok(Outcome {
            operations: sum(|outcome| outcome.operations),
            throughput: sum(|outcome| outcome.throughput),
            latencies: [mean(0), mean(1), None],
        })
    }

    fn run_process(self, server: &Server) -> Result<Outcome> {
        let output = self.command(server).output().context("redis-benchmark")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines().filter(|line| line.starts_with('"')).map(columns);
        let (names, values) = (lines.next(), lines.next());
        let (Some(names), Some(values), true) = (names, values, output.status.success()) else {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().chain(text.lines()).last().unwrap_or("nothing").to_owned();
            let said = format!("redis-benchmark says: {said}");
            return Err(Error::Server { name: server.name().to_owned(), said });
        };
        let column = |name| -> Option<f64> {
            values.get(names.iter().position(|it| *it == name)?)?.parse().ok()
        };
        Ok(Outcome {
            operations: f64::from(self.requests),
            throughput: column("rps").unwrap_or(f64::NAN),
            latencies: [column("p50_latency_ms"), column("p99_latency_ms"), None],
        })
    }

    /// Runs it again and again, until what is returned is dropped.
    pub fn run_beside(self, server: &Server) -> Result<Beside> {
        let mut command = self.command(server);
        command.arg("-l").stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Beside::Process(command.spawn().context("redis-benchmark")?))
    }

    fn command(self, server: &Server) -> Command {
        let mut command = Command::new("redis-benchmark");
        let mut flag = |name: &str, value: u32| {
            command.args([name, &value.to_string()]);
        };
        flag("-p", u32::from(server.port));
        flag("-c", self.clients);
        flag("-P", self.pipeline);
        flag("-n", self.requests);
        flag("-r", KEYSPACE);
        flag("-d", VALUE.len() as u32);
        command.args(["--csv", "-t", &self.operation.to_lowercase()]).stdin(Stdio::null());
        command
    }
}

/// The fields of a line of CSV without commas in its strings.
fn columns(line: &str) -> Vec<&str> {
    line.split(',').map(|field| field.trim_matches('"')).collect()
}

/// Something that goes on beside a measurement, until this is dropped.
pub enum Beside {
    /// A child.
    Process(Child),
    /// A thread, and what ends it.
    Thread(Arc<AtomicBool>, Option<JoinHandle<Result<()>>>),
}

impl Beside {
    /// A client that asks for all keys again and again.
    pub fn keys_loop(server: &Server) -> Result<Self> {
        let mut client = server.client()?;
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let work = move || {
            while !told.load(Relaxed) {
                client.skip(&["KEYS", "*"])?;
            }
            Ok(())
        };
        Ok(Self::Thread(over, Some(thread::spawn(work))))
    }

    /// Ends it; an error if it had ended before by itself.
    pub fn end(mut self) -> Result<()> {
        match &mut self {
            Self::Process(child) => match child.try_wait().context("redis-benchmark")? {
                None => Ok(()),
                Some(status) => {
                    Err(std::io::Error::other(status.to_string())).context("redis-benchmark")
                }
            },
            Self::Thread(over, handle) => {
                over.store(true, Relaxed);
                handle.take().map_or(Ok(()), join)
            }
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        match self {
            Self::Process(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Self::Thread(over, _) => over.store(true, Relaxed),
        }
    }
}

/// Sets the keys with these numbers, pipelined; returns how long it took.
pub fn load_keys(server: &Server, numbers: Range<u32>) -> Result<Duration> {
    let started = Instant::now();
    let part = numbers.len() as u32 / LOADERS;
    let load = |loader: u32| {
        let start = numbers.start + loader * part;
        let end = if loader + 1 == LOADERS { numbers.end } else { start + part };
        let (mut client, mut requests) = (server.client()?, Vec::new());
        let numbers: Vec<u32> = (start..end).collect();
        for chunk in numbers.chunks(LOAD_PIPELINE) {
            requests.clear();
            for number in chunk {
                append_request(&mut requests, &["SET", &key(*number), VALUE]);
            }
            client.send_all(&requests, chunk.len())?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let loaders: Vec<_> =
            (0..LOADERS).map(|loader| scope.spawn(move || load(loader))).collect();
        loaders.into_iter().try_for_each(|loader| joined(loader.join()))
    })?;
    Ok(started.elapsed())
}

/// One client reads keys at random, each after the reply to the one before.
pub fn get(server: &Server, duration: Duration) -> Result<Outcome> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut client = server.client()?;
    let mut histogram = new_histogram()?;
    let started = Instant::now();
    let mut before = Duration::ZERO;
    while before < duration {
        client.skip(&["GET", &key(random.u32(0..KEYSPACE))])?;
        let now = started.elapsed();
        histogram.saturating_record((now - before).as_nanos() as u64);
        before = now;
    }
    Ok(outcome(&histogram, duration))
}

/// Clients that read and write zipfian keys, each after the reply to the one before.
pub fn mixed(server: &Server, clients: u32, duration: Duration) -> Result<Outcome> {
    let zipf = Zipf::new(KEYSPACE, ZIPF_EXPONENT);
    let run = |seed| mixed_thread(server, clients / LOADERS, seed, &zipf, duration);
    let run = &run;
    let histograms = thread::scope(|scope| {
        let threads: Vec<_> = (0..LOADERS).map(|seed| scope.spawn(move || run(seed))).collect();
        threads.into_iter().map(|thread| joined(thread.join())).collect::<Result<Vec<_>>>()
    })?;
    let mut all = new_histogram()?;
    for histogram in histograms {
        all.add(histogram).map_err(|error| Error::Library(error.to_string()))?;
    }
    Ok(outcome(&all, duration))
}

/// The clients of one thread, which polls for their replies.
fn mixed_thread(
    server: &Server,
    clients: u32,
    seed: u32,
    zipf: &Zipf,
    duration: Duration,
) -> Result<Histogram<u64>> {
    let mut random = fastrand::Rng::with_seed(u64::from(seed));
    let mut send = |client: &mut Client| {
        let key = key(zipf.sample(random.f64()));
        match random.u32(0..100) < READ_PERCENT {
            true => client.send(&["GET", &key]),
            false => client.send(&["SET", &key, VALUE]),
        }
    };
    let mut clients = (0..clients).map(|_| server.client()).collect::<Result<Vec<_>>>()?;
    let streams = clients.iter().map(Client::readable).collect::<Result<Vec<_>>>()?;
    let mut polled: Vec<_> =
        streams.iter().map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
    clients.iter_mut().try_for_each(&mut send)?;
    let started = Instant::now();
    let mut sent = vec![Duration::ZERO; clients.len()];
    let mut histogram = new_histogram()?;
    while started.elapsed() < duration {
        poll(&mut polled, None).map_err(std::io::Error::from).of_server(server.name())?;
        for (index, client) in clients.iter_mut().enumerate() {
            if polled[index].revents().is_empty() {
                continue;
            }
            client.receive(None)?;
            let now = started.elapsed();
            histogram.saturating_record((now - sent[index]).as_nanos() as u64);
            sent[index] = now;
            send(client)?;
        }
    }
    Ok(histogram)
}

/// Nanoseconds, from ten to a minute of them, to three digits.
fn new_histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(10, 60_000_000_000, 3)
        .map_err(|error| Error::Library(error.to_string()))
}

fn outcome(histogram: &Histogram<u64>, duration: Duration) -> Outcome {
    let operations = histogram.len() as f64;
    let latency = |quantile| Some(histogram.value_at_quantile(quantile) as f64 / 1e6);
    Outcome {
        operations,
        throughput: operations / duration.as_secs_f64(),
        latencies: [0.5, 0.99, 0.999].map(latency),
    }
}

/// A key as redis-benchmark makes it.
pub fn key(number: u32) -> String {
    format!("key:{number:012}")
}

fn join<T>(handle: JoinHandle<Result<T>>) -> Result<T> {
    joined(handle.join())
}

fn joined<T>(result: thread::Result<Result<T>>) -> Result<T> {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Ranks, of which the first come most often.
struct Zipf {
    /// How probable a rank is, or one before it.
    cumulative: Vec<f64>,
}

impl Zipf {
    fn new(ranks: u32, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut cumulative: Vec<_> = (1..=ranks)
            .map(|rank| {
                sum += f64::from(rank).powf(-exponent);
                sum
            })
            .collect();
        cumulative.iter_mut().for_each(|weight| *weight /= sum);
        Self { cumulative }
    }

    /// The rank for a number in 0..1.
    fn sample(&self, uniform: f64) -> u32 {
        self.cumulative.partition_point(|weight| *weight < uniform) as u32
    }
}
