//! What the engine does while no client calls, on a thread for each kind of work.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::LocalEngine;
use crate::engine::Admin;
use crate::limits::{EXPIRY_TICK_MS, UNDO_TICK_MS};
use crate::util::rate_limit::RateLimit;
use crate::util::tasks::spawn;

impl LocalEngine {
    /// Starts its threads: one watches the journal and repairs it, one commits the batches of many clients, one compacts the file, one deletes expired keys, one
    /// frees undo.
    pub fn start_threads(self: &Arc<Self>) -> io::Result<()> {
        spawn("journal", self, watch_journal)?;
        spawn("commit", self, Self::lead_gathered)?;
        spawn("compaction", self, |engine| engine.tend_compaction(Duration::from_millis(100)))?;
        spawn("expiry", self, remove_expired)?;
        spawn("undo", self, free_undo)
    }
}

/// Marks the file where it is idle, syncs it each second, and repairs it at once.
fn watch_journal(engine: &LocalEngine) {
    const HALF_A_SECOND: Duration = Duration::from_millis(500);
    static LOGGED: RateLimit = RateLimit::new(Duration::from_secs(10));
    let path = engine.path().display();
    let (mut before, mut is_logged) = (0, false);
    loop {
        for _ in 0..2 {
            if engine.wait_for_fault(HALF_A_SECOND) {
                if let (Some(reason), false) = (engine.status().fault, is_logged)
                    && LOGGED.allow()
                {
                    is_logged = true;
                    log::error!(
                        "{path}: {reason}: writes are refused until it is well again and those under way \
                         are taken back; reads go on"
                    );
                }
                repair(engine);
            }
            if is_logged && engine.status().fault.is_none() {
                is_logged = false;
                log::info!("{path}: well again, writes are taken");
            }
            before = engine.mark_idle(before);
        }
        engine.sync_second();
    }
}

/// Tries until the file takes writes. The pause after a failed repair is twice as long as the repair took, so that a
/// rewrite that fails late does not keep the disk busy.
fn repair(engine: &LocalEngine) {
    const PAUSE: Duration = Duration::from_millis(100);
    const PAUSE_MAX: Duration = Duration::from_secs(30);
    static LOGGED: RateLimit = RateLimit::new(Duration::from_secs(10));
    let mut pause = PAUSE;
    loop {
        thread::sleep(pause);
        let started = Instant::now();
        match engine.repair() {
            Ok(()) => return,
            Err(error) if LOGGED.allow() => log::warn!("still read-only: {error}"),
            Err(_) => {}
        }
        pause = (2 * started.elapsed()).clamp(PAUSE, PAUSE_MAX);
    }
}

/// Removes the keys that have expired. Where the journal refuses writes they stay, and are not seen.
fn remove_expired(engine: &LocalEngine) {
    thread::sleep(Duration::from_millis(EXPIRY_TICK_MS));
    engine.tick();
    let _ = engine.delete_expired();
}

/// Frees the undo of committed changes, and builds indexes: not on the journal's thread, which has deadlines.
fn free_undo(engine: &LocalEngine) {
    thread::sleep(Duration::from_millis(UNDO_TICK_MS));
    engine.free_all_undo();
    engine.build_indexes();
}
