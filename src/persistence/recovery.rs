//! Opens the data file, in the order that makes every failure harmless: find and lock it, scan it,
//! load it, and only then create, adopt or cut. Until [`Recovery::finish`] nothing on disk changes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::format::{Checksum, FileId, Header, Record, Seal};
use super::journal::{Fsync, Journal, Position};
use super::lines::{Lines, READ_BYTES};
use super::load::{Source, for_each_record};
use super::scan::{self, Cause, Refusal, ScanError, Sealed, Tail, Verdict};

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
    found: Found,
}

#[derive(Debug)]
enum Found {
    Missing,
    /// Open, locked and scanned.
    File(File, Verdict),
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
            return Ok(Self { path, found: Found::Missing });
        };
        let mut file = open_locked(&path)?;
        let verdict = scan::scan(&mut file);
        let verdict = verdict.map_err(|error| scan_error(&path, Source::Handwritten, error))?;
        Ok(Self { path, found: Found::File(file, verdict) })
    }

    /// Hands every record of the good batches to `apply`, in order.
    pub fn load(&mut self, apply: impl FnMut(Record<'_>)) -> Result<(), Error> {
        let Found::File(file, verdict) = &mut self.found else { return Ok(()) };
        let (end, source) = match verdict {
            Verdict::Empty => return Ok(()),
            Verdict::Handwritten => {
                (io_error(&self.path, "read", file.metadata())?.len(), Source::Handwritten)
            }
            Verdict::Intact(sealed) | Verdict::Torn(sealed, _) => (sealed.end, Source::Sealed),
        };
        let loaded = for_each_record(file, 0..end, source, apply);
        loaded.map_err(|error| scan_error(&self.path, source, error))
    }

    /// Makes the file ready to be appended to: creates a missing one, seals a hand-written one, cuts
    /// a torn tail and keeps it aside, and waits until all of it is on disk.
    pub fn finish(self, fsync: Fsync) -> Result<Journal, Error> {
        let Self { path, found } = self;
        let (file, position) = match found {
            Found::Missing => create(&path)?,
            Found::File(file, verdict) => {
                remove_leftovers(&path);
                match verdict {
                    Verdict::Empty => begin_anew(&path, &file)?,
                    Verdict::Handwritten => adopt(&path, &file)?,
                    Verdict::Intact(sealed) => {
                        if sealed.unterminated {
                            io_error(&path, "write", (&file).write_all(b"\n"))?;
                        }
                        (file, Position::after(&sealed))
                    }
                    Verdict::Torn(sealed, tail) => cut(&path, file, &sealed, &tail)?,
                }
            }
        };
        // Also what a run without fsync, or one that ended between rename and fsync, left undone.
        io_error(&path, "fsync", file.sync_all())?;
        sync_folder(&path)?;
        Ok(Journal::new(file, path, fsync, position))
    }
}

fn io_error<T>(path: &Path, action: &'static str, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Io { path: path.to_owned(), action, source })
}

