//! What the system says of this process.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::DESCRIPTORS_RESERVED;

/// Resident memory, in bytes; 0 where the system does not say.
pub fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// Memory of the machine, in bytes; 0 where the system does not say.
pub fn machine_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    1024 * kib.unwrap_or(0_u64)
}

/// Processor time used by the program and by the system for it; zeros where the system does not say.
pub fn processor_time() -> [Duration; 2] {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name, in parentheses, may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let fields: Vec<u64> = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse().unwrap_or(0))
        .collect();
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
    [0, 1].map(|index| {
        let ticks = fields.get(index).copied().unwrap_or(0);
        Duration::from_millis(1000 * ticks / ticks_per_second)
    })
}

/// How many threads there are; 0 where the system does not say.
pub fn threads() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Makes room for so many clients among the process's file descriptors; returns for how many there is.
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
