//! The commands on the server as a whole: watching it, stopping it, making it fail.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::{CommandError, Context, ECHO_BYTES_MAX, integer, is, lossy};
use crate::config::Debug;
use crate::control::{Feed, Stop};
use crate::request::Request;

type Result = std::result::Result<(), CommandError>;

pub fn monitor(context: &mut Context<'_, '_>, _request: &Request<'_>) -> Result {
    if context.conversation.feed.is_none() {
        let patience = Duration::from_secs(context.control.config.write_timeout.into());
        let feed = Arc::new(Feed::new(Arc::clone(context.client), patience));
        context.control.monitors.add(Arc::clone(&feed));
        context.conversation.feed = Some(feed);
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
    context.conversation.is_over = true;
    Ok(())
}

/// `DEBUG SLEEP seconds`, `DEBUG PANIC [CONNECTION|SHARD|JOURNAL]`: for tests.
pub fn debug(context: &mut Context<'_, '_>, request: &Request<'_>) -> Result {
    let local = context.client.peer.ip().to_canonical().is_loopback();
    match context.control.config.enable_debug_command {
        Debug::Yes => {}
        Debug::Local if local => {}
        _ => return Err(CommandError::NoDebug),
    }
    match (&request[1], request.len()) {
        (word, 3) if is(word, "SLEEP") => {
            let seconds = str::from_utf8(&request[2]).ok().and_then(|text| text.parse().ok());
            let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            thread::sleep(time.ok_or(CommandError::Value("value is not a valid float"))?);
            context.replies.status("OK");
            Ok(())
        }
        (word, 2 | 3) if is(word, "PANIC") => {
            let engine = context.session.engine();
            match request.words_from(2).next() {
                Some(place) if is(place, "SHARD") => engine.panic_in_shard(),
                Some(place) if is(place, "JOURNAL") => engine.panic_in_journal(),
                Some(place) if !is(place, "CONNECTION") => Err(CommandError::Syntax),
                _ => panic!("asked for by DEBUG PANIC"),
            }
        }
        (word, _) => Err(CommandError::UnknownSubcommand {
            name: lossy(word, ECHO_BYTES_MAX),
            command: "DEBUG",
        }),
    }
}
