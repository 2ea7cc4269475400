//! One workload, once, on one server: which is started for it without data, and ends with it.

use std::thread;
use std::time::{Duration, Instant};

use crate::Size;
use crate::error::{Error, Result};
use crate::figures::{Figure, Metric, median};
use crate::load::{self, Beside, KEYSPACE, Outcome};
use crate::server::{Program, Server};
use crate::standard::Standard;
use crate::workload::{Load, RANDOM_GET, Workload};

/// Matches of the prefix that is asked for.
const MATCHES: usize = 10;
/// How often it is asked for after the first time; the figure is the median.
const KEYS_CALLS: usize = 20;
/// How long a server has after a first `KEYS prefix*` for what it does then to make later ones faster.
const INDEX_TIME: Duration = Duration::from_secs(3);
const LATENCIES: [Metric; 3] = [Metric::P50, Metric::P99, Metric::P999];

/// Figures for all metrics of the workload.
pub fn measure(workload: &Workload, program: &Program, size: &Size) -> Result<Vec<Figure>> {
    let server = Server::start(program, workload.fsync)?;
    let keys_of = |keys: u32| (f64::from(keys) * size.keys_factor) as u32;
    match workload.load {
        Load::Standard { operations, clients, pipeline, processes, requests } => {
            let requests = f64::from(requests) * size.requests_factor;
            // Fewer would leave clients without any.
            let requests = (requests as u32).max(clients * pipeline * 10);
            let keys = KEYSPACE;
            let of =
                |operation| Standard { operation, clients, pipeline, processes, requests, keys };
            measure_standard(&server, operations.iter().map(|operation| of(operation)))
        }
        Load::Mixed { clients } => {
            load::load_keys(&server, 0..KEYSPACE)?;
            figures_of(&server, "", || load::mixed(&server, clients, size.duration))
        }
        Load::GetDuringSets { clients } => measure_get_during_sets(&server, clients, size),
        Load::GetDuringKeys { keys } => measure_get_during_keys(&server, keys_of(keys), size),
        Load::KeysPrefix { keys } => measure_keys_prefix(&server, keys_of(keys)),
        Load::Keys { keys } => measure_keys(server, keys_of(keys), size),
        Load::PrefixIndex { keys } => {
            let other = Server::start(program, workload.fsync)?;
            measure_prefix_index(&server, &other, keys_of(keys))
        }
    }
}

fn measure_standard(server: &Server, runs: impl Iterator<Item = Standard>) -> Result<Vec<Figure>> {
    load::load_keys(server, 0..KEYSPACE)?;
    let mut figures = Vec::new();
    for run in runs {
        figures.extend(figures_of(server, run.operation, || run.run(server))?);
    }
    Ok(figures)
}

/// Throughput, latencies, and the processor time that the server took meanwhile.
fn figures_of(
    server: &Server,
    operation: &'static str,
    run: impl FnOnce() -> Result<Outcome>,
) -> Result<Vec<Figure>> {
    let before = server.processor_time()?;
    let outcome = run()?;
    let time = server.processor_time()? - before;
    let figure = |metric, value| Figure { operation, metric, value };
    let mut figures = latencies_of(operation, &outcome);
    figures.push(figure(Metric::Throughput, outcome.throughput));
    figures.push(figure(Metric::Cpu, time.as_secs_f64() * 1e6 / outcome.operations));
    Ok(figures)
}

fn latencies_of(operation: &'static str, outcome: &Outcome) -> Vec<Figure> {
    let figure =
        |(metric, value): (_, Option<f64>)| Some(Figure { operation, metric, value: value? });
    LATENCIES.into_iter().zip(outcome.latencies).filter_map(figure).collect()
}

fn measure_get_during_sets(server: &Server, clients: u32, size: &Size) -> Result<Vec<Figure>> {
    load::load_keys(server, 0..KEYSPACE)?;
    let requests = 1_000_000;
    let (pipeline, processes, keys) = (1, 1, KEYSPACE);
    let sets = Standard { operation: "SET", clients, pipeline, processes, requests, keys };
    let sets = sets.run_beside(server)?;
    let outcome = load::get(server, size.duration)?;
    sets.end(server)?;
    Ok(latencies_of("", &outcome))
}

