//! A data file in the making, under a name of its own until it is whole.
//!
//! Its batches are sealed as they grow, so they stay bounded. All of it is the file's base: publishing it
//! writes the seal that says where the base ends, fsyncs, and only then gives the file its name. So half a
//! copy of it is known to be incomplete. A new file that is dropped is removed; publishing returns the [`Segment`] that
//! a journal appends to. The new file is locked before it has the data file's name, so that no other server can lock it
//! first.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{self, Disk, DiskFile, Status};
use super::format::{Checksum, FileId, Header, Seal, write_select, write_time};
use super::scan::Sealed;
use crate::limits::DRAFT_BATCH_BYTES;
use crate::util::clock::unix_time_s;
use crate::util::memory::NoMemory;

/// The data file as a journal appends to it. Batches are counted by their numbers in this file.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Open and locked.
    pub file: Arc<dyn DiskFile>,
    /// Which file it is.
    pub identity: (u64, u64),
    /// Its id.
    pub id: FileId,
    /// The last batch in it; 0 if there is none.
    pub last: u64,
    /// The last batch that holds records.
    pub last_with_records: u64,
    /// The highest batch known to be synced.
    pub synced: u64,
    /// The highest durable mark written in it.
    pub marked: u64,
    /// Where its last batch ends, in bytes.
    pub end: u64,
}

impl Segment {
    /// The file after its good batches, which are all that is in it, and all synced.
    pub fn after(sealed: &Sealed, file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let Status { identity, length: end, .. } = file.status()?;
        let Sealed { id, last, last_with_records, durable: marked, .. } = *sealed;
        Ok(Self { file, identity, id, last, last_with_records, synced: last, marked, end })
    }

    /// Whether there are records that no mark covers.
    pub fn is_unmarked(&self) -> bool {
        self.marked < self.last_with_records
    }
}

/// A data file under construction.
#[derive(Debug)]
pub struct NewFile {
    disk: Arc<dyn Disk>,
    name: PathBuf,
    segment: Segment,
    /// Written to the file once it has grown.
    buffer: Vec<u8>,
    /// Of the batch that is not sealed yet.
    checksum: Checksum,
    records: u64,
    batch_bytes: usize,
    /// The database that the lines to come concern, and the one that what stands there has selected.
    database: usize,
    selected: usize,
    /// It has the data file's name now: not to be removed.
    published: bool,
}

/// Why a new file did not take the data file's place.
#[derive(Debug)]
pub enum Unpublished {
    /// The data file is what it was.
    Before(io::Error),
    /// The new file is in place, but a power cut may bring the old one back.
    After(Box<Segment>, io::Error),
}

impl Unpublished {
    /// The system's reason.
    pub fn into_error(self) -> io::Error {
        match self {
            Self::Before(error) | Self::After(_, error) => error,
        }
    }
}

