//! `INFO`: how the server is, in Redis's sections and under Redis's names where it has them.

use std::fmt::Write;

use super::error::Code;
use super::spec::{Group, Spec};
use super::{Call, CommandError, is};
use crate::engine::{Counts, Figure, Status, Txn, TxnError};
use crate::protocol::REDIS_VERSION;
use crate::server::{Called, Control, Event, unix_time};
use crate::util::memory;
use crate::util::process;

type Result = std::result::Result<(), CommandError>;

/// Writes a section's lines.
type Section<T> = fn(&mut Call<'_, T>, &mut String) -> Result;

/// Shown only if they are named, or with `all` and `everything`.
const NOT_DEFAULT: [&str; 2] = ["Commandstats", "Latencystats"];

pub const INFO: Spec = Spec::new(Group::Server, "1.0.0", "INFO [section [section ...]]")
    .summary("Tells how the server is.")
    .example("INFO persistence");

pub fn info<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let sections: [(&str, Section<T>); 14] = [
        ("Server", server),
        ("Clients", clients),
        ("Memory", memory_section),
        ("Persistence", persistence),
        ("Stats", stats),
        ("Replication", replication),
        ("CPU", cpu),
        ("Modules", |_, _| Ok(())),
        ("Commandstats", command_stats),
        ("Errorstats", error_stats),
        ("Latencystats", latency_stats),
        ("Cluster", cluster),
        ("Cluster_engine", cluster_engine),
        ("Keyspace", keyspace),
    ];
    let request = call.request;
    let asked = |name: &str| request.words_from(1).any(|word| is(word, name));
    let all = asked("all") || asked("everything");
    let default = request.len() == 1 || asked("default");
    let mut text = String::new();
    for (name, write) in sections {
        if name == "Cluster_engine" && call.admin.figures().is_empty() {
            continue;
        }
        if all || default && !NOT_DEFAULT.contains(&name) || asked(name) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            put(&mut text, format_args!("# {name}"));
            write(call, &mut text)?;
        }
    }
    call.replies.verbatim(text.as_bytes());
    Ok(())
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = write!(text, "{line}\r\n");
}

/// A size for people, as Redis shows it.
fn human(bytes: u64) -> String {
    let (mut size, mut unit) = (bytes as f64, "B");
    for larger in ["K", "M", "G", "T"] {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes}B") } else { format!("{size:.2}{unit}") }
}

fn server<T: Txn>(call: &mut Call<'_, T>, text: &mut String) -> Result {
    let Control { config, started, run_id, .. } = call.control;
    let executable = std::env::current_exe().unwrap_or_default();
    let uptime_s = started.elapsed().as_secs();
    put(text, format_args!("redis_version:{REDIS_VERSION}"));
    put(text, format_args!("redis_mode:standalone"));
    put(text, format_args!("server_name:coffre"));
    put(text, format_args!("coffre_version:{}", env!("CARGO_PKG_VERSION")));
    put(text, format_args!("os:{}", std::env::consts::OS));
    put(text, format_args!("arch_bits:{}", usize::BITS));
    put(text, format_args!("process_id:{}", std::process::id()));
    put(text, format_args!("run_id:{run_id}"));
    put(text, format_args!("tcp_port:{}", config.port));
    put(text, format_args!("server_time_usec:{}", unix_time().as_micros()));
    put(text, format_args!("uptime_in_seconds:{uptime_s}"));
    put(text, format_args!("uptime_in_days:{}", uptime_s / (24 * 60 * 60)));
    put(text, format_args!("executable:{}", executable.display()));
    put(text, format_args!("config_file:"));
    Ok(())
}

fn clients<T: Txn>(call: &mut Call<'_, T>, text: &mut String) -> Result {
    let Control { clients, .. } = call.control;
    put(text, format_args!("connected_clients:{}", clients.count()));
    put(text, format_args!("cluster_connections:0"));
    put(text, format_args!("maxclients:{}", clients.most()));
    put(text, format_args!("blocked_clients:0"));
    put(text, format_args!("tracking_clients:0"));
    put(text, format_args!("coffre_threads:{}", process::threads()));
    Ok(())
}

