//! The `coffre` program: flags in, exit code out.

use std::io::Write;
use std::process::ExitCode;

use coffre::config::{self, Arguments};
use coffre::tools;
use coffre::util::logging;

fn main() -> ExitCode {
    let Arguments { config, tool } = Arguments::of_process();
    let filter = if tool.is_some() { "warn" } else { "info" };
    if let Err(error) = logging::begin(filter) {
        return exit(Err(coffre::Error::from(error)), coffre::Error::exit_code);
    }
    match tool {
        Some(tool) => exit(tools::run(&tool), tools::ToolError::exit_code),
        None => {
            let variables = std::env::vars_os().map(|(name, _)| name);
            config::unknown_variables(variables).iter().for_each(|said| log::warn!("{said}"));
            exit(coffre::run(config).map(|()| 0), coffre::Error::exit_code)
        }
    }
}

fn exit<E: std::error::Error>(result: Result<u8, E>, code: fn(&E) -> u8) -> ExitCode {
    logging::flush();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Not `eprintln!`: it panics where standard error is closed.
            let _ = writeln!(std::io::stderr(), "coffre: {error}");
            ExitCode::from(code(&error))
        }
    }
}
