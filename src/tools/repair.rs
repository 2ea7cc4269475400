//! `coffre repair`: of a damaged file, what its seals still prove.
//!
//! A batch whose seal is good is proved, wherever it stands: its number says where it belongs. The rest
//! is dropped: nobody can say what it was. Its bytes are kept beside the new file for a person to read.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Input, Output, Progress, ToolError};
use crate::journal::format::{HEADER_START, SEAL_START};
use crate::journal::lines::Lines;
use crate::journal::load::{Source, for_each_record};
use crate::journal::scan::{Batches, Beginning, ScanError, Verdict, scan};
use crate::journal::{Context, Error, NewFile, copy_lines, disk};
use crate::text::{counted, numbered};

/// Proved batches that follow each other in the file and in their numbers.
#[derive(Debug)]
struct Run {
    numbers: Range<u64>,
    records: u64,
    bytes: Range<u64>,
}

/// Lines that are dropped, and why.
#[derive(Debug)]
struct Dropped {
    lines: (u64, u64),
    bytes: Range<u64>,
    records: u64,
    reason: String,
}

/// Writes what can be proved of the file at `path` to `output`, and lists the rest.
pub fn repair(path: &Path, output: &Path, report: &mut dyn Write) -> Result<(), ToolError> {
    let input = Input::open(path)?;
    let output = Output::create(output)?;
    let mut is_cut = false;
    // What a crash or nothing did to it is no damage: what is whole then is all there was.
    let verdict = scan(&input.file, input.length(), &mut |_| {});
    let (runs, dropped) = match Batches::begin(disk::read(&input.file, 0..input.length())) {
        Ok(Beginning::Sealed(mut batches)) => {
            let sorted = sort_out(&input, &mut batches)?;
            is_cut = batches.has_no_base_end();
            sorted
        }
        Ok(Beginning::Handwritten) => handwritten(&input)?,
        Ok(Beginning::Empty) => {
            return Err(ToolError::Nothing { path: path.to_owned() });
        }
        Err(error) if !error.is_of_known_format() => {
            return Err(Error::of_scan(path, Source::Handwritten, error).into());
        }
        Err(ScanError::Refused(refusal)) => {
            let reason = refusal.to_string();
            return Err(ToolError::Unprovable { path: path.to_owned(), reason });
        }
        Err(ScanError::Io(error)) => return Err(error).at(path, "read")?,
    };

    let records: u64 = runs.iter().map(|run| run.records).sum();
    if records == 0
        && verdict.is_err()
        && let Some(first) = dropped.iter().find(|part| part.records > 0).or(dropped.first())
    {
        let lines = numbered(first.lines.0, first.lines.1, "line");
        let (lost, why) = (counted(first.records, "record"), &first.reason);
        let reason = format!("of its records none is whole: {lines}, {lost}: {why}");
        return Err(ToolError::Unprovable { path: path.to_owned(), reason });
    }
    let new = output.path.clone();
    let aside = disk::beside(&new, ".dropped");
    if !dropped.is_empty() {
        keep(&input, &dropped, &aside).at(&aside, "keep what is dropped")?;
    }
    let mut progress = Progress::new("writing", input.length());
    let written = output.write(|draft| {
        let mut written = 0;
        runs.iter().try_for_each(|run| {
            copy_run(&input, run, draft)?;
            written += run.bytes.end - run.bytes.start;
            progress.reach(written);
            Ok(())
        })
    });
    if written.is_err() && !dropped.is_empty() {
        let _ = std::fs::remove_file(&aside);
    }
    written?;
    drop(progress);
    let batches: u64 = runs.iter().map(|run| run.numbers.end - run.numbers.start).sum();
    if let Ok(Verdict::Intact(_) | Verdict::Handwritten) = verdict {
        writeln!(report, "{}: whole: there is nothing to repair", path.display())?;
    }
    let (new, records) = (new.display(), counted(records, "record"));
    match runs.iter().any(|run| run.numbers.start > 0) {
        true => writeln!(report, "{new}: {} kept, with {records}", counted(batches, "batch"))?,
        false => writeln!(report, "{new}: {records} kept")?,
    }
    for pair in runs.windows(2).filter(|pair| pair[0].numbers.end < pair[1].numbers.start) {
        let (first, last) = (pair[0].numbers.end, pair[1].numbers.start - 1);
        let batches = numbered(first, last, "batch");
        let verb = if first == last { "is" } else { "are" };
        writeln!(report, "missing: {batches} {verb} nowhere whole")?;
    }
    if is_cut {
        writeln!(report, "missing: the end of the base, and whatever followed it")?;
    }
    list(&input, &dropped, report)?;
    if !dropped.is_empty() {
        writeln!(
            report,
            "The bytes of what was dropped are in {}: read them, and type again what you trust.",
            aside.display()
        )?;
    }
    Ok(())
}

