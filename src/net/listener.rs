//! Accepts clients, gives each its thread, and stops them all.
//!
//! One thread accepts and another one starts the threads of the clients: to start a thread takes longer than to
//! connect, and where thousands connect at once the kernel's queue must not overflow meanwhile. (The kernel drops what
//! does not fit, and the peer tries again after a second.)
//!
//! The sockets listen before the data file is changed and accept once it is loaded, so that a port in use costs
//! nothing; clients that connect meanwhile wait in the backlog.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::command;
use crate::config::Config;
use crate::engine::Engine;
use crate::limits::{CLIENT_STACK_BYTES, DRAIN_MS_MAX, LISTEN_BACKLOG};
use crate::net::connection::Connection;
use crate::net::idle_threads::IdleThreads;
use crate::server::{Client, Control, Event, Refusal, Stop};
use crate::text::counted;
use crate::util::memory;
use crate::util::rate_limit::RateLimit;
use crate::util::sync::{abort_on_panic, lock};

/// An address, or a name, that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {source}")]
pub struct BindError {
    /// The address and port, or the name.
    pub address: String,
    /// The system's reason.
    pub source: io::Error,
}

/// A socket that listens, and where.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// With the port that was chosen.
    pub address: SocketAddr,
}

/// Listens on every address of `config`, each once, at `port`. With port 0 the first gets any free port,
/// the others the same.
pub fn listen(config: &Config, mut port: u16) -> Result<Vec<Listener>, BindError> {
    let mut listeners: Vec<Listener> = Vec::new();
    for host in &config.bind {
        let addresses = resolve(host)?;
        let last = addresses.len() - 1;
        let mut is_used = false;
        for (index, ip) in addresses.into_iter().enumerate() {
            let wanted = SocketAddr::new(ip, port);
            if listeners.iter().any(|listener| listener.address == wanted) {
                is_used = true;
                continue;
            }
            match listen_on(wanted) {
                Ok(listener) => {
                    is_used = true;
                    port = listener.address.port();
                    listeners.push(listener);
                }
                // `localhost` is ::1 too where there is no IPv6: one address of a name is enough.
                Err(error) if is_missing(&error) && (is_used || index < last) => {}
                Err(source) => return Err(BindError { address: wanted.to_string(), source }),
            }
        }
    }
    Ok(listeners)
}

/// The addresses of a host, at least one, each once, IPv4 first.
fn resolve(host: &str) -> Result<Vec<IpAddr>, BindError> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let failed = |source| BindError { address: host.to_owned(), source };
    let found = (host, 0).to_socket_addrs().map_err(failed)?;
    let mut addresses: Vec<_> = found.map(|address| address.ip()).collect();
    addresses.sort();
    addresses.dedup();
    match addresses.is_empty() {
        true => Err(failed(Errno::ADDRNOTAVAIL.into())),
        false => Ok(addresses),
    }
}

