//! The tools for data files: `check`, `repair`, `seal`, `compact`; and `export` and `import`, between a file and a cluster.
//!
//! A tool reports on standard output and shows a progress bar on a terminal once it has run for a second. It writes
//! only what was asked for: `seal` and `compact` replace the file whole or not at all, as the server's own compaction
//! does, and `--output` never overwrites.

mod check;
mod compact;
mod repair;
mod seal;
mod transfer;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::io::Errno;

use crate::engine::etcd::OpenError;
use crate::engine::local::store::Store;
use crate::engine::{Entry, TxnError};
use crate::etcd_flags::{EtcdFlags, FileError, Members};
use crate::journal::disk::{self, Disk, DiskFile, Status, System, SystemFile};
use crate::journal::load::{Located, Source, for_each_record};
use crate::journal::scan::{ScanError, Verdict, scan};
use crate::journal::snapshot::{piece, write_piece};
use crate::journal::{Context, Error, NewFile, begin_new, resolve, resolve_missing};
use crate::text::visible;

/// What to do with a data file.
#[derive(Clone, Debug, Subcommand)]
pub enum Tool {
    /// Say whether a data file is whole, and where it is not
    ///
    /// The file is only read; a server may be running on it. Exit code 0: whole, 3: damaged, 6: a crash
    /// tore its end off, which a start would cut.
    Check {
        /// The data file
        file: PathBuf,
        /// Rebuild the data as it was after this line of the file
        #[arg(long, value_name = "LINE", requires = "output")]
        until: Option<u64>,
        /// Where to: a file that does not exist yet
        #[arg(long, value_name = "NEW", requires = "until")]
        output: Option<PathBuf>,
    },
    /// Keep what can be proved of a damaged file, in a new file, and list what is dropped
    Repair {
        /// The data file; it is only read
        file: PathBuf,
        /// Where to: a file that does not exist yet; what is dropped goes to NEW.dropped
        #[arg(long, value_name = "NEW")]
        output: PathBuf,
    },
    /// Accept what was edited by hand: show what changed, and seal the file anew
    Seal {
        /// The data file; it is replaced, unless --output is given
        file: PathBuf,
        /// Leave FILE as it is and write here: a file that does not exist yet
        #[arg(long, value_name = "NEW")]
        output: Option<PathBuf>,
    },
    /// Write every key of an etcd cluster to a new data file, as they are at one moment
    Export {
        /// The members of the cluster, as etcd://10.0.0.1:2379,10.0.0.2:2379
        cluster: Members,
        /// Where to: a file that does not exist yet
        file: PathBuf,
        /// How the cluster is reached.
        #[command(flatten)]
        etcd: EtcdFlags,
    },
    /// Set every key of a data file in an etcd cluster
    Import {
        /// The data file; it is only read
        file: PathBuf,
        /// The members of the cluster, as etcd://10.0.0.1:2379,10.0.0.2:2379
        cluster: Members,
        /// Do so though there are keys already: those of the file replace them
        #[arg(long)]
        merge: bool,
        /// How the cluster is reached.
        #[command(flatten)]
        etcd: EtcdFlags,
    },
    /// Rewrite a data file with one record per key, sorted
    Compact {
        /// The data file; it is replaced, unless --output is given
        file: PathBuf,
        /// Leave FILE as it is and write here: a file that does not exist yet
        #[arg(long, value_name = "NEW")]
        output: Option<PathBuf>,
    },
}

