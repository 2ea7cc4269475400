//! `coffre seal`: takes a file as a person edited it and vouches for it anew.

use std::io::Write;
use std::path::Path;

use super::{Input, Output, Progress, ToolError, system};
use crate::persistence::format::{HEADER_START, Header, SEAL_START};
use crate::persistence::load::{Source, for_each_record};
use crate::persistence::scan::{Batches, Beginning, ScanError, Verdict, scan};
use crate::persistence::{Context, Draft, Error, copy_lines, disk, lock_file, replace};
use crate::text::{counted, numbered};

/// Seals the lines of the file at `path` as they are, in its place or in `output`.
pub fn seal(path: &Path, output: Option<&Path>, report: &mut dyn Write) -> Result<(), ToolError> {
    // Held until the end: no server may begin meanwhile, or have done something since.
    let _lock = match output {
        Some(_) => None,
        None => Some(lock_file(path)?),
    };
    let input = Input::open(path)?;
    let shown = path.display();
    let length = input.length();
    match scan(&input.file, length, &mut |_| {}) {
        Ok(Verdict::Intact(_)) => {
            writeln!(report, "{shown}: whole: there is nothing to accept")?;
            return Ok(());
        }
        Err(error) if !error.is_of_known_format() => {
            return Err(Error::of_scan(path, Source::Handwritten, error).into());
        }
        _ => {}
    }
    let mut records = 0_u64;
    let mut progress = Progress::new("checking", length);
    let checked = for_each_record(&input.file, 0..length, Source::Sealed, |found| {
        progress.reach(found.bytes.end);
        records += 1;
        Ok(())
    });
    drop(progress);
    checked.map_err(|error| Error::of_scan(path, Source::Handwritten, error))?;
    show_changes(&input, report)?;

    let write = |draft: &mut Draft| {
        let source = disk::read(&input.file, 0..length);
        copy_lines(source, draft, |line| !is_seal_or_header(line))
    };
    let sealed = match output {
        Some(output) => {
            let output = Output::create(output)?;
            let path = output.path.clone();
            output.write(write)?;
            path
        }
        None => {
            let target = disk::canonical(path).at(path, "resolve")?;
            replace(&system(), &target, &input.status, write)?;
            path.to_owned()
        }
    };
    writeln!(report, "{}: sealed, with {}", sealed.display(), counted(records, "record"))?;
    Ok(())
}

fn is_seal_or_header(line: &[u8]) -> bool {
    let begins = |start: &str| line.starts_with(start.as_bytes());
    begins(SEAL_START) || begins(HEADER_START) || Header::is_almost(line)
}

/// Says which lines no seal vouches for, and shows them.
fn show_changes(input: &Input, report: &mut dyn Write) -> Result<(), ToolError> {
    const LINES_MAX: usize = 20;
    let shown = input.path.display();
    let mut batches = match Batches::begin(disk::read(&input.file, 0..input.length())) {
        Ok(Beginning::Sealed(batches)) => batches,
        Ok(Beginning::Empty | Beginning::Handwritten) => {
            writeln!(report, "{shown}: it has no header: all of it is taken as it is")?;
            return Ok(());
        }
        Err(ScanError::Refused(refusal)) => {
            writeln!(report, "{shown}: {refusal}: all of it is taken as it is")?;
            return Ok(());
        }
        Err(ScanError::Io(error)) => return Err(error).at(&input.path, "read")?,
    };
    let mut expected = 1;
    while let Some(batch) = batches.read().at(&input.path, "read")? {
        if let Some(seal) = batch.good_seal() {
            if seal.number != expected {
                let line = batch.line;
                writeln!(
                    report,
                    "line {line}: batch {} follows batch {}",
                    seal.number,
                    expected - 1
                )?;
            }
            expected = seal.number + 1;
            continue;
        }
        match batch.mismatch(expected) {
            Some(mismatch) => {
                writeln!(report, "changed: {mismatch}")?;
                expected = mismatch.number() + 1;
            }
            None => writeln!(report, "new: {}", numbered(batch.line, batch.last_line, "line"))?,
        }
        input.show(batch.offset..batch.body_end, LINES_MAX, report)?;
    }
    if batches.has_no_base_end() {
        writeln!(
            report,
            "{shown}: it ends within its base, at batch {expected}: if it is part of a copy, the rest of \
             the data is missing here too"
        )?;
    }
    Ok(())
}
