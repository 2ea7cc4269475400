//! coffre beside Redis: `cargo bench --bench redis`.
//!
//! Every workload of [`workload::WORKLOADS`] runs on each server in turn, repetition by repetition, so that
//! noise hits all alike. Nothing here asserts a speed: what was measured goes to standard output and, with
//! plots, to `docs/performance.md`.
//!
//! ```text
//! main > { workload, measure, noise, report > { growth, plot } }      measure > { standard > load, server > { client, slow_fsync } }
//! all > figures
//! ```

mod client;
mod error;
mod figures;
mod growth;
mod load;
mod measure;
mod noise;
mod plot;
mod report;
mod server;
mod slow_fsync;
mod standard;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use error::{Error, Result};
use figures::Row;
use noise::Noise;
use server::Program;
use workload::{WORKLOADS, Workload};

/// Measures coffre beside Redis, with the same durability on both sides
#[derive(Parser)]
#[command(name = "cargo bench --bench redis --", bin_name = "cargo bench --bench redis --")]
struct Options {
    /// One more server, which takes the flags of redis-server; may be repeated
    #[arg(long, value_name = "NAME=COMMAND", value_parser = peer)]
    peer: Vec<Program>,

    /// Only workloads with this in their name; no report unless --out is given
    #[arg(long, value_name = "SUBSTRING")]
    only: Option<String>,

    /// How often each workload is measured on each server; what is shown are medians
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,

    /// At most three minutes: short runs, once each; no report unless --out is given
    #[arg(long, conflicts_with = "repeat")]
    quick: bool,

    /// Folder for performance.md and its plots [default: docs]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Makes the runs of redis-benchmark so many times as long, for a faster or slower machine
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = positive)]
    requests_scale: f64,

    /// What cargo bench adds by itself
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much of each workload is done.
pub struct Size {
    repetitions: u32,
    requests_factor: f64,
    keys_factor: f64,
    duration: Duration,
}

impl Options {
    fn size(&self) -> Size {
        let (seconds, requests, keys) = if self.quick { (0.5, 0.25, 0.1) } else { (2.0, 1.0, 1.0) };
        Size {
            repetitions: if self.quick { 1 } else { self.repeat },
            requests_factor: requests * self.requests_scale,
            keys_factor: keys,
            duration: Duration::from_secs_f64(seconds),
        }
    }

    /// Where the report goes: what is not a full run does not replace the one of a full run.
    fn report_folder(&self) -> Option<PathBuf> {
        let is_full = !self.quick && self.only.is_none();
        self.out.clone().or_else(|| is_full.then(|| PathBuf::from("docs")))
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if !options.bench {
        eprintln!("nothing is measured: run `cargo bench --bench redis`");
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(1)
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let only = options.only.as_deref().unwrap_or_default();
    let chosen: Vec<_> = WORKLOADS.iter().filter(|it| it.name.contains(only)).collect();
    if chosen.is_empty() {
        return Err(Error::NoWorkload(only.to_owned()));
    }
    standard::find_redis_benchmark()?;
    raise_open_files();
    let mut programs = vec![Program::coffre(), Program::redis()];
    programs.extend(options.peer.iter().cloned());
    let versions = programs.iter().map(Program::version).collect::<Result<Vec<_>>>()?;

    let (size, mut rows, mut noise) = (options.size(), Vec::new(), Noise::new()?);
    for (number, workload) in chosen.iter().enumerate() {
        eprintln!("[{}/{}] {}", number + 1, chosen.len(), workload.name);
        noise.measure();
        rows.extend(measure_on_all(workload, &programs, &size)?);
    }
    rows.extend(figures::of_fifty(&rows));

    let names: Vec<_> = programs.iter().map(|program| program.name.as_str()).collect();
    println!("{}\nNoise: {}.", report::tables(&rows, &names), noise.told());
    if options.quick {
        println!("A quick run: each figure is of one short measurement, with a tenth of the keys.");
    }
    if let Some(folder) = options.report_folder() {
        report::write(&folder, &rows, &names, &versions, &noise.told())?;
        eprintln!("written: {}", folder.join("performance.md").display());
    }
    Ok(())
}

/// One workload, on each server in turn, repetition by repetition.
fn measure_on_all(
    workload: &'static Workload,
    programs: &[Program],
    size: &Size,
) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    let repetitions = size.repetitions.min(workload.repetitions_max());
    for repetition in 1..=repetitions {
        for (index, program) in programs.iter().enumerate() {
            if index > 0 && workload.is_of_coffre_only() {
                continue;
            }
            eprintln!("  {repetition}/{repetitions} {}", program.name);
            for figure in measure::measure(workload, program, size)? {
                let place = rows.iter().position(|row| row.is_of(&figure)).unwrap_or(rows.len());
                if place == rows.len() {
                    rows.push(Row::new(workload, &figure, programs.len()));
                }
                rows[place].values[index].push(figure.value);
            }
        }
    }
    Ok(rows)
}

/// Thousands of clients need as many files, here and in the programs that are started.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Where that is refused, what needs them says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn peer(text: &str) -> Result<Program, String> {
    match text.split_once('=') {
        Some((name, command)) if !name.is_empty() && !command.is_empty() => {
            Ok(Program::peer(name, command))
        }
        _ => Err("NAME=COMMAND, as in valkey=valkey-server".to_owned()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && number <= 1000.0 => Ok(number),
        _ => Err("a number above 0, and at most 1000".to_owned()),
    }
}
