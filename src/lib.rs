//! coffre, a key-value server that keeps its keys in one readable text file and never loses one.
//!
//! ```text
//! flow   bytes -> request -> command -> Txn (locks, reads, changes, undo) -> journal.append -> reply -> commit -> bytes
//! deps   lib > net > command > server > script > protocol > engine > journal > { text, value } > util > limits
//!        lib > config > tools > etcd_flags > engine
//! ```
//!
//! No arrow points back up. Only [`engine`] knows both the keys in memory and the [`journal`]; neither
//! knows the other, nor any socket. [`server`] is what connections share beside the data, [`script`] runs Lua. This file is
//! the start-up story.

pub mod command;
pub mod config;
pub mod engine;
pub mod etcd_flags;
pub mod journal;
pub mod limits;
pub mod net;
pub mod protocol;
pub mod script;
pub mod server;
pub mod text;
pub mod tools;
pub mod util;
pub mod value;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use config::{Config, EngineKind, PasswordFileError};
use engine::etcd::{EtcdEngine, OpenError};
use engine::local::store::Store;
use engine::local::{CloseError, LocalEngine};
use engine::{Admin, Engine};
use journal::Recovery;
use net::listener::{self, BindError, Server};
use net::metrics;
use server::Stop;
use server::signals::Signals;
use text::counted;
use util::{memory, process};

