//! What every layer uses and none is about: locks, memory, clocks, logging, background threads, the process.

pub(crate) mod buffer;
pub mod clock;
pub(crate) mod latency;
pub mod logging;
pub(crate) mod memory;
pub(crate) mod nearest;
pub(crate) mod password;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod rate_limit;
pub(crate) mod sync;
pub(crate) mod tasks;
