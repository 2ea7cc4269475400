//! The settings: each a flag and an environment variable, fixed once the server runs.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser};

use crate::offline::Tool;
use crate::persistence::Fsync;

/// A key-value server that never loses a key and keeps them in one file you can read.
#[derive(Clone, Debug, Parser)]
#[command(
    version, max_term_width = 100, after_help = AFTER_HELP, args_conflicts_with_subcommands = true
)]
pub struct Arguments {
    /// What the server is told.
    #[command(flatten)]
    pub config: Config,

    /// Instead of a server: a tool for data files.
    #[command(subcommand)]
    pub tool: Option<Tool>,
}

/// The settings of a server.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Port to listen on; 0 takes any free one, which is printed and logged
    #[arg(long, env = "COFFRE_PORT", default_value_t = 6379)]
    pub port: u16,

    /// Address to listen on, IPv4 or IPv6; may be repeated
    #[arg(
        long,
        env = "COFFRE_BIND",
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "127.0.0.1"
    )]
    pub bind: Vec<IpAddr>,

    /// Data file; it is created if it does not exist
    #[arg(long, env = "COFFRE_FILE", value_name = "PATH", default_value = "donnees.txt")]
    pub file: PathBuf,

    /// When a write is made to survive a power cut
    ///
    /// always: before it is acknowledged; everysec: each second; no: when the system pleases.
    /// In every mode an acknowledged write survives kill -9.
    #[arg(
        long, env = "COFFRE_FSYNC", value_name = "MODE", default_value = Fsync::Always.name(),
        value_parser = PossibleValuesParser::new(Fsync::ALL.map(Fsync::name)).map(fsync_named)
    )]
    pub fsync: Fsync,

    /// Most clients connected at once; one more is told so and closed
    #[arg(
        long, env = "COFFRE_MAXCLIENTS", default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub maxclients: u32,
}

fn fsync_named(name: String) -> Fsync {
    Fsync::ALL.into_iter().find(|mode| mode.name() == name).unwrap_or(Fsync::Always)
}

const AFTER_HELP: &str = "\
Examples:
  coffre --port 6379
  coffre --port 0 --file /var/lib/coffre/donnees.txt --fsync everysec
  coffre --bind 127.0.0.1 --bind ::1
  coffre check donnees.txt
  printf 'SET a 1\\r\\nGET a\\r\\n' | nc -N localhost 6379

RUST_LOG sets what is logged (error, warn, info, debug); the default is info.

Exit codes: 0 stopped, 1 configuration, 2 usage, 3 data file refused, 4 address in use,
5 stopped but not everything is on disk, 6 (check) torn by a crash; 128 and the signal's number after a second
signal.";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_those_of_the_readme() {
        let config = Arguments::parse_from(["coffre"]).config;
        assert_eq!((config.port, config.maxclients), (6379, 10_000));
        assert_eq!(config.bind, [IpAddr::from([127, 0, 0, 1])]);
        assert_eq!(config.file, PathBuf::from("donnees.txt"));
        assert_eq!(config.fsync, Fsync::Always);
    }

    #[test]
    fn bad_values_are_refused() {
        for arguments in
            [["--port", "65536"], ["--bind", "here"], ["--fsync", "yes"], ["--maxclients", "0"]]
        {
            assert!(Arguments::try_parse_from(["coffre", arguments[0], arguments[1]]).is_err());
        }
    }
}
