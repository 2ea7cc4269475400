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
use std::sync::Arc;
use std::time::Instant;

use config::{Config, PasswordFileError};
use engine::Admin;
use engine::local::LocalEngine;
use engine::local::store::Store;
use journal::Recovery;
use net::listener::{self, BindError, Server};
use net::metrics;
use server::closing::{self, CloseError};
use server::signals::Signals;
use server::tasks;
use text::counted;
use util::{memory, process};

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
    /// The end: not everything is known to be on disk.
    #[error(transparent)]
    Close(#[from] CloseError),
}

impl Error {
    /// The program's exit code: 1 configuration, 3 data file refused, 4 address in use, 5 not
    /// everything durable. (0 is a clean stop, 2 comes from the flags.)
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File(error) => error.exit_code(),
            Self::Bind(BindError { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => 4,
            Self::Close(_) => 5,
            Self::Bind(_) | Self::Password(_) | Self::System(_) => 1,
        }
    }
}

/// Runs a server until it is told to stop.
///
/// What can fail without a trace comes first: the file is locked and checked, the addresses are
/// taken, the data is loaded; then the file is made ready, and only then do clients get in.
pub fn run(mut config: Config) -> Result<(), Error> {
    let started = Instant::now();
    config.read_password()?;
    let signals = Signals::handle()?;
    limit_clients(&mut config);

    let recovery = Recovery::begin(&config.file)?;
    let listeners: Vec<_> =
        listener::listen(&config, config.port)?.into_iter().map(Arc::new).collect();
    let metrics = match config.metrics_port {
        Some(port) => listener::listen(&config, port)?,
        None => Vec::new(),
    };
    let store = Store::default().with_databases(usize::from(config.databases));
    let engine = LocalEngine::start_with(recovery, config.fsync, store)?;
    let keys = engine.keys();
    memory::set_limit(config.maxmemory);

    let addresses: Vec<_> = listeners.iter().map(|listener| listener.address).collect();
    let metrics_addresses: Vec<_> = metrics.iter().map(|listener| listener.address).collect();
    config.file = engine.path().to_owned();
    config.port = addresses.first().map_or(config.port, SocketAddr::port);
    config.metrics_port = metrics_addresses.first().map(SocketAddr::port);
    let server = Server::new(config, engine);
    let (control, engine) = (server.control(), server.engine());
    let admin: Arc<dyn Admin> = Arc::clone(engine) as _;
    signals.attach(control, &admin);
    tasks::start(control, engine)?;
    metrics::start(control, &admin, metrics)?;
    server.start(&listeners)?;
    announce(&control.config, &addresses, &metrics_addresses, keys, started);

    let (how, asked) = server.run(&listeners);
    closing::close(engine, how, asked)?;
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
    config: &Config,
    addresses: &[SocketAddr],
    metrics: &[SocketAddr],
    keys: usize,
    started: Instant,
) {
    let shown = |addresses: &[SocketAddr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    log::info!(
        "coffre {} listens on {}; data file {}, fsync {}, {} loaded in {} ms",
        env!("CARGO_PKG_VERSION"),
        shown(addresses),
        config.file.display(),
        config.fsync.name(),
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
