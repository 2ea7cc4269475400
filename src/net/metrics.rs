//! `--metrics-port`: the server's state for Prometheus at `/metrics`, and for a health check at `/health`.
//!
//! HTTP by hand, as little as both need: one request a connection, a few connections at a time, each bounded in bytes
//! and in time. A client that is slow here delays no other port.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::command;
use crate::engine::{Admin, Status};
use crate::limits::{METRICS_MS_MAX, METRICS_REQUEST_BYTES_MAX, METRICS_THREADS};
use crate::net::listener::Listener;
use crate::server::{Control, Event, Totals};
use crate::util::memory;
use crate::util::process;
use crate::util::rate_limit::RateLimit;
use crate::util::sync::abort_on_panic;

/// Serves each of `listeners` on some threads, so that one slow client does not hold the others up.
pub fn start(
    control: &Arc<Control>,
    engine: &Arc<dyn Admin>,
    listeners: Vec<Listener>,
) -> io::Result<()> {
    for listener in listeners.into_iter().map(Arc::new) {
        for _ in 0..METRICS_THREADS {
            let (control, engine) = (Arc::clone(control), Arc::clone(engine));
            let listener = Arc::clone(&listener);
            let work = move || serve(&listener.socket, &control, &*engine);
            thread::Builder::new().name("metrics".to_owned()).spawn(|| abort_on_panic(work))?;
        }
    }
    Ok(())
}

/// Serves `listener` until the server stops.
pub fn serve(listener: &TcpListener, control: &Control, engine: &dyn Admin) {
    static LOGGED: RateLimit = RateLimit::new(Duration::from_secs(60));
    while !control.is_stopping() {
        let answered = match listener.accept() {
            Ok((stream, peer)) => {
                let local = stream.local_addr().ok().map(|local| local.ip());
                match control.denies(peer.ip(), local) {
                    true => continue,
                    false => answer(&stream, control, engine),
                }
            }
            Err(error) => {
                // No descriptor or no memory: accepting at once again would spin.
                thread::sleep(Duration::from_millis(50));
                Err(error)
            }
        };
        if let Err(error) = answered
            && !control.is_stopping()
            && LOGGED.allow()
        {
            log::warn!("metrics: {error}");
        }
    }
}

fn answer(mut stream: &TcpStream, control: &Control, engine: &dyn Admin) -> io::Result<()> {
    let time = Duration::from_millis(METRICS_MS_MAX);
    stream.set_write_timeout(Some(time))?;
    let head = read_head(stream, Instant::now() + time)?;
    let (status, body) = reply(&head, control, engine);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    if !head.starts_with(b"HEAD ") {
        stream.write_all(body.as_bytes())?;
    }
    Ok(())
}

/// Reads up to the blank line that ends a request.
fn read_head(mut stream: &TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > METRICS_REQUEST_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no HTTP request in time"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => head.extend_from_slice(&piece[..count]),
        }
    }
    Ok(head)
}

fn reply(head: &[u8], control: &Control, engine: &dyn Admin) -> (&'static str, String) {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    match (method, path) {
        (b"GET" | b"HEAD", b"/metrics") => ("200 OK", metrics(control, engine)),
        (b"GET" | b"HEAD", b"/health") => health(engine),
        (b"GET" | b"HEAD", _) => ("404 Not Found", "there are /metrics and /health\n".to_owned()),
        _ => ("405 Method Not Allowed", "GET and HEAD\n".to_owned()),
    }
}

/// Healthy means that writes are taken.
fn health(engine: &dyn Admin) -> (&'static str, String) {
    match engine.status().fault {
        Some(reason) => ("503 Service Unavailable", format!("read-only: {reason}\n")),
        None => ("200 OK", "ok\n".to_owned()),
    }
}

