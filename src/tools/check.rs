//! `coffre check`: the verdict on a file, and the data as it was after one of its lines.
//!
//! The file is only read, and a server may be writing it meanwhile.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{Input, Output, Progress, Scanned, TORN, ToolError, write_store};
use crate::engine::local::Loading;
use crate::journal::load::{Located, Source};
use crate::journal::scan::{Refusal, ScanError, Sealed, Verdict};
use crate::journal::{Context, holder};
use crate::text::counted;

/// Reports on the file at `path`; returns the program's exit code.
pub fn check(path: &Path, report: &mut dyn Write) -> Result<u8, ToolError> {
    let shown = path.display();
    let (input, scanned, writer) = settled_scan(path)?;
    let good = GoodPart::of(&scanned, input.length());
    let verdict = match scanned {
        Ok(verdict) => verdict,
        Err(error) => {
            if error.is_damage() {
                writeln!(report, "{shown}: damaged; before the damage:")?;
                good.write(&input, report)?;
            }
            return Err(input.error(error));
        }
    };
    let mut code = 0;
    match (verdict, writer) {
        (Verdict::Empty, _) => {
            writeln!(report, "{shown}: empty: a start makes it a new data file")?;
            return Ok(code);
        }
        (Verdict::Handwritten, _) => {
            writeln!(report, "{shown}: hand-written: a start seals it")?;
        }
        (Verdict::Intact(_), _) => writeln!(report, "{shown}: whole")?,
        // The server has not sealed yet what it is writing.
        (Verdict::Torn(_, tail), Some(server)) => {
            let bytes = counted(tail.bytes, "byte");
            writeln!(report, "{shown}: whole; {server} is writing {bytes} more")?;
        }
        (Verdict::Torn(sealed, tail), None) => {
            writeln!(
                report,
                "{shown}: torn at line {}, offset {}: {}\n{} ({}) follow that were never acknowledged \
                 under --fsync always; a start keeps them aside and cuts them off",
                tail.line,
                sealed.end,
                tail.cause,
                counted(tail.bytes, "byte"),
                counted(tail.records, "record")
            )?;
            code = TORN;
        }
    }
    good.write(&input, report)?;
    Ok(code)
}

/// Rebuilds in `output` the data as it was after line `until` of the file at `path`. What follows that line may be
/// damaged.
pub fn until(
    path: &Path,
    until: u64,
    output: &Path,
    report: &mut dyn Write,
) -> Result<(), ToolError> {
    let input = Input::open(path)?;
    let scanned = input.scan();
    let good = GoodPart::of(&scanned, input.length());
    if let Err(error) = scanned
        && good.end == 0
        && !error.is_damage()
    {
        return Err(input.error(error));
    }
    let output = Output::create(output)?;
    let mut loading = Loading::default();
    let mut progress = Progress::new("loading", good.end);
    let apply = |found: Located<'_>| {
        progress.reach(found.bytes.end);
        if found.line <= until { loading.replay(found) } else { Ok(()) }
    };
    let last = input.for_each_record(0..good.end, good.source, apply)?;
    drop(progress);
    if until == 0 || until > last {
        return Err(ToolError::NoSuchLine { path: path.to_owned(), line: until, last });
    }
    let store = loading.finish().at(path, "load")?.store;
    let (shown, keys) = (output.path.display().to_string(), counted(store.keys() as u64, "key"));
    output.write(|draft| write_store(&store, draft))?;
    writeln!(report, "{shown}: {keys}, as they were after line {until} of {}", path.display())?;
    Ok(())
}

