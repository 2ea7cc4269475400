//! Load by redis-benchmark: its flags, and what it says.

use std::process::{Command, Stdio};
use std::thread;

use crate::error::{Context, Error, Result};
use crate::load::{Beside, Outcome, VALUE, joined};
use crate::server::Server;

/// How redis-benchmark is run.
#[derive(Clone, Copy)]
pub struct Standard {
    pub operation: &'static str,
    pub clients: u32,
    pub pipeline: u32,
    /// Not threads: with these it sees the end of a run only every 250 ms.
    pub processes: u32,
    pub requests: u32,
    /// How many keys it chooses from.
    pub keys: u32,
}

/// A script of one GET, as redis-benchmark takes it.
const SCRIPT: [&str; 4] = ["EVAL", "return redis.call('get',KEYS[1])", "1", "key:__rand_int__"];

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
        let outcome = self.outcome(&String::from_utf8_lossy(&output.stdout));
        outcome.filter(|_| output.status.success()).ok_or_else(|| {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().last().unwrap_or("nothing, but fails");
            let said = format!("redis-benchmark says: {said}");
            Error::Server { name: server.name().to_owned(), said }
        })
    }

    /// What its CSV says: a line of names, one of values.
    fn outcome(self, csv: &str) -> Option<Outcome> {
        let fields = |line: &str| -> Vec<String> {
            line.split(',').map(|field| field.trim_matches('"').to_owned()).collect()
        };
        let mut lines = csv.lines().filter(|line| line.starts_with('"')).map(fields);
        let (names, values) = (lines.next()?, lines.next()?);
        let column = |name: &str| -> Option<f64> {
            values.get(names.iter().position(|it| it == name)?)?.parse().ok()
        };
        Some(Outcome {
            operations: f64::from(self.requests),
            throughput: column("rps")?,
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
        flag("-r", self.keys);
        flag("-d", VALUE.len() as u32);
        command.arg("--csv").stdin(Stdio::null());
        match self.operation {
            "EVAL" => command.args(SCRIPT),
            operation => command.args(["-t", &operation.to_lowercase()]),
        };
        command
    }
}