/// Which batches are proved, in the order of their numbers, and which lines are not.
fn sort_out<R: io::Read>(
    input: &Input,
    batches: &mut Batches<R>,
) -> Result<(Vec<Run>, Vec<Dropped>), ToolError> {
    let (mut runs, mut dropped) = (Vec::<Run>::new(), Vec::new());
    let mut progress = Progress::new("checking", input.length());
    while let Some(batch) = batches.read().at(&input.path, "read")? {
        progress.reach(batch.end);
        let bytes = batch.offset..batch.end;
        let reason = match batch.good_seal() {
            Some(seal) if runs.iter().any(|run| run.numbers.contains(&seal.number)) => {
                format!("batch {} is repeated", seal.number)
            }
            Some(seal) => {
                let number = seal.number;
                match runs.last_mut() {
                    Some(run) if run.numbers.end == number && run.bytes.end == bytes.start => {
                        (run.numbers.end, run.bytes.end) = (number + 1, bytes.end);
                        run.records += batch.records;
                    }
                    _ => {
                        let (numbers, records) = (number..number + 1, batch.records);
                        runs.push(Run { numbers, records, bytes });
                    }
                }
                continue;
            }
            None => match batch.mismatch(batch.seal.map_or(0, |seal| seal.number)) {
                Some(mismatch) => mismatch.to_string(),
                None => "no seal follows".to_owned(),
            },
        };
        let lines = (batch.line, batch.last_line);
        dropped.push(Dropped { lines, bytes, records: batch.records, reason });
    }
    runs.sort_by_key(|run| run.numbers.start);
    Ok((runs, dropped))
}

/// A hand-written file: each line speaks for itself.
fn handwritten(input: &Input) -> Result<(Vec<Run>, Vec<Dropped>), ToolError> {
    let (mut runs, mut dropped) = (Vec::<Run>::new(), Vec::new());
    let mut lines = Lines::new(disk::read(&input.file, 0..input.length()));
    while let Some(line) = lines.next(|_| {}).at(&input.path, "read")? {
        let bytes = line.offset..line.offset + line.length;
        let number = line.number;
        let records = u64::from(line.is_record());
        match for_each_record(&input.file, bytes.clone(), Source::Handwritten, |_| Ok(())) {
            Ok(()) => match runs.last_mut() {
                Some(run) if run.bytes.end == bytes.start => {
                    run.bytes.end = bytes.end;
                    run.records += records;
                }
                _ => runs.push(Run { numbers: 0..0, records, bytes }),
            },
            Err(ScanError::Refused(mut refusal)) => {
                let reason = refusal.cause.to_string();
                refusal.line = number;
                let error = ScanError::Refused(refusal);
                if !error.is_of_known_format() {
                    return Err(Error::of_scan(&input.path, Source::Handwritten, error).into());
                }
                dropped.push(Dropped { lines: (number, number), bytes, records, reason });
            }
            Err(ScanError::Io(error)) => return Err(error).at(&input.path, "read")?,
        }
    }
    Ok((runs, dropped))
}

/// Copies the lines of a run, without their seals: they are sealed anew.
fn copy_run(input: &Input, run: &Run, draft: &mut NewFile) -> io::Result<()> {
    let is_structure = |line: &[u8]| {
        line.starts_with(SEAL_START.as_bytes()) || line.starts_with(HEADER_START.as_bytes())
    };
    copy_lines(disk::read(&input.file, run.bytes.clone()), draft, |line| !is_structure(line))
}

/// Copies the bytes that are dropped to a file of their own.
fn keep(input: &Input, dropped: &[Dropped], aside: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(aside)?;
    for part in dropped {
        io::copy(&mut disk::read(&input.file, part.bytes.clone()), &mut file)?;
    }
    file.sync_all()
}

/// Lists what is dropped.
fn list(input: &Input, dropped: &[Dropped], report: &mut dyn Write) -> io::Result<()> {
    const LINES_MAX: usize = 10;
    for part in dropped {
        let Dropped { lines: (first, last), bytes, records, reason } = part;
        let (offset, length) = (bytes.start, bytes.end - bytes.start);
        writeln!(
            report,
            "dropped: {}, offset {offset}, {}, {}: {reason}",
            numbered(*first, *last, "line"),
            counted(length, "byte"),
            counted(*records, "record")
        )?;
        input.show(bytes.clone(), LINES_MAX, report)?;
    }
    Ok(())
}
