//! The workloads and their goals: the one table that everything else iterates over.

use crate::figures::Metric::{self, *};

/// What is done, and what was hoped for.
pub struct Workload {
    /// The conditions; what `--only` looks at.
    pub name: &'static str,
    /// What is done.
    pub load: Load,
    /// When a server syncs its log: a value of `--fsync` and of `--appendfsync`, which both know.
    pub fsync: &'static str,
    /// Hoped for, metric by metric.
    pub goals: &'static [(Metric, Goal)],
}

/// What is done. Numbers are those of a full run.
#[derive(Clone, Copy)]
pub enum Load {
    /// Operations of redis-benchmark, one after the other, on keys that are all there.
    Standard {
        operations: &'static [&'static str],
        clients: u32,
        pipeline: u32,
        processes: u32,
        requests: u32,
    },
    /// 80 % GET and 20 % SET with zipfian keys, each client waiting for its reply.
    Mixed { clients: u32 },
    /// One client GETs while others SET.
    GetDuringSets { clients: u32 },
    /// One client GETs, first alone, then while another loops `KEYS *`.
    GetDuringKeys { keys: u32 },
    /// `KEYS prefix*` with ten matches.
    KeysPrefix { keys: u32 },
    /// So many keys loaded: memory, disk, and start-up on them.
    Keys { keys: u32 },
    /// New keys before and after a first `KEYS prefix*`, which may build an index.
    PrefixIndex { keys: u32 },
}

/// What was hoped for.
#[derive(Clone, Copy)]
pub enum Goal {
    /// coffre's figure over Redis's, for what is better when greater.
    RatioAtLeast(f64),
    /// coffre's figure over Redis's, for what is better when less.
    RatioAtMost(f64),
    /// coffre's own figure.
    AtMost(f64),
}

impl Workload {
    /// Loading millions of keys takes long and varies little: it is not repeated more often.
    pub fn repetitions_max(&self) -> u32 {
        match self.load {
            Load::Keys { .. } | Load::KeysPrefix { .. } => 3,
            _ => u32::MAX,
        }
    }

    /// Whether it says something about coffre only.
    pub fn is_of_coffre_only(&self) -> bool {
        matches!(self.load, Load::PrefixIndex { .. })
    }
}

/// Writes first, then reads.
const SET_GET: &[&str] = &["SET", "GET"];

/// A workload of redis-benchmark. The requests are for one to three seconds on two cores.
const fn standard(clients: u32, pipeline: u32, processes: u32, requests: u32) -> Load {
    Load::Standard { operations: SET_GET, clients, pipeline, processes, requests }
}

/// The same with writes only.
const fn standard_set(clients: u32, pipeline: u32, requests: u32) -> Load {
    Load::Standard { operations: &["SET"], clients, pipeline, processes: 1, requests }
}

