//! `CONFIG GET`: the running configuration under Redis's names.

use super::{CommandError, Context};
use crate::config::Config;
use crate::glob::Pattern;
use crate::limits::{LISTEN_BACKLOG, SLOWLOG_ENTRIES_MAX};
use crate::request::Request;

pub fn get(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result<(), CommandError> {
    let parameters = parameters(&context.control.config);
    let mut asked = vec![false; parameters.len()];
    // One pattern at a time: each may take megabytes.
    for word in request.words_from(2) {
        let pattern = Pattern::new(&word.to_ascii_lowercase())?;
        for ((name, _), asked) in parameters.iter().zip(&mut asked) {
            *asked |= pattern.matches(name.as_bytes());
        }
    }
    let found: Vec<_> =
        parameters.iter().zip(asked).filter_map(|(found, asked)| asked.then_some(found)).collect();
    context.replies.map(found.len());
    for (name, value) in found {
        context.replies.bulk(name.as_bytes());
        context.replies.bulk(value.as_bytes());
    }
    Ok(())
}

/// What is set here, and what clients expect of a server that has no such setting. The password is not
/// among them.
fn parameters(config: &Config) -> Vec<(&'static str, String)> {
    let binds: Vec<_> = config.bind.iter().map(ToString::to_string).collect();
    let folder = config.file.parent().map(|folder| folder.display().to_string());
    let yes_or_no = |set: bool| if set { "yes" } else { "no" }.to_owned();
    vec![
        ("appendfilename", config.file.file_name().unwrap_or_default().display().to_string()),
        ("appendfsync", config.fsync.name().to_owned()),
        ("appendonly", "yes".to_owned()),
        ("bind", binds.join(" ")),
        ("client-query-buffer-limit", config.max_request.to_string()),
        ("databases", config.databases.to_string()),
        ("dir", folder.unwrap_or_default()),
        ("enable-debug-command", config.enable_debug_command.name().to_owned()),
        ("maxclients", config.maxclients.to_string()),
        ("maxmemory", config.maxmemory.to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("metrics-port", config.metrics_port.unwrap_or(0).to_string()),
        ("port", config.port.to_string()),
        ("protected-mode", yes_or_no(config.protected_mode)),
        ("proto-max-bulk-len", config.max_value.to_string()),
        ("request-timeout", config.request_timeout.to_string()),
        ("save", String::new()),
        ("slowlog-log-slower-than", config.slowlog_log_slower_than.to_string()),
        ("slowlog-max-len", SLOWLOG_ENTRIES_MAX.to_string()),
        ("tcp-backlog", LISTEN_BACKLOG.to_string()),
        ("tcp-keepalive", config.tcp_keepalive.to_string()),
        ("timeout", config.timeout.to_string()),
        ("write-timeout", config.write_timeout.to_string()),
    ]
}
