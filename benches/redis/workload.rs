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
    /// Hoped for, by the operation of a [`Figure`](crate::figures::Figure) and its metric.
    pub goals: &'static [(&'static str, Metric, Goal)],
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
    /// `KEYS prefix*` with ten matches: the first one, and another client's GETs meanwhile; then more of them.
    KeysPrefix { keys: u32 },
    /// So many keys loaded: memory, disk, start-up on them, and GETs of any of them, 50 clients, pipeline 16.
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
    /// coffre's own figure, for what is better when less.
    AtMost(f64),
    /// The same for what is better when greater.
    AtLeast(f64),
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

/// Clients that wait for each reply, shared by two load processes if they are many.
const fn unpipelined(
    name: &'static str,
    clients: u32,
    fsync: &'static str,
    goals: &'static [(&'static str, Metric, Goal)],
) -> Workload {
    let requests = match fsync.as_bytes() {
        b"no" if clients == 1 => 40_000,
        b"no" => 120_000,
        _ => 60_000,
    };
    let processes = if clients < MANY { 1 } else { 2 };
    Workload { name, load: standard(clients, 1, processes, requests), fsync, goals }
}

/// So many clients are many.
const MANY: u32 = 100;

/// For 500 and for 1,000 clients.
const MANY_CLIENTS: &[(&str, Metric, Goal)] = &[
    ("SET", Throughput, Goal::RatioAtLeast(1.0)),
    ("GET", Throughput, Goal::RatioAtLeast(1.0)),
    ("SET", P99, Goal::RatioAtMost(1.5)),
    ("GET", P99, Goal::RatioAtMost(1.5)),
    ("SET", Cpu, Goal::RatioAtMost(1.5)),
    ("GET", Cpu, Goal::RatioAtMost(1.5)),
    ("SET", OfFifty, Goal::AtLeast(0.9)),
    ("GET", OfFifty, Goal::AtLeast(0.9)),
];

/// The growth from 1 to 5,000 clients is what these rows show, and the plot of it.
pub const GROWTH_SUFFIX: &str = ", no pipeline, fsync no";

/// Scripts of one GET each.
const SCRIPTS: Load = Load::Standard {
    operations: &["EVAL"],
    clients: 50,
    pipeline: 1,
    processes: 1,
    requests: 120_000,
};

/// Everything that is measured.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "50 clients, scripts, fsync no",
        load: SCRIPTS,
        fsync: "no",
        goals: &[("EVAL", Throughput, Goal::RatioAtLeast(1.0))],
    },
    unpipelined(
        "1 client, no pipeline, fsync no",
        1,
        "no",
        &[
            ("SET", Throughput, Goal::RatioAtLeast(1.2)),
            ("GET", Throughput, Goal::RatioAtLeast(2.0)),
        ],
    ),
    unpipelined("10 clients, no pipeline, fsync no", 10, "no", &[]),
    unpipelined(
        "50 clients, no pipeline, fsync no",
        50,
        "no",
        &[
            ("SET", Throughput, Goal::RatioAtLeast(1.05)),
            ("GET", Throughput, Goal::RatioAtLeast(1.15)),
            ("SET", P99, Goal::RatioAtMost(1.5)),
            ("GET", P99, Goal::RatioAtMost(1.5)),
            ("SET", Cpu, Goal::RatioAtMost(1.15)),
            ("GET", Cpu, Goal::RatioAtMost(1.15)),
        ],
    ),
    unpipelined("100 clients, no pipeline, fsync no", 100, "no", &[]),
    unpipelined("500 clients, no pipeline, fsync no", 500, "no", MANY_CLIENTS),
    unpipelined("1,000 clients, no pipeline, fsync no", 1_000, "no", MANY_CLIENTS),
    unpipelined("5,000 clients, no pipeline, fsync no", 5_000, "no", &[]),
    Workload {
        name: "50 clients, pipeline 16, fsync no",
        load: standard(50, 16, 1, 800_000),
        fsync: "no",
        goals: &[
            ("SET", Throughput, Goal::RatioAtLeast(1.3)),
            ("GET", Throughput, Goal::RatioAtLeast(1.2)),
            ("SET", Cpu, Goal::RatioAtMost(0.9)),
            ("GET", Cpu, Goal::RatioAtMost(0.7)),
        ],
    },
    Workload {
        name: "50 clients, pipeline 64, two load processes, fsync no",
        load: standard(50, 64, 2, 1_500_000),
        fsync: "no",
        goals: &[
            ("SET", Throughput, Goal::RatioAtLeast(1.6)),
            ("GET", Throughput, Goal::RatioAtLeast(1.4)),
            ("SET", Cpu, Goal::RatioAtMost(0.7)),
            ("GET", Cpu, Goal::RatioAtMost(0.6)),
        ],
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
    unpipelined(
        "50 clients, no pipeline, fsync always",
        50,
        "always",
        &[("SET", Throughput, Goal::RatioAtLeast(1.0))],
    ),
    unpipelined("500 clients, no pipeline, fsync always", 500, "always", MANY_CLIENTS),
    unpipelined("1,000 clients, no pipeline, fsync always", 1_000, "always", MANY_CLIENTS),
    Workload {
        name: "50 clients, pipeline 16, fsync always",
        load: standard_set(50, 16, 400_000),
        fsync: "always",
        goals: &[("SET", Throughput, Goal::RatioAtLeast(1.5))],
    },
    Workload {
        name: "50 clients, no pipeline, fsync always that takes 1 ms more",
        load: standard_set(50, 1, 20_000),
        fsync: SLOW_ALWAYS,
        goals: &[("SET", Throughput, Goal::RatioAtLeast(1.0))],
    },
    Workload {
        name: "50 clients, pipeline 16, fsync always that takes 1 ms more",
        load: standard_set(50, 16, 300_000),
        fsync: SLOW_ALWAYS,
        goals: &[("SET", Throughput, Goal::RatioAtLeast(1.5))],
    },
    Workload {
        name: "GET while 50 others SET, fsync always",
        load: Load::GetDuringSets { clients: 50 },
        fsync: "always",
        goals: &[("", P99, Goal::RatioAtMost(0.5))],
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
        goals: &[("p99", WithOverWithout, Goal::AtMost(1.2))],
    },
    Workload {
        name: "KEYS prefix*, 10 matches of 2 million keys",
        load: Load::KeysPrefix { keys: 2_000_000 },
        fsync: "no",
        goals: &[
            ("the first", KeysTime, Goal::AtMost(100.0)),
            ("GET beside the first", P99, Goal::AtMost(5.0)),
            ("later", KeysTime, Goal::AtMost(1.0)),
        ],
    },
    Workload {
        name: "2 million keys",
        load: Load::Keys { keys: 2_000_000 },
        fsync: "no",
        goals: MILLIONS,
    },
    Workload {
        name: "10 million keys",
        load: Load::Keys { keys: 10_000_000 },
        fsync: "no",
        goals: MILLIONS,
    },
    Workload {
        name: "new keys after a first KEYS prefix*",
        load: Load::PrefixIndex { keys: 1_000_000 },
        fsync: "no",
        goals: &[],
    },
];

