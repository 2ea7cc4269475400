//! Opens the data file: finds and locks it, scans it, loads it, and only then creates it, seals it or cuts its torn
//! tail off. So every failure is harmless: until [`Recovery::finish`] nothing on disk changes.
//!
//! The verdict is [`super::scan`]'s. Appending to the file is left to the [`Journal`] that recovery ends in.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::disk::{self, Disk, DiskFile, Status, System, beside};
use super::error::{Context, Error};
use super::format::{FileId, SEAL_START, selected, time_s};
use super::group_commit::{Fsync, Journal};
use super::lines::{Lines, READ_BYTES};
use super::load::{Located, Source, for_each_record};
use super::new_file::{NewFile, Segment};
use super::pace::Pace;
use super::scan::{self, Sealed, Tail, Verdict};
use crate::text::counted;
use crate::util::buffer::Buffer;

/// The suffix of a compacted file until it replaces the data file.
pub const COMPACTING: &str = ".tmp";
/// The suffix of a file that repairs the data file, until it replaces it.
pub const HEALING: &str = ".heal";

/// A data file that is being opened.
#[derive(Debug)]
pub struct Recovery {
    disk: Arc<dyn Disk>,
    /// Absolute, with symbolic links resolved.
    path: PathBuf,
    /// The file, if it exists.
    found: Option<Found>,
}

/// A file that was scanned.
#[derive(Debug)]
struct Found {
    /// Locked, unless it is only [looked at](Recovery::look_at).
    file: Arc<dyn DiskFile>,
    status: Status,
    verdict: Verdict,
}

impl Recovery {
    /// Finds, locks and scans the file at `path`.
    pub fn begin(path: &Path) -> Result<Self, Error> {
        let path = match resolve(path)? {
            Some(path) => path,
            None => resolve_missing(path)?,
        };
        Self::on(Arc::new(System), path)
    }

