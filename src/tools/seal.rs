//! `coffre seal`: takes a file as a person edited it and vouches for it anew.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{Input, Output, Progress, ToolError, system};
use crate::journal::disk::{Disk, DiskFile, System};
use crate::journal::format::{HEADER_START, Header, SEAL_START};
use crate::journal::load::{Located, Source, for_each_record};
use crate::journal::scan::{Batch, Batches, Beginning, ScanError, Verdict, scan};
use crate::journal::{Context, Error, NewFile, Record, copy_lines, disk, lock_file, replace};
use crate::text::{Words, counted, numbered, quote, split};

/// Seals the lines of the file at `path` as they are, in its place or in `output`.
pub fn seal(path: &Path, output: Option<&Path>, report: &mut dyn Write) -> Result<(), ToolError> {
    // Held until the end: no server may begin meanwhile, or have done something since.
    let locked = match output {
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

    let write = |draft: &mut NewFile| {
        let source = disk::read(&input.file, 0..length);
        copy_lines(source, draft, |line| !is_seal_or_header(line))
    };
    let sealed = match (output, locked) {
        (Some(output), _) => {
            let output = Output::create(output)?;
            let path = output.path.clone();
            output.write(write)?;
            path
        }
        (None, None) => path.to_owned(),
        (None, Some(file)) => {
            let target = disk::canonical(path).at(path, "resolve")?;
            let before = keep(&*file, &target)?;
            if let Err(error) = replace(&system(), &target, &input.status, write) {
                // It keeps its own name, and needs no other.
                if input.is_in_place().is_ok_and(|in_place| in_place) {
                    let _ = System.remove(&before);
                }
                return Err(error.into());
            }
            writeln!(report, "{}: the file as it was before", before.display())?;
            path.to_owned()
        }
    };
    writeln!(report, "{}: sealed, with {}", sealed.display(), counted(records, "record"))?;
    Ok(())
}

/// Gives the file at `path` a second name, where nothing is, which it keeps when another takes its place.
fn keep(file: &dyn DiskFile, path: &Path) -> Result<PathBuf, Error> {
    // An editor may not have done so.
    file.sync_all().at(path, "fsync")?;
    for number in 1.. {
        let suffix = match number {
            1 => ".before-seal".to_owned(),
            _ => format!(".before-seal-{number}"),
        };
        let before = disk::beside(path, &suffix);
        match System.link(path, &before) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            linked => {
                linked.at(&before, "keep the file as it is")?;
                let folder = disk::folder(path);
                System.sync_folder(folder).at(folder, "fsync the folder")?;
                return Ok(before);
            }
        }
    }
    unreachable!("numbers do not end")
}

fn is_seal_or_header(line: &[u8]) -> bool {
    let begins = |start: &str| line.starts_with(start.as_bytes());
    begins(SEAL_START) || begins(HEADER_START) || Header::is_almost(line)
}

/// Lines of a batch are shown as they are up to so many.
const LINES_MAX: usize = 20;

/// The file is read once more for each changed batch of more lines, but no more often than that.
const LONG_BATCHES_MAX: usize = 8;

/// Says where the lines of a changed batch are that is too long to be shown.
fn show_range(input: &Input, batch: &Batch, report: &mut dyn Write) -> io::Result<()> {
    let (first, last) = (batch.line, batch.last_line - 1);
    let shown = input.path.display();
    writeln!(
        report,
        "    its seal vouches for all of its lines together, so which of them were edited cannot be told; \
         compare them with those of a backup: sed -n '{first},{last}p' {shown}"
    )
}

