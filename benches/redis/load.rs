//! Load by threads of our own, for what redis-benchmark cannot do; and what goes on beside a measurement.
//!
//! Keys are `key:` and twelve digits, as redis-benchmark makes them; values are 16 bytes.

use std::io::Write;
use std::ops::Range;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
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

/// 16 bytes.
pub const VALUE: &str = "0123456789abcdef";
const READ_PERCENT: u32 = 80;
/// Between two reads of a client with a steady pace.
const PACE: Duration = Duration::from_millis(1);
/// Of our own load.
const THREADS: u32 = 2;
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

    /// Ends it; an error if it had ended before by itself, as it does when the server refuses.
    pub fn end(mut self, server: &Server) -> Result<()> {
        match &mut self {
            Self::Process(child) => match child.try_wait().context("redis-benchmark")? {
                None => Ok(()),
                Some(status) => {
                    let said = format!("redis-benchmark ended early, {status}");
                    Err(Error::Server { name: server.name().to_owned(), said })
                }
            },
            Self::Thread(over, handle) => {
                over.store(true, Relaxed);
                handle.take().map_or(Ok(()), |handle| joined(handle.join()))
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
    let part = numbers.len() as u32 / THREADS;
    let load = |loader: u32| {
        let start = numbers.start + loader * part;
        let end = if loader + 1 == THREADS { numbers.end } else { start + part };
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
            (0..THREADS).map(|loader| scope.spawn(move || load(loader))).collect();
        loaders.into_iter().try_for_each(|loader| joined(loader.join()))
    })?;
    Ok(started.elapsed())
}

/// One client reads keys at random at a steady pace, whether replies have come or not: a server that stops
/// for a while is charged with all the reads that it holds up.
pub fn get(server: &Server, duration: Duration) -> Result<Outcome> {
    let mut client = server.client()?;
    let mut stream = client.stream()?;
    let (sent, received) = mpsc::channel();
    let started = Instant::now();
    let sender = thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(1);
        let mut request = Vec::new();
        let mut due = Duration::ZERO;
        while due < duration {
            thread::sleep(due.saturating_sub(started.elapsed()));
            request.clear();
            append_request(&mut request, &["GET", &key(random.u32(0..KEYSPACE))]);
            // Where the receiver has gone, it says why.
            if sent.send(started.elapsed()).is_err() || stream.write_all(&request).is_err() {
                return Ok(());
            }
            due += PACE;
        }
        Ok(())
    });
    let mut histogram = new_histogram()?;
    for begin in received {
        client.receive(None)?;
        histogram.saturating_record((started.elapsed() - begin).as_nanos() as u64);
    }
    joined(sender.join())?;
    Ok(outcome(&histogram, duration))
}

/// Clients that read and write zipfian keys, each after the reply to the one before.
pub fn mixed(server: &Server, clients: u32, duration: Duration) -> Result<Outcome> {
    let zipf = Zipf::new(KEYSPACE, ZIPF_EXPONENT);
    let run = |seed| mixed_thread(server, clients / THREADS, seed, &zipf, duration);
    let run = &run;
    let histograms = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|seed| scope.spawn(move || run(seed))).collect();
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
    let streams = clients.iter().map(Client::stream).collect::<Result<Vec<_>>>()?;
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

/// What a thread returned; its panic goes on here.
pub fn joined<T>(result: thread::Result<Result<T>>) -> Result<T> {
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
