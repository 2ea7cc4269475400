//! The tests of commands and connections, run once more: on servers with the optimistic engine.
//!
//! This executable is those servers, too: run with `COFFRE_TEST_ENGINE=optimistic`, its tests start it again with the
//! test [`serve`] only, and the flags of the server after `--`. So it can be asked for much longer whether the engine is
//! strictly serializable:
//!
//! ```text
//! COFFRE_TEST_ENGINE=optimistic COFFRE_HISTORY_SECONDS=60 cargo test --test coffre a_history -- --skip a_disk
//! ```

use std::env;

use clap::Parser;
use coffre::config::Arguments;
use coffre::util::logging;

use super::Optimistic;
use crate::harness::{ENGINE, OPTIMISTIC, Reply, Server, folder, has_file};
use crate::suite::{self, LeftOut};

/// The tests of these modules that are about the data file, and in what.
const LEFT_OUT: LeftOut = &[
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

#[test]
fn servers_run_on_the_engine_that_is_asked_for() {
    let (_folder, file) = folder();
    let server = Server::start(&file);
    assert_eq!(server.client().line("INCR a"), Reply::Integer(1));
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    assert_eq!(log.contains("optimistic engine: 1 transactions"), !has_file(), "{log}");
    assert_eq!(file.exists(), has_file());
}

#[test]
fn the_command_suite_passes() {
    if env::var_os(ENGINE).is_none() {
        const OWN: &str = "optimistic::suite::servers_run_on_the_engine_that_is_asked_for";
        suite::run(OPTIMISTIC, LEFT_OUT, &[OWN]);
    }
}
