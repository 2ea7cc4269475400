//! What every layer uses and none is about: locks, memory, clocks, logging, the process.

pub mod buffer;
pub mod clock;
pub mod logging;
pub mod memory;
pub mod nearest;
pub mod password;
pub mod process;
pub mod rate_limit;
pub mod sync;
