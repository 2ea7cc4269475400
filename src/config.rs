//! The settings: each is a flag and an environment variable. What `CONFIG SET` may change while the server runs is
//! [`crate::server`]'s.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, CommandFactory, FromArgMatches, Parser};

use crate::etcd_flags::{EtcdFlags, Members};
use crate::journal::Fsync;
use crate::limits::{DATABASES_MAX, REQUEST_BYTES_MAX, VALUE_BYTES_MAX};
use crate::tools::Tool;
use crate::util::nearest::nearest;
use crate::util::password::Password;

/// A key-value server that never loses a key and keeps them in one file you can read.
#[derive(Clone, Debug, Parser)]
#[command(
    version, max_term_width = 100, after_help = AFTER_HELP, args_conflicts_with_subcommands = true
)]
pub struct Arguments {
    /// The settings of the server.
    #[command(flatten)]
    pub config: Config,

    /// The tool to run in place of the server.
    #[command(subcommand)]
    pub tool: Option<Tool>,
}

impl Arguments {
    /// Parses the command line and the environment; ends the process if they are invalid.
    pub fn of_process() -> Self {
        Self::of(std::env::args_os()).unwrap_or_else(|error| with_hint(error).exit())
    }

    /// Parses a command line, of which the first word is the program.
    fn of(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(words)?;
        let arguments = Self::from_arg_matches(&matches)?;
        match arguments.config.contradiction(&matches) {
            Some(reason) => Err(command.error(ErrorKind::ArgumentConflict, reason)),
            None => Ok(arguments),
        }
    }
}

/// Adds a hint on `--file` to the error about an unknown tool, if the word may be a data file.
fn with_hint(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    if word.contains(['.', '/']) || Path::new(word).exists() {
        let hint = format!("a data file is given with --file: coffre --file {word}");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint.into()]));
    }
    error
}

/// A warning for each variable among `names` that begins like a setting and is none, with the nearest setting. It does
/// not show the value, which may be a password.
pub fn unknown_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    const START: &str = "COFFRE_";
    let command = Arguments::command();
    let settings: Vec<_> = command.get_arguments().filter_map(Arg::get_env).collect();
    let settings: Vec<_> = settings.into_iter().filter_map(OsStr::to_str).collect();
    let mut warnings = Vec::new();
    for name in names {
        let name = name.to_string_lossy();
        let Some(start) = name.get(..START.len()) else { continue };
        if !start.eq_ignore_ascii_case(START) || settings.contains(&&*name) {
            continue;
        }
        let shown = name.escape_debug();
        let meant = nearest(&name.to_ascii_uppercase()[START.len()..], &settings, |setting| {
            &setting[START.len()..]
        });
        warnings.push(match meant {
            Some(setting) => format!("{shown} is no setting, and is ignored: is {setting} meant?"),
            None => format!("{shown} is no setting, and is ignored: coffre --help lists them"),
        });
    }
    warnings.sort_unstable();
    warnings
}