/// All metrics in Prometheus's text format.
fn metrics(control: &Control, engine: &dyn Admin) -> String {
    let mut text = String::new();
    let (totals, status) = (control.statistics.totals(), engine.status());
    for (name, help, value) in gauges(control, &status, engine.committed_keys()) {
        put(&mut text, name, "gauge", help, [(String::new(), value)]);
    }
    for (name, help, value) in counters(control, &status, &totals) {
        put(&mut text, name, "counter", help, [(String::new(), value)]);
    }
    for figure in engine.figures() {
        if let Some(number) = figure.number {
            put(
                &mut text,
                &format!("etcd_{}", figure.name),
                "gauge",
                figure.help,
                [(String::new(), number)],
            );
        }
    }
    let called =
        || command::names().iter().zip(&totals.called).filter(|(_, called)| called.calls > 0);
    let label = |name| format!("{{command=\"{name}\"}}");
    let calls = called().map(|(name, called)| (label(name), called.calls as f64));
    put(&mut text, "commands_total", "counter", "Commands run.", calls);
    let help = "Time spent in commands, without waiting for the disk.";
    let seconds = called().map(|(name, called)| (label(name), called.ns as f64 / 1e9));
    put(&mut text, "command_seconds_total", "counter", help, seconds);
    text
}

/// Appends a metric with its samples, each with its labels.
fn put(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl IntoIterator<Item = (String, f64)>,
) {
    // A write to a string cannot fail.
    let _ = writeln!(text, "# HELP coffre_{name} {help}\n# TYPE coffre_{name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(text, "coffre_{name}{labels} {value}");
    }
}

/// A metric without labels: its name, what it means, its value.
type Metric = (&'static str, &'static str, f64);

fn gauges(control: &Control, status: &Status, keys: usize) -> Vec<Metric> {
    let compaction = &status.compaction;
    vec![
        ("uptime_seconds", "Since the start.", control.started.elapsed().as_secs_f64()),
        ("connected_clients", "Clients connected.", control.clients.count() as f64),
        ("max_clients", "Most clients admitted at once.", control.clients.most() as f64),
        ("threads", "Threads of the process.", process::threads() as f64),
        ("keys", "Keys, as far as they are on disk.", keys as f64),
        ("memory_used_bytes", "Memory allocated.", memory::used_bytes() as f64),
        ("memory_peak_bytes", "Most memory allocated.", memory::peak_bytes() as f64),
        ("memory_resident_bytes", "Memory resident.", process::resident_bytes() as f64),
        ("memory_max_bytes", "Bound of memory, 0 if there is none.", memory::limit() as f64),
        ("file_bytes", "Length of the data file.", status.file_bytes as f64),
        ("file_dead_bytes", "Garbage in the data file.", status.garbage_bytes as f64),
        (
            "writes_refused",
            "1 while the data file takes no writes.",
            f64::from(u8::from(status.fault.is_some())),
        ),
        (
            "compaction_running",
            "1 while the file is compacted.",
            f64::from(u8::from(compaction.is_running)),
        ),
        (
            "last_save_timestamp_seconds",
            "When everything was last on disk.",
            compaction.saved_s as f64,
        ),
    ]
}

fn counters(control: &Control, status: &Status, totals: &Totals) -> Vec<Metric> {
    let times = |event| control.statistics.times(event) as f64;
    let [user, system] = process::processor_time();
    vec![
        ("connections_total", "Clients admitted.", times(Event::Connected)),
        ("rejected_connections_total", "Clients rejected.", times(Event::Rejected)),
        (
            "timed_out_clients_total",
            "Clients closed for being idle or slow.",
            times(Event::TimedOut),
        ),
        ("not_reading_clients_total", "Clients closed for not reading.", times(Event::NotReading)),
        ("malformed_requests_total", "Bytes that were no request.", times(Event::Malformed)),
        ("wrong_passwords_total", "Wrong passwords.", times(Event::WrongPassword)),
        ("panicked_clients_total", "Connections ended by a panic.", times(Event::Panicked)),
        ("keyspace_hits_total", "Keys read that were there.", totals.hits as f64),
        ("keyspace_misses_total", "Keys read that were not.", totals.misses as f64),
        ("expired_keys_total", "Keys removed because they had expired.", status.expired as f64),
        ("received_bytes_total", "Bytes received.", totals.received as f64),
        ("sent_bytes_total", "Bytes sent.", totals.sent as f64),
        ("errors_total", "Error replies to requests.", totals.errors() as f64),
        ("file_healed_total", "How often the data file was healed.", status.repairs as f64),
        ("cpu_user_seconds_total", "Processor time.", user.as_secs_f64()),
        ("cpu_system_seconds_total", "Processor time in the system.", system.as_secs_f64()),
    ]
}