fn scan_error(path: &Path, source: Source, error: ScanError) -> Error {
    match error {
        ScanError::Io(source) => Error::Io { path: path.to_owned(), action: "read", source },
        ScanError::Refused(refusal) => {
            let shown = path.display();
            let next = match (&refusal.cause, source) {
                (Cause::Newer(_), _) => "Or start on another file with --file.".to_owned(),
                (Cause::Record(_) | Cause::Encoding(_), Source::Handwritten) => {
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
    let ends_in_slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let Some(name) = path.file_name().filter(|_| !ends_in_slash) else {
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

/// Who holds the lock on `file`, as far as the system tells.
fn holder(file: &File) -> String {
    // The list is not read at one moment: while others come and go, one may be skipped.
    let process = (0..10).find_map(|_| locking_process(file));
    let Some(process) = process else { return "another process".to_owned() };
    let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    format!("process {process} ({})", name.trim())
}

/// Looks the lock up where Linux lists them.
fn locking_process(file: &File) -> Option<String> {
    let inode = format!(":{}", file.metadata().ok()?.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", _, _, process, place, ..] if place.ends_with(&inode) => {
            Some(process.to_owned())
        }
        _ => None,
    })
}

/// Removes what a crash left beside the file, which is whole without it: a rewrite (`.tmp`), unless
/// someone holds it, and the first name of a file that was being created (`.new-ID`).
fn remove_leftovers(path: &Path) {
    let rewrite = beside(path, ".tmp");
    let held = File::open(&rewrite).is_ok_and(|file| file.try_lock().is_err());
    let created = beside(path, ".new-");
    let created = created.file_name().unwrap_or_default().as_encoded_bytes();
    let siblings = path.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten();
    let leftovers = siblings.flatten().map(|entry| entry.path()).filter(|sibling| {
        let name = sibling.file_name().unwrap_or_default().as_encoded_bytes();
        let is_created = name.strip_prefix(created).is_some_and(|id| FileId::parse(id).is_some());
        is_created || *sibling == rewrite && !held
    });
    for leftover in leftovers {
        match fs::remove_file(&leftover) {
            Ok(()) => log::warn!("{}: left over from a crash, removed", leftover.display()),
            Err(error) => log::warn!("{}: left over from a crash: {error}", leftover.display()),
        }
    }
}

/// Creates the file. Whoever else does the same at this moment wins or fails, never both win: a link
/// is not made where a name exists.
fn create(path: &Path) -> Result<(File, Position), Error> {
    let id = FileId::random();
    let new = beside(path, &format!(".new-{}", id.as_str()));
    let file = write_new(&new, None, |out| write!(out, "{}", Header { id }))?;
    let linked = fs::hard_link(&new, path);
    let _ = fs::remove_file(&new);
    if linked.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
        // Another server was faster: say who, if it still runs.
        open_locked(path)?;
    }
    io_error(path, "create", linked)?;
    log::info!("{}: it did not exist and was created", path.display());
    Ok((file, Position::start(id)))
}

/// Gives an empty file a header.
fn begin_anew(path: &Path, old: &File) -> Result<(File, Position), Error> {
    let id = FileId::random();
    let file = replace(path, old, |out| write!(out, "{}", Header { id }))?;
    log::info!("{}: it was empty and became a new data file", path.display());
    Ok((file, Position::start(id)))
}

/// Replaces the file at `path`, which is `old`, by a complete new one of the same mode and owner,
/// locked before it has the name.
fn replace(
    path: &Path,
    old: &File,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<File, Error> {
    let new = beside(path, ".tmp");
    let file = write_new(&new, Some(old), write)?;
    io_error(path, "rename", fs::rename(&new, path))?;
    Ok(file)
}

/// Writes a new file, locked and fsynced; on an error it is removed. Its mode is 0600, or that of
/// `old`.
fn write_new(
    path: &Path,
    old: Option<&File>,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<File, Error> {
    let opened = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(path);
    let file = io_error(path, "create", opened)?;
    let written = lock(&file, path).and_then(|()| {
        io_error(path, "take the mode and owner", old.map_or(Ok(()), |old| resemble(&file, old)))?;
        let mut out = BufWriter::with_capacity(READ_BYTES, &file);
        let written = write(&mut out).and_then(|()| out.flush()).and_then(|()| file.sync_all());
        io_error(path, "write", written)
    });
    if let Err(error) = written {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(file)
}

/// Gives `new` the mode and owner of `old`.
fn resemble(new: &File, old: &File) -> io::Result<()> {
    let (old, made) = (old.metadata()?, new.metadata()?);
    if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
        fchown(new, Some(old.uid()), Some(old.gid()))?;
    }
    new.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))
}

/// Makes the names in the folder of `path` durable.
fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    io_error(folder, "fsync the folder", File::open(folder).and_then(|folder| folder.sync_all()))
}

/// Rewrites a hand-written file with a header before its lines and a seal after them; the lines
/// themselves, comments too, stay as they are.
fn adopt(path: &Path, old: &File) -> Result<(File, Position), Error> {
    let id = FileId::random();
    let mut records = 0;
    let file = replace(path, old, |out| {
        write!(out, "{}", Header { id })?;
        let mut checksum = Checksum::new(id);
        let mut source = old;
        source.seek(SeekFrom::Start(0))?;
        let mut lines = Lines::new(source, old.metadata()?.len());
        let mut written = Ok(());
        let mut write = |bytes: &[u8]| {
            checksum.update(bytes);
            if written.is_ok() {
                written = out.write_all(bytes);
            }
        };
        while let Some(line) = lines.next(&mut write)? {
            if line.whole {
                write(line.head);
            }
            if !line.terminated {
                write(b"\n");
            }
            records += u64::from(line.is_record());
        }
        written?;
        write!(out, "{}", Seal::close(1, records, 0, checksum))
    })?;
    log::info!("{}: it was written by hand and is sealed now", path.display());
    let last_with_records = u64::from(records > 0);
    Ok((file, Position { id, last: 1, last_with_records, marked: 0 }))
}

/// Cuts a torn tail off, after a copy of it is safe.
fn cut(path: &Path, file: File, sealed: &Sealed, tail: &Tail) -> Result<(File, Position), Error> {
    let aside = keep_aside(path, &file, sealed.end)?;
    io_error(path, "cut", file.set_len(sealed.end))?;
    log::warn!(
        "{}: line {}, offset {}: {}: no seal vouches for what follows. A crash tore it off before it \
         was acknowledged, or it was added by hand; {} bytes ({} records) were moved to {}",
        path.display(),
        tail.line,
        sealed.end,
        tail.cause,
        tail.bytes,
        tail.records,
        aside.display(),
    );
    Ok((file, Position::after(sealed)))
}

/// Copies everything from `offset` on to a new file beside `path`, durably, and returns its path.
fn keep_aside(path: &Path, mut file: &File, offset: u64) -> Result<PathBuf, Error> {
    for number in 1.. {
        let suffix = match number {
            1 => format!(".torn-{offset}"),
            _ => format!(".torn-{offset}-{number}"),
        };
        let aside = beside(path, &suffix);
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside);
        if created.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            continue;
        }
        let mut copy = io_error(&aside, "create", created)?;
        io_error(path, "read", file.seek(SeekFrom::Start(offset)))?;
        if let Err(source) = io::copy(&mut file, &mut copy).and_then(|_| copy.sync_all()) {
            let _ = fs::remove_file(&aside);
            let action = "keep the torn tail of the data file aside";
            return Err(Error::Io { path: aside, action, source });
        }
        sync_folder(path)?;
        return Ok(aside);
    }
    unreachable!("numbers do not end")
}