/// Everything that is measured.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "50 clients, no pipeline, fsync no",
        load: standard(50, 1, 1, 120_000),
        fsync: "no",
        goals: &[(Throughput, Goal::RatioAtLeast(1.05)), (P99, Goal::RatioAtMost(2.0))],
    },
    Workload {
        name: "1 client, no pipeline, fsync no",
        load: standard(1, 1, 1, 40_000),
        fsync: "no",
        goals: &[(Throughput, Goal::RatioAtLeast(1.3))],
    },
    Workload {
        name: "50 clients, pipeline 16, fsync no",
        load: standard(50, 16, 1, 800_000),
        fsync: "no",
        goals: &[(Throughput, Goal::RatioAtLeast(1.8)), (Cpu, Goal::RatioAtMost(0.6))],
    },
    Workload {
        name: "50 clients, pipeline 64, two load processes, fsync no",
        load: standard(50, 64, 2, 1_500_000),
        fsync: "no",
        goals: &[(Throughput, Goal::RatioAtLeast(2.0)), (Cpu, Goal::RatioAtMost(0.6))],
    },
    Workload {
        name: "50 clients, no pipeline, fsync everysec",
        load: standard_set(50, 1, 120_000),
        fsync: "everysec",
        goals: &[],
    },
    Workload {
        name: "50 clients, pipeline 16, fsync everysec",
        load: standard_set(50, 16, 800_000),
        fsync: "everysec",
        goals: &[],
    },
    Workload {
        name: "50 clients, no pipeline, fsync always",
        load: standard_set(50, 1, 40_000),
        fsync: "always",
        goals: &[(Throughput, Goal::RatioAtLeast(1.0))],
    },
    Workload {
        name: "50 clients, pipeline 16, fsync always",
        load: standard_set(50, 16, 400_000),
        fsync: "always",
        goals: &[(Throughput, Goal::RatioAtLeast(2.0))],
    },
    Workload {
        name: "GET while 50 others SET, fsync always",
        load: Load::GetDuringSets { clients: 50 },
        fsync: "always",
        goals: &[(P99, Goal::RatioAtMost(0.5))],
    },
    Workload {
        name: "80 % GET, 20 % SET, zipfian keys, 50 clients, fsync no",
        load: Load::Mixed { clients: 50 },
        fsync: "no",
        goals: &[],
    },
    Workload {
        name: "GET while another loops KEYS *, 1 million keys",
        load: Load::GetDuringKeys { keys: 1_000_000 },
        fsync: "no",
        goals: &[(WithOverWithout, Goal::AtMost(1.2))],
    },
    Workload {
        name: "KEYS prefix*, 10 matches of 2 million keys",
        load: Load::KeysPrefix { keys: 2_000_000 },
        fsync: "no",
        goals: &[(KeysTime, Goal::AtMost(1.0))],
    },
    Workload {
        name: "1 million keys",
        load: Load::Keys { keys: 1_000_000 },
        fsync: "no",
        goals: &[(Memory, Goal::AtMost(64.0))],
    },
    Workload {
        name: "2 million keys",
        load: Load::Keys { keys: 2_000_000 },
        fsync: "no",
        goals: &[(Memory, Goal::AtMost(64.0)), (Startup, Goal::RatioAtMost(0.7))],
    },
    Workload {
        name: "5 million keys",
        load: Load::Keys { keys: 5_000_000 },
        fsync: "no",
        goals: &[(Memory, Goal::AtMost(64.0))],
    },
    Workload {
        name: "new keys after a first KEYS prefix*",
        load: Load::PrefixIndex { keys: 1_000_000 },
        fsync: "no",
        goals: &[],
    },
];

/// Why Redis is ahead, or a goal is missed, where that is known: by the name of the workload.
pub const REASONS: &[(&str, &str)] = &[
    (
        "50 clients, no pipeline, fsync no",
        "each client has a thread, and a request ends with a switch to another one, which takes the kernel \
         about as long as the request takes coffre, while Redis's one thread goes on to the next; writes meet \
         in the journal besides, where one leads and the others may have to wait for it",
    ),
    (
        "1 client, no pipeline, fsync no",
        "most of the time goes to waking up two idle processors in turn, which is the same for both",
    ),
    (
        "50 clients, pipeline 16, fsync no",
        "redis-benchmark's one thread is busy before coffre is, so no server can be twice as fast as Redis \
         here, and half of coffre's processor time is the kernel's, for a switch of threads with each burst; \
         SETs also pay for quoting, a checksum and what it takes to take a write back",
    ),
    (
        "50 clients, pipeline 64, two load processes, fsync no",
        "the load shares both processors with the server, and a GET costs either of them so little that \
         sockets and switches of threads are most of it; fifty threads that always have something to do are \
         let run for a whole slice each, so that some wait longer than with Redis, which takes all in turn",
    ),
    ("50 clients, no pipeline, fsync everysec", "as without a pipeline and without fsync"),
    ("50 clients, pipeline 16, fsync everysec", "as with a pipeline and without fsync"),
    (
        "50 clients, no pipeline, fsync always",
        "while one batch is synced the clients of the one before send their next requests: so each sync serves \
         about half of them, and Redis's all, which then wait together",
    ),
    (
        "50 clients, pipeline 16, fsync always",
        "as without a pipeline: each sync serves about half of the clients",
    ),
    (
        "80 % GET, 20 % SET, zipfian keys, 50 clients, fsync no",
        "as without a pipeline; and whoever reads a key that was just written waits until that is in the file",
    ),
    (
        "GET while 50 others SET, fsync always",
        "the reads of coffre wait for no sync, but for a processor: the threads that write take turns on both",
    ),
    (
        "GET while another loops KEYS *, 1 million keys",
        "no lock is held for longer than it takes to copy one shard's keys, but 25 MB of reply are made, sent \
         and read on the same two processors that the reads need",
    ),
];