fn memory_section<T: Txn>(call: &mut Call<'_, T>, text: &mut String) -> Result {
    let used = memory::used_bytes() as u64;
    let resident = process::resident_bytes();
    let mut size = |name: &str, bytes: u64| {
        put(text, format_args!("{name}:{bytes}"));
        put(text, format_args!("{name}_human:{}", human(bytes)));
    };
    size("used_memory", used);
    size("used_memory_rss", resident);
    size("used_memory_peak", memory::peak_bytes() as u64);
    size("total_system_memory", process::machine_bytes());
    size("maxmemory", memory::limit() as u64);
    put(text, format_args!("maxmemory_policy:noeviction"));
    let (scripts, script_bytes) = call.control.scripts.totals();
    put(text, format_args!("number_of_cached_scripts:{scripts}"));
    put(text, format_args!("used_memory_scripts:{script_bytes}"));
    put(text, format_args!("mem_fragmentation_ratio:{:.2}", resident as f64 / used.max(1) as f64));
    put(text, format_args!("mem_allocator:libc"));
    Ok(())
}

fn persistence<T: Txn>(call: &mut Call<'_, T>, text: &mut String) -> Result {
    let Status { compaction: status, fault, file_bytes, garbage_bytes, repairs, .. } =
        call.admin.status();
    let went = |well: bool| if well { "ok" } else { "err" };
    let took_s = status.took.map_or(-1, |took| took.as_secs() as i64);
    // A client that waits for the end must not see a gap between request and start.
    let running = u8::from(status.is_requested || status.is_running);
    let scheduled = u8::from(status.is_requested && status.is_running);
    put(text, format_args!("loading:0"));
    put(text, format_args!("rdb_bgsave_in_progress:{running}"));
    put(text, format_args!("rdb_last_save_time:{}", status.saved_s));
    put(text, format_args!("rdb_last_bgsave_status:{}", went(!status.has_failed)));
    put(text, format_args!("rdb_last_bgsave_time_sec:{took_s}"));
    put(text, format_args!("aof_enabled:1"));
    put(text, format_args!("aof_rewrite_in_progress:{running}"));
    put(text, format_args!("aof_rewrite_scheduled:{scheduled}"));
    put(text, format_args!("aof_last_rewrite_time_sec:{took_s}"));
    put(text, format_args!("aof_last_bgrewrite_status:{}", went(!status.has_failed)));
    put(text, format_args!("aof_last_write_status:{}", went(fault.is_none())));
    if let Some(reason) = fault {
        put(text, format_args!("coffre_last_write_error:{reason}"));
    }
    put(text, format_args!("aof_current_size:{file_bytes}"));
    put(text, format_args!("coffre_dead_bytes:{garbage_bytes}"));
    put(text, format_args!("coffre_times_healed:{repairs}"));
    Ok(())
}

fn stats<T: Txn>(call: &mut Call<'_, T>, text: &mut String) -> Result {
    let statistics = &call.control.statistics;
    let totals = statistics.totals();
    let [commands, received, sent] = statistics.per_second();
    let times = |event| statistics.times(event);
    put(text, format_args!("total_connections_received:{}", times(Event::Connected)));
    put(text, format_args!("total_commands_processed:{}", totals.commands()));
    put(text, format_args!("instantaneous_ops_per_sec:{commands:.0}"));
    put(text, format_args!("total_net_input_bytes:{}", totals.received));
    put(text, format_args!("total_net_output_bytes:{}", totals.sent));
    put(text, format_args!("instantaneous_input_kbps:{:.2}", received / 1024.0));
    put(text, format_args!("instantaneous_output_kbps:{:.2}", sent / 1024.0));
    put(text, format_args!("rejected_connections:{}", times(Event::Rejected)));
    put(text, format_args!("expired_keys:{}", call.admin.status().expired));
    put(text, format_args!("evicted_keys:0"));
    put(text, format_args!("keyspace_hits:{}", totals.hits));
    put(text, format_args!("keyspace_misses:{}", totals.misses));
    put(text, format_args!("pubsub_channels:0"));
    put(text, format_args!("pubsub_patterns:0"));
    put(text, format_args!("total_error_replies:{}", totals.errors()));
    put(text, format_args!("acl_access_denied_auth:{}", times(Event::WrongPassword)));
    put(text, format_args!("coffre_malformed_requests:{}", times(Event::Malformed)));
    put(text, format_args!("coffre_timed_out_clients:{}", times(Event::TimedOut)));
    put(text, format_args!("coffre_not_reading_clients:{}", times(Event::NotReading)));
    put(text, format_args!("coffre_panicked_clients:{}", times(Event::Panicked)));
    Ok(())
}