/// Why the server did not start, or did not stop well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data file.
    #[error(transparent)]
    File(#[from] journal::Error),
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] OpenError),
    /// A file that a flag names.
    #[error(transparent)]
    FlagFile(#[from] etcd_flags::FileError),
    /// An address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The password.
    #[error(transparent)]
    Password(#[from] PasswordFileError),
    /// A signal handler or a thread.
    #[error("the system refuses what a server needs: {0}")]
    System(#[from] io::Error),
    /// The end: not everything is known to be on disk.
    #[error(transparent)]
    Close(#[from] CloseError),
}

impl Error {
    /// The program's exit code: 1 configuration, 3 data file refused, 4 address in use, 5 not
    /// everything durable, 7 no cluster. (0 is a clean stop, 2 comes from the flags.)
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File(error) => error.exit_code(),
            Self::Bind(BindError { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => 4,
            Self::Close(_) => 5,
            Self::Bind(_) | Self::Password(_) | Self::System(_) | Self::FlagFile(_) => 1,
            Self::Cluster(_) => 7,
        }
    }
}

/// An engine that a server can be run on: how it begins, and how it ends.
pub trait Hosted: Engine {
    /// An engine that is known to be there, and was not changed.
    type Opened;

    /// Looks whether the engine can be started; nothing is changed yet.
    fn open(config: &Config) -> Result<Self::Opened, Error>;

    /// Starts it, and puts what it has chosen itself into the configuration.
    fn start(opened: Self::Opened, config: &mut Config) -> Result<Self, Error>;

    /// Starts the threads that work for it while no client calls.
    fn start_tasks(self: &Arc<Self>) -> io::Result<()>;

    /// Ends it, which was asked for at `asked`; no client is connected any more.
    fn close(self: &Arc<Self>, how: Stop, asked: Instant) -> Result<(), Error>;

    /// Where it keeps keys, for the log.
    fn describe(&self, config: &Config) -> String;
}

impl Hosted for LocalEngine {
    type Opened = Recovery;

    fn open(config: &Config) -> Result<Recovery, Error> {
        Ok(Recovery::begin(&config.file)?)
    }

    fn start(recovery: Recovery, config: &mut Config) -> Result<Self, Error> {
        let store = Store::default().with_databases(usize::from(config.databases));
        let engine = Self::start_with(recovery, config.fsync, store)?;
        config.file = engine.path().to_owned();
        Ok(engine)
    }

    fn start_tasks(self: &Arc<Self>) -> io::Result<()> {
        self.start_threads()
    }

    fn close(self: &Arc<Self>, how: Stop, asked: Instant) -> Result<(), Error> {
        Ok(self.close_by(how == Stop::Save, asked)?)
    }

    fn describe(&self, config: &Config) -> String {
        format!("data file {}, fsync {}", config.file.display(), config.fsync.name())
    }
}

impl Hosted for EtcdEngine {
    type Opened = Self;

    fn open(config: &Config) -> Result<Self, Error> {
        let EngineKind::Etcd(members) = &config.engine else {
            return Err(io::Error::other("no cluster is given").into());
        };
        Ok(Self::open(config.etcd.options(members, usize::from(config.databases))?)?)
    }

    fn start(opened: Self, _config: &mut Config) -> Result<Self, Error> {
        Ok(opened)
    }

    fn start_tasks(self: &Arc<Self>) -> io::Result<()> {
        self.start_threads()
    }

    fn close(self: &Arc<Self>, _how: Stop, _asked: Instant) -> Result<(), Error> {
        Self::close(self);
        Ok(())
    }

    fn describe(&self, _config: &Config) -> String {
        self.name()
    }
}

/// Runs a server until it is told to stop.
pub fn run(config: Config) -> Result<(), Error> {
    match config.engine {
        EngineKind::File => run_on::<LocalEngine>(config),
        EngineKind::Etcd(_) => run_on::<EtcdEngine>(config),
    }
}

/// Runs a server on any engine until it is told to stop.
///
/// What can fail without a trace comes first: the file is locked and checked, the addresses are
/// taken, the data is loaded; then the file is made ready, and only then do clients get in.
pub fn run_on<E: Hosted>(mut config: Config) -> Result<(), Error> {
    let started = Instant::now();
    config.read_password()?;
    let signals = Signals::handle()?;
    limit_clients(&mut config);

    let opened = E::open(&config)?;
    let listeners: Vec<_> =
        listener::listen(&config, config.port)?.into_iter().map(Arc::new).collect();
    let metrics = match config.metrics_port {
        Some(port) => listener::listen(&config, port)?,
        None => Vec::new(),
    };
    let engine = E::start(opened, &mut config)?;
    let keys = engine.committed_keys();
    memory::set_limit(config.maxmemory);

    let addresses: Vec<_> = listeners.iter().map(|listener| listener.address).collect();
    let metrics_addresses: Vec<_> = metrics.iter().map(|listener| listener.address).collect();
    config.port = addresses.first().map_or(config.port, SocketAddr::port);
    config.metrics_port = metrics_addresses.first().map(SocketAddr::port);
    let server = Server::new(config, engine);
    let (control, engine) = (server.control(), server.engine());
    let admin: Arc<dyn Admin> = Arc::clone(engine) as _;
    signals.attach(control, &admin);
    engine.start_tasks()?;
    control.start_sampling()?;
    metrics::start(control, &admin, metrics)?;
    server.start(&listeners)?;
    let place = engine.describe(&control.config);
    announce(&place, &addresses, &metrics_addresses, keys, started);

    let (how, asked) = server.run(&listeners);
    engine.close(how, asked)?;
    log::info!("stopped; every acknowledged write is on disk");
    Ok(())
}

/// Each client needs a file descriptor: the system may allow fewer than the configuration asks for.
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

/// Says in the log and on standard output that clients may come, and where.
fn announce(
    place: &str,
    addresses: &[SocketAddr],
    metrics: &[SocketAddr],
    keys: usize,
    started: Instant,
) {
    let shown = |addresses: &[SocketAddr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    log::info!(
        "coffre {} listens on {}; {place}, {} loaded in {} ms",
        env!("CARGO_PKG_VERSION"),
        shown(addresses),
        counted(keys as u64, "key"),
        started.elapsed().as_millis(),
    );
    if !metrics.is_empty() {
        log::info!("metrics by HTTP on {}", shown(metrics));
    }
    for address in addresses {
        // Not `println!`: it panics where standard output is closed.
        let _ = writeln!(io::stdout(), "coffre ready on {address}");
    }
}