/// Why a tool failed. The data file is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// An error of the data file or of the new file.
    #[error(transparent)]
    File(#[from] Error),
    /// `--until` names a line that is not among the good ones.
    #[error("{}: line {line} is not among its good lines, which end at line {last}", path.display())]
    NoSuchLine {
        /// The data file.
        path: PathBuf,
        /// The line of `--until`.
        line: u64,
        /// The last good line.
        last: u64,
    },
    /// No seal in the file proves anything.
    #[error(
        "{}: {reason}, so nothing in it can be proved. Restore a backup; or read it with `less {0}` and \
         accept its lines as they are with `coffre seal {0}`",
        path.display()
    )]
    Unprovable {
        /// The data file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file is empty.
    #[error("{}: it is empty: there is nothing to repair, and a start makes it a new data file", path.display())]
    Nothing {
        /// The data file.
        path: PathBuf,
    },
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] OpenError),
    /// A request to the cluster.
    #[error(transparent)]
    Request(#[from] TxnError),
    /// A file that a flag names.
    #[error(transparent)]
    FlagFile(#[from] FileError),
    /// There are keys where others are to be.
    #[error(
        "{place}: there are {keys} keys already. Choose another --etcd-prefix, or --merge: keys of the file replace those of the same name"
    )]
    NotEmpty {
        /// The keyspace.
        place: String,
        /// How many there are.
        keys: u64,
    },
    /// The cluster took some of the keys only.
    #[error("{count} of {total} keys were written, then: {error}. Run it again with --merge")]
    Stopped {
        /// How many were written.
        count: u64,
        /// How many there are.
        total: u64,
        /// Why no more were.
        error: TxnError,
    },
    /// The report could not be written.
    #[error("standard output: {0}")]
    Report(#[from] io::Error),
}

impl ToolError {
    /// The program's exit code: as for the server, see [`crate::Error::exit_code`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File(error) => error.exit_code(),
            Self::Unprovable { .. } | Self::Nothing { .. } => 3,
            Self::Cluster(_) | Self::Request(_) | Self::Stopped { .. } => 7,
            Self::NoSuchLine { .. }
            | Self::Report(_)
            | Self::FlagFile(_)
            | Self::NotEmpty { .. } => 1,
        }
    }
}

/// The exit code of `check` on a torn file.
const TORN: u8 = 6;

/// Runs a tool; returns the program's exit code.
pub fn run(tool: &Tool) -> Result<u8, ToolError> {
    let mut report = io::stdout().lock();
    match tool {
        Tool::Check { file, until: Some(line), output: Some(output) } => {
            check::until(file, *line, output, &mut report).map(|()| 0)
        }
        Tool::Check { file, .. } => check::check(file, &mut report),
        Tool::Repair { file, output } => repair::repair(file, output, &mut report).map(|()| 0),
        Tool::Seal { file, output } => seal::seal(file, output.as_deref(), &mut report).map(|()| 0),
        Tool::Export { cluster, file, etcd } => {
            transfer::export(cluster, etcd, file, &mut report).map(|()| 0)
        }
        Tool::Import { file, cluster, merge, etcd } => {
            transfer::import(file, cluster, etcd, *merge, &mut report).map(|()| 0)
        }
        Tool::Compact { file, output } => {
            compact::compact(file, output.as_deref(), &mut report).map(|()| 0)
        }
    }
}

/// The result of a scan.
type Scanned = Result<Verdict, ScanError>;

/// A data file that is only read.
struct Input {
    /// As given on the command line.
    path: PathBuf,
    file: SystemFile,
    /// When the file was opened: a server may be writing it.
    status: Status,
}

impl Input {
    fn open(path: &Path) -> Result<Self, Error> {
        let Some(resolved) = resolve(path)? else {
            return Err(Errno::NOENT.into()).at(path, "open");
        };
        let file = SystemFile::new(File::open(&resolved).at(path, "open")?, &resolved);
        let status = file.status().at(path, "open")?;
        Ok(Self { path: path.to_owned(), file, status })
    }

    /// Scans the file, with a progress bar.
    fn scan(&self) -> Scanned {
        let mut progress = Progress::new("checking", self.length());
        scan(&self.file, self.length(), &mut |offset| progress.reach(offset))
    }