impl NewFile {
    /// Begins a file called `name`, of mode 0600 or as `like`. One that a crash left there is
    /// replaced, one that another process holds is not.
    pub fn create(disk: Arc<dyn Disk>, name: PathBuf, like: Option<&Status>) -> io::Result<Self> {
        let file = match disk.create(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !disk.open(&name)?.try_lock()? {
                    return Err(error);
                }
                disk.remove(&name)?;
                disk.create(&name)?
            }
            other => other?,
        };
        let id = FileId::random();
        let buffer = Header::new(id).to_string().into_bytes();
        let segment = Segment {
            file,
            identity: (0, 0),
            id,
            last: 0,
            last_with_records: 0,
            synced: 0,
            marked: 0,
            end: buffer.len() as u64,
        };
        let checksum = Checksum::new(id);
        let mut new = Self {
            disk,
            name,
            segment,
            buffer,
            checksum,
            records: 0,
            batch_bytes: 0,
            database: 0,
            selected: 0,
            published: false,
        };
        if !new.segment.file.try_lock()? {
            return Err(io::Error::other("another process locked it"));
        }
        if let Some(like) = like {
            new.segment.file.copy_metadata(like)?;
        }
        new.segment.identity = new.segment.file.status()?.identity;
        Ok(new)
    }

    /// Its length so far, in bytes.
    pub fn bytes(&self) -> u64 {
        self.segment.end
    }

    /// The lines to come concern this database.
    pub fn select(&mut self, database: usize) {
        self.database = database;
    }

    /// Makes what stands there select `database`.
    fn write_select(&mut self, database: usize) -> io::Result<()> {
        if self.selected == database {
            return Ok(());
        }
        self.selected = database;
        let mut line = Vec::new();
        write_select(database, &mut line);
        self.put_summed(&line, 1)
    }

    /// Adds bytes of lines, of which `records` are records. They stay in one batch until the next
    /// call of [`seal_if_full`](Self::seal_if_full).
    pub fn add(&mut self, lines: &[u8], records: u64) -> io::Result<()> {
        self.write_select(self.database)?;
        self.put_summed(lines, records)
    }

    fn put_summed(&mut self, lines: &[u8], records: u64) -> io::Result<()> {
        self.checksum.update(lines);
        self.records += records;
        self.batch_bytes += lines.len();
        self.put(lines)
    }

    /// At the end of a line: closes the batch if it has grown enough.
    pub fn seal_if_full(&mut self) -> io::Result<()> {
        if self.batch_bytes < DRAFT_BATCH_BYTES { Ok(()) } else { self.seal() }
    }

    /// At the end of a line: closes the batch, unless it is empty.
    fn seal(&mut self) -> io::Result<()> {
        if self.batch_bytes == 0 {
            return Ok(());
        }
        self.write_select(0)?;
        self.close_batch(self.segment.synced)
    }

    /// Closes the batch with a seal of this durable mark.
    fn close_batch(&mut self, durable: u64) -> io::Result<()> {
        let number = self.segment.last + 1;
        let seal = Seal::close(number, self.records, durable, self.checksum);
        (self.segment.last, self.segment.marked) = (number, durable);
        if self.records > 0 {
            self.segment.last_with_records = number;
        }
        (self.records, self.batch_bytes) = (0, 0);
        self.checksum = Checksum::new(self.segment.id);
        self.put(seal.to_string().as_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.segment.end += bytes.len() as u64;
        if bytes.len() >= super::lines::READ_BYTES {
            // Not by the buffer, which would have to be as large.
            self.flush()?;
            return self.segment.file.append(bytes);
        }
        self.buffer.try_reserve(bytes.len()).map_err(NoMemory::from)?;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < super::lines::READ_BYTES { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        self.segment.file.append(&buffer)?;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    /// Closes the batch and makes everything so far survive a power cut.
    pub fn sync(&mut self) -> io::Result<()> {
        self.seal()?;
        self.sync_written()
    }

    fn sync_written(&mut self) -> io::Result<()> {
        self.flush()?;
        self.segment.file.sync_all()?;
        self.segment.synced = self.segment.last;
        Ok(())
    }

    /// Ends the base, durably: its last batch, empty or not, tells the time, and its seal vouches for
    /// itself.
    fn end_base(&mut self) -> io::Result<()> {
        self.write_select(0)?;
        let mut time = Vec::new();
        write_time(unix_time_s(), &mut time);
        self.put_summed(&time, 0)?;
        self.close_batch(self.segment.last + 1)?;
        self.sync_written()
    }

    /// Takes the place of the file at `path`, whole and synced.
    pub fn replace(mut self, path: &Path) -> Result<Segment, Unpublished> {
        self.end_base().map_err(Unpublished::Before)?;
        self.disk.rename(&self.name, path).map_err(Unpublished::Before)?;
        self.published = true;
        self.keep(path).map_err(|error| Unpublished::After(Box::new(self.segment.clone()), error))
    }

    /// Gets the name `path`, whole and synced, which no file may have yet. Of two processes that do so at once one fails:
    /// a link is not made where a name exists.
    pub fn link(mut self, path: &Path) -> io::Result<Segment> {
        self.end_base()?;
        self.disk.link(&self.name, path)?;
        // The name it had goes when it is dropped.
        self.keep(path)
    }

    fn keep(&self, path: &Path) -> io::Result<Segment> {
        self.disk.sync_folder(disk::folder(path))?;
        Ok(self.segment.clone())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = self.disk.remove(&self.name)
        {
            log::debug!("{}: {error}: a start will remove it", self.name.display());
        }
    }
}