    /// The same on any disk; `path` is absolute and not a symbolic link.
    pub fn on(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self, Error> {
        let Some(file) = open_locked(&*disk, &path)? else {
            let leftovers = rewrites(&path);
            if let Some(leftover) = leftovers.into_iter().find(|left| disk.status(left).is_ok()) {
                return Err(Error::LeftoverOnly { path, leftover });
            }
            return Ok(Self { disk, path, found: None });
        };
        let status = file.status().at(&path, "open")?;
        let mut pace = Pace::new(status.length);
        let mut progress = |offset| {
            if let Some(pace) = pace.reach(offset) {
                log::info!("checking the data file: {pace}");
            }
        };
        Self::scanned(disk, path, file, status, &mut progress)
    }

    /// The same of a file that another process may be writing, only to read it.
    pub fn look_at(path: &Path) -> Result<Self, Error> {
        let disk: Arc<dyn Disk> = Arc::new(System);
        let file = disk.open(path).at(path, "open")?;
        let status = file.status().at(path, "open")?;
        Self::scanned(disk, path.to_owned(), file, status, &mut |_| {})
    }

    fn scanned(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        file: Arc<dyn DiskFile>,
        status: Status,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, Error> {
        let verdict = scan::scan(&*file, status.length, progress)
            .map_err(|error| Error::of_scan(&path, Source::Handwritten, error))?;
        Ok(Self { disk, path, found: Some(Found { file, status, verdict }) })
    }

    /// The file's length, in bytes.
    pub fn bytes(&self) -> u64 {
        self.found.as_ref().map_or(0, |found| found.status.length)
    }

    /// Passes every record of the good batches to `apply`, in order.
    pub fn load(&self, apply: impl FnMut(Located<'_>) -> io::Result<()>) -> Result<(), Error> {
        let Some(Found { file, status, verdict }) = &self.found else { return Ok(()) };
        let (end, source) = match verdict {
            Verdict::Empty => return Ok(()),
            Verdict::Handwritten => (status.length, Source::Handwritten),
            Verdict::Intact(sealed) | Verdict::Torn(sealed, _) => (sealed.end, Source::Sealed),
        };
        let loaded = for_each_record(&**file, 0..end, source, apply);
        loaded.map(drop).map_err(|error| Error::of_scan(&self.path, source, error))
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Prepares the file for appending: creates a missing one, seals a hand-written one, moves a torn tail to a file of
    /// its own, and syncs all of it.
    pub fn finish(self, fsync: Fsync) -> Result<Journal, Error> {
        let Self { disk, path, found } = self;
        let segment = match found {
            None => create(&disk, &path)?,
            Some(Found { file, status, verdict }) => {
                remove_leftovers(&*disk, &path);
                match verdict {
                    Verdict::Empty => initialize(&disk, &path, &status)?,
                    Verdict::Handwritten => seal_handwritten(&disk, &path, &*file, &status)?,
                    Verdict::Intact(sealed) => reopen(&*disk, &path, file, &sealed)?,
                    Verdict::Torn(sealed, tail) => {
                        cut(&*disk, &path, &*file, &sealed, &tail)?;
                        reopen(&*disk, &path, file, &sealed)?
                    }
                }
            }
        };
        Ok(Journal::new(disk, path, fsync, segment))
    }
}

/// Makes the good batches, which are all that the file holds, durable.
fn reopen(
    disk: &dyn Disk,
    path: &Path,
    file: Arc<dyn DiskFile>,
    sealed: &Sealed,
) -> Result<Segment, Error> {
    if sealed.unterminated {
        file.append(b"\n").at(path, "write")?;
    }
    // If an fsync of the run before failed, the system may have dropped the pages: an fsync now would succeed without
    // writing them.
    file.rewrite_in_place(sealed.unmarked_from()..sealed.end).at(path, "write")?;
    // A run without fsync, or one that ended between rename and fsync, left this undone.
    file.sync_all().at(path, "fsync")?;
    sync_folder(disk, path)?;
    Segment::after(sealed, file).at(path, "open")
}

/// The path with its symbolic links resolved; `None` if no file exists there.
pub fn resolve(path: &Path) -> Result<Option<PathBuf>, Error> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.at(path, "open")?,
    };
    let file_type = metadata.file_type();
    let kind = match () {
        () if file_type.is_file() => {
            return fs::canonicalize(path).at(path, "resolve").map(Some);
        }
        () if file_type.is_dir() => "a folder",
        () if file_type.is_fifo() => "a named pipe",
        () if file_type.is_socket() => "a socket",
        () => "a device",
    };
    Err(Error::NotAFile { path: path.to_owned(), kind })
}

/// The absolute path of a file that does not exist yet, in a folder that must exist.
pub fn resolve_missing(path: &Path) -> Result<PathBuf, Error> {
    if path.is_symlink() {
        let source = io::Error::new(io::ErrorKind::NotFound, "a symbolic link to nothing");
        return Err(source).at(path, "open");
    }
    let ends_in_slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let Some(name) = path.file_name().filter(|_| !ends_in_slash) else {
        return Err(Error::NotAFile { path: path.to_owned(), kind: "a folder" });
    };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = fs::canonicalize(folder).at(path, "open its folder")?;
    Ok(folder.join(name))
}

/// Opens and locks the file at `path`; `None` if it does not exist.
fn open_locked(disk: &dyn Disk, path: &Path) -> Result<Option<Arc<dyn DiskFile>>, Error> {
    loop {
        let file = match disk.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.at(path, "open")?,
        };
        let ours = file.status().at(path, "open")?;
        if !file.try_lock().at(path, "lock")? {
            let holder = holder(&ours).unwrap_or_else(|| "another process".to_owned());
            return Err(Error::Held { path: path.to_owned(), holder });
        }
        // Between open and lock, the previous holder may have replaced the file.
        if disk.status(path).at(path, "open")?.identity == ours.identity {
            return Ok(Some(file));
        }
    }
}

/// Locks the file at `path` until the result is dropped.
pub fn lock_file(path: &Path) -> Result<Arc<dyn DiskFile>, Error> {
    let resolved = disk::canonical(path).at(path, "open")?;
    match open_locked(&System, &resolved)? {
        Some(file) => Ok(file),
        None => Err(Errno::NOENT.into()).at(path, "open"),
    }
}

/// The process that holds the lock on a file, as far as the system tells.
pub fn holder(file: &Status) -> Option<String> {
    // The list is not a snapshot: while other locks come and go, reading it may miss one.
    let process = (0..10).find_map(|_| locking_process(file.identity))?;
    let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    Some(format!("process {process} ({})", name.trim()))
}

/// Finds the lock in Linux's list of locks.
fn locking_process((device, inode): (u64, u64)) -> Option<String> {
    // As the C library's `major` and `minor`.
    let major = (device >> 8 & 0xfff) | (device >> 32 & !0xfff);
    let minor = (device & 0xff) | (device >> 12 & 0xffff_ff00);
    let locked = format!("{major:02x}:{minor:02x}:{inode}");
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", _, _, process, place, ..] if place == locked => Some(process.to_owned()),
        _ => None,
    })
}

