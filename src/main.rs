//! The `coffre` program: flags in, exit code out.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use coffre::config::Config;

fn main() -> ExitCode {
    let config = Config::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match coffre::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `eprintln!`: it panics when nobody listens.
            let _ = writeln!(std::io::stderr(), "coffre: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