    /// Passes each record in `range` to `apply` and returns the number of lines, as [`for_each_record`].
    fn for_each_record(
        &self,
        range: Range<u64>,
        source: Source,
        apply: impl FnMut(Located<'_>) -> io::Result<()>,
    ) -> Result<u64, ToolError> {
        for_each_record(&self.file, range, source, apply).map_err(|error| self.error(error))
    }

    /// The error of a scan or a pass over the file.
    fn error(&self, error: ScanError) -> ToolError {
        Error::of_scan(&self.path, Source::Handwritten, error).into()
    }

    /// Whether the file still has its path, and was not replaced.
    fn is_in_place(&self) -> Result<bool, Error> {
        match resolve(&self.path)? {
            Some(resolved) => {
                let named = System.status(&resolved).at(&self.path, "open")?;
                Ok(named.identity == self.status.identity)
            }
            None => Ok(false),
        }
    }

    /// Whether the length of the file has changed since it was opened.
    fn has_changed(&self) -> Result<bool, Error> {
        Ok(self.file.status().at(&self.path, "open")?.length != self.status.length)
    }

    fn length(&self) -> u64 {
        self.status.length
    }

    /// Shows the lines in `range`: at most `lines_max` of them, each shortened.
    fn show(&self, range: Range<u64>, lines_max: usize, out: &mut dyn Write) -> io::Result<()> {
        const LINE_BYTES_MAX: usize = 160;
        let mut reader = BufReader::new(disk::read(&self.file, range));
        for shown in 0.. {
            let mut line = Vec::new();
            let length =
                io::Read::take(&mut reader, LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
            if length == 0 {
                break;
            }
            if !line.ends_with(b"\n") {
                reader.skip_until(b'\n')?;
                line.extend_from_slice(b"...");
            }
            if shown == lines_max {
                writeln!(out, "    ...")?;
                break;
            }
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            writeln!(out, "    {}", visible(text))?;
        }
        Ok(())
    }
}

/// A new data file for `--output`, which gets its name once it is whole.
struct Output {
    path: PathBuf,
    draft: NewFile,
}

impl Output {
    fn create(path: &Path) -> Result<Self, Error> {
        let path = match resolve(path)? {
            Some(_) => return Err(Errno::EXIST.into()).at(path, "create"),
            None => resolve_missing(path)?,
        };
        let draft = begin_new(&system(), &path)?;
        Ok(Self { path, draft })
    }

    /// Writes the file and gives it its name.
    fn write(mut self, write: impl FnOnce(&mut NewFile) -> io::Result<()>) -> Result<(), Error> {
        write(&mut self.draft).at(&self.path, "write")?;
        self.draft.link(&self.path).at(&self.path, "create")?;
        Ok(())
    }
}

fn system() -> Arc<dyn Disk> {
    Arc::new(System)
}

/// Writes every key of `store`, sorted in each database.
fn write_store(store: &Store, draft: &mut NewFile) -> io::Result<()> {
    let shards: Vec<_> = store.each().collect();
    let mut lines = Vec::new();
    for database in 0..store.databases() {
        draft.select(database);
        let mut entries: Vec<_> = shards.iter().flat_map(|shard| shard.entries(database)).collect();
        entries.sort_unstable_by_key(|entry| entry.key());
        for entry in entries {
            write_entry(entry, &mut lines, draft)?;
        }
    }
    Ok(())
}

/// Writes one key, a large value in pieces.
fn write_entry(entry: &Entry, lines: &mut Vec<u8>, draft: &mut NewFile) -> io::Result<()> {
    let (key, value) = (entry.key(), entry.value());
    let mut offset = 0;
    loop {
        let range = piece(key, offset, value.len());
        let is_last = range.end == value.len();
        let last = is_last.then(|| entry.expires_ms());
        lines.clear();
        let bytes = value.copy(range.clone())?;
        let records = write_piece(key, offset, &bytes, last, lines);
        draft.add(lines, records)?;
        draft.seal_if_full()?;
        if is_last {
            return Ok(());
        }
        offset = range.end;
    }
}

/// A progress bar, which appears after a second.
struct Progress {
    action: &'static str,
    total: u64,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new(action: &'static str, total: u64) -> Self {
        Self { action, total, started: Instant::now(), bar: None }
    }

    fn reach(&mut self, offset: u64) {
        if self.bar.is_none() && self.started.elapsed() > Duration::from_secs(1) {
            let style = "{msg} [{bar:40}] {percent} % {binary_bytes_per_sec} {eta}";
            let bar = ProgressBar::new(self.total).with_message(self.action);
            bar.set_style(
                ProgressStyle::with_template(style).unwrap_or(ProgressStyle::default_bar()),
            );
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(offset);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
