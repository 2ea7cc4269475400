//! Opens the data file, in the order that makes every failure harmless: find and lock it, scan it,
//! load it, and only then create, adopt or cut. Until [`Recovery::finish`] nothing on disk changes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::format::{Checksum, FileId, Header, Record, Seal, is_record_line};
use super::journal::{Fsync, Journal, Position};
use super::scan::{self, Refusal, ScanError, Verdict};

/// Why a data file cannot be opened. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A folder, a pipe, a device.
    #[error("{}: it is {kind}, the data file must be a regular file", path.display())]
    NotAFile {
        /// The path given.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Another server has the file.
    #[error("{}: {holder} holds it, and one file has one server", path.display())]
    Held {
        /// The data file.
        path: PathBuf,
        /// Who holds it, as far as the system tells.
        holder: String,
    },
    /// The file is gone, but a rewrite of it was left half done.
    #[error(
        "{}: it does not exist, but {} does: restore the data file, or remove the other to begin anew",
        path.display(), leftover.display()
    )]
    LeftoverOnly {
        /// The data file.
        path: PathBuf,
        /// The file beside it.
        leftover: PathBuf,
    },
    /// The file is damaged, or is none of ours.
    #[error("{}: {refusal}. Nothing was changed. {next}", path.display())]
    Refused {
        /// The data file.
        path: PathBuf,
        /// Where and why.
        refusal: Box<Refusal>,
        /// What to do.
        next: String,
    },
}

/// A data file on its way to being used.
#[derive(Debug)]
pub struct Recovery {
    /// Absolute, symbolic links resolved.
    path: PathBuf,
    /// Open and locked; `None` while the file does not exist.
    file: Option<File>,
    verdict: Verdict,
}

impl Recovery {
    /// Finds, locks and scans the file at `path`.
    pub fn begin(path: &Path) -> Result<Self, Error> {
        let Some(path) = resolve(path)? else {
            let path = resolve_missing(path)?;
            let leftover = beside(&path, ".tmp");
            if leftover.exists() {
                return Err(Error::LeftoverOnly { path, leftover });
            }
            return Ok(Self { path, file: None, verdict: Verdict::Empty });
        };
        let mut file = open_locked(&path)?;
        let verdict = scan::scan(&mut file).map_err(|error| scan_error(&path, error))?;
        Ok(Self { path, file: Some(file), verdict })
    }

    /// The data file's absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands every record of the good batches to `apply`, in order.
    pub fn load(&mut self, apply: impl FnMut(Record<'_>)) -> Result<(), Error> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let end = match &self.verdict {
            Verdict::Empty => 0,
            Verdict::Handwritten => io_error(&self.path, "read", file.metadata())?.len(),
            Verdict::Intact(sealed) | Verdict::Torn(sealed, _) => sealed.end,
        };
        scan::for_each_record(file, 0..end, apply).map_err(|error| scan_error(&self.path, error))
    }

    /// Makes the file ready to be appended to: creates a missing one, seals a hand-written one, cuts
    /// a torn tail and keeps it aside, and waits until all of it is on disk.
    pub fn finish(self, fsync: Fsync) -> Result<Journal, Error> {
        let Self { path, file, verdict } = self;
        if file.is_some() {
            remove_leftover(&path);
        }
        let (file, position) = match (verdict, file) {
            (Verdict::Empty, file) => {
                if file.is_none() {
                    log::info!("{}: it does not exist and is created", path.display());
                } else {
                    log::info!("{}: it is empty and becomes a new data file", path.display());
                }
                let id = FileId::random();
                let file = install(&path, file.as_ref(), |out| write!(out, "{}", Header { id }))?;
                (file, Position { id, last: 0, last_with_records: 0, marked: 0 })
            }
            (Verdict::Handwritten, Some(file)) => {
                let (file, position) = adopt(&path, file)?;
                log::info!("{}: it was written by hand and is sealed now", path.display());
                (file, position)
            }
            (Verdict::Intact(sealed), Some(file)) => {
                if sealed.unterminated {
                    io_error(&path, "write", (&file).write_all(b"\n"))?;
                }
                (file, Position::after(&sealed))
            }
            (Verdict::Torn(sealed, tail), Some(mut file)) => {
                let aside = keep_aside(&path, &mut file, sealed.end)?;
                io_error(&path, "cut", file.set_len(sealed.end))?;
                log::warn!(
                    "{}: line {}, offset {}: {}: a crash tore this tail off before it was \
                     acknowledged; {} bytes ({} records) were moved to {}",
                    path.display(),
                    tail.line,
                    sealed.end,
                    tail.cause,
                    tail.bytes,
                    tail.records,
                    aside.display(),
                );
                (file, Position::after(&sealed))
            }
            (Verdict::Handwritten | Verdict::Intact(_) | Verdict::Torn(..), None) => {
                unreachable!("a verdict on lines comes from a file")
            }
        };
        io_error(&path, "fsync", file.sync_all())?;
        Ok(Journal::new(file, path, fsync, position))
    }
}

