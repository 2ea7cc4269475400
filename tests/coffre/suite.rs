//! The tests of commands and connections, run once more on servers with another engine: this executable runs its own
//! tests, and the harness starts other servers for them.

use std::collections::BTreeSet;
use std::env;
use std::process::{Command, Stdio};

use crate::harness::ENGINE;

/// Tests that are not run on an engine, and why.
pub type LeftOut = &'static [(&'static str, &'static str)];

/// Those about commands and connections whose servers need no data file; where a test goes on with the file, it does so
/// only on an engine that has one. Not among them are `databases`, which is about files; `protocol_fuzz`, which has an
/// engine in its own process; and, to save time, `deadlines` and `overload`, which know little of engines (they pass).
const MODULES: &[&str] = &[
    "clients",
    "concurrency",
    "expiry",
    "histories",
    "properties",
    "protocol",
    "redis_rs",
    "scanning",
    "security",
    "server_commands",
    "sessions",
    "stopping",
    "transactions",
];

/// The names of the tests of this executable that `filter` lets through.
fn names(filter: &[&str]) -> BTreeSet<String> {
    let mut command = Command::new(env::current_exe().unwrap());
    let output = command.args(["--list", "--format", "terse"]).args(filter).output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// Runs these tests, but for some, on servers with an engine; and those in `own`, which are about that engine.
pub fn run(engine: &str, left_out: LeftOut, own: &[&str]) {
    let all = names(&[]);
    let of_module = |module: &str| {
        let prefix = format!("{module}::");
        all.iter().filter(|name| name.starts_with(&prefix)).cloned().collect::<BTreeSet<_>>()
    };
    let mut wanted = BTreeSet::new();
    for module in MODULES {
        let tests = of_module(module);
        assert!(!tests.is_empty(), "there is no test in {module}");
        wanted.extend(tests);
    }
    for (name, reason) in left_out {
        assert!(wanted.remove(*name), "there is no {name} to be left out because {reason}");
    }
    wanted.extend(own.iter().map(|name| (*name).to_owned()));
    let ignored = names(&["--ignored"]);
    wanted.retain(|name| !ignored.contains(name));
    let mut command = Command::new(env::current_exe().unwrap());
    command.env(ENGINE, engine).stdin(Stdio::null());
    // Most of them wait most of the time.
    command.args(["--test-threads", "4", "--exact"]).args(&wanted);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "a test fails on the engine {engine}");
    let passed = format!("test result: ok. {} passed; 0 failed; 0 ignored", wanted.len());
    assert!(said.contains(&passed), "not all {} tests were run", wanted.len());
}