/// For 2 and for 10 million keys.
const MILLIONS: &[(&str, Metric, Goal)] = &[
    ("", Memory, Goal::AtMost(60.0)),
    ("", Startup, Goal::RatioAtMost(0.7)),
    ("", StartupMemory, Goal::AtMost(64.0)),
    (RANDOM_GET, Throughput, Goal::RatioAtLeast(1.5)),
];

/// GETs of any of millions of keys.
pub const RANDOM_GET: &str = "GET of any, pipeline 16";

/// As `always`, on a disk whose fsync takes 1 ms more, see [`crate::slow_fsync`].
pub const SLOW_ALWAYS: &str = "always, 1 ms more";

/// Why Redis is ahead, or a goal is missed, where that is known: by the name of the workload.
pub const REASONS: &[(&str, &str)] = &[
    (
        "1 client, no pipeline, fsync no",
        "most of the time goes to waking up two idle processors in turn, which is the same for both",
    ),
    ("10 clients, no pipeline, fsync no", SWITCHES),
    ("50 clients, no pipeline, fsync no", SWITCHES),
    ("100 clients, no pipeline, fsync no", SWITCHES),
    ("500 clients, no pipeline, fsync no", MANY_SWITCHES),
    ("1,000 clients, no pipeline, fsync no", MANY_SWITCHES),
    ("5,000 clients, no pipeline, fsync no", MANY_SWITCHES),
    (
        "50 clients, pipeline 16, fsync no",
        "a third of coffre's processor time is still the kernel's, for two switches of threads with each burst; SETs also \
         pay for quoting, a checksum and what it takes to take a write back",
    ),
    (
        "50 clients, pipeline 64, two load processes, fsync no",
        "the load shares both processors with the server; a quarter of coffre's time goes to switches of threads, and \
         fifty threads that always have something to do are let run for a whole slice each, so that some wait longer than \
         with Redis, which takes all in turn",
    ),
    ("50 clients, no pipeline, fsync everysec", "as without a pipeline and without fsync"),
    ("50 clients, pipeline 16, fsync everysec", "as with a pipeline and without fsync"),
    ("50 clients, no pipeline, fsync always", HALF),
    ("50 clients, pipeline 16, fsync always", HALF),
    ("50 clients, no pipeline, fsync always that takes 1 ms more", HALF),
    ("50 clients, pipeline 16, fsync always that takes 1 ms more", HALF),
    ("500 clients, no pipeline, fsync always", MANY_SWITCHES),
    ("1,000 clients, no pipeline, fsync always", MANY_SWITCHES),
    (
        "80 % GET, 20 % SET, zipfian keys, 50 clients, fsync no",
        "as without a pipeline; and a read of a key that was just written waits until that is in the file",
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
    (
        "KEYS prefix*, 10 matches of 2 million keys",
        "alone it takes 85 ms; here another client reads meanwhile, and a thread begins to build the index",
    ),
    ("2 million keys", A_KEY),
    ("10 million keys", A_KEY),
];

const SWITCHES: &str = "each client has a thread, and a request ends with a switch to another one, which takes the kernel \
    longer than the request takes coffre, while Redis's one thread goes on to the next: half of coffre's time is switches \
    of threads, a quarter is sending; writes meet in the journal besides, where one leads and the others may have to wait";

const MANY_SWITCHES: &str = "a request finds its thread asleep, and waking it costs what a whole request costs Redis: see \
    below what a thread for each client cannot do";

const HALF: &str = "while one batch is synced the clients of the one before send their next requests: so each sync serves \
    about half of them, and Redis's all, which then wait together; waiting for more of them made it slower";

const A_KEY: &str = "a key and a value of 16 bytes take 48 bytes with their lengths, as the allocator gives them, and the \
    table, which grows by doubling, 15 on the average of its states; a GET with a pipeline is a few cache misses in \
    either server, and for the rest sockets";