fn io_error<T>(path: &Path, action: &'static str, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Io { path: path.to_owned(), action, source })
}

fn scan_error(path: &Path, error: ScanError) -> Error {
    match error {
        ScanError::Io(source) => Error::Io { path: path.to_owned(), action: "read", source },
        ScanError::Refused(refusal) => {
            let shown = path.display();
            let next = match &refusal.cause {
                scan::Cause::Newer(_) => String::new(),
                scan::Cause::Record(_) | scan::Cause::Encoding(_) => {
                    "Correct the line, or start on another file with --file.".to_owned()
                }
                _ => format!(
                    "Restore a backup; or read the lines with `less {shown}`, and accept what they \
                     say by `grep -av '^#' {shown} > NEW` and a start with `--file NEW`."
                ),
            };
            Error::Refused { path: path.to_owned(), refusal: Box::new(refusal), next }
        }
    }
}

/// The path with its links resolved, `None` if nothing is there.
fn resolve(path: &Path) -> Result<Option<PathBuf>, Error> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => io_error(path, "open", other)?,
    };
    let file_type = metadata.file_type();
    let kind = match () {
        () if file_type.is_file() => {
            return io_error(path, "resolve", fs::canonicalize(path)).map(Some);
        }
        () if file_type.is_dir() => "a folder",
        () if file_type.is_fifo() => "a named pipe",
        () if file_type.is_socket() => "a socket",
        () => "a device",
    };
    Err(Error::NotAFile { path: path.to_owned(), kind })
}

/// The absolute path of a file that does not exist yet, in a folder that must.
fn resolve_missing(path: &Path) -> Result<PathBuf, Error> {
    if path.is_symlink() {
        let source = io::Error::new(io::ErrorKind::NotFound, "a symbolic link to nothing");
        return io_error(path, "open", Err(source));
    }
    let Some(name) = path.file_name() else {
        return Err(Error::NotAFile { path: path.to_owned(), kind: "a folder" });
    };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = io_error(path, "open its folder", fs::canonicalize(folder))?;
    Ok(folder.join(name))
}

/// `path` with `suffix` added to its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn open_locked(path: &Path) -> Result<File, Error> {
    loop {
        let opened = OpenOptions::new().read(true).append(true).open(path);
        let file = io_error(path, "open", opened)?;
        lock(&file, path)?;
        // Between open and lock the holder before us may have replaced the file.
        let ours = io_error(path, "open", file.metadata())?;
        let named = io_error(path, "open", fs::metadata(path))?;
        if (ours.dev(), ours.ino()) == (named.dev(), named.ino()) {
            return Ok(file);
        }
    }
}

fn lock(file: &File, path: &Path) -> Result<(), Error> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(Error::Held { path: path.to_owned(), holder: holder(file) })
        }
        Err(TryLockError::Error(source)) => io_error(path, "lock", Err(source)),
    }
}

