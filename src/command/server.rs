//! The commands on the server as a whole: watching it, stopping it, making it fail.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::spec::{
    Arity,
    Flag::{Admin, NoMulti},
    Group, Spec,
};
use super::{Call, CommandError, integer, is, names};
use crate::engine::Txn;
use crate::server::{MonitorQueue, Stop};

type Result = std::result::Result<(), CommandError>;

pub const MONITOR: Spec = Spec::new(Group::Server, "1.0.0", "MONITOR")
    .flags(&[NoMulti, Admin])
    .summary("Shows every command that the server runs, until QUIT.")
    .example("MONITOR");

pub fn monitor<T: Txn>(call: &mut Call<'_, T>) -> Result {
    if call.connection.monitor.is_none() {
        let patience = Duration::from_secs(call.control.config.write_timeout.into());
        let monitor = Arc::new(MonitorQueue::new(Arc::clone(call.client), patience));
        call.control.monitors.add(Arc::clone(&monitor));
        call.connection.monitor = Some(monitor);
        call.client.is_monitor.store(true, Ordering::Relaxed);
    }
    call.replies.status("OK");
    Ok(())
}

pub const SLOWLOG: Spec = Spec::new(Group::Server, "2.2.12", "SLOWLOG subcommand")
    .summary("Lists the commands that took long.")
    .example("SLOWLOG GET 10");

pub const SLOWLOG_GET: Spec = Spec::new(Group::Server, "2.2.12", "SLOWLOG GET [count]")
    .flags(&[Admin])
    .arity(Arity::Between(2, 3))
    .summary("Returns the newest entries, 10 if it is not said how many.");

pub fn slowlog_get<T: Txn>(call: &mut Call<'_, T>) -> Result {
    const DEFAULT: usize = 10;
    let most = match call.request.len() {
        2 => DEFAULT,
        _ => match integer(&call.request[2]).unwrap_or(i64::MIN) {
            -1 => usize::MAX,
            count => usize::try_from(count)
                .map_err(|_| CommandError::err("count should be greater than or equal to -1"))?,
        },
    };
    let entries = call.control.slowlog.newest(most);
    let replies = &mut call.replies;
    replies.array(entries.len());
    for entry in entries {
        replies.array(6);
        replies.integer(entry.id as i64);
        replies.integer(entry.time_s as i64);
        replies.integer(entry.took.as_micros() as i64);
        replies.array(entry.words.len());
        entry.words.iter().for_each(|word| replies.bulk(word));
        replies.bulk(entry.peer.as_bytes());
        replies.bulk(entry.name.as_bytes());
    }
    Ok(())
}

pub const SLOWLOG_LEN: Spec = Spec::new(Group::Server, "2.2.12", "SLOWLOG LEN")
    .flags(&[Admin])
    .summary("Returns the number of entries.");

pub fn slowlog_len<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.replies.count(call.control.slowlog.len());
    Ok(())
}

pub const SLOWLOG_RESET: Spec = Spec::new(Group::Server, "2.2.12", "SLOWLOG RESET")
    .flags(&[Admin])
    .summary("Forgets all entries.");

pub fn slowlog_reset<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.control.slowlog.clear();
    call.replies.status("OK");
    Ok(())
}

pub const SHUTDOWN: Spec = Spec::new(Group::Server, "1.0.0", "SHUTDOWN [NOSAVE|SAVE]")
    .flags(&[NoMulti, Admin])
    .summary("Stops the server, with everything on disk.")
    .example("SHUTDOWN")
    .notes(&[
        "While the data file is in trouble it is refused, unless NOSAVE or FORCE is said.",
        "NOSAVE does not try to write a new file then. NOW changes nothing.",
    ]);

/// Stops the server, as SIGTERM does; there is no reply, the connection closes.
pub fn shutdown<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let (mut save, mut no_save, mut force) = (false, false, false);
    for word in call.request.words_from(1) {
        match word {
            _ if is(word, "SAVE") => save = true,
            _ if is(word, "NOSAVE") => no_save = true,
            _ if is(word, "FORCE") => force = true,
            // There are no replicas to wait for.
            _ if is(word, "NOW") => {}
            _ if is(word, "ABORT") && call.request.len() == 2 => {
                return Err(CommandError::err("No shutdown in progress."));
            }
            _ => return Err(CommandError::SYNTAX),
        }
    }
    if save && no_save {
        return Err(CommandError::SYNTAX);
    }
    // Memory may be all there is. A signal stops it in any case.
    if let (Some(reason), false) = (call.admin.status().fault, no_save || force) {
        log::error!("SHUTDOWN refused: not everything can be saved: {reason}");
        return Err(CommandError::err("Errors trying to SHUTDOWN. Check logs."));
    }
    log::info!("client {} at {} said SHUTDOWN", call.client.id, call.client.peer);
    call.control.stop(if no_save { Stop::NoSave } else { Stop::Save });
    call.connection.is_over = true;
    Ok(())
}

