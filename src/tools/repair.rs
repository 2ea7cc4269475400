//! `coffre repair`: keeps what the seals of a damaged file still prove, in a new file.
//!
//! A batch with a good seal is proved wherever it is in the file, and its number says where it belongs. All else is
//! dropped, as no one can tell what it was; its bytes go to a file beside the new one, for a person to read. In a
//! hand-written file each line is judged by itself.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Input, Output, Progress, ToolError};
use crate::journal::format::is_structure;
use crate::journal::lines::Lines;
use crate::journal::load::{Source, for_each_record};
use crate::journal::scan::{Batches, Beginning, ScanError, Verdict};
use crate::journal::{Context, copy_lines, disk};
use crate::text::{counted, numbered};

/// Consecutive lines that are kept: proved batches with consecutive numbers, or good lines of a hand-written file.
#[derive(Debug)]
struct Run {
    /// Numbers of the batches; empty for a hand-written file.
    numbers: Range<u64>,
    records: u64,
    bytes: Range<u64>,
}

/// Consecutive lines that are dropped.
#[derive(Debug)]
struct Dropped {
    /// The numbers of the first and the last.
    lines: (u64, u64),
    bytes: Range<u64>,
    records: u64,
    reason: String,
}

/// What is kept of a file, and what is dropped.
#[derive(Debug, Default)]
struct Split {
    kept: Vec<Run>,
    dropped: Vec<Dropped>,
    /// The file ends before its base does.
    has_no_base_end: bool,
}

/// Writes what can be proved of the file at `path` to `output`, and lists the rest.
pub fn repair(path: &Path, output: &Path, report: &mut dyn Write) -> Result<(), ToolError> {
    let input = Input::open(path)?;
    let output = Output::create(output)?;
    let scanned = input.scan();
    let split = split(&input)?;
    // If the scan finds no damage, there may be no records at all.
    if scanned.is_err() {
        split.check_not_empty(path)?;
    }
    let new = output.path.clone();
    let aside = split.write(&input, output)?;
    if let Ok(Verdict::Intact(_) | Verdict::Handwritten) = scanned {
        writeln!(report, "{}: whole: there is nothing to repair", path.display())?;
    }
    split.report(&input, &new, report)?;
    if let Some(aside) = aside {
        writeln!(
            report,
            "The bytes of what was dropped are in {}: read them, and type again what you trust.",
            aside.display()
        )?;
    }
    Ok(())
}

/// Sorts the lines of a file into those that are kept and those that are dropped.
fn split(input: &Input) -> Result<Split, ToolError> {
    let path = || input.path.clone();
    match Batches::begin(disk::read(&input.file, 0..input.length())) {
        Ok(Beginning::Sealed(batches)) => split_sealed(input, batches),
        Ok(Beginning::Handwritten) => split_handwritten(input),
        Ok(Beginning::Empty) => Err(ToolError::Nothing { path: path() }),
        Err(error) if error.is_damage() => {
            Err(ToolError::Unprovable { path: path(), reason: error.to_string() })
        }
        Err(error) => Err(input.error(error)),
    }
}

fn split_sealed<R: io::Read>(input: &Input, mut batches: Batches<R>) -> Result<Split, ToolError> {
    let mut split = Split::default();
    let mut progress = Progress::new("checking", input.length());
    while let Some(batch) = batches.read().at(&input.path, "read")? {
        progress.reach(batch.end);
        let bytes = batch.offset..batch.end;
        let reason = match batch.good_seal().map(|seal| seal.number) {
            Some(number) if split.kept.iter().any(|run| run.numbers.contains(&number)) => {
                format!("batch {number} is repeated")
            }
            Some(number) => {
                split.keep(number..number + 1, bytes, batch.records);
                continue;
            }
            None => {
                let number = batch.seal.map_or(0, |seal| seal.number);
                batch.mismatch(number).unwrap_or_else(|| "no seal follows".to_owned())
            }
        };
        let lines = (batch.line, batch.last_line);
        split.dropped.push(Dropped { lines, bytes, records: batch.records, reason });
    }
    split.kept.sort_by_key(|run| run.numbers.start);
    split.has_no_base_end = batches.has_no_base_end();
    Ok(split)
}