/// Scans the file until the result does not come from a change that a server was making meanwhile: a server appends to
/// the file, cuts off what it could not write, replaces the file, and stops. Also returns the server that is writing
/// the file, if one is.
fn settled_scan(path: &Path) -> Result<(Input, Scanned, Option<String>), ToolError> {
    /// After so many scans of a file that keeps changing, the last one counts.
    const SCANS_MAX: usize = 20;
    const PAUSE: Duration = Duration::from_millis(100);
    let mut scans = 0;
    loop {
        let input = Input::open(path)?;
        let verdict = input.scan();
        scans += 1;
        if matches!(verdict, Ok(Verdict::Intact(_))) || scans == SCANS_MAX {
            return Ok((input, verdict, None));
        }
        // A server does not finish what it was writing to a file that was replaced.
        let writer = holder(&input.status).filter(is_coffre);
        if matches!(verdict, Ok(Verdict::Torn(..))) && writer.is_some() && input.is_in_place()? {
            return Ok((input, verdict, writer));
        }
        thread::sleep(PAUSE);
        if input.is_in_place()? && !input.has_changed()? {
            return Ok((input, verdict, None));
        }
    }
}

/// Whether the holder of a file's lock is a server, and not another program.
#[expect(clippy::ptr_arg, reason = "it filters an Option<String>")]
fn is_coffre(holder: &String) -> bool {
    holder.ends_with("(coffre)")
}

/// The part of a file that can be read: up to the damage or to the torn tail, if there is any.
struct GoodPart {
    /// Its batches, if the file has a valid header.
    sealed: Option<Sealed>,
    source: Source,
    /// Its length in bytes.
    end: u64,
}

impl GoodPart {
    /// What a scan found of it in a file of this length.
    fn of(scanned: &Scanned, length: u64) -> Self {
        let sealed = match scanned {
            Ok(Verdict::Intact(sealed) | Verdict::Torn(sealed, _)) => Some(sealed),
            Err(ScanError::Refused(Refusal { good, .. })) => good.as_deref(),
            Ok(Verdict::Empty | Verdict::Handwritten) | Err(ScanError::Io(_)) => None,
        };
        let (source, end) = match (sealed, scanned) {
            (Some(sealed), _) => (Source::Sealed, sealed.end),
            (None, Ok(_)) => (Source::Handwritten, length),
            (None, Err(ScanError::Refused(refusal))) => (Source::Handwritten, refusal.offset),
            (None, Err(ScanError::Io(_))) => (Source::Handwritten, 0),
        };
        Self { sealed: sealed.cloned(), source, end }
    }

    /// Reports its batches, records and lines.
    fn write(&self, input: &Input, report: &mut dyn Write) -> Result<(), ToolError> {
        if let Some(sealed) = &self.sealed {
            write_batches(sealed, report)?;
        }
        let mut records = BTreeMap::<_, u64>::new();
        let lines = input.for_each_record(0..self.end, self.source, |found| {
            *records.entry(found.record.name()).or_default() += 1;
            Ok(())
        })?;
        let kinds: Vec<_> = records.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let kinds = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
        writeln!(
            report,
            "{} ({kinds}); {}, {}",
            counted(records.values().sum(), "record"),
            counted(lines, "line"),
            counted(self.end, "byte")
        )?;
        Ok(())
    }
}

/// Reports what the good batches of a file are. The last lines are what a person compares to find out whether a copy
/// ends too early.
fn write_batches(sealed: &Sealed, report: &mut dyn Write) -> io::Result<()> {
    let Sealed { version, id, last, durable, .. } = sealed;
    let (id, batches) = (id.as_str(), counted(*last, "batch"));
    write!(report, "format {version}, id {id}; {batches}, durable mark {durable}")?;
    if let Some(number) = sealed.base_end {
        write!(report, ", the base ends at batch {number}")?;
    }
    writeln!(report)?;
    if *last > 0 {
        write!(report, "last seal: batch {last}")?;
        if let Some((time_s, number)) = sealed.time {
            write!(report, "; batch {number} was written at {}", utc(time_s))?;
        }
        writeln!(report)?;
    }
    Ok(())
}

/// A time, as people read it.
fn utc(unix_time_s: u64) -> String {
    let time = i64::try_from(unix_time_s).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or_else(|| format!("Unix time {unix_time_s}"), |time| time.to_string())
}
