//! `coffre check`: the verdict on a file, and the data as it was at one of its lines.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{Input, Output, Progress, TORN, ToolError, write_store};
use crate::engine::local::Loading;
use crate::journal::disk;
use crate::journal::format::Header;
use crate::journal::lines::Lines;
use crate::journal::load::{Located, Source, for_each_record};
use crate::journal::scan::{Batches, Beginning, ScanError, Verdict, scan};
use crate::journal::{Context, Error, Record, holder};
use crate::text::counted;

/// Reports on the file at `path`; returns the program's exit code.
pub fn check(path: &Path, report: &mut dyn Write) -> Result<u8, ToolError> {
    let shown = path.display();
    let (input, verdict, writer) = settled_scan(path)?;
    let code = match verdict {
        Ok(Verdict::Empty) => {
            writeln!(report, "{shown}: empty: a start makes it a new data file")?;
            return Ok(0);
        }
        Ok(Verdict::Handwritten) => {
            writeln!(report, "{shown}: hand-written: a start seals it")?;
            0
        }
        Ok(Verdict::Intact(_)) => {
            writeln!(report, "{shown}: whole")?;
            0
        }
        Ok(Verdict::Torn(sealed, tail)) => match writer {
            // What a server has begun to write has no seal yet.
            Some(holder) => {
                writeln!(
                    report,
                    "{shown}: whole; {holder} is writing {} more",
                    counted(tail.bytes, "byte")
                )?;
                0
            }
            None => {
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
                TORN
            }
        },
        Err(ScanError::Io(error)) => return Err(error).at(path, "read")?,
        Err(error) if !error.is_of_known_format() => {
            return Err(Error::of_scan(path, Source::Handwritten, error).into());
        }
        Err(refused) => {
            writeln!(report, "{shown}: damaged; before the damage:")?;
            Good::of(&input)?.write(report)?;
            return Err(Error::of_scan(path, Source::Handwritten, refused).into());
        }
    };
    Good::of(&input)?.write(report)?;
    Ok(code)
}

type Scanned = Result<Verdict, ScanError>;

/// Scans the file until what it finds is no moment in the life of a server, which appends to the file, cuts off
/// what it could not write, puts another in its place, and ends. The last of the result is the server that is
/// writing it.
fn settled_scan(path: &Path) -> Result<(Input, Scanned, Option<String>), ToolError> {
    /// A file that changes more often than that is judged as it was found last.
    const SCANS_MAX: usize = 20;
    const REST: Duration = Duration::from_millis(100);
    let mut scans = 0;
    loop {
        let input = Input::open(path)?;
        let verdict = {
            let mut progress = Progress::new("checking", input.length());
            scan(&input.file, input.length(), &mut |offset| progress.reach(offset))
        };
        scans += 1;
        if matches!(verdict, Ok(Verdict::Intact(_))) || scans == SCANS_MAX {
            return Ok((input, verdict, None));
        }
        // The holder of a file that has lost its name will not end what it was writing there.
        let writer = holder(&input.status).filter(is_coffre);
        if matches!(verdict, Ok(Verdict::Torn(..))) && writer.is_some() && input.is_in_place()? {
            return Ok((input, verdict, writer));
        }
        thread::sleep(REST);
        if input.is_in_place()? && !input.has_changed()? {
            return Ok((input, verdict, None));
        }
    }
}

/// Whether the holder of a file writes it, and is not some program that locked it.
#[expect(clippy::ptr_arg, reason = "it filters an Option<String>")]
fn is_coffre(holder: &String) -> bool {
    holder.ends_with("(coffre)")
}

/// A time, as people read it.
fn utc(unix_time_s: u64) -> String {
    let time = i64::try_from(unix_time_s).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or_else(|| format!("Unix time {unix_time_s}"), |time| time.to_string())
}

/// The good part of a file, counted.
struct Good {
    header: Option<Header>,
    batches: u64,
    durable: u64,
    /// The batch that ends the base.
    base_end: Option<u64>,
    /// The last time that a batch tells, in seconds of Unix time, and that batch.
    time: Option<(u64, u64)>,
    bytes: u64,
    lines: u64,
    records: BTreeMap<&'static str, u64>,
}

