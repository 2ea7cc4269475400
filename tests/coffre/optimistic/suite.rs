//! The tests of commands and connections, run once more: on servers with the optimistic engine.
//!
//! This executable is those servers, too: run with `COFFRE_TEST_ENGINE=optimistic`, its tests start it again with the
//! test [`serve`] only, and the flags of the server after `--`. So it can be asked for much longer whether the engine is
//! strictly serializable:
//!
//! ```text
//! COFFRE_TEST_ENGINE=optimistic COFFRE_HISTORY_SECONDS=60 cargo test --test coffre a_history -- --skip a_disk
//! ```

use std::collections::BTreeSet;
use std::env;
use std::process::{Command, Stdio};

use clap::Parser;
use coffre::config::Arguments;
use coffre::util::logging;

use super::Optimistic;
use crate::harness::{ENGINE, OPTIMISTIC, Reply, Server, folder, is_durable};

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

/// The tests of these modules that are about the data file, and in what.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "expiry::a_value_that_changes_after_its_time_is_another",
        "it replays records of keys that have expired",
    ),
    (
        "histories::a_history_on_a_disk_that_refuses_is_strictly_serializable",
        "it lets the file not grow",
    ),
    ("server_commands::a_reload_notices_a_file_that_tells_something_else", "it changes the file"),
    (
        "stopping::shutdown_is_refused_while_nothing_can_be_saved_unless_it_is_meant",
        "it removes the file",
    ),
    ("transactions::kill_9_leaves_no_half_transaction", "it replays what was acknowledged"),
];

/// The server, in place of the program.
#[test]
#[ignore = "other tests start it, as a server"]
fn serve() {
    let flags: Vec<_> = env::args_os().skip_while(|word| word != "--").collect();
    // All tests that are ignored were asked for.
    if flags.is_empty() || env::var_os(ENGINE).is_none_or(|engine| engine != OPTIMISTIC) {
        return;
    }
    let Arguments { config, .. } = Arguments::parse_from(flags);
    logging::begin("info").unwrap();
    let result = coffre::run_on::<Optimistic>(config);
    logging::flush();
    let code = result.err().map_or(0, |error| {
        eprintln!("coffre: {error}");
        error.exit_code()
    });
    std::process::exit(code.into());
}

/// The names of the tests of this executable that `filter` lets through.
fn names(filter: &[&str]) -> BTreeSet<String> {
    let mut command = Command::new(env::current_exe().unwrap());
    let output = command.args(["--list", "--format", "terse"]).args(filter).output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

#[test]
fn servers_run_on_the_engine_that_is_asked_for() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    assert_eq!(server.client().line("INCR a"), Reply::Integer(1));
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    assert_eq!(log.contains("optimistic engine: 1 transactions"), !is_durable(), "{log}");
    assert_eq!(file.exists(), is_durable());
}

#[test]
fn the_command_suite_passes() {
    if env::var_os(ENGINE).is_some() {
        return;
    }
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
    for (name, reason) in LEFT_OUT {
        assert!(wanted.remove(*name), "there is no {name} to be left out because {reason}");
    }
    wanted.insert("optimistic::suite::servers_run_on_the_engine_that_is_asked_for".to_owned());
    let ignored = names(&["--ignored"]);
    wanted.retain(|name| !ignored.contains(name));
    let mut command = Command::new(env::current_exe().unwrap());
    command.env(ENGINE, OPTIMISTIC).stdin(Stdio::null());
    // Most of them wait most of the time.
    command.args(["--test-threads", "4", "--exact"]).args(&wanted);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "a test fails on the optimistic engine");
    let passed = format!("test result: ok. {} passed; 0 failed; 0 ignored", wanted.len());
    assert!(said.contains(&passed), "not all {} tests were run", wanted.len());
}