/// The names of unfinished rewrites of the file at `path`.
fn rewrites(path: &Path) -> [PathBuf; 2] {
    [COMPACTING, HEALING].map(|suffix| beside(path, suffix))
}

/// Removes what a crash left beside the file: an unfinished rewrite, unless another process holds it, and the first
/// name of a file that was being created (`.new-ID`).
fn remove_leftovers(disk: &dyn Disk, path: &Path) {
    let rewrites = rewrites(path);
    let held =
        |path: &Path| disk.open(path).is_ok_and(|file| file.try_lock().is_ok_and(|locked| !locked));
    let created = beside(path, ".new-");
    let created = created.file_name().unwrap_or_default().as_encoded_bytes();
    let siblings = disk.list(disk::folder(path)).unwrap_or_default();
    let leftovers = siblings.into_iter().filter(|sibling| {
        let name = sibling.file_name().unwrap_or_default().as_encoded_bytes();
        let is_created = name.strip_prefix(created).is_some_and(|id| FileId::parse(id).is_some());
        is_created || rewrites.contains(sibling) && !held(sibling)
    });
    for leftover in leftovers {
        match disk.remove(&leftover) {
            Ok(()) => log::warn!("{}: left over from a crash, removed", leftover.display()),
            Err(error) => log::warn!("{}: left over from a crash: {error}", leftover.display()),
        }
    }
}

/// Begins a new file beside `path`, where no file exists: under a name of its own until it is linked to `path`.
pub fn begin_new(disk: &Arc<dyn Disk>, path: &Path) -> Result<NewFile, Error> {
    let name = beside(path, &format!(".new-{}", FileId::random().as_str()));
    NewFile::create(Arc::clone(disk), name.clone(), None).at(&name, "create")
}

/// Creates the file.
fn create(disk: &Arc<dyn Disk>, path: &Path) -> Result<Segment, Error> {
    let segment = begin_new(disk, path)?.link(path);
    if segment.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
        // Another server was faster. If it still runs, the error of locking names it.
        open_locked(&**disk, path)?;
    }
    let segment = segment.at(path, "create")?;
    log::info!("{}: it did not exist and was created", path.display());
    Ok(segment)
}

/// Replaces an empty file by a new data file.
fn initialize(disk: &Arc<dyn Disk>, path: &Path, old: &Status) -> Result<Segment, Error> {
    let segment = replace(disk, path, old, |_| Ok(()))?;
    log::info!("{}: it was empty and became a new data file", path.display());
    Ok(segment)
}

/// Replaces the file at `path`, of status `old`, by a complete new one.
pub fn replace(
    disk: &Arc<dyn Disk>,
    path: &Path,
    old: &Status,
    write: impl FnOnce(&mut NewFile) -> io::Result<()>,
) -> Result<Segment, Error> {
    let new = beside(path, COMPACTING);
    let mut draft = NewFile::create(Arc::clone(disk), new.clone(), Some(old)).at(&new, "create")?;
    write(&mut draft).at(&new, "write")?;
    let replaced = draft.replace(path).map_err(super::new_file::Unpublished::into_error);
    replaced.at(path, "replace")
}

/// Makes the names of the files in the folder of `path` durable.
fn sync_folder(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    let folder = disk::folder(path);
    disk.sync_folder(folder).at(folder, "fsync the folder")
}

/// Rewrites a hand-written file with a header before its lines and seals between them. The lines, comments too, stay as
/// they are.
fn seal_handwritten(
    disk: &Arc<dyn Disk>,
    path: &Path,
    old: &dyn DiskFile,
    status: &Status,
) -> Result<Segment, Error> {
    let segment = replace(disk, path, status, |draft| {
        copy_lines(disk::read(old, 0..status.length), draft, |_| true)
    })?;
    log::info!("{}: it was written by hand and is sealed now", path.display());
    Ok(segment)
}

