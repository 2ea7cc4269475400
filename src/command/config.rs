//! `CONFIG GET`: the running configuration under Redis's names.

use super::{CommandError, Context};
use crate::config::Config;
use crate::glob::Pattern;
use crate::request::Request;

pub fn get(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result<(), CommandError> {
    let patterns: Result<Vec<_>, _> =
        request.words_from(2).map(|word| Pattern::new(&word.to_ascii_lowercase())).collect();
    let patterns = patterns?;
    let mut found = parameters(context.config);
    found.retain(|(name, _)| patterns.iter().any(|pattern| pattern.matches(name.as_bytes())));
    context.replies.array(2 * found.len());
    for (name, value) in found {
        context.replies.bulk(name.as_bytes());
        context.replies.bulk(value.as_bytes());
    }
    Ok(())
}

/// What is set here, and what clients expect of a server that has no such setting.
fn parameters(config: &Config) -> Vec<(&'static str, String)> {
    let binds: Vec<_> = config.bind.iter().map(ToString::to_string).collect();
    let folder = config.file.parent().map(|folder| folder.display().to_string());
    vec![
        ("appendfilename", config.file.file_name().unwrap_or_default().display().to_string()),
        ("appendfsync", config.fsync.name().to_owned()),
        ("appendonly", "yes".to_owned()),
        ("bind", binds.join(" ")),
        ("databases", "1".to_owned()),
        ("dir", folder.unwrap_or_default()),
        ("maxclients", config.maxclients.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("port", config.port.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ]
}
