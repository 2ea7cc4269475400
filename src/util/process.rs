//! What the system says of this process; zeros where it says nothing.

use std::time::Duration;

use procfs::process::{Process, Stat};
use procfs::{Current, Meminfo};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::DESCRIPTORS_RESERVED;

/// Resident memory, in bytes.
pub fn resident_bytes() -> u64 {
    stat().map_or(0, |stat| stat.rss * procfs::page_size())
}

/// Memory of the machine, in bytes.
pub fn machine_bytes() -> u64 {
    Meminfo::current().map_or(0, |memory| memory.mem_total)
}

/// Processor time used by the program, and by the system for it.
pub fn processor_time() -> [Duration; 2] {
    let ticks = stat().map_or([0; 2], |stat| [stat.utime, stat.stime]);
    ticks.map(|ticks| Duration::from_millis(1000 * ticks / procfs::ticks_per_second()))
}

/// Number of threads.
pub fn threads() -> u64 {
    stat().map_or(0, |stat| stat.num_threads.unsigned_abs())
}

fn stat() -> Option<Stat> {
    Process::myself().ok()?.stat().ok()
}

/// Raises the limit of file descriptors so that there is one for each of so many clients; returns for how many there is.
pub fn make_room_for(clients: u32) -> u32 {
    let wanted = u64::from(clients) + DESCRIPTORS_RESERVED;
    let limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(u64::MAX);
    if soft >= wanted {
        return clients;
    }
    let raised = limit.maximum.map_or(wanted, |hard| hard.min(wanted)).max(soft);
    let raising = Rlimit { current: Some(raised), maximum: limit.maximum };
    let have = setrlimit(Resource::Nofile, raising).map_or(soft, |()| raised);
    u32::try_from(have.saturating_sub(DESCRIPTORS_RESERVED)).unwrap_or(clients).max(1)
}
