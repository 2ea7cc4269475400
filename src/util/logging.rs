//! Log lines on standard error for which no thread ever waits: a thread of its own writes them, and where they are not
//! read (a stopped terminal, a full pipe) some are lost, and counted.

use std::env;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use crate::limits::LOG_LINES_MAX;
use crate::util::nearest::nearest;

/// Lines handed over and not written yet.
static WAITING: AtomicUsize = AtomicUsize::new(0);
static LOST: AtomicUsize = AtomicUsize::new(0);

/// Begins to log what `RUST_LOG` says; from `level` on if it says nothing. A part of it that is no filter is ignored,
/// with a warning.
pub fn begin(level: &str) -> io::Result<()> {
    let (lines, receiver) = mpsc::sync_channel(LOG_LINES_MAX);
    thread::Builder::new().name("log".to_owned()).spawn(move || write(&receiver))?;
    let asked = env::var_os("RUST_LOG").unwrap_or_default();
    let Filters { filters, warnings } = Filters::new(&asked.to_string_lossy(), level);
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&filters);
    if let Ok(style) = env::var("RUST_LOG_STYLE") {
        builder.parse_write_style(&style);
    }
    builder.target(env_logger::Target::Pipe(Box::new(Lines(lines)))).init();
    warnings.iter().for_each(|warning| log::warn!("{warning}"));
    Ok(())
}

/// What is logged, in the logger's own form, and what of `RUST_LOG` is not in it.
#[derive(Debug, PartialEq, Eq)]
struct Filters {
    filters: String,
    warnings: Vec<String>,
}

impl Filters {
    /// As `asked`, which is `level`, `module` or `module=level`, several with commas, and after a slash a pattern.
    ///
    /// The logger itself takes any word for the name of a module: with `RUST_LOG=inof` nothing at all would be logged.
    fn new(asked: &str, level: &str) -> Self {
        let (mut filters, mut warnings) = (Vec::new(), Vec::new());
        let (directives, pattern) = asked.split_at(asked.find('/').unwrap_or(asked.len()));
        for directive in directives.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match Self::fault(directive) {
                None => filters.push(directive),
                Some(warning) => warnings.push(warning),
            }
        }
        // A mistake in the setting must not mean that nothing is logged.
        let is_general = |filter: &&str| is_level(filter);
        if filters.is_empty() || !warnings.is_empty() && !filters.iter().any(is_general) {
            filters.push(level);
        }
        let mut filters = filters.join(",");
        match pattern.get(1..).is_some_and(|pattern| pattern.contains('/')) {
            true => warnings.push("RUST_LOG: a second '/', the pattern is ignored".to_owned()),
            false => filters.push_str(pattern),
        }
        Self { filters, warnings }
    }

    /// Why a directive is no filter, if it is none.
    fn fault(directive: &str) -> Option<String> {
        let is_ours = |module: &str| {
            let rest = module.strip_prefix(env!("CARGO_PKG_NAME"));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        let wrong = match directive.split_once('=') {
            None if is_level(directive) || is_ours(directive) => return None,
            None => directive,
            Some((_, level)) if level.trim().is_empty() || is_level(level.trim()) => return None,
            Some((_, level)) => level.trim(),
        };
        let meant = nearest(&wrong.to_ascii_lowercase(), LEVELS, |level| level);
        let meant = meant.map_or_else(
            || format!("the levels are {}", LEVELS.join(", ")),
            |level| format!("is {level} meant?"),
        );
        Some(format!("RUST_LOG: '{}' is no level, and is ignored: {meant}", wrong.escape_debug()))
    }
}

const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

fn is_level(word: &str) -> bool {
    LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level))
}

/// Waits a little until the lines are written, before the process ends.
pub fn flush() {
    let deadline = Instant::now() + Duration::from_millis(200);
    while WAITING.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}

/// What the logger writes to, each record in one piece.
struct Lines(SyncSender<Vec<u8>>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        WAITING.fetch_add(1, Ordering::AcqRel);
        if self.0.try_send(line.to_vec()).is_err() {
            WAITING.fetch_sub(1, Ordering::AcqRel);
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(lines: &Receiver<Vec<u8>>) {
    for line in lines {
        // Not `eprintln!`: it panics where standard error is closed.
        let _ = io::stderr().write_all(&line);
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let noun = if lost == 1 { "log line" } else { "log lines" };
            let _ = writeln!(io::stderr(), "{lost} {noun} lost: standard error was not read");
        }
        WAITING.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_filter_is_named_and_does_not_silence_the_rest() {
        for (asked, filters) in [
            ("", "info"),
            (" , ", "info"),
            ("off", "off"),
            ("WARN", "WARN"),
            ("coffre", "coffre"),
            ("coffre::net::listener=debug,error", "coffre::net::listener=debug,error"),
            ("hyper=warn", "hyper=warn"),
            ("debug/client 7", "debug/client 7"),
        ] {
            let expected = Filters { filters: filters.to_owned(), warnings: Vec::new() };
            assert_eq!(Filters::new(asked, "info"), expected, "{asked}");
        }
        for (asked, filters, warning) in [
            ("inof", "info", "'inof' is no level, and is ignored: is info meant?"),
            ("Warning", "info", "'Warning' is no level, and is ignored: is warn meant?"),
            ("error,coffre=dbug", "error", "'dbug' is no level, and is ignored: is debug meant?"),
            (
                "coffre::net::listener=debug,inof",
                "coffre::net::listener=debug,info",
                "is info meant?",
            ),
            ("1", "info", "the levels are off, error, warn, info, debug, trace"),
            ("a=b=c", "info", "'b=c' is no level"),
            ("debug/a/b", "debug", "a second '/'"),
        ] {
            let found = Filters::new(asked, "info");
            assert_eq!((&*found.filters, found.warnings.len()), (filters, 1), "{asked}");
            assert!(found.warnings[0].contains(warning), "{found:?}");
        }
    }
}