/// Who holds the lock on `file`: Linux tells in `/proc/locks`.
fn holder(file: &File) -> String {
    let unknown = || "another process".to_owned();
    let Ok(metadata) = file.metadata() else { return unknown() };
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return unknown() };
    let inode = format!(":{}", metadata.ino());
    let process = locks.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, _, process, place, ..] if place.ends_with(&inode) => Some(process),
            _ => None,
        }
    });
    let Some(process) = process else { return unknown() };
    let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    format!("process {process} ({})", name.trim())
}

/// A rewrite that a crash interrupted: the data file is whole without it.
fn remove_leftover(path: &Path) {
    let leftover = beside(path, ".tmp");
    match fs::remove_file(&leftover) {
        Ok(()) => log::warn!("{}: left over from a crash, removed", leftover.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => log::warn!("{}: left over from a crash: {error}", leftover.display()),
    }
}

/// Writes a complete new file beside `path` and renames it to `path`, all of it fsynced. `old` is
/// the file it replaces, whose mode and owner it takes; without one the mode is 0600. The new file is
/// locked before it has the name.
fn install(
    path: &Path,
    old: Option<&File>,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<File, Error> {
    let new = beside(path, if old.is_some() { ".tmp" } else { ".new" });
    let opened = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&new);
    let file = io_error(&new, "create", opened)?;
    lock(&file, &new)?;
    if old.is_none() && path.exists() {
        let source = io::Error::new(io::ErrorKind::AlreadyExists, "another process just made it");
        return io_error(path, "create", Err(source));
    }
    io_error(&new, "write", write_new(&file, old, write))?;
    io_error(path, "rename", fs::rename(&new, path))?;
    sync_folder(path)?;
    Ok(file)
}

fn write_new(
    file: &File,
    old: Option<&File>,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    file.set_len(0)?;
    if let Some(old) = old {
        let metadata = old.metadata()?;
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (metadata.uid(), metadata.gid()) {
            fchown(file, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    }
    let mut out = BufWriter::with_capacity(256 << 10, file);
    write(&mut out)?;
    out.flush()?;
    drop(out);
    file.sync_all()
}

/// Makes the names in the folder of `path` durable.
fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    io_error(folder, "fsync the folder", File::open(folder).and_then(|folder| folder.sync_all()))
}

/// Rewrites a hand-written file with a header before its lines and a seal after them; the lines
/// themselves, comments too, stay as they are.
fn adopt(path: &Path, file: File) -> Result<(File, Position), Error> {
    let id = FileId::random();
    let mut records = 0;
    let new = install(path, Some(&file), |out| {
        write!(out, "{}", Header { id })?;
        let mut checksum = Checksum::new(id);
        let mut source = BufReader::with_capacity(256 << 10, &file);
        source.seek(SeekFrom::Start(0))?;
        let mut line = Vec::new();
        while io::BufRead::read_until(&mut source, b'\n', &mut line)? > 0 {
            if !line.ends_with(b"\n") {
                line.push(b'\n');
            }
            records += u64::from(is_record_line(&line));
            checksum.update(&line);
            out.write_all(&line)?;
            line.clear();
        }
        write!(out, "{}", Seal::close(1, records, 0, checksum))
    })?;
    let last_with_records = u64::from(records > 0);
    Ok((new, Position { id, last: 1, last_with_records, marked: 0 }))
}

/// Copies everything from `offset` on to a new file beside `path`, durably, and returns its path.
fn keep_aside(path: &Path, file: &mut File, offset: u64) -> Result<PathBuf, Error> {
    let mut number = 1;
    loop {
        let suffix = match number {
            1 => format!(".torn-{offset}"),
            _ => format!(".torn-{offset}-{number}"),
        };
        let aside = beside(path, &suffix);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            created => {
                let mut copy = io_error(&aside, "create", created)?;
                io_error(path, "read", file.seek(SeekFrom::Start(offset)))?;
                let copied = io::copy(file, &mut copy).and_then(|_| copy.sync_all());
                io_error(&aside, "write", copied)?;
                sync_folder(path)?;
                return Ok(aside);
            }
        }
    }
}