/// The settings of a server.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Port to listen on; 0 takes any free one, which is printed and logged
    #[arg(long, env = "COFFRE_PORT", default_value_t = 6379)]
    pub port: u16,

    /// Address to listen on, IPv4 or IPv6, or a name such as localhost; may be repeated
    #[arg(
        long,
        env = "COFFRE_BIND",
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "127.0.0.1",
        value_parser = host
    )]
    pub bind: Vec<String>,

    /// Data file; it is created if it does not exist
    #[arg(long, env = "COFFRE_FILE", value_name = "PATH", default_value = "donnees.txt")]
    pub file: PathBuf,

    /// Where keys are kept: in the data file, or in an etcd cluster, as etcd://10.0.0.1:2379,10.0.0.2:2379
    ///
    /// With etcd any number of coffres, on any machines, serve the same keys; docs/cluster.md says when to use it.
    #[arg(long, env = "COFFRE_ENGINE", value_name = "file|etcd://...", default_value = "file", value_parser = engine)]
    pub engine: EngineKind,

    /// Number of databases, that SELECT chooses from; at most 256
    #[arg(long, env = "COFFRE_DATABASES", value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=DATABASES_MAX as i64))]
    pub databases: u16,

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

    /// Close a client that sends nothing for so long, in seconds; 0 never does
    #[arg(long, env = "COFFRE_TIMEOUT", value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32))]
    pub timeout: u32,

    /// Close a client that is silent for so long in the middle of a request, in seconds, or takes longer
    /// over it without sending 16 KiB each second; or, where there is a password, over giving it. 0 never
    /// does
    #[arg(long, env = "COFFRE_REQUEST_TIMEOUT", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32))]
    pub request_timeout: u32,

    /// Close a client that takes nothing of its replies for so long, in seconds; 0 never does
    #[arg(long, env = "COFFRE_WRITE_TIMEOUT", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32))]
    pub write_timeout: u32,

    /// Ask the network whether a silent client is still there after so long, in seconds; 0 never does
    #[arg(long, env = "COFFRE_TCP_KEEPALIVE", value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(..=32767))]
    pub tcp_keepalive: u32,

    /// Refuse what needs more memory once so much is used, in bytes or as 100mb, 2gb; 0 never does
    ///
    /// GET, DEL, FLUSHALL and whatever frees memory still work.
    #[arg(long, env = "COFFRE_MAXMEMORY", value_name = "BYTES", default_value = "0", value_parser = bytes)]
    pub maxmemory: usize,

    /// Longest key or value
    #[arg(long, env = "COFFRE_MAX_VALUE", value_name = "BYTES", default_value = "512mb", value_parser = up_to(VALUE_BYTES_MAX))]
    pub max_value: usize,

    /// Largest request: a command and its arguments
    #[arg(long, env = "COFFRE_MAX_REQUEST", value_name = "BYTES", default_value = "1gb", value_parser = up_to(REQUEST_BYTES_MAX))]
    pub max_request: usize,

    /// Password that clients must give with AUTH. Other users of this machine can see the flag: better
    /// use the variable, or --requirepass-file
    #[arg(
        long,
        env = "COFFRE_REQUIREPASS",
        value_name = "PASSWORD",
        hide_env_values = true,
        conflicts_with = "requirepass_file"
    )]
    pub requirepass: Option<Password>,

    /// File whose first line is the password
    #[arg(long, env = "COFFRE_REQUIREPASS_FILE", value_name = "PATH")]
    pub requirepass_file: Option<PathBuf>,

    /// Without a password, serve clients of this machine only, whatever address they come to
    #[arg(long, env = "COFFRE_PROTECTED_MODE", value_name = "yes|no", default_value = "yes", value_parser = yes_or_no(), action = clap::ArgAction::Set)]
    pub protected_mode: bool,

    /// Keep in SLOWLOG what takes so long, in microseconds; -1 keeps nothing
    #[arg(
        long,
        env = "COFFRE_SLOWLOG_LOG_SLOWER_THAN",
        value_name = "MICROSECONDS",
        default_value_t = 10_000,
        allow_negative_numbers = true
    )]
    pub slowlog_log_slower_than: i64,

    /// End a script that runs for longer, in seconds; nothing of it is left then
    #[arg(long, env = "COFFRE_SCRIPT_TIMEOUT", value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub script_timeout: u32,

    /// End a script that wants more memory
    #[arg(long, env = "COFFRE_SCRIPT_MEMORY", value_name = "BYTES", default_value = "64mb", value_parser = up_to(VALUE_BYTES_MAX))]
    pub script_memory: usize,

    /// Port for Prometheus: /metrics and /health by HTTP, on the same addresses
    #[arg(long, env = "COFFRE_METRICS_PORT", value_name = "PORT")]
    pub metrics_port: Option<u16>,

    /// Allow DEBUG, which can make the server fail on purpose: no, yes, or to clients of this machine
    #[arg(long, env = "COFFRE_ENABLE_DEBUG_COMMAND", value_name = "no|yes|local", default_value = "no", value_parser = allowed())]
    pub enable_debug_command: Allowed,

    /// Allow CONFIG SET requirepass, which changes the password until the server stops: no, yes, or to clients of this
    /// machine
    #[arg(long, env = "COFFRE_ENABLE_PROTECTED_CONFIGS", value_name = "no|yes|local", default_value = "no", value_parser = allowed())]
    pub enable_protected_configs: Allowed,

    /// How etcd is reached.
    #[command(flatten)]
    pub etcd: EtcdFlags,
}

/// Where keys are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// In the data file.
    File,
    /// In the cluster of these members.
    Etcd(Members),
}

fn engine(text: &str) -> Result<EngineKind, String> {
    match text {
        "file" => Ok(EngineKind::File),
        text => {
            let members = text.parse().map(EngineKind::Etcd);
            members.map_err(|reason| format!("either file, or {reason}"))
        }
    }
}