fn split_handwritten(input: &Input) -> Result<Split, ToolError> {
    let mut split = Split::default();
    let mut lines = Lines::new(disk::read(&input.file, 0..input.length()));
    while let Some(line) = lines.next(|_| {}).at(&input.path, "read")? {
        let bytes = line.offset..line.offset + line.length;
        let records = u64::from(line.is_record());
        match for_each_record(&input.file, bytes.clone(), Source::Handwritten, |_| Ok(())) {
            Ok(_) => split.keep(0..0, bytes, records),
            Err(ScanError::Refused(mut refusal)) => {
                let reason = refusal.cause.to_string();
                refusal.line = line.number;
                let error = ScanError::Refused(refusal);
                if !error.is_damage() {
                    return Err(input.error(error));
                }
                let lines = (line.number, line.number);
                split.dropped.push(Dropped { lines, bytes, records, reason });
            }
            Err(error) => return Err(input.error(error)),
        }
    }
    Ok(split)
}

impl Split {
    /// Keeps lines, which join the last run if they continue it.
    fn keep(&mut self, numbers: Range<u64>, bytes: Range<u64>, records: u64) {
        match self.kept.last_mut() {
            Some(run) if run.numbers.end == numbers.start && run.bytes.end == bytes.start => {
                (run.numbers.end, run.bytes.end) = (numbers.end, bytes.end);
                run.records += records;
            }
            _ => self.kept.push(Run { numbers, records, bytes }),
        }
    }

    fn records(&self) -> u64 {
        self.kept.iter().map(|run| run.records).sum()
    }

    /// Refuses a file of which no record would be kept.
    fn check_not_empty(&self, path: &Path) -> Result<(), ToolError> {
        let with_records = self.dropped.iter().find(|part| part.records > 0);
        let Some(first) = with_records.or(self.dropped.first()) else { return Ok(()) };
        if self.records() > 0 {
            return Ok(());
        }
        let lines = numbered(first.lines.0, first.lines.1, "line");
        let (lost, why) = (counted(first.records, "record"), &first.reason);
        let reason = format!("of its records none is whole: {lines}, {lost}: {why}");
        Err(ToolError::Unprovable { path: path.to_owned(), reason })
    }

    /// Writes what is kept to `output`, and what is dropped, if anything is, to a file beside it, whose path it returns.
    fn write(&self, input: &Input, output: Output) -> Result<Option<PathBuf>, ToolError> {
        let aside = match self.dropped.is_empty() {
            true => None,
            false => Some(disk::beside(&output.path, ".dropped")),
        };
        if let Some(aside) = &aside {
            self.write_dropped(input, aside).at(aside, "keep what is dropped")?;
        }
        let mut progress = Progress::new("writing", input.length());
        let mut copied = 0;
        let written = output.write(|draft| {
            for run in &self.kept {
                // The new file has seals of its own.
                let lines = disk::read(&input.file, run.bytes.clone());
                copy_lines(lines, draft, |line| !is_structure(line))?;
                copied += run.bytes.end - run.bytes.start;
                progress.reach(copied);
            }
            Ok(())
        });
        if let (Err(_), Some(aside)) = (&written, &aside) {
            let _ = fs::remove_file(aside);
        }
        written?;
        Ok(aside)
    }

    fn write_dropped(&self, input: &Input, aside: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(aside)?;
        for part in &self.dropped {
            io::copy(&mut disk::read(&input.file, part.bytes.clone()), &mut file)?;
        }
        file.sync_all()
    }

    /// Reports what was kept in `new`, what is missing, and what was dropped.
    fn report(&self, input: &Input, new: &Path, report: &mut dyn Write) -> io::Result<()> {
        let (new, records) = (new.display(), counted(self.records(), "record"));
        match self.kept.iter().map(|run| run.numbers.end - run.numbers.start).sum() {
            0 => writeln!(report, "{new}: {records} kept")?,
            batches => {
                writeln!(report, "{new}: {} kept, with {records}", counted(batches, "batch"))?
            }
        }
        for pair in self.kept.windows(2).filter(|pair| pair[0].numbers.end < pair[1].numbers.start)
        {
            let (first, last) = (pair[0].numbers.end, pair[1].numbers.start - 1);
            let verb = if first == last { "is" } else { "are" };
            writeln!(report, "missing: {} {verb} nowhere whole", numbered(first, last, "batch"))?;
        }
        if self.has_no_base_end {
            writeln!(report, "missing: the end of the base, and whatever followed it")?;
        }
        self.dropped.iter().try_for_each(|part| part.report(input, report))
    }
}

impl Dropped {
    fn report(&self, input: &Input, report: &mut dyn Write) -> io::Result<()> {
        const LINES_MAX: usize = 10;
        let Self { lines: (first, last), bytes, records, reason } = self;
        writeln!(
            report,
            "dropped: {}, offset {}, {}, {}: {reason}",
            numbered(*first, *last, "line"),
            bytes.start,
            counted(bytes.end - bytes.start, "byte"),
            counted(*records, "record")
        )?;
        input.show(bytes.clone(), LINES_MAX, report)
    }
}
