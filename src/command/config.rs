//! `CONFIG`: the running configuration under Redis's names, and the part of it that may change.

use super::spec::{
    Flag::{Admin, Secret},
    Group, Spec,
};
use super::{Call, CommandError, ECHO_BYTES_MAX, is, lossy};
use crate::command::glob::Pattern;
use crate::config::bytes;
use crate::engine::Txn;
use crate::limits::{LISTEN_BACKLOG, SLOWLOG_ENTRIES_MAX};
use crate::server::Control;
use crate::text;
use crate::util::memory;
use crate::util::password::Password;
use crate::util::process;

type Result<T = ()> = std::result::Result<T, CommandError>;

pub const CONFIG: Spec = Spec::new(Group::Server, "2.0.0", "CONFIG subcommand")
    .summary("Tells the running configuration.")
    .example("CONFIG GET *");

pub const CONFIG_GET: Spec =
    Spec::new(Group::Server, "2.0.0", "CONFIG GET parameter [parameter ...]")
        .summary("Returns the parameters that match the patterns.");

pub fn get<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let parameters = parameters(call.control);
    let mut asked = vec![false; parameters.len()];
    // One pattern at a time: each may take megabytes.
    for word in call.request.words_from(2) {
        let pattern = Pattern::of_lower_case(word)?;
        for ((name, _), asked) in parameters.iter().zip(&mut asked) {
            *asked |= pattern.matches(name.as_bytes());
        }
    }
    let found: Vec<_> =
        parameters.iter().zip(asked).filter_map(|(found, asked)| asked.then_some(found)).collect();
    call.replies.map(found.len());
    for (name, value) in found {
        call.replies.bulk(name.as_bytes());
        call.replies.bulk(value.as_bytes());
    }
    Ok(())
}