/// The clients that something is allowed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// None.
    No,
    /// All.
    Yes,
    /// Clients of this machine.
    Local,
}

impl Allowed {
    /// Whether it is allowed to a client at `peer` that is connected to the address `local`.
    pub fn is_to(self, peer: IpAddr, local: Option<IpAddr>) -> bool {
        match self {
            Self::No => false,
            Self::Yes => true,
            Self::Local => is_of_this_machine(peer, local),
        }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::Local => "local",
        }
    }
}

/// A password file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the password file {}: {source}", path.display())]
pub struct PasswordFileError {
    path: PathBuf,
    source: io::Error,
}

impl Config {
    /// Reads the password file, if one is set.
    pub fn read_password(&mut self) -> Result<(), PasswordFileError> {
        if let Some(path) = &self.requirepass_file {
            let password = Password::of_file(path);
            let password =
                password.map_err(|source| PasswordFileError { path: path.clone(), source });
            self.requirepass = Some(password?);
        }
        Ok(())
    }

    /// Why the flags and variables that were given do not go together, if they do not.
    fn contradiction(&self, matches: &ArgMatches) -> Option<String> {
        let source = |name: &&str| {
            matches.ids().any(|id| id == name).then(|| matches.value_source(name)).flatten()
        };
        let is_given = |name: &&str| {
            matches!(source(name), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
        };
        match self.engine {
            EngineKind::Etcd(_) => ["file", "fsync"].iter().find(|name| is_given(name)).map(|name| {
                format!("--{name} is for the data file, and with --engine etcd:// there is none: etcd keeps the keys")
            }),
            // A variable may be meant for other coffres of this machine.
            EngineKind::File => {
                let is_flag = |id: &&clap::Id| {
                    id.as_str().starts_with("etcd_")
                        && matches.value_source(id.as_str()) == Some(ValueSource::CommandLine)
                };
                matches.ids().find(is_flag).map(|id| {
                    format!("--{} has no meaning without --engine etcd://", id.as_str().replace('_', "-"))
                })
            }
        }
    }

    /// The password, if one is set.
    pub fn password(&self) -> Option<&Password> {
        self.requirepass.as_ref()
    }

    /// Whether protected mode denies a connection from `peer` to the address `local`: no password is set, and the
    /// connection comes from another machine.
    pub fn denies(&self, has_password: bool, peer: IpAddr, local: Option<IpAddr>) -> bool {
        self.protected_mode && !has_password && !is_of_this_machine(peer, local)
    }
}

/// Whether a connection from `peer` to the address `local` comes from this machine: its source is the loopback, or the
/// same address. The system drops packets from outside whose source is one of its own addresses.
pub fn is_of_this_machine(peer: IpAddr, local: Option<IpAddr>) -> bool {
    let peer = peer.to_canonical();
    peer.is_loopback() || local.is_some_and(|local| local.to_canonical() == peer)
}

/// Checks an address, or what may be the name of a host. The server resolves names when it starts.
fn host(text: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !label.is_empty() && label.bytes().all(is_part)
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    // A name does not end in a number, so an invalid address is not a name.
    let is_name = text.split('.').all(is_label) && !text.rsplit('.').next().is_some_and(is_number);
    match text.parse::<IpAddr>().is_ok() || is_name {
        true => Ok(text.to_owned()),
        false => Err("an IPv4 or IPv6 address, or the name of a host".to_owned()),
    }
}

fn yes_or_no() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["yes", "no"]).map(|word| word == "yes")
}

fn allowed() -> impl TypedValueParser<Value = Allowed> {
    PossibleValuesParser::new(["no", "yes", "local"]).map(|name| {
        let named = [Allowed::Yes, Allowed::Local].into_iter().find(|mode| mode.name() == name);
        named.unwrap_or(Allowed::No)
    })
}

/// Parses a size as Redis does: `1k` is 1000, `1kb` is 1024, and so on with `m` and `g`.
pub fn bytes(text: &str) -> Result<usize, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.len() - lower.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
    let (digits, unit) = lower.split_at(digits);
    let unit: usize = match unit {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return Err("a number of bytes, or one with kb, mb or gb".to_owned()),
    };
    let number: usize = digits.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(unit).ok_or_else(|| "too many bytes".to_owned())
}

fn up_to(bytes_max: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match bytes(text)? {
        0 => Err("more than 0".to_owned()),
        bytes if bytes > bytes_max => Err(format!("at most {bytes_max}")),
        bytes => Ok(bytes),
    }
}

