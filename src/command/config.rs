//! `CONFIG GET`: the running configuration under Redis's names.

use super::{CommandError, Context};
use crate::config::Config;
use crate::glob::Pattern;
use crate::request::Request;

pub fn get(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result<(), CommandError> {
    let parameters = parameters(context.config);
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