pub const LATENCY: Spec = Spec::new(Group::Server, "2.8.13", "LATENCY subcommand")
    .summary("Is there for programs that ask: no latency events are sampled.")
    .example("LATENCY LATEST");

pub const LATENCY_LATEST: Spec = Spec::new(Group::Server, "2.8.13", "LATENCY LATEST")
    .flags(&[Admin])
    .summary("Returns the latest event of each kind: none.");

pub const LATENCY_HISTORY: Spec = Spec::new(Group::Server, "2.8.13", "LATENCY HISTORY event")
    .flags(&[Admin])
    .summary("Returns the events of a kind: none.");

/// `LATENCY LATEST` and `LATENCY HISTORY event`: no event is ever sampled, as in Redis unless it is told to.
pub fn latency_events<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.replies.array(0);
    Ok(())
}

pub const LATENCY_HISTOGRAM: Spec =
    Spec::new(Group::Server, "7.0.0", "LATENCY HISTOGRAM [command [command ...]]")
        .flags(&[Admin])
        .summary(
            "Returns how many runs of each command were shorter than 1, 2, 4, ... microseconds.",
        );

/// `LATENCY HISTOGRAM [command ...]`: of each command that was run, or of those named and their subcommands.
pub fn latency_histogram<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let all = call.request.len() == 2;
    let asked = |name: &str| {
        let container = name.split('|').next().unwrap_or(name);
        call.request.words_from(2).any(|word| is(word, name) || is(word, container))
    };
    let of = |(number, name): (usize, &String)| {
        let latencies = (all || asked(name)).then(|| call.control.statistics.latencies(number));
        latencies
            .filter(|latencies| latencies.count() > 0)
            .map(|latencies| (name.clone(), latencies))
    };
    let found: Vec<_> = names().iter().enumerate().filter_map(of).collect();
    call.replies.map(found.len());
    for (name, latencies) in found {
        call.replies.bulk(name.as_bytes());
        call.replies.map(2);
        call.replies.bulk(b"calls");
        call.replies.count(latencies.count() as usize);
        call.replies.bulk(b"histogram_usec");
        let counts: Vec<_> = latencies.shorter_than_powers().collect();
        call.replies.map(counts.len());
        for (exponent, count) in counts {
            // As Redis names it: the longest time that its histogram cannot tell from the power of two.
            let longest_ns = (1_u64 << exponent) + (1 << exponent) / 128 - 1;
            call.replies.count(longest_ns as usize / 1000);
            call.replies.count(count as usize);
        }
    }
    Ok(())
}

pub const LATENCY_RESET: Spec =
    Spec::new(Group::Server, "2.8.13", "LATENCY RESET [event [event ...]]")
        .flags(&[Admin])
        .summary("Forgets events, and tells of how many kinds.");

pub fn latency_reset<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.replies.integer(0);
    Ok(())
}

pub const LATENCY_DOCTOR: Spec = Spec::new(Group::Server, "2.8.13", "LATENCY DOCTOR")
    .flags(&[Admin])
    .summary("Tells where to look instead.");

pub fn latency_doctor<T: Txn>(call: &mut Call<'_, T>) -> Result {
    let advice = "coffre samples no latency events: SLOWLOG GET lists the commands that took long, INFO commandstats \
                  their mean times, INFO latencystats and LATENCY HISTOGRAM how these spread, and --metrics-port gives both to Prometheus.\n";
    call.replies.verbatim(advice.as_bytes());
    Ok(())
}

pub const MODULE: Spec = Spec::new(Group::Server, "4.0.0", "MODULE subcommand")
    .summary("Is there for programs that ask: there are no modules.")
    .example("MODULE LIST");

pub const MODULE_LIST: Spec = Spec::new(Group::Server, "4.0.0", "MODULE LIST")
    .flags(&[Admin])
    .summary("Returns the modules: none.");

/// `MODULE LIST`: there are no modules.
pub fn module_list<T: Txn>(call: &mut Call<'_, T>) -> Result {
    call.replies.array(0);
    Ok(())
}

pub const CLUSTER: Spec = Spec::new(Group::Server, "3.0.0", "CLUSTER subcommand")
    .arity(Arity::AtLeast(2))
    .summary("Is refused: there is no cluster.")
    .example("CLUSTER INFO");

pub fn cluster<T: Txn>(_call: &mut Call<'_, T>) -> Result {
    Err(CommandError::err("This instance has cluster support disabled"))
}
