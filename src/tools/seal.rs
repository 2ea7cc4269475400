//! `coffre seal`: accepts a file as a person edited it. Shows which lines no seal proves, and seals all of them anew.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{Input, Output, Progress, ToolError, system};
use crate::journal::disk::{Disk, DiskFile, System};
use crate::journal::format::is_structure;
use crate::journal::load::{Located, Source};
use crate::journal::scan::{Batch, Batches, Beginning, Verdict};
use crate::journal::{
    Context, Error, NewFile, Record, copy_lines, disk, lock_file, numbered_names, replace,
};
use crate::text::{Words, counted, numbered, quote, split};

/// Seals the lines of the file at `path` as they are, in its place or in `output`.
pub fn seal(path: &Path, output: Option<&Path>, report: &mut dyn Write) -> Result<(), ToolError> {
    // The lock is held until the end, so that no server changes the file meanwhile.
    let locked = if output.is_none() { Some(lock_file(path)?) } else { None };
    let input = Input::open(path)?;
    let shown = path.display();
    let length = input.length();
    match input.scan() {
        Ok(Verdict::Intact(_)) => {
            writeln!(report, "{shown}: whole: there is nothing to accept")?;
            return Ok(());
        }
        Err(error) if !error.is_damage() => {
            return Err(input.error(error));
        }
        _ => {}
    }
    let mut records = 0_u64;
    let mut progress = Progress::new("checking", length);
    input.for_each_record(0..length, Source::Sealed, |found| {
        progress.reach(found.bytes.end);
        records += 1;
        Ok(())
    })?;
    drop(progress);
    show_changes(&input, report)?;

    let write = |draft: &mut NewFile| {
        let source = disk::read(&input.file, 0..length);
        copy_lines(source, draft, |line| !is_structure(line))
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
                // The file still has its own name and needs no second one.
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

/// Gives the file at `path` a second name, which it keeps when another file replaces it.
fn keep(file: &dyn DiskFile, path: &Path) -> Result<PathBuf, Error> {
    // The editor may not have synced it.
    file.sync_all().at(path, "fsync")?;
    for before in numbered_names(path, ".before-seal") {
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
    unreachable!("the names do not end")
}

/// A batch of at most so many lines is shown in full.
const LINES_MAX: usize = 20;

/// The changes in at most so many longer batches are looked into, as each takes another pass over the file.
const LONG_BATCHES_MAX: usize = 8;

/// Reports where the lines of a changed batch are that is too long to be shown.
fn show_range(input: &Input, batch: &Batch, report: &mut dyn Write) -> io::Result<()> {
    let (first, last) = (batch.line, batch.last_line - 1);
    let shown = input.path.display();
    writeln!(
        report,
        "    its seal vouches for all of its lines together, so which of them were edited cannot be told; \
         compare them with those of a backup: sed -n '{first},{last}p' {shown}"
    )
}

/// Reports what can be told of the edits in a long batch: which of its records later ones supersede, and which are not
/// written as coffre writes them. Reads the file from the batch to the end.
fn show_clues(input: &Input, batch: &Batch, report: &mut dyn Write) -> Result<(), ToolError> {
    let (mut effective, mut total) = (Effective::default(), 0_u64);
    let mut odd = Vec::new();
    input.for_each_record(batch.offset..input.length(), Source::Sealed, |found| {
        let is_in_batch = found.bytes.start < batch.body_end;
        total += u64::from(is_in_batch);
        effective.take(&found, is_in_batch.then_some(batch.line + found.line - 1));
        if is_in_batch && odd.len() <= LINES_MAX && !is_canonical(input, &found)? {
            odd.push(found.bytes.clone());
        }
        Ok(())
    })?;
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

/// Whether the line of a record is as coffre would write it.
fn is_canonical(input: &Input, found: &Located<'_>) -> io::Result<bool> {
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

/// The lines of those records of a batch that no later record of the file supersedes.
#[derive(Default)]
struct Effective {
    /// By database and key.
    of_keys: HashMap<usize, HashMap<Vec<u8>, Vec<u64>>>,
    /// Of records that do not concern exactly one key.
    others: Vec<u64>,
}

impl Effective {
    /// Adds the next record of the file. `line` is its line if it belongs to the batch.
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

    /// The lines, in ascending order.
    fn lines(self) -> Vec<u64> {
        let of_keys = self.of_keys.into_values().flat_map(HashMap::into_values).flatten();
        let mut lines: Vec<_> = of_keys.chain(self.others).collect();
        lines.sort_unstable();
        lines
    }
}

/// Reports which lines no seal proves, and shows them.
fn show_changes(input: &Input, report: &mut dyn Write) -> Result<(), ToolError> {
    let shown = input.path.display();
    let mut batches = match Batches::begin(disk::read(&input.file, 0..input.length())) {
        Ok(Beginning::Sealed(batches)) => batches,
        Ok(Beginning::Empty | Beginning::Handwritten) => {
            writeln!(report, "{shown}: it has no header: all of it is taken as it is")?;
            return Ok(());
        }
        Err(error) if error.is_damage() => {
            writeln!(report, "{shown}: {error}: all of it is taken as it is")?;
            return Ok(());
        }
        Err(error) => return Err(input.error(error)),
    };
    let (mut expected, mut long_batches) = (1, 0);
    while let Some(batch) = batches.read().at(&input.path, "read")? {
        if let Some(seal) = batch.good_seal() {
            if seal.number != expected {
                let (line, before) = (batch.line, expected - 1);
                writeln!(report, "line {line}: batch {} follows batch {before}", seal.number)?;
            }
            expected = seal.number + 1;
            continue;
        }
        match batch.mismatch(expected) {
            Some(mismatch) => writeln!(report, "changed: {mismatch}")?,
            None => writeln!(report, "new: {}", numbered(batch.line, batch.last_line, "line"))?,
        }
        if let Some(seal) = batch.seal {
            expected = seal.number + 1;
            if batch.last_line - batch.line > LINES_MAX as u64 {
                show_range(input, &batch, report)?;
                if long_batches < LONG_BATCHES_MAX {
                    show_clues(input, &batch, report)?;
                }
                long_batches += 1;
                continue;
            }
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