fn replication<T: Txn>(_call: &mut Call<'_, T>, text: &mut String) -> Result {
    put(text, format_args!("role:master"));
    put(text, format_args!("connected_slaves:0"));
    put(text, format_args!("master_repl_offset:0"));
    Ok(())
}

fn cpu<T: Txn>(_call: &mut Call<'_, T>, text: &mut String) -> Result {
    let [user, system] = process::processor_time();
    put(text, format_args!("used_cpu_sys:{:.6}", system.as_secs_f64()));
    put(text, format_args!("used_cpu_user:{:.6}", user.as_secs_f64()));
    Ok(())
}

/// How often each code was answered. Some codes share a name.
fn error_stats<T: Txn>(call: &mut Call<'_, T>, text: &mut String) -> Result {
    let refused = call.control.statistics.totals().refused;
    for codes in Code::ALL.chunk_by(|one, next| one.name() == next.name()) {
        let count: u64 = codes.iter().map(|code| refused[*code as usize]).sum();
        if count > 0 {
            put(text, format_args!("errorstat_{}:count={count}", codes[0].name()));
        }
    }
    Ok(())
}

fn latency_stats<T: Txn>(call: &mut Call<'_, T>, text: &mut String) -> Result {
    for (number, name) in super::names().iter().enumerate() {
        let latencies = call.control.statistics.latencies(number);
        if latencies.count() > 0 {
            let us = |share| latencies.quantile_ns(share) as f64 / 1000.0;
            let quantiles =
                format!("p50={:.3},p99={:.3},p99.9={:.3}", us(0.5), us(0.99), us(0.999));
            put(text, format_args!("latency_percentiles_usec_{name}:{quantiles}"));
        }
    }
    Ok(())
}

fn command_stats<T: Txn>(call: &mut Call<'_, T>, text: &mut String) -> Result {
    let totals = call.control.statistics.totals();
    for (name, called) in super::names().iter().zip(totals.called) {
        let Called { calls, ns, rejected, failed } = called;
        if calls + rejected > 0 {
            let (us, per_call) = (ns / 1000, ns as f64 / 1000.0 / calls.max(1) as f64);
            let counts = format!("rejected_calls={rejected},failed_calls={failed}");
            put(
                text,
                format_args!(
                    "cmdstat_{name}:calls={calls},usec={us},usec_per_call={per_call:.2},{counts}"
                ),
            );
        }
    }
    Ok(())
}

fn cluster<T: Txn>(_call: &mut Call<'_, T>, text: &mut String) -> Result {
    put(text, format_args!("cluster_enabled:0"));
    Ok(())
}

/// What the engine stands on, of an engine that keeps nothing itself.
fn cluster_engine<T: Txn>(call: &mut Call<'_, T>, text: &mut String) -> Result {
    for Figure { name, shown, .. } in call.admin.figures() {
        put(text, format_args!("{name}:{shown}"));
    }
    Ok(())
}

fn keyspace<T: Txn>(call: &mut Call<'_, T>, text: &mut String) -> Result {
    let now_ms = call.txn.now_ms();
    let counts = match call.txn.counts() {
        // The other sections say what is wrong.
        Err(TxnError::Failed(failed)) => {
            put(text, format_args!("coffre_error:{failed}"));
            return Ok(());
        }
        counts => counts?,
    };
    for (database, counts) in counts.into_iter().enumerate() {
        let Counts { keys, expiring, .. } = counts;
        if keys > 0 {
            let ttl_ms = counts.average_ttl_ms(now_ms);
            put(text, format_args!("db{database}:keys={keys},expires={expiring},avg_ttl={ttl_ms}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_redis_does() {
        for (bytes, shown) in
            [(0, "0B"), (1023, "1023B"), (1536, "1.50K"), (1 << 20, "1.00M"), (3 << 30, "3.00G")]
        {
            assert_eq!(human(bytes), shown);
        }
    }
}
