//! coffre, a key-value server that keeps its keys in one readable text file and never loses one.
//!
//! ```text
//! flow   bytes -> request -> command -> engine [shard lock: store + journal.append] -> reply ... commit(mark) -> bytes
//! deps   lib > net > command > { protocol, server } > engine > journal > { text, value } > util > limits
//!        lib > tools > { engine, journal }
//! ```
//!
//! No arrow points back up. Only [`engine`] knows both the keys in memory and the [`journal`]; neither
//! knows the other, nor any socket. [`server`] is what connections share beside the data. This file is
//! the start-up story.

pub mod command;
pub mod config;
pub mod engine;
pub mod journal;
pub mod limits;
pub mod net;
pub mod protocol;
pub mod server;
pub mod text;
pub mod tools;
pub mod util;
pub mod value;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;

use config::{Config, PasswordFileError};
use engine::local::store::Store;
use engine::local::{Engine, Session};
use journal::{Recovery, WriteRefused};
use limits::{
    DRAIN_MS_MAX, EXPIRY_TICK_MS, METRICS_THREADS, REWRITE_MS_MAX, SETTLE_TICK_MS, STOP_MS_MAX,
};
use net::listener::{self, BindError, Listener, Server};
use net::metrics;
use server::Stop;
use text::counted;
use util::rate_limit::Seldom;
use util::sync::vital;
use util::{logging, memory, process};

/// Why the server did not start, or did not stop well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data file.
    #[error(transparent)]
    File(#[from] journal::Error),
    /// An address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The password.
    #[error(transparent)]
    Password(#[from] PasswordFileError),
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
            Self::Bind(_) | Self::Password(_) | Self::System(_) => 1,
        }
    }
}

/// The exit code for a data file that cannot be used.
fn file_exit_code(error: &journal::Error) -> u8 {
    use journal::Error::{LeftoverOnly, Refused};
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
    config.read_password()?;
    let running = Arc::new(OnceLock::new());
    handle_signals(Arc::clone(&running))?;
    limit_clients(&mut config);

    let recovery = Recovery::begin(&config.file)?;
    let listeners: Vec<_> =
        listener::listen(&config, config.port)?.into_iter().map(Arc::new).collect();
    let metrics = match config.metrics_port {
        Some(port) => listener::listen(&config, port)?,
        None => Vec::new(),
    };
    let store = Store::default().with_databases(usize::from(config.databases));
    let engine = Engine::start_with(recovery, config.fsync, store)?;
    let keys = engine.keys();
    memory::set_limit(config.maxmemory);

    let addresses: Vec<_> = listeners.iter().map(|listener| listener.address).collect();
    let first_port = |listeners: &[SocketAddr]| listeners.first().map(SocketAddr::port);
    let metrics_addresses: Vec<_> = metrics.iter().map(|listener| listener.address).collect();
    config.file = engine.path().to_owned();
    config.port = first_port(&addresses).unwrap_or(config.port);
    config.metrics_port = first_port(&metrics_addresses);
    let server = Server::new(config.clone(), engine);
    let _ = running.set(Arc::clone(&server));
    tend_engine(&server)?;
    serve_metrics(&server, metrics)?;
    let closing = prepare_to_close(&server)?;
    server.start(&listeners)?;

    let shown = |addresses: &[SocketAddr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    log::info!(
        "coffre {} listens on {}; data file {}, fsync {}, {} loaded in {} ms",
        env!("CARGO_PKG_VERSION"),
        shown(&addresses),
        config.file.display(),
        config.fsync.name(),
        counted(keys as u64, "key"),
        started.elapsed().as_millis(),
    );
    if !metrics_addresses.is_empty() {
        log::info!("metrics by HTTP on {}", shown(&metrics_addresses));
    }
    for address in addresses {
        // Not `println!`: it panics when nobody listens.
        let _ = writeln!(io::stdout(), "coffre ready on {address}");
    }

    let (how, asked) = server.run(&listeners);
    close(server.engine(), &closing, how, asked)?;
    log::info!("stopped; every acknowledged write is on disk");
    Ok(())
}

/// Each client needs a file descriptor: there may be fewer than asked for.
fn limit_clients(config: &mut Config) {
    let most = process::make_room_for(config.maxclients);
    if most < config.maxclients {
        log::warn!(
            "maxclients is {most}, not {}: the system does not allow more file descriptors (ulimit -n)",
            config.maxclients
        );
        config.maxclients = most;
    }
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
                    server.control().stop(Stop::Save);
                }
                // Nothing was acknowledged yet.
                (_, None) => signal_hook::low_level::exit(0),
                _ => {
                    logging::flush();
                    signal_hook::low_level::exit(128 + signal)
                }
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(handle).map(drop)
}

