//! Accepts clients, gives each its thread, and stops them all.
//!
//! The sockets listen before the data file is changed and accept once it is loaded, so that a port in
//! use costs nothing; clients that come meanwhile wait.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::Config;
use crate::connection::Connection;
use crate::engine::Engine;
use crate::limits::{CLIENT_STACK_BYTES, DRAIN_MS_MAX, LISTEN_BACKLOG};
use crate::seldom::Seldom;
use crate::sync::lock;

/// An address that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {source}")]
pub struct BindError {
    /// The address and port.
    pub address: SocketAddr,
    /// The system's reason.
    pub source: io::Error,
}

/// A socket that listens, and where.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// With the port that was chosen.
    pub address: SocketAddr,
}

/// Listens on every address of `config`, each once. With port 0 the first gets any free port, the
/// others the same.
pub fn listen(config: &Config) -> Result<Vec<Listener>, BindError> {
    let mut listeners: Vec<Listener> = Vec::new();
    let mut port = config.port;
    for ip in &config.bind {
        let wanted = SocketAddr::new(*ip, port);
        if listeners.iter().any(|listener| listener.address == wanted) {
            continue;
        }
        let listener = listen_on(wanted).map_err(|source| BindError { address: wanted, source })?;
        port = listener.address.port();
        listeners.push(listener);
    }
    Ok(listeners)
}

fn listen_on(wanted: SocketAddr) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(wanted), Type::STREAM, Some(Protocol::TCP))?;
    // A restart need not wait for the connections of the run before.
    socket.set_reuse_address(true)?;
    if wanted.is_ipv6() {
        // `--bind 0.0.0.0 --bind ::` are two sockets.
        socket.set_only_v6(true)?;
    }
    socket.bind(&wanted.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    let address = socket.local_addr()?.as_socket().unwrap_or(wanted);
    Ok(Listener { socket: socket.into(), address })
}

/// The running server.
#[derive(Debug)]
pub struct Server {
    // Constant after construction.
    config: Config,
    engine: Engine,

    // Their own synchronization.
    stopping: AtomicBool,
    next_id: AtomicU64,

    /// The streams of the connected clients, by client number.
    clients: Mutex<HashMap<u64, Arc<TcpStream>>>,
    /// The last client left, or `stopping` was set.
    changed: Condvar,
}

impl Server {
    /// A server of `engine`'s data that does not accept yet.
    pub fn new(config: Config, engine: Engine) -> Arc<Self> {
        Arc::new(Self {
            config,
            engine,
            stopping: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
            clients: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Begins to accept, on a thread for each address.
    pub fn start(self: &Arc<Self>, listeners: &[Arc<Listener>]) -> io::Result<()> {
        for listener in listeners {
            let (server, listener) = (Arc::clone(self), Arc::clone(listener));
            let name = format!("accept-{}", listener.address.port());
            thread::Builder::new().name(name).spawn(move || server.accept(&listener.socket))?;
        }
        Ok(())
    }

    /// Asks the server to stop; [`run`](Self::run) does it.
    pub fn stop(&self) {
        let clients = lock(&self.clients);
        self.stopping.store(true, Ordering::Release);
        drop(clients);
        self.changed.notify_all();
    }

    /// Serves until [`stop`](Self::stop), then lets what was received be answered, for as long as
    /// [`DRAIN_MS_MAX`]. The journal is the caller's to close.
    pub fn run(&self, listeners: &[Arc<Listener>]) {
        let mut clients = lock(&self.clients);
        while !self.stopping.load(Ordering::Acquire) {
            clients = crate::sync::wait(&self.changed, clients);
        }
        // An accept that is under way ends, and the kernel refuses whoever comes now.
        for listener in listeners {
            let _ = SockRef::from(&listener.socket).shutdown(Shutdown::Both);
        }
        // What the kernel has received can still be read; then the stream ends.
        for stream in clients.values() {
            let _ = stream.shutdown(Shutdown::Read);
        }
        let deadline = Instant::now() + Duration::from_millis(DRAIN_MS_MAX);
        while !clients.is_empty() && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            clients = crate::sync::wait_timeout(&self.changed, clients, left);
        }
        if !clients.is_empty() {
            log::warn!(
                "{} clients did not read their replies in time and were cut off",
                clients.len()
            );
        }
        for stream in clients.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// The engine, to be closed after [`run`](Self::run).
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        static LOGGED: Seldom = Seldom::new(Duration::from_secs(5));
        while !self.stopping.load(Ordering::Acquire) {
            match listener.accept() {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) if is_of_one_client(&error) => {}
                Err(_) if self.stopping.load(Ordering::Acquire) => return,
                Err(error) => {
                    // No descriptor or no memory: accepting at once again would spin.
                    if LOGGED.now() {
                        log::error!("cannot accept clients for now: {error}");
                    }
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }

    /// Gives a new client its thread, or tells it why not.
    fn admit(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(stream);
        let mut clients = lock(&self.clients);
        if self.stopping.load(Ordering::Acquire) {
            return;
        }
        if clients.len() >= self.config.maxclients as usize {
            drop(clients);
            return turn_away(&stream, "ERR max number of clients reached");
        }
        clients.insert(id, Arc::clone(&stream));
        drop(clients);
        let leave = Leave { server: Arc::clone(self), id };
        let thread =
            thread::Builder::new().name(format!("client-{id}")).stack_size(CLIENT_STACK_BYTES);
        let thread_stream = Arc::clone(&stream);
        let spawned = thread.spawn(move || {
            let server = Arc::clone(&leave.server);
            server.serve(&thread_stream, peer, id);
            drop(leave);
        });
        if let Err(error) = spawned {
            static LOGGED: Seldom = Seldom::new(Duration::from_secs(5));
            if LOGGED.now() {
                log::error!("no thread for client {id} at {peer}: {error}: closed");
            }
            turn_away(&stream, "ERR no thread for another client");
        }
    }

    fn serve(&self, stream: &TcpStream, peer: SocketAddr, id: u64) {
        log::debug!("client {id} at {peer}: connected");
        let served = stream.set_nodelay(true).and_then(|()| {
            Connection::new(stream, peer, id, &self.engine, &self.config, &self.stopping).serve()
        });
        match served {
            Ok(()) => log::debug!("client {id} at {peer}: left"),
            Err(error) => log::debug!("client {id} at {peer}: {error}"),
        }
    }
}

/// Takes a client off the list when its thread ends, by a panic too.
struct Leave {
    server: Arc<Server>,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let mut clients = lock(&self.server.clients);
        clients.remove(&self.id);
        if clients.is_empty() {
            self.server.changed.notify_all();
        }
    }
}

/// Errors of `accept` that speak of the client it would have returned.
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Tells a client why it is closed, without ever waiting for it.
fn turn_away(mut stream: &TcpStream, reason: &str) {
    let told = stream
        .set_nonblocking(true)
        .and_then(|()| stream.write_all(format!("-{reason}\r\n").as_bytes()))
        .and_then(|()| stream.shutdown(Shutdown::Both));
    if let Err(error) = told {
        log::debug!("a client turned away could not be told: {error}");
    }
}