/// Copies the lines of `source` that `wanted` accepts, each with a line end. They begin in database 0, and `draft` writes
/// `SELECT` records of its own in place of theirs. The time comment before a seal is dropped with the seal.
pub fn copy_lines(
    source: impl io::Read,
    draft: &mut NewFile,
    mut wanted: impl FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    let mut lines = Lines::new(source);
    let mut time = None;
    draft.select(0);
    loop {
        let mut added = Ok(());
        let line = lines.next(|bytes| {
            if added.is_ok() {
                added = draft.add(bytes, 0);
            }
        })?;
        let Some(line) = line else {
            draft.select(0);
            return time.map_or(Ok(()), |time: Vec<u8>| draft.add(&time, 0));
        };
        added?;
        if let Some(time) = time.take()
            && !line.head.starts_with(SEAL_START.as_bytes())
        {
            draft.add(&time, 0)?;
        }
        if line.terminated && time_s(line.text()).is_some() {
            time = Some(line.head.to_vec());
            continue;
        }
        if let Some(database) = selected(line.text()).filter(|_| line.whole) {
            draft.select(database);
            continue;
        }
        // A longer line was added piece by piece.
        if line.whole {
            if !wanted(line.text()) {
                continue;
            }
            draft.add(line.head, 0)?;
        }
        let end: &[u8] = if line.terminated { b"" } else { b"\n" };
        draft.add(end, u64::from(line.is_record()))?;
        draft.seal_if_full()?;
    }
}

/// Cuts a torn tail off, once a copy of it is durable.
fn cut(
    disk: &dyn Disk,
    path: &Path,
    file: &dyn DiskFile,
    sealed: &Sealed,
    tail: &Tail,
) -> Result<(), Error> {
    let aside = keep_aside(disk, path, file, sealed.end..sealed.end + tail.bytes)?;
    file.cut(sealed.end).at(path, "cut")?;
    log::warn!(
        "{path}: line {}, offset {}: {}: no seal vouches for what follows; {} ({}) were moved to {aside}. \
         Either a crash came while it was being written, and under --fsync always none of it was \
         acknowledged; or it was added by hand: then stop the server, and `cat {aside} >> {path} && coffre \
         seal {path}` accepts it",
        tail.line,
        sealed.end,
        tail.cause,
        counted(tail.bytes, "byte"),
        counted(tail.records, "record"),
        path = path.display(),
        aside = aside.display(),
    );
    Ok(())
}

/// Copies the bytes of `range` durably to a file beside `path` and returns its path. A copy that an earlier start made
/// before a crash is used again.
fn keep_aside(
    disk: &dyn Disk,
    path: &Path,
    file: &dyn DiskFile,
    range: Range<u64>,
) -> Result<PathBuf, Error> {
    for aside in numbered_names(path, &format!(".torn-{}", range.start)) {
        let copy = match disk.create(&aside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !is_copy(disk, &aside, file, range.clone()).at(&aside, "read")? {
                    continue;
                }
                sync_folder(disk, path)?;
                return Ok(aside);
            }
            other => other.at(&aside, "create")?,
        };
        let copied = io::copy(&mut disk::read(file, range), &mut Appender(&*copy));
        if let Err(error) = copied.and_then(|_| copy.sync_all()) {
            let _ = disk.remove(&aside);
            return Err(error).at(&aside, "keep the torn tail of the data file aside");
        }
        sync_folder(disk, path)?;
        return Ok(aside);
    }
    unreachable!("the names do not end")
}

/// The names `path` and `suffix`, then the same with -2, -3 and so on.
pub fn numbered_names(path: &Path, suffix: &str) -> impl Iterator<Item = PathBuf> {
    (1..).map(move |number| match number {
        1 => beside(path, suffix),
        _ => beside(path, &format!("{suffix}-{number}")),
    })
}

/// Whether the file called `copy` holds exactly the bytes of `range`; makes it durable if so.
fn is_copy(
    disk: &dyn Disk,
    copy: &Path,
    file: &dyn DiskFile,
    range: Range<u64>,
) -> io::Result<bool> {
    let copy = disk.open(copy)?;
    let length = range.end - range.start;
    if copy.status()?.length != length {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (Buffer::default(), Buffer::default());
    ours.resize(READ_BYTES, 0)?;
    theirs.resize(READ_BYTES, 0)?;
    let mut offset = 0;
    while offset < length {
        let wanted = READ_BYTES.min(usize::try_from(length - offset).unwrap_or(READ_BYTES));
        let count = file.read_at(&mut ours[..wanted], range.start + offset)?;
        if count == 0
            || copy.read_at(&mut theirs[..count], offset)? != count
            || ours[..count] != theirs[..count]
        {
            return Ok(false);
        }
        offset += count as u64;
    }
    copy.rewrite_in_place(0..length)?;
    copy.sync_all()?;
    Ok(true)
}

/// Appends to a file, for [`io::copy`].
struct Appender<'a>(&'a dyn DiskFile);

impl io::Write for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