fn measure_get_during_keys(server: &Server, keys: u32, size: &Size) -> Result<Vec<Figure>> {
    load::load_keys(server, 0..keys)?;
    let without = load::get(server, size.duration)?;
    let keys_loop = Beside::keys_loop(server)?;
    let with = load::get(server, size.duration)?;
    keys_loop.end(server)?;
    let mut figures = latencies_of("", &with);
    figures.extend(latencies_of("without KEYS", &without));
    if let ([_, Some(with), _], [_, Some(without), _]) = (with.latencies, without.latencies) {
        let (metric, value) = (Metric::WithOverWithout, with / without);
        figures.push(Figure { operation: "p99", metric, value });
    }
    Ok(figures)
}

/// The first search has nothing to go by; what it lets another client wait is measured, too.
fn measure_keys_prefix(server: &Server, keys: u32) -> Result<Vec<Figure>> {
    load::load_keys(server, 0..keys)?;
    server.wait_for_rewrite()?;
    let (mut client, pattern) = (server.client()?, prefix_of_ten(keys));
    let mut ask = || -> Result<f64> {
        let started = Instant::now();
        let matches = client.skip(&["KEYS", &pattern])?;
        let time_ms = started.elapsed().as_secs_f64() * 1e3;
        match matches {
            MATCHES => Ok(time_ms),
            _ => {
                let said = format!("KEYS {pattern} finds {matches} keys, not {MATCHES}");
                Err(Error::Server { name: server.name().to_owned(), said })
            }
        }
    };
    let (first, beside) = thread::scope(|scope| {
        let gets = scope.spawn(|| load::get(server, INDEX_TIME));
        thread::sleep(INDEX_TIME / 10);
        let first = ask();
        (first, load::joined(gets.join()))
    });
    let times = (0..KEYS_CALLS).map(|_| ask()).collect::<Result<Vec<_>>>()?;
    let later = median(&times).unwrap_or(f64::NAN);
    let figure = |operation, value| Figure { operation, metric: Metric::KeysTime, value };
    let mut figures = vec![figure("the first", first?), figure("later", later)];
    figures.extend(latencies_of("GET beside the first", &beside?));
    Ok(figures)
}

/// A pattern for the ten keys that differ in their last digit from one in the middle.
fn prefix_of_ten(keys: u32) -> String {
    let mut pattern = load::key(keys / 2);
    pattern.pop();
    pattern + "*"
}

fn measure_keys(mut server: Server, keys: u32, size: &Size) -> Result<Vec<Figure>> {
    let before = server.memory()?.resident;
    load::load_keys(&server, 0..keys)?;
    server.wait_for_rewrite()?;
    let memory = (server.memory()?.resident - before) / f64::from(keys);
    let disk = server.disk_bytes()? / f64::from(keys);
    server.prepare_start()?;
    let startup = server.restart()?.as_secs_f64();
    let started = server.memory()?;
    let extra = (started.most - started.resident) / f64::from(1 << 20);
    let figures = [
        (Metric::Memory, memory),
        (Metric::Disk, disk),
        (Metric::Startup, startup),
        (Metric::StartupMemory, extra),
    ];
    let mut figures: Vec<_> =
        figures.map(|(metric, value)| Figure { operation: "", metric, value }).into();
    let (operation, clients, pipeline, processes) = ("GET", 50, 16, 2);
    let requests = (1_000_000.0 * size.requests_factor) as u32;
    let gets = Standard { operation, clients, pipeline, processes, requests, keys };
    figures.extend(figures_of(&server, RANDOM_GET, || gets.run(&server))?);
    Ok(figures)
}

/// Two servers get the same keys, and one of them a `KEYS prefix*` when half of them are there.
fn measure_prefix_index(asked: &Server, other: &Server, keys: u32) -> Result<Vec<Figure>> {
    let second_half = |server: &Server, ask: bool| {
        load::load_keys(server, 0..keys / 2)?;
        if ask {
            server.client()?.skip(&["KEYS", &prefix_of_ten(keys / 2)])?;
            thread::sleep(INDEX_TIME);
        }
        let time = load::load_keys(server, keys / 2..keys)?;
        server.wait_for_rewrite()?;
        Ok((time.as_secs_f64(), server.memory()?.resident))
    };
    let (time, bytes) = second_half(other, false)?;
    let (time_asked, bytes_asked) = second_half(asked, true)?;
    let figure = |operation, metric, value| Figure { operation, metric, value };
    Ok(vec![
        figure("SET throughput", Metric::WithOverWithout, time / time_asked),
        figure("what it adds", Metric::Memory, (bytes_asked - bytes) / f64::from(keys)),
    ])
}
