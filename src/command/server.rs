//! The commands on the server as a whole: watching it, stopping it, making it fail.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{CommandError, Context, integer, is};
use crate::protocol::request::Request;
use crate::server::{MonitorQueue, Stop};

type Result = std::result::Result<(), CommandError>;

pub fn monitor(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    if context.connection.monitor.is_none() {
        let patience = Duration::from_secs(context.control.config.write_timeout.into());
        let monitor = Arc::new(MonitorQueue::new(Arc::clone(context.client), patience));
        context.control.monitors.add(Arc::clone(&monitor));
        context.connection.monitor = Some(monitor);
        context.client.is_monitor.store(true, Ordering::Relaxed);
    }
    context.replies.status("OK");
    Ok(())
}

pub fn slowlog_get(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    const DEFAULT: usize = 10;
    let most = match request.len() {
        2 => DEFAULT,
        _ => match integer(&request[2]).unwrap_or(i64::MIN) {
            -1 => usize::MAX,
            count => usize::try_from(count)
                .map_err(|_| CommandError::Value("count should be greater than or equal to -1"))?,
        },
    };
    let entries = context.control.slowlog.newest(most);
    let replies = &mut context.replies;
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

pub fn slowlog_len(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    context.replies.count(context.control.slowlog.len());
    Ok(())
}

pub fn slowlog_reset(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    context.control.slowlog.clear();
    context.replies.status("OK");
    Ok(())
}

/// Stops the server, as SIGTERM does; there is no reply, the connection closes.
pub fn shutdown(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let (mut save, mut no_save, mut force) = (false, false, false);
    for word in request.words_from(1) {
        match word {
            _ if is(word, "SAVE") => save = true,
            _ if is(word, "NOSAVE") => no_save = true,
            _ if is(word, "FORCE") => force = true,
            // There are no replicas to wait for.
            _ if is(word, "NOW") => {}
            _ if is(word, "ABORT") && request.len() == 2 => {
                return Err(CommandError::Value("No shutdown in progress."));
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    if save && no_save {
        return Err(CommandError::Syntax);
    }
    // Memory may be all there is. A signal stops it in any case.
    if let (Some(reason), false) = (context.session.engine().trouble(), no_save || force) {
        log::error!("SHUTDOWN refused: not everything can be saved: {reason}");
        return Err(CommandError::Shutdown);
    }
    log::info!("client {} at {} said SHUTDOWN", context.client.id, context.client.peer);
    context.control.stop(if no_save { Stop::NoSave } else { Stop::Save });
    context.connection.is_over = true;
    Ok(())
}

/// `LATENCY LATEST` and `LATENCY HISTORY event`: no event is ever sampled, as in Redis unless it is told to.
pub fn latency_events(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    context.replies.array(0);
    Ok(())
}

/// `LATENCY HISTOGRAM [command ...]`: nobody keeps one.
pub fn latency_histogram(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    context.replies.map(0);
    Ok(())
}

pub fn latency_reset(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    context.replies.integer(0);
    Ok(())
}

pub fn latency_doctor(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    let advice = "coffre samples no latency events: SLOWLOG GET lists the commands that took long, INFO commandstats \
                  their mean times, and --metrics-port gives both to Prometheus.\n";
    context.replies.verbatim(advice.as_bytes());
    Ok(())
}

/// `MODULE LIST`: there are no modules.
pub fn module_list(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    context.replies.array(0);
    Ok(())
}

pub fn cluster(_context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    Err(CommandError::Value("This instance has cluster support disabled"))
}
