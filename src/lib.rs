//! coffre, a key-value server that keeps its keys in one readable text file and never loses one.
//!
//! ```text
//! flow   bytes -> request -> command -> engine [shard lock: store + journal.append] -> reply ... commit(mark) -> bytes
//! deps   main > server > connection > { request, command, reply, engine }
//!        engine > { store, persistence }      request, persistence > text (the one grammar)      all > limits
//! ```
//!
//! No arrow points back up. Only [`engine`] knows both the [`store`] and the [`persistence`]; neither
//! knows the other, nor any socket. This file is the start-up story.

pub mod command;
pub mod config;
pub mod connection;
pub mod engine;
pub mod glob;
pub mod limits;
pub mod memory;
pub mod offline;
pub mod persistence;
pub mod reply;
pub mod request;
mod seldom;
pub mod server;
pub mod store;
mod sync;
pub mod text;
pub mod value;

use std::io::{self, Write};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;

use config::Config;
use engine::Engine;
use persistence::{Recovery, WriteRefused};
use seldom::Seldom;
use server::{BindError, Server};
use sync::AbortOnPanic;

/// Why the server did not start, or did not stop well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data file.
    #[error(transparent)]
    File(#[from] persistence::Error),
    /// An address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A signal handler or a thread.
    #[error("the system refuses what a server needs: {0}")]
    System(#[from] io::Error),
    /// The last writes, or in the worst case, with the file gone, all of them.
    #[error("stopped, but not everything is on disk: {0}")]
    Close(#[from] WriteRefused),
    /// The disk.
    #[error("stopped, but not everything is known to be on disk: it took too long to answer")]
    Hung,
}

impl Error {
    /// The program's exit code: 1 configuration, 3 data file refused, 4 address in use, 5 not
    /// everything durable. (0 is a clean stop, 2 comes from the flags.)
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File(error) => file_exit_code(error),
            Self::Bind(BindError { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => 4,
            Self::Close(_) | Self::Hung => 5,
            Self::Bind(_) | Self::System(_) => 1,
        }
    }
}

/// The exit code for a data file that cannot be used.
fn file_exit_code(error: &persistence::Error) -> u8 {
    use persistence::Error::{LeftoverOnly, Refused};
    match error {
        Refused { .. } | LeftoverOnly { .. } => 3,
        _ => 1,
    }
}

/// Runs a server until it is told to stop.
///
/// What can fail without a trace comes first: the file is locked and checked, the addresses are
/// taken, the data is loaded; then the file is made ready, and only then do clients get in.
pub fn run(mut config: Config) -> Result<(), Error> {
    let started = Instant::now();
    let running = Arc::new(OnceLock::new());
    handle_signals(Arc::clone(&running))?;

    let recovery = Recovery::begin(&config.file)?;
    let listeners: Vec<_> = server::listen(&config)?.into_iter().map(Arc::new).collect();
    let engine = Engine::start(recovery, config.fsync)?;
    let keys = engine.keys();

    let addresses: Vec<_> = listeners.iter().map(|listener| listener.address).collect();
    config.file = engine.path().to_owned();
    config.port = addresses.first().map_or(config.port, |address| address.port());
    let server = Server::new(config.clone(), engine);
    let _ = running.set(Arc::clone(&server));
    tend_engine(&server)?;
    server.start(&listeners)?;

    let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    log::info!(
        "coffre {} listens on {}; data file {}, fsync {}, {keys} keys loaded in {} ms",
        env!("CARGO_PKG_VERSION"),
        shown.join(", "),
        config.file.display(),
        config.fsync.name(),
        started.elapsed().as_millis(),
    );
    for address in addresses {
        // Not `println!`: it panics when nobody listens.
        let _ = writeln!(io::stdout(), "coffre ready on {address}");
    }

    server.run(&listeners);
    close(&server)?;
    log::info!("stopped; every acknowledged write is on disk");
    Ok(())
}

/// The first SIGINT or SIGTERM stops the server, a second ends the process at once. SIGUSR1 asks for a
/// compaction. A closed terminal stops nothing, and a file size limit is an error of `write` like any other.
fn handle_signals(running: Arc<OnceLock<Arc<Server>>>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGXFSZ])?;
    let handle = move || {
        let mut asked = false;
        for signal in signals.forever() {
            match (signal, running.get()) {
                (SIGHUP | SIGXFSZ, _) => {}
                (SIGUSR1, server) => {
                    let _ = server.map(|server| server.engine().request_compaction());
                }
                (_, Some(server)) if !asked => {
                    log::debug!("told to stop by signal {signal}");
                    asked = true;
                    server.stop();
                }
                // Nothing was acknowledged yet.
                (_, None) => signal_hook::low_level::exit(0),
                _ => signal_hook::low_level::exit(128 + signal),
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(handle).map(drop)
}

/// Does what the engine needs done while no client calls it: one thread keeps the journal well, one
/// compacts the file. The process ends with them: without them it would only seem to be well.
fn tend_engine(server: &Arc<Server>) -> io::Result<()> {
    let spawn = |name: &str, work: fn(&Engine)| {
        let server = Arc::clone(server);
        let run = move || {
            let _guard = AbortOnPanic;
            loop {
                work(server.engine());
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
    };
    spawn("journal", tend_journal)?;
    spawn("compaction", |engine| engine.tend_compaction(Duration::from_millis(100)))
}

/// Marks what is at rest, syncs each second, heals at once.
fn tend_journal(engine: &Engine) {
    const HALF_A_SECOND: Duration = Duration::from_millis(500);
    let path = engine.path().display();
    static LOGGED: Seldom = Seldom::new(Duration::from_secs(10));
    let (mut before, mut told) = (0, false);
    loop {
        for _ in 0..2 {
            if engine.wait_for_trouble(HALF_A_SECOND) {
                if let (Some(reason), false) = (engine.trouble(), told)
                    && LOGGED.now()
                {
                    told = true;
                    log::error!(
                        "{path}: {reason}: writes are refused until it is well again and those under way \
                         are taken back; reads go on"
                    );
                }
                heal(engine);
            }
            if told && engine.trouble().is_none() {
                told = false;
                log::info!("{path}: well again, writes are taken");
            }
            before = engine.mark_idle(before);
            engine.settle();
        }
        engine.sync_second();
    }
}

/// Tries until the file is well. What fails fast is tried often; a rewrite that takes long before it
/// fails does not keep the disk busy all the time.
fn heal(engine: &Engine) {
    const PAUSE: Duration = Duration::from_millis(100);
    const PAUSE_MAX: Duration = Duration::from_secs(30);
    static LOGGED: Seldom = Seldom::new(Duration::from_secs(10));
    let mut pause = PAUSE;
    loop {
        thread::sleep(pause);
        let started = Instant::now();
        match engine.heal() {
            Ok(()) => return,
            Err(error) if LOGGED.now() => log::warn!("still read-only: {error}"),
            Err(_) => {}
        }
        pause = (2 * started.elapsed()).clamp(PAUSE, PAUSE_MAX);
    }
}

/// Closes the engine. A rewrite is waited for while it goes on, because memory may be all there is; a
/// disk that hangs is not.
fn close(server: &Arc<Server>) -> Result<(), Error> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let (sender, receiver) = mpsc::channel();
    let closing = Arc::clone(server);
    let close = move || drop(sender.send(closing.engine().close()));
    thread::Builder::new().name("close".to_owned()).spawn(close)?;
    loop {
        let progress = server.engine().progress();
        match receiver.recv_timeout(PATIENCE) {
            Ok(closed) => return Ok(closed?),
            Err(_) if server.engine().progress() > progress => {}
            Err(_) => return Err(Error::Hung),
        }
    }
}