/// What is set here, and what clients expect of a server that has no such setting. The password is not
/// among them.
fn parameters(control: &Control) -> Vec<(&'static str, String)> {
    let Control { config, settings, slowlog, clients, .. } = control;
    let folder = config.file.parent().map(|folder| folder.display().to_string());
    let yes_or_no = |set: bool| if set { "yes" } else { "no" }.to_owned();
    vec![
        ("appendfilename", config.file.file_name().unwrap_or_default().display().to_string()),
        ("appendfsync", config.fsync.name().to_owned()),
        ("appendonly", "yes".to_owned()),
        ("bind", config.bind.join(" ")),
        ("client-query-buffer-limit", config.max_request.to_string()),
        ("databases", config.databases.to_string()),
        ("dir", folder.unwrap_or_default()),
        ("enable-debug-command", config.enable_debug_command.name().to_owned()),
        ("enable-protected-configs", config.enable_protected_configs.name().to_owned()),
        ("maxclients", clients.most().to_string()),
        ("maxmemory", memory::limit().to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("metrics-port", config.metrics_port.unwrap_or(0).to_string()),
        ("port", config.port.to_string()),
        ("protected-mode", yes_or_no(config.protected_mode)),
        ("proto-max-bulk-len", config.max_value.to_string()),
        ("request-timeout", settings.request_timeout.get().to_string()),
        ("save", String::new()),
        ("slowlog-log-slower-than", slowlog.threshold_us().to_string()),
        ("slowlog-max-len", slowlog.most().to_string()),
        ("tcp-backlog", LISTEN_BACKLOG.to_string()),
        ("tcp-keepalive", config.tcp_keepalive.to_string()),
        ("timeout", settings.timeout.get().to_string()),
        ("write-timeout", config.write_timeout.to_string()),
    ]
}

/// What `CONFIG SET` changes only where `--enable-protected-configs` allows it, and `CONFIG GET` never shows.
const PROTECTED: [&str; 2] = ["masterauth", "requirepass"];

/// A change to the configuration, which nothing can refuse any more.
enum Change {
    /// It has that value already.
    None,
    MaxClients(u32),
    MaxMemory(usize),
    Password(Option<Box<Password>>),
    RequestTimeout(u32),
    SlowerThan(i64),
    SlowlogLength(usize),
    Timeout(u32),
}

impl Change {
    /// Setting `name` to `value`; an error says why not.
    fn new(
        name: &'static str,
        value: &[u8],
        control: &Control,
    ) -> std::result::Result<Self, String> {
        let number = || {
            let number = text::integer(value).and_then(|number| u32::try_from(number).ok());
            number.filter(|number| *number <= i32::MAX as u32).ok_or_else(|| {
                match text::integer(value) {
                    None => "argument couldn't be parsed into an integer".to_owned(),
                    Some(_) => format!("argument must be between 0 and {} inclusive", i32::MAX),
                }
            })
        };
        let known = parameters(control);
        if known.iter().any(|(known, old)| *known == name && old.as_bytes() == value) {
            return Ok(Self::None);
        }
        match name {
            "maxclients" => {
                let wanted = number()?.max(1);
                match process::make_room_for(wanted) {
                    possible if possible < wanted => Err(format!(
                        "The operating system is not able to handle the specified number of clients, try \
                         with {possible}"
                    )),
                    _ => Ok(Self::MaxClients(wanted)),
                }
            }
            "maxmemory" => {
                let value = str::from_utf8(value).ok().and_then(|value| bytes(value).ok());
                value
                    .map(Self::MaxMemory)
                    .ok_or_else(|| "argument must be a memory value".to_owned())
            }
            // The password for a master, of which there is none.
            "masterauth" => Ok(Self::None),
            "requirepass" if value.is_empty() => Ok(Self::Password(None)),
            "requirepass" => match Password::new(value) {
                Ok(password) => Ok(Self::Password(Some(Box::new(password)))),
                Err(unusable) => Err(unusable.to_string()),
            },
            "request-timeout" => number().map(Self::RequestTimeout),
            "slowlog-log-slower-than" => {
                let number = text::integer(value);
                number
                    .map(Self::SlowerThan)
                    .ok_or_else(|| "argument couldn't be parsed into an integer".to_owned())
            }
            "slowlog-max-len" => match number()? as usize {
                most @ ..=SLOWLOG_ENTRIES_MAX => Ok(Self::SlowlogLength(most)),
                _ => Err(format!("argument must be between 0 and {SLOWLOG_ENTRIES_MAX} inclusive")),
            },
            "timeout" => number().map(Self::Timeout),
            _ => Err("can't set immutable config".to_owned()),
        }
    }

    fn apply(self, control: &Control) {
        match self {
            Self::None => {}
            Self::MaxClients(most) => control.clients.set_most(most as usize),
            Self::MaxMemory(bytes) => memory::set_limit(bytes),
            Self::Password(password) => control.settings.set_password(password.map(|boxed| *boxed)),
            Self::RequestTimeout(seconds) => control.settings.request_timeout.set(seconds),
            Self::SlowerThan(threshold_us) => control.slowlog.set_threshold(threshold_us),
            Self::SlowlogLength(most) => control.slowlog.set_most(most),
            Self::Timeout(seconds) => control.settings.timeout.set(seconds),
        }
    }
}

pub const CONFIG_SET: Spec =
    Spec::new(Group::Server, "2.0.0", "CONFIG SET parameter value [parameter value ...]")
        .flags(&[Admin, Secret])
        .summary("Changes parameters until the server stops, all or none.");

/// `CONFIG SET parameter value [parameter value ...]`: all or nothing.
pub fn set<T: Txn>(call: &mut Call<'_, T>) -> Result {
    if call.request.len() % 2 == 1 {
        return Err(CommandError::arity("config|set"));
    }
    let mut known: Vec<_> = parameters(call.control).into_iter().map(|(name, _)| name).collect();
    let local = call.client.stream.local_addr().ok().map(|local| local.ip());
    if call.control.config.enable_protected_configs.is_to(call.client.peer.ip(), local) {
        known.extend(PROTECTED);
    }
    let mut changes: Vec<(&'static str, Change)> = Vec::new();
    for index in (2..call.request.len()).step_by(2) {
        let Some(name) = known.iter().copied().find(|name| is(&call.request[index], name)) else {
            let shown = lossy(&call.request[index], ECHO_BYTES_MAX);
            return Err(CommandError::err(format!(
                "Unknown option or number of arguments for CONFIG SET - '{shown}'"
            )));
        };
        let change = match changes.iter().any(|(other, _)| *other == name) {
            true => Err("duplicate parameter".to_owned()),
            false => Change::new(name, &call.request[index + 1], call.control),
        };
        match change {
            Ok(change) => changes.push((name, change)),
            Err(reason) => {
                return Err(CommandError::err(format!(
                    "CONFIG SET failed (possibly related to argument '{name}') - {reason}"
                )));
            }
        }
    }
    for (name, change) in changes {
        log::info!("client {} changes {name}", call.client.id);
        change.apply(call.control);
    }
    call.replies.status("OK");
    Ok(())
}

pub const CONFIG_RESETSTAT: Spec = Spec::new(Group::Server, "2.0.0", "CONFIG RESETSTAT")
    .flags(&[Admin])
    .summary("Begins to count anew what INFO tells of.");

/// Begins to count anew what `INFO` tells of.
pub fn reset_stat<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.control.statistics.reset();
    call.admin.reset_expired();
    call.replies.status("OK");
    Ok(())
}

pub const CONFIG_REWRITE: Spec = Spec::new(Group::Server, "2.8.0", "CONFIG REWRITE")
    .flags(&[Admin])
    .summary("Is refused: settings are flags, there is no file of them.");

/// There is nothing to rewrite: settings are flags.
pub fn rewrite<T: Txn>(_call: &mut Call<'_, T>) -> Result {
    Err(CommandError::err("The server is running without a config file"))
}