/// Starts the threads that work while no client calls: one keeps the journal well, one compacts the file, one removes
/// expired keys, one frees what was replaced, one looks at the clock. The process ends with any of them: without it
/// the server would only seem to be well.
fn tend_engine(server: &Arc<Server>) -> io::Result<()> {
    let spawn = |name: &str, work: fn(&Server)| {
        let server = Arc::clone(server);
        let run = move || {
            loop {
                work(&server);
                memory::flush_thread_count();
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(|| vital(run)).map(drop)
    };
    spawn("journal", |server| tend_journal(server.engine()))?;
    spawn("compaction", |server| server.engine().tend_compaction(Duration::from_millis(100)))?;
    spawn("expiry", |server| remove_expired(server.engine()))?;
    spawn("undo", |server| free_undo(server.engine()))?;
    spawn("clock", tick)
}

/// Now and then removes the keys that have expired. Where the journal takes no writes, nobody sees them either.
fn remove_expired(engine: &Engine) {
    thread::sleep(Duration::from_millis(EXPIRY_TICK_MS));
    engine.tick();
    let _ = Session::new(engine).remove_expired();
}

/// Now and then frees what committed changes replaced. A thread of its own: the journal's must come in time.
fn free_undo(engine: &Engine) {
    thread::sleep(Duration::from_millis(SETTLE_TICK_MS));
    engine.settle();
}

/// Takes the samples of each second: the pace of commands, and the peak of memory.
fn tick(server: &Server) {
    thread::sleep(Duration::from_secs(1));
    server.control().statistics.sample();
    memory::used_bytes();
}

/// Some threads for each address at which metrics are asked for.
fn serve_metrics(server: &Arc<Server>, listeners: Vec<Listener>) -> io::Result<()> {
    for listener in listeners.into_iter().map(Arc::new) {
        for _ in 0..METRICS_THREADS {
            let (server, listener) = (Arc::clone(server), Arc::clone(&listener));
            let serve = move || metrics::serve(&listener.socket, server.control(), server.engine());
            thread::Builder::new().name("metrics".to_owned()).spawn(|| vital(serve))?;
        }
    }
    Ok(())
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

/// What is waited for at the end.
struct Closing {
    begin: Sender<Stop>,
    end: Receiver<Result<(), WriteRefused>>,
}

/// A thread that closes the engine when it is told how. It is there from the beginning: at the end there may
/// be no memory for another.
fn prepare_to_close(server: &Arc<Server>) -> io::Result<Closing> {
    let (begin, told) = mpsc::channel();
    let (ended, end) = mpsc::channel();
    let server = Arc::clone(server);
    let close = move || {
        if let Ok(how) = told.recv() {
            let closed = match how {
                Stop::Save => server.engine().close(),
                Stop::NoSave => server.engine().close_without_healing(),
            };
            drop(ended.send(closed));
        }
    };
    thread::Builder::new().name("close".to_owned()).spawn(close)?;
    Ok(Closing { begin, end })
}

/// Closes the engine. A disk that does not answer is given up soon; a rewrite is waited for while it goes
/// on, because memory may be all there is.
fn close(engine: &Engine, closing: &Closing, how: Stop, asked: Instant) -> Result<(), Error> {
    let _ = closing.begin.send(how);
    let mut progress = engine.progress();
    // What is left of it after the clients were let finish, which may have taken longer than it should.
    let least = Duration::from_millis(STOP_MS_MAX - DRAIN_MS_MAX) / 2;
    let mut patience =
        Duration::from_millis(STOP_MS_MAX).saturating_sub(asked.elapsed()).max(least);
    loop {
        match closing.end.recv_timeout(patience) {
            Ok(closed) => {
                // It gives up, and cleans up after itself.
                engine.wait_for_compaction(Duration::from_millis(200));
                return Ok(closed?);
            }
            Err(_) if engine.trouble().is_none() => return Err(Error::Hung),
            Err(_) => {
                let before = std::mem::replace(&mut progress, engine.progress());
                if asked.elapsed() > Duration::from_millis(REWRITE_MS_MAX) && progress == before {
                    return Err(Error::Hung);
                }
                patience = Duration::from_millis(REWRITE_MS_MAX);
            }
        }
    }
}
