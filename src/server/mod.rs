//! What connections share beside the data: the list of clients, the counters, the slow log, the
//! monitors, the pause, and the request to stop, which may come as a signal.
//!
//! Nothing that connections call here waits for a client or a disk. Each part has a lock of its own, held for moments.
//! Lock order: the monitors' list, then a monitor's queue; no other two are held together.

mod clients;

mod monitors;
mod pause;
mod settings;
pub(crate) mod signals;
mod slowlog;
mod statistics;

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::Config;
use crate::script::Scripts;
use crate::util::memory;
use crate::util::random::random;
use crate::util::sync::{lock, wait};
use crate::util::tasks::spawn;

pub(crate) use clients::is_timeout;
pub use clients::{Client, Clients, Refusal};
pub(crate) use monitors::{MonitorQueue, Monitors};
pub(crate) use pause::{Pause, Paused};
pub(crate) use settings::Settings;
pub(crate) use slowlog::Slowlog;
pub use statistics::{BurstStats, Called, ERROR_CODES_MAX, Event, Statistics, Totals};

/// What all connections share beside the data.
#[derive(Debug)]
pub struct Control {
    // Constant after construction.
    /// The running configuration.
    pub(crate) config: Config,
    /// When the server began to run.
    pub(crate) started: Instant,
    /// Tells this run from any other: 40 hexadecimal digits.
    pub(crate) run_id: String,

    // Their own synchronization.
    /// The connected clients.
    pub clients: Clients,
    /// What has happened so far.
    pub statistics: Statistics,
    /// The commands that took long.
    pub(crate) slowlog: Slowlog,
    /// The clients in `MONITOR`.
    pub(crate) monitors: Monitors,
    /// Whether commands must wait.
    pub(crate) pause: Pause,
    /// The settings that may change.
    pub(crate) settings: Settings,
    /// The scripts that are known, and what runs them.
    pub(crate) scripts: Scripts,
    stopping: AtomicBool,

    /// How it is to stop, and since when.
    stop: Mutex<Option<(Stop, Instant)>>,
    stopped: Condvar,
}

/// How the server is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Everything is to be on disk; if the data file is faulted, a complete new one is written.
    Save,
    /// What is acknowledged is to be on disk; a faulted data file is left as it is.
    NoSave,
}

impl Control {
    /// For a server with that configuration and so many commands and subcommands.
    pub fn new(config: Config, commands: usize) -> Self {
        let started = Instant::now();
        Self {
            clients: Clients::new(config.maxclients as usize, started),
            statistics: Statistics::new(commands),
            slowlog: Slowlog::new(config.slowlog_log_slower_than),
            monitors: Monitors::default(),
            pause: Pause::default(),
            settings: Settings::new(&config),
            scripts: Scripts::default(),
            config,
            started,
            run_id: random_hex(),
            stopping: AtomicBool::new(false),
            stop: Mutex::new(None),
            stopped: Condvar::new(),
        }
    }

    /// Starts the thread that takes the samples of each second: the commands per second, and the peak of memory.
    pub(crate) fn start_sampling(self: &Arc<Self>) -> io::Result<()> {
        spawn("clock", self, |control| {
            thread::sleep(Duration::from_secs(1));
            control.statistics.sample();
            memory::used_bytes();
        })
    }

    /// Asks the server to stop. The first call says how.
    pub fn stop(&self, how: Stop) {
        lock(&self.stop).get_or_insert((how, Instant::now()));
        self.stopping.store(true, Ordering::Release);
        self.stopped.notify_all();
        self.pause.wake();
    }

    /// Whether protected mode denies a connection from `peer` to the address `local`.
    pub(crate) fn denies(&self, peer: IpAddr, local: Option<IpAddr>) -> bool {
        self.config.denies(self.settings.password().is_some(), peer, local)
    }

    /// Whether it was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits until the server is asked to stop; returns how, and when that was.
    pub fn wait_for_stop(&self) -> (Stop, Instant) {
        let mut stop = lock(&self.stop);
        loop {
            if let Some(asked) = *stop {
                return asked;
            }
            stop = wait(&self.stopped, stop);
        }
    }
}

/// Now, since the beginning of 1970.
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// 40 random hexadecimal digits.
fn random_hex() -> String {
    let words: String = (0..3).map(|_| format!("{:016x}", random())).collect();
    words[..40].to_owned()
}