/// The same of what its lines say: some cannot matter any more, and some do not read as coffre writes them. Reads
/// the file from there to its end.
fn show_what_can_be_told(
    input: &Input,
    batch: &Batch,
    report: &mut dyn Write,
) -> Result<(), ToolError> {
    let (mut effective, mut total) = (Effective::default(), 0_u64);
    let mut odd = Vec::new();
    let read =
        for_each_record(&input.file, batch.offset..input.length(), Source::Sealed, |found| {
            let is_in_batch = found.bytes.start < batch.body_end;
            total += u64::from(is_in_batch);
            effective.take(&found, is_in_batch.then_some(batch.line + found.line - 1));
            if is_in_batch && odd.len() <= LINES_MAX && !reads_as_written(input, &found)? {
                odd.push(found.bytes.clone());
            }
            Ok(())
        });
    read.map_err(|error| Error::of_scan(&input.path, Source::Handwritten, error))?;
    let kept = effective.lines();
    let superseded = total - kept.len() as u64;
    if superseded > 0 {
        let verb = if superseded == 1 { "is" } else { "are" };
        writeln!(
            report,
            "    {superseded} of its {} {verb} superseded by later ones: an edit there changes nothing",
            counted(total, "record")
        )?;
        if kept.len() <= LINES_MAX {
            let kept: Vec<_> = kept.iter().map(u64::to_string).collect();
            writeln!(report, "    the others are on lines {}", kept.join(", "))?;
        }
    }
    if !odd.is_empty() {
        writeln!(report, "    not as coffre writes them:")?;
    }
    for (count, bytes) in odd.into_iter().enumerate() {
        match count {
            LINES_MAX => writeln!(report, "    ...")?,
            _ => input.show(bytes, 1, report)?,
        }
    }
    Ok(())
}

/// Whether the line of a record is what coffre would write for its words.
fn reads_as_written(input: &Input, found: &Located<'_>) -> io::Result<bool> {
    let mut line = Vec::new();
    disk::read(&input.file, found.bytes.clone()).read_to_end(&mut line)?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let mut words = Words::default();
    if split(line, &mut words).is_err() {
        return Ok(false);
    }
    let mut written = words[0].to_ascii_uppercase();
    for word in words.iter().skip(1) {
        written.push(b' ');
        quote(word, &mut written);
    }
    Ok(written == line)
}

/// Which records of a batch no later record of the file supersedes, by their lines.
#[derive(Default)]
struct Effective {
    /// By database and key.
    of_keys: HashMap<usize, HashMap<Vec<u8>, Vec<u64>>>,
    /// Those that do not concern just one key.
    others: Vec<u64>,
}

impl Effective {
    /// Takes the next record of the file; it is of the batch if it has a `line`.
    fn take(&mut self, found: &Located<'_>, line: Option<u64>) {
        let keys = self.of_keys.entry(found.database).or_default();
        match &found.record {
            Record::Set(key, ..) => {
                keys.remove(*key);
                if line.is_some() {
                    keys.insert(key.to_vec(), Vec::from_iter(line));
                }
            }
            Record::Append(key, _)
            | Record::SetRange(key, ..)
            | Record::PExpireAt(key, _)
            | Record::Persist(key) => {
                if line.is_some() {
                    keys.entry(key.to_vec()).or_default().extend(line);
                }
            }
            Record::Del(gone) => {
                gone.iter().for_each(|key| drop(keys.remove(*key)));
                self.others.extend(line);
            }
            Record::FlushAll => {
                *self = Self::default();
                self.others.extend(line);
            }
            Record::FlushDb => {
                keys.clear();
                self.others.extend(line);
            }
            Record::Select(_) => self.others.extend(line),
            Record::SwapDb(one, two) => {
                let (first, second) = (self.of_keys.remove(one), self.of_keys.remove(two));
                first.map(|keys| self.of_keys.insert(*two, keys));
                second.map(|keys| self.of_keys.insert(*one, keys));
                self.others.extend(line);
            }
        }
    }

    /// Their lines, in order.
    fn lines(self) -> Vec<u64> {
        let of_keys = self.of_keys.into_values().flat_map(HashMap::into_values).flatten();
        let mut lines: Vec<_> = of_keys.chain(self.others).collect();
        lines.sort_unstable();
        lines
    }
}

/// Says which lines no seal vouches for, and shows them.
fn show_changes(input: &Input, report: &mut dyn Write) -> Result<(), ToolError> {
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
    let (mut expected, mut long) = (1, 0);
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
                if batch.last_line - batch.line > LINES_MAX as u64 {
                    long += 1;
                    show_range(input, &batch, report)?;
                    if long <= LONG_BATCHES_MAX {
                        show_what_can_be_told(input, &batch, report)?;
                    }
                    continue;
                }
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
