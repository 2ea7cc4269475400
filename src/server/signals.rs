//! Signals as requests: the first SIGINT or SIGTERM stops the server, a second one ends the process at once, SIGUSR1
//! asks for a compaction. SIGHUP does nothing, so that a closed terminal stops no server; neither does SIGXFSZ, so that
//! a file size limit is an error of `write` like any other.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};

use super::{Control, Stop};
use crate::engine::Admin;
use crate::util::logging;

/// What signals act on once it runs.
#[derive(Clone, Default)]
pub struct Signals(Arc<OnceLock<Target>>);

type Target = (Arc<Control>, Arc<dyn Admin>);

impl Signals {
    /// Begins to handle signals. Until a server is [attached](Self::attach) one that stops it ends the process: nothing
    /// was acknowledged yet.
    pub fn handle() -> io::Result<Self> {
        let signals = Self::default();
        let mut received =
            signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGXFSZ])?;
        let target = signals.clone();
        let handle = move || target.act_on(received.forever());
        thread::Builder::new().name("signals".to_owned()).spawn(handle)?;
        Ok(signals)
    }

    /// From here on signals act on this server.
    pub fn attach(&self, control: &Arc<Control>, engine: &Arc<dyn Admin>) {
        let _ = self.0.set((Arc::clone(control), Arc::clone(engine)));
    }

    fn act_on(&self, received: impl Iterator<Item = i32>) {
        let mut is_asked = false;
        for signal in received {
            match (signal, self.0.get()) {
                (SIGHUP | SIGXFSZ, _) | (SIGUSR1, None) => {}
                (SIGUSR1, Some((_, engine))) => drop(engine.request_compaction()),
                (_, None) => signal_hook::low_level::exit(0),
                (_, Some((control, _))) if !is_asked => {
                    log::debug!("told to stop by signal {signal}");
                    is_asked = true;
                    control.stop(Stop::Save);
                }
                _ => {
                    logging::flush();
                    signal_hook::low_level::exit(128 + signal)
                }
            }
        }
    }
}