/// Whether this machine has no such address, or no addresses of that kind.
fn is_missing(error: &io::Error) -> bool {
    let number = Errno::from_io_error(error);
    number.is_some_and(|number| [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT].contains(&number))
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
pub struct Server<E: Engine> {
    control: Arc<Control>,
    engine: Arc<E>,
    /// Closed where there is no other file descriptor, to accept a client with its number and reject it.
    spare: Mutex<Option<File>>,
    /// Threads whose clients have left.
    idle_threads: IdleThreads<Leave<E>>,
}

impl<E: Engine> Server<E> {
    /// A server of `engine`'s data that does not accept yet.
    pub fn new(config: Config, engine: E) -> Arc<Self> {
        let control = Control::new(config, command::names().len());
        Arc::new(Self {
            control: Arc::new(control),
            engine: Arc::new(engine),
            spare: Mutex::new(spare()),
            idle_threads: IdleThreads::default(),
        })
    }

    /// Begins to accept, on a thread for each address.
    pub fn start(self: &Arc<Self>, listeners: &[Arc<Listener>]) -> io::Result<()> {
        let (admitted, to_be_served) = mpsc::channel();
        let server = Arc::clone(self);
        let spawn = move || to_be_served.into_iter().for_each(|client| server.spawn(client));
        thread::Builder::new().name("spawn".to_owned()).spawn(|| abort_on_panic(spawn))?;
        for listener in listeners {
            let (server, listener) = (Arc::clone(self), Arc::clone(listener));
            let (name, admitted) =
                (format!("accept-{}", listener.address.port()), admitted.clone());
            let accept = move || server.accept(&listener.socket, &admitted);
            thread::Builder::new().name(name).spawn(|| abort_on_panic(accept))?;
        }
        Ok(())
    }

    /// Serves until it is [stopped](Control::stop), then lets the clients' threads answer what was received, for as long
    /// as [`DRAIN_MS_MAX`]. The caller closes the engine. Returns how the server was asked to stop, and when.
    pub fn run(&self, listeners: &[Arc<Listener>]) -> (Stop, Instant) {
        let (how, asked) = self.control.wait_for_stop();
        // Ends an accept that is under way; the kernel refuses new connections.
        for listener in listeners {
            let _ = SockRef::from(&listener.socket).shutdown(Shutdown::Both);
        }
        // The kernel's receive buffers can still be read; then the streams end.
        for client in self.control.clients.close() {
            let _ = client.stream.shutdown(Shutdown::Read);
        }
        let deadline = asked + Duration::from_millis(DRAIN_MS_MAX);
        let left = self.control.clients.wait_until_empty(deadline);
        if left > 0 {
            let left = counted(left as u64, "client");
            log::warn!("{left} did not read their replies in time and were cut off");
        }
        self.control.clients.all().iter().for_each(|client| client.kill());
        (how, asked)
    }

    /// The engine, to be closed after [`run`](Self::run).
    pub fn engine(&self) -> &Arc<E> {
        &self.engine
    }

    /// What all connections share beside the engine.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    fn accept(&self, listener: &TcpListener, admitted: &Sender<Arc<Client>>) {
        static LOGGED: RateLimit = RateLimit::new(Duration::from_secs(5));
        while !self.control.is_stopping() {
            match listener.accept() {
                Ok((stream, peer)) => self.receive(stream, peer, admitted),
                Err(error) if is_of_one_client(&error) => {}
                Err(_) if self.control.is_stopping() => return,
                Err(error) => {
                    if LOGGED.allow() {
                        log::error!("cannot accept clients for now: {error}");
                    }
                    if is_of_resources(&error) {
                        self.turn_away_with_the_spare(listener);
                    }
                    // No descriptor or no memory: accepting at once again would spin.
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }

    /// Without a file descriptor for one more client: closes the spare one, rejects the client at the head of the
    /// backlog, and opens the spare again.
    fn turn_away_with_the_spare(&self, listener: &TcpListener) {
        let mut kept = lock(&self.spare);
        if kept.take().is_some() {
            // A client waits, or accept() had not failed; but another thread may have accepted it since.
            let accepted = listener.set_nonblocking(true).and_then(|()| listener.accept());
            let _ = listener.set_nonblocking(false);
            if let Ok((stream, _)) = accepted {
                self.turn_away(&stream, &Refusal::Full.to_string());
            }
        }
        *kept = spare();
    }

    /// Admits a client, or tells it why not.
    fn receive(&self, stream: TcpStream, peer: SocketAddr, admitted: &Sender<Arc<Client>>) {
        let local = stream.local_addr().ok().map(|local| local.ip());
        if self.control.denies(peer.ip(), local) {
            static LOGGED: RateLimit = RateLimit::new(Duration::from_secs(60));
            if LOGGED.allow() {
                log::warn!("{peer} turned away: no password is set (protected mode)");
            }
            return self.turn_away(&stream, DENIED);
        }
        match self.control.clients.admit(stream, peer) {
            // The thread that receives it ends only with the process.
            Ok(client) => drop(admitted.send(client)),
            Err((stream, refusal)) => self.turn_away(&stream, &refusal.to_string()),
        }
    }

    /// Gives a client its thread.
    fn spawn(self: &Arc<Self>, client: Arc<Client>) {
        let leave = Leave { server: Arc::clone(self), client };
        if leave.client.is_gone() {
            // Where many clients connect and leave at once, the others need not wait for threads of those.
            return;
        }
        self.control.statistics.happened(Event::Connected);
        if let Err(leave) = self.idle_threads.give(leave)
            && let Err((leave, error)) = self.start_thread(leave)
        {
            static LOGGED: RateLimit = RateLimit::new(Duration::from_secs(5));
            if LOGGED.allow() {
                let Client { id, peer, .. } = &*leave.client;
                log::error!("no thread for client {id} at {peer}: {error}: closed");
            }
            self.turn_away(&leave.client.stream, "ERR no thread for another client");
        }
    }

    /// Starts a thread that serves this client, and then others; or gives the client back.
    fn start_thread(&self, leave: Leave<E>) -> Result<(), (Leave<E>, io::Error)> {
        let name = format!("client-{}", leave.client.id);
        let thread = thread::Builder::new().name(name).stack_size(CLIENT_STACK_BYTES);
        let server = Arc::clone(&leave.server);
        // Shared until the thread runs: one that cannot be started drops what it owns.
        let first = Arc::new(Mutex::new(Some(leave)));
        let taken = Arc::clone(&first);
        let work = move || {
            let mut next = lock(&taken).take();
            drop(taken);
            while let Some(leave) = next {
                server.serve(&leave.client);
                drop(leave);
                memory::flush_thread_count();
                next = server.idle_threads.wait_for_work();
            }
            drop(server);
            memory::thread_exit();
        };
        match thread.spawn(work) {
            Ok(_) => Ok(()),
            Err(error) => match lock(&first).take() {
                Some(leave) => Err((leave, error)),
                None => Ok(()),
            },
        }
    }

    fn serve(&self, client: &Arc<Client>) {
        let (id, peer) = (client.id, client.peer);
        log::debug!("client {id} at {peer}: connected");
        let serve = || {
            self.prepare(&client.stream)?;
            Connection::new(client, &*self.engine, &self.control).serve()
        };
        match panic::catch_unwind(AssertUnwindSafe(serve)) {
            Ok(Ok(())) => log::debug!("client {id} at {peer}: left"),
            Ok(Err(error)) => log::debug!("client {id} at {peer}: {error}"),
            Err(_) => {
                // What it had locked may be half changed: then the process ends here.
                self.engine.assert_sound();
                self.control.statistics.happened(Event::Panicked);
                log::error!("client {id} at {peer}: its thread panicked: closed");
            }
        }
    }

    fn prepare(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        // Telnet sends part of its Ctrl-C as urgent data, which belongs between the bytes around it.
        socket.set_out_of_band_inline(true)?;
        let seconds = self.control.config.tcp_keepalive;
        if seconds > 0 {
            let after = Duration::from_secs(seconds.into());
            let every = Duration::from_secs((seconds / 3).max(1).into());
            let keepalive = TcpKeepalive::new().with_time(after).with_interval(every);
            socket.set_tcp_keepalive(&keepalive.with_retries(3))?;
        }
        Ok(())
    }

    /// Tells a client why it is closed, without blocking.
    fn turn_away(&self, mut stream: &TcpStream, reason: &str) {
        self.control.statistics.happened(Event::Rejected);
        let told = stream.set_nonblocking(true).and_then(|()| {
            stream.write_all(format!("-{reason}\r\n").as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
            // To close with bytes unread would reset the connection, and lose the reason.
            let _ = stream.read(&mut [0; 1024]);
            Ok(())
        });
        if let Err(error) = told {
            log::debug!("a client turned away could not be told: {error}");
        }
    }
}

/// Redis's text, as far as it is true here.
const DENIED: &str = "DENIED coffre is running in protected mode because no password is set. In this mode \
    connections are only accepted from this machine. If you want to connect from others: 1) restart it with \
    '--requirepass-file', or 2) with '--protected-mode no', but make sure that no stranger can reach the port.";

/// A file that always exists, and takes only a descriptor.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Takes a client off the list once it was served, or could not be.
struct Leave<E: Engine> {
    server: Arc<Server<E>>,
    client: Arc<Client>,
}

impl<E: Engine> Drop for Leave<E> {
    fn drop(&mut self) {
        // A list of the clients may keep the stream open a little longer: the peer need not wait for that.
        let _ = self.client.stream.shutdown(Shutdown::Both);
        self.server.control.clients.leave(self.client.id);
    }
}

/// Errors that say: accept() has no descriptor or memory left; the peer stays in the backlog.
fn is_of_resources(error: &io::Error) -> bool {
    let number = Errno::from_io_error(error);
    number.is_some_and(|number| {
        [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&number)
    })
}

/// Errors of accept() that concern the one client it would have returned.
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
