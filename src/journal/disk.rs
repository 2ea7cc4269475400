//! The disk as far as a data file needs it: the seam behind which tests put a simulated one, with
//! sectors that get lost and calls that fail.
//!
//! What is written is in the system's hands until it is synced: a file's bytes by [`DiskFile::sync_data`],
//! the names in a folder by [`Disk::sync_folder`].

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::util::buffer::Buffer;

/// Names and the files behind them. Paths are absolute.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Opens an existing file for reading and appending.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates a file where none exists, readable by its owner only.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// The metadata of the file at `path`; of a symbolic link, those of the link.
    fn status(&self, path: &Path) -> io::Result<Status>;
    /// Gives a file a second name, which no file may have yet.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file another name; a file that had it loses it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The files in a folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes the names in a folder survive a power cut.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// Free space in a folder, in bytes.
    fn room(&self, folder: &Path) -> io::Result<u64>;
}

/// An open file. Its bytes only ever grow at the end, or are cut off there.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Reads some bytes at `offset`; none at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Adds all of `bytes` at the end. After an error some of them may be there.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    /// Writes the bytes of `range` once more as they are. After a sync that failed the system may hold
    /// them for written though they are not; so the next sync carries them to the disk.
    fn rewrite_in_place(&self, range: Range<u64>) -> io::Result<()>;
    /// Cuts off everything from `length` on.
    fn cut(&self, length: u64) -> io::Result<()>;
    /// Makes the bytes and the length survive a power cut.
    fn sync_data(&self) -> io::Result<()>;
    /// The same with mode and owner.
    fn sync_all(&self) -> io::Result<()>;
    /// Its metadata.
    fn status(&self) -> io::Result<Status>;
    /// Gives it the mode and owner of another file.
    fn copy_metadata(&self, other: &Status) -> io::Result<()>;
    /// Locks it for this process; `false` if another process holds the lock.
    fn try_lock(&self) -> io::Result<bool>;
}

/// Metadata of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Device and inode, which no other file has.
    pub identity: (u64, u64),
    /// Names it has.
    pub links: u64,
    /// In bytes.
    pub length: u64,
    /// Permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
}

/// Reads the bytes of `range`, or fewer where the file ends before.
pub fn read(file: &dyn DiskFile, range: Range<u64>) -> impl Read {
    struct Reader<'a>(&'a dyn DiskFile, Range<u64>);
    impl Read for Reader<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Self(file, range) = self;
            let left = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let most = buffer.len().min(left);
            let count = file.read_at(&mut buffer[..most], range.start)?;
            range.start += count as u64;
            Ok(count)
        }
    }
    Reader(file, range)
}

/// The folder of an absolute path.
pub fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// The path of an existing file, absolute and with its links resolved.
pub fn canonical(path: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(path)
}

/// `path` with `suffix` added to its name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The system's own file systems.
#[derive(Debug)]
pub struct System;

impl Disk for System {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).append(true).open(path)?;
        Ok(Arc::new(SystemFile::new(file, path)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create_new(true).mode(0o600).open(path)?;
        Ok(Arc::new(SystemFile::new(file, path)))
    }

    fn status(&self, path: &Path) -> io::Result<Status> {
        fs::symlink_metadata(path).map(|metadata| Status::from(&metadata))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn room(&self, folder: &Path) -> io::Result<u64> {
        let status = rustix::fs::statvfs(folder)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }
}

/// A file of the system.
#[derive(Debug)]
pub struct SystemFile {
    file: File,
    path: PathBuf,
}

impl SystemFile {
    /// `file`, which was opened at `path`.
    pub fn new(file: File, path: &Path) -> Self {
        Self { file, path: path.to_owned() }
    }
}

impl DiskFile for SystemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&self.file, buffer, offset)
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.file).write_all(bytes)
    }

    fn rewrite_in_place(&self, range: Range<u64>) -> io::Result<()> {
        // Linux writes at the end, whatever the offset, to a file that is open for appending.
        let file = OpenOptions::new().write(true).open(&self.path)?;
        if Status::from(&file.metadata()?).identity != self.status()?.identity {
            return Err(io::Error::other("another file has taken its name"));
        }
        let mut buffer = Buffer::default();
        buffer.resize(256 << 10, 0)?;
        let Range { mut start, end } = range;
        while start < end {
            let most = buffer.len().min(usize::try_from(end - start).unwrap_or(usize::MAX));
            let count = FileExt::read_at(&self.file, &mut buffer[..most], start)?;
            if count == 0 {
                break;
            }
            file.write_all_at(&buffer[..count], start)?;
            start += count as u64;
        }
        Ok(())
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn status(&self) -> io::Result<Status> {
        self.file.metadata().map(|metadata| Status::from(&metadata))
    }

    fn copy_metadata(&self, other: &Status) -> io::Result<()> {
        let made = self.status()?;
        if made.owner != other.owner
            && let Err(error) = fchown(&self.file, Some(other.owner.0), Some(other.owner.1))
        {
            // Only root may change an owner. A file with ours is better than none.
            log::warn!("{}: its owner cannot be kept: {error}", self.path.display());
        }
        self.file.set_permissions(fs::Permissions::from_mode(other.mode))
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl From<&fs::Metadata> for Status {
    fn from(metadata: &fs::Metadata) -> Self {
        Self {
            identity: (metadata.dev(), metadata.ino()),
            links: metadata.nlink(),
            length: metadata.len(),
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
        }
    }
}