impl Good {
    fn of(input: &Input) -> Result<Self, Error> {
        let mut good = Self {
            header: None,
            batches: 0,
            durable: 0,
            base_end: None,
            time: None,
            bytes: 0,
            lines: 0,
            records: BTreeMap::new(),
        };
        let read = |error: ScanError| Error::of_scan(&input.path, Source::Handwritten, error);
        let source = match Batches::begin(disk::read(&input.file, 0..input.length())) {
            Ok(Beginning::Sealed(mut batches)) => {
                good.header = Some(batches.header);
                (good.bytes, good.lines) = (batches.offset(), 1);
                while let Some(batch) = batches.read().at(&input.path, "read")?
                    && let Some(seal) = batch.good_seal()
                    && seal.number == good.batches + 1
                {
                    (good.batches, good.durable) = (seal.number, good.durable.max(seal.durable));
                    (good.bytes, good.lines) = (batch.end, batch.last_line);
                    if seal.ends_base() {
                        good.base_end = Some(seal.number);
                    }
                    good.time = batch.time_s.map(|time_s| (time_s, seal.number)).or(good.time);
                }
                Source::Sealed
            }
            Ok(Beginning::Handwritten) => {
                let mut lines = Lines::new(disk::read(&input.file, 0..input.length()));
                while lines.next(|_| {}).at(&input.path, "read")?.is_some() {}
                (good.bytes, good.lines) = (lines.offset, lines.number);
                Source::Handwritten
            }
            Err(error) if !error.is_of_known_format() => return Err(read(error)),
            Ok(Beginning::Empty) | Err(ScanError::Refused(_)) => return Ok(good),
            Err(error) => return Err(read(error)),
        };
        let counted = for_each_record(&input.file, 0..good.bytes, source, |found| {
            *good.records.entry(found.record.name()).or_default() += 1;
            Ok(())
        });
        match counted {
            Ok(()) => Ok(good),
            // What stands before the first bad line of a hand-written file.
            Err(ScanError::Refused(refusal)) => {
                (good.lines, good.bytes) = (refusal.line - 1, refusal.offset);
                Ok(good)
            }
            Err(error) => Err(read(error)),
        }
    }

    fn write(&self, report: &mut dyn Write) -> std::io::Result<()> {
        let Self { batches, durable, bytes, lines, .. } = self;
        if let Some(Header { version, id }) = &self.header {
            let (id, batches) = (id.as_str(), counted(*batches, "batch"));
            write!(report, "format {version}, id {id}; {batches}, durable mark {durable}")?;
            if let Some(last) = self.base_end {
                write!(report, ", the base ends at batch {last}")?;
            }
            writeln!(report)?;
        }
        // What a person compares where a copy may end too early.
        if *batches > 0 {
            write!(report, "last seal: batch {batches}")?;
            if let Some((time_s, number)) = self.time {
                write!(report, "; batch {number} was written at {}", utc(time_s))?;
            }
            writeln!(report)?;
        }
        let kinds: Vec<_> =
            self.records.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let total: u64 = self.records.values().sum();
        let kinds = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
        let (total, lines) = (counted(total, "record"), counted(*lines, "line"));
        writeln!(report, "{total} ({kinds}); {lines}, {}", counted(*bytes, "byte"))
    }
}

/// Rebuilds in `output` the data as it was after line `until` of the file at `path`. What follows that
/// line may be damaged.
pub fn until(
    path: &Path,
    until: u64,
    output: &Path,
    report: &mut dyn Write,
) -> Result<(), ToolError> {
    let input = Input::open(path)?;
    let good = Good::of(&input)?;
    if until == 0 || until > good.lines {
        return Err(ToolError::NoSuchLine { path: path.to_owned(), line: until, last: good.lines });
    }
    let output = Output::create(output)?;
    let source = if good.header.is_some() { Source::Sealed } else { Source::Handwritten };
    let mut loading = Loading::default();
    let mut progress = Progress::new("loading", good.bytes);
    let apply = |found: Located<'_>| {
        progress.reach(found.bytes.end);
        if found.line <= until { loading.replay(found) } else { Ok(()) }
    };
    let loaded = for_each_record(&input.file, 0..good.bytes, source, apply);
    loaded.map_err(|error| Error::of_scan(path, source, error))?;
    drop(progress);
    let (shown, keys) =
        (output.path.display().to_string(), counted(loading.store.keys() as u64, "key"));
    output.write(|draft| write_store(&loading.store, draft))?;
    writeln!(report, "{shown}: {keys}, as they were after line {until} of {}", path.display())?;
    Ok(())
}

impl Record<'_> {
    /// Its command's name.
    fn name(&self) -> &'static str {
        match self {
            Self::Set(..) => "SET",
            Self::Del(_) => "DEL",
            Self::Append(..) => "APPEND",
            Self::SetRange(..) => "SETRANGE",
            Self::PExpireAt(..) => "PEXPIREAT",
            Self::Persist(_) => "PERSIST",
            Self::FlushAll => "FLUSHALL",
            Self::FlushDb => "FLUSHDB",
            Self::Select(_) => "SELECT",
            Self::SwapDb(..) => "SWAPDB",
        }
    }
}