fn fsync_named(name: String) -> Fsync {
    Fsync::ALL.into_iter().find(|mode| mode.name() == name).unwrap_or(Fsync::Always)
}

const AFTER_HELP: &str = "\
Examples:
  coffre --port 6379
  coffre --port 0 --file /var/lib/coffre/donnees.txt --fsync everysec
  coffre --bind 127.0.0.1 --bind ::1
  coffre --engine etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379
  coffre check donnees.txt
  printf 'SET a 1\\r\\nGET a\\r\\n' | nc -N localhost 6379

RUST_LOG sets what is logged (error, warn, info, debug); the default is info.

Exit codes: 0 stopped, 1 configuration, 2 usage, 3 data file refused, 4 address in use,
5 stopped but not everything is on disk, 6 (check) torn by a crash, 7 no cluster; 128 and the signal's number after
a second signal.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_those_of_the_readme() {
        let config = Arguments::parse_from(["coffre"]).config;
        assert_eq!((config.port, config.maxclients), (6379, 10_000));
        assert_eq!(config.bind, ["127.0.0.1"]);
        assert_eq!(config.file, PathBuf::from("donnees.txt"));
        assert_eq!(config.fsync, Fsync::Always);
    }

    #[test]
    fn an_unknown_variable_is_warned_about() {
        let warning = |name: &str| unknown_variables([OsString::from(name)].into_iter()).join("\n");
        for known in ["COFFRE_PORT", "COFFRE_REQUIREPASS_FILE", "PATH", "COFFRE", "é", "RUST_LOG"]
        {
            assert_eq!(warning(known), "");
        }
        for (name, meant) in [
            ("COFFRE_PROT", "COFFRE_PORT"),
            ("COFFRE_MAX_CLIENTS", "COFFRE_MAXCLIENTS"),
            ("coffre_file", "COFFRE_FILE"),
            ("COFFRE_REQUIREPAS", "COFFRE_REQUIREPASS"),
            ("COFFRE_MAXMEM", "COFFRE_MAXMEMORY"),
        ] {
            assert_eq!(
                warning(name),
                format!("{name} is no setting, and is ignored: is {meant} meant?")
            );
        }
        let expected = "COFFRE_XXX is no setting, and is ignored: coffre --help lists them";
        assert_eq!(warning("COFFRE_XXX"), expected);
        assert!(!warning("COFFRE_\x1b[2J").contains('\x1b'));
    }

    #[test]
    fn sizes_are_those_of_redis() {
        let sizes = [("0", 0), ("1k", 1000), ("1KB", 1024), ("3m", 3_000_000), ("2mb", 2 << 20)];
        for (text, size) in sizes.into_iter().chain([("1gb", 1 << 30), ("7b", 7)]) {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
    }

    #[test]
    fn without_a_password_other_machines_are_denied() {
        let config = |flags: &[&str]| Arguments::parse_from([&["coffre"], flags].concat()).config;
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (far, own) = (address("192.0.2.1"), Some(address("192.0.2.2")));
        let denies = |peer: &str| config(&[]).denies(false, address(peer), own);
        assert!(denies("192.0.2.1") && denies("::ffff:192.0.2.1") && denies("::") && denies("::2"));
        for near in ["127.0.0.7", "::1", "::ffff:127.0.0.1", "192.0.2.2", "::ffff:192.0.2.2"] {
            assert!(!denies(near), "{near}");
        }
        assert!(config(&[]).denies(false, far, None));
        assert!(!config(&["--protected-mode", "no"]).denies(false, far, own));
        assert!(!config(&[]).denies(true, far, own));
    }

    #[test]
    fn bad_values_are_refused() {
        for arguments in [
            ["--port", "65536"],
            ["--bind", "127.0.0"],
            ["--bind", "127.0.0.256"],
            ["--bind", "[::1]"],
            ["--bind", "127.0.0.1:6379"],
            ["--bind", ""],
            ["--bind", "here or there"],
            ["--fsync", "yes"],
            ["--databases", "0"],
            ["--databases", "257"],
            ["--maxclients", "0"],
            ["--maxmemory", "lots"],
            ["--maxmemory", "99999999999gb"],
            ["--max-value", "0"],
            ["--max-value", "513mb"],
            ["--timeout", "-1"],
            ["--protected-mode", "maybe"],
            ["--requirepass", ""],
        ] {
            assert!(Arguments::try_parse_from(["coffre", arguments[0], arguments[1]]).is_err());
        }
    }
}
