//! Work that goes on while no client calls.

use std::io;
use std::sync::Arc;
use std::thread;

use super::memory;
use super::sync::abort_on_panic;

/// Starts a thread that does `work` again and again. The process ends with it: without it the server would only seem to
/// be well.
pub fn spawn<T: Send + Sync + 'static>(name: &str, on: &Arc<T>, work: fn(&T)) -> io::Result<()> {
    let on = Arc::clone(on);
    let run = move || {
        loop {
            work(&on);
            memory::flush_thread_count();
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(|| abort_on_panic(run)).map(drop)
}
