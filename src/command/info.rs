//! `INFO`: how the server is, in Redis's sections and under Redis's names where it has them.

use std::fmt::Write;

use super::{CommandError, Context};
use crate::request::Request;

/// Writes a section's lines.
type Section = fn(&mut Context<'_, '_>, &mut String);

const SECTIONS: &[(&str, Section)] =
    &[("Server", server), ("Persistence", persistence), ("Keyspace", keyspace)];

pub fn info(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result<(), CommandError> {
    let is = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    let is_all = |word: &[u8]| ["default", "all", "everything"].iter().any(|all| is(word, all));
    let all = request.len() == 1 || request.words_from(1).any(is_all);
    let mut text = String::new();
    for (name, write) in SECTIONS {
        if all || request.words_from(1).any(|word| is(word, name)) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            put(&mut text, format_args!("# {name}"));
            write(context, &mut text);
        }
    }
    context.replies.bulk(text.as_bytes());
    Ok(())
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = write!(text, "{line}\r\n");
}

fn server(context: &mut Context<'_, '_>, text: &mut String) {
    let executable = std::env::current_exe().unwrap_or_default();
    // Client libraries read from this which commands they may use.
    put(text, format_args!("redis_version:7.4.0"));
    put(text, format_args!("redis_mode:standalone"));
    put(text, format_args!("server_name:coffre"));
    put(text, format_args!("coffre_version:{}", env!("CARGO_PKG_VERSION")));
    put(text, format_args!("os:{}", std::env::consts::OS));
    put(text, format_args!("arch_bits:{}", usize::BITS));
    put(text, format_args!("process_id:{}", std::process::id()));
    put(text, format_args!("tcp_port:{}", context.config.port));
    put(text, format_args!("executable:{}", executable.display()));
    put(text, format_args!("config_file:"));
}

fn persistence(context: &mut Context<'_, '_>, text: &mut String) {
    let engine = context.session.engine();
    let status = engine.compaction_status();
    let trouble = engine.trouble();
    let went = |well: bool| if well { "ok" } else { "err" };
    let took_s = status.took.map_or(-1, |took| took.as_secs() as i64);
    let (requested, running) = (u8::from(status.is_requested), u8::from(status.is_running));
    put(text, format_args!("loading:0"));
    put(text, format_args!("rdb_bgsave_in_progress:{running}"));
    put(text, format_args!("rdb_last_save_time:{}", status.saved_s));
    put(text, format_args!("rdb_last_bgsave_status:{}", went(status.succeeded)));
    put(text, format_args!("rdb_last_bgsave_time_sec:{took_s}"));
    put(text, format_args!("aof_enabled:1"));
    put(text, format_args!("aof_rewrite_in_progress:{running}"));
    put(text, format_args!("aof_rewrite_scheduled:{requested}"));
    put(text, format_args!("aof_last_rewrite_time_sec:{took_s}"));
    put(text, format_args!("aof_last_bgrewrite_status:{}", went(status.succeeded)));
    put(text, format_args!("aof_last_write_status:{}", went(trouble.is_none())));
    if let Some(reason) = trouble {
        put(text, format_args!("coffre_last_write_error:{reason}"));
    }
    put(text, format_args!("aof_current_size:{}", engine.bytes()));
    put(text, format_args!("coffre_dead_bytes:{}", engine.dead_bytes()));
    put(text, format_args!("coffre_times_healed:{}", engine.healed()));
}

fn keyspace(context: &mut Context<'_, '_>, text: &mut String) {
    let keys = context.session.count();
    if keys > 0 {
        put(text, format_args!("db0:keys={keys},expires=0,avg_ttl=0"));
    }
}
