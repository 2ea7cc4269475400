//! The bounds and the sizes of coffre, by layer, with the relations between them checked at compile time.
//!
//! A name ends in its unit. What a user can change is in [`crate::config`].

// Keys, values and databases.

/// Longest key or value that `--max-value` allows, in bytes (Redis: `proto-max-bulk-len`).
pub const VALUE_BYTES_MAX: usize = 512 << 20;

/// The length of the blocks that a long value consists of, in bytes. Readers share them; a shorter value is in one piece,
/// beside its key unless it grew. A `GET` copies at most so much while it holds a shard's lock.
pub const VALUE_BLOCK_BYTES: usize = 64 << 10;

/// Most databases: each may have a table in each shard.
pub const DATABASES_MAX: usize = 256;

// Requests.

/// Largest request that `--max-request` allows, in bytes (Redis: `client-query-buffer-limit`).
pub const REQUEST_BYTES_MAX: usize = 1 << 30;

/// Most arguments of a request, with the command's name (Redis: 2,147,483,647).
pub const ARGUMENTS_MAX: usize = 1 << 20;

/// Longest inline request line, in bytes, without its line end. Redis stops at 64 KiB, but a line of `donnees.txt` must
/// replay through netcat.
pub const INLINE_BYTES_MAX: usize = 1 << 20;

/// Longest `*count` or `$length` line, in bytes: enough for `$-9223372036854775808` and its CR LF.
pub const HEADER_BYTES_MAX: usize = 32;

/// Most arguments of a request before `AUTH` (Redis's bound).
pub const UNAUTHENTICATED_ARGUMENTS_MAX: usize = 10;

/// Longest argument or line of a request before `AUTH`, in bytes (Redis's bound).
pub const UNAUTHENTICATED_ARGUMENT_BYTES_MAX: usize = 16 << 10;

/// A request longer than this, in bytes, counts against `--maxmemory` before it is complete.
pub const LARGE_REQUEST_BYTES: usize = 64 << 10;

/// Longest request, in bytes, that may still arrive once `--maxmemory` is reached, so that many keys can be removed at
/// once. [`REQUEST_SLACK_SHARE`] bounds all of them together.
pub const SLACK_REQUEST_BYTES: usize = 4 << 20;

/// The room for such requests, as a part of `--maxmemory`: one in so many.
pub const REQUEST_SLACK_SHARE: usize = 8;

/// What all clients together may hold before `AUTH`, beside a small buffer each, in bytes.
pub const UNAUTHENTICATED_BYTES_MAX: usize = 8 << 20;

// Replies.

/// Replies held back until they are committed and sent, in bytes; one reply may exceed it.
pub const REPLY_BYTES_MAX: usize = 256 << 10;

/// How many bytes of a client's unread replies may be copies. It bounds the reply to `KEYS`, to `MGET` of short values and
/// to an `EXEC`: a command whose reply would be longer gets an error.
pub const REPLY_COPIED_BYTES_MAX: usize = 64 << 20;

/// How long the values may be that a client's unread replies share with the store, each counted once, in bytes; one value
/// may exceed it.
pub const REPLY_SHARED_BYTES_MAX: usize = 1 << 30;

/// A reply longer than this, in bytes, counts against `--maxmemory`.
pub const LARGE_REPLY_BYTES: usize = 1 << 20;

/// Longest replies, in bytes, that the committing thread sends in place of the connection's own thread.
pub const DELIVERED_BYTES_MAX: usize = 16 << 10;

// Connections.

/// Connections that the kernel may hold before `accept`.
pub const LISTEN_BACKLOG: i32 = 4096;

/// File descriptors kept for files, listeners and signals (Redis's number).
pub const DESCRIPTORS_RESERVED: u64 = 32;

/// A connection's read buffer at first, and once the client has been idle for [`TICK_MS`], in bytes. It is small because
/// there may be ten thousand of them, and grows for a longer request.
pub const IDLE_BUFFER_BYTES: usize = 512;

/// A connection's read buffer in use, in bytes.
pub const READ_BUFFER_BYTES: usize = 16 << 10;

/// How far the read buffer grows for a pipelining client, in bytes. Only for one large request it grows further, and only
/// as its bytes arrive.
pub const BURST_BYTES_MAX: usize = 256 << 10;

/// Spare capacity that each buffer of a connection may keep, in bytes.
pub const CLIENT_SPARE_BYTES_MAX: usize = 16 << 10;

/// From so many clients on a thread blocks at once while its reply waits for a commit, and the journal gathers batches:
/// with hundreds of threads in the run queue each look at a socket costs a switch of threads, up to ten microseconds.
pub const MANY_CLIENTS: usize = 128;

/// How often a read polls for bytes before it blocks, at most: about a microsecond each.
pub const POLLS_MAX: u32 = 64;

/// By how much the number of polls grows each time polling has found bytes.
pub const POLLS_MORE: u32 = 8;

/// How often a connection that waits for bytes checks its deadlines, in milliseconds: once while the client is idle, again
/// and again once a request has begun.
pub const TICK_MS: u64 = 1_000;

/// Slowest rate at which a request may arrive once `--request-timeout` is over, in bytes per second.
pub const REQUEST_BYTES_PER_S: u64 = 16 << 10;

/// How long a connection that was closed by an error waits for the peer to read that error, in milliseconds.
pub const LINGER_MS_MAX: u64 = 1_000;

/// How many bytes such a connection reads and discards meanwhile.
pub const LINGER_BYTES_MAX: usize = 4 << 20;

/// Most threads that wait for another client.
pub const IDLE_THREADS_MAX: usize = 64;

/// How long an idle thread waits, in milliseconds.
pub const IDLE_THREAD_MS: u64 = 1_000;

/// Stack of a client's thread, in bytes; only touched pages take memory. No command recurses, and the deepest call chain
/// measured uses under 16 KiB; but Lua may call itself 200 times over, once more within a coroutine.
pub const CLIENT_STACK_BYTES: usize = 512 << 10;

// Commands.

/// Longest `KEYS` pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 64 << 10;

/// Most cells of the table that `LCS` keeps, of four bytes each.
pub const LCS_TABLE_CELLS_MAX: usize = 16 << 20;

/// Most cells that `LCS` computes: about two seconds of the client's own thread.
pub const LCS_CELLS_MAX: u64 = 1 << 30;

/// What a client may keep for `EXEC`, and as much for `WATCH`, before `--maxmemory` may refuse more, in bytes.
pub const TRANSACTION_BYTES_SURE: usize = 1 << 20;

/// What the keys that a client watches may take, in bytes: about 60,000 short ones.
pub const WATCH_BYTES_MAX: usize = 16 << 20;

// Server: what connections share.

/// Longest password, in bytes: a comparison always takes the time of the longest.
pub const PASSWORD_BYTES_MAX: usize = 512;

/// Entries that `SLOWLOG` keeps at first.
pub const SLOWLOG_ENTRIES_MAX: usize = 128;

/// Most words of a request that `SLOWLOG` keeps.
pub const SLOW_ARGUMENTS_MAX: usize = 32;

/// How much of each word `SLOWLOG` keeps, in bytes.
pub const SLOW_ARGUMENT_BYTES_MAX: usize = 128;

/// How much of a command a line of `MONITOR` shows, in bytes; escapes make it up to four times as long.
pub const MONITOR_LINE_BYTES_MAX: usize = 16 << 10;

/// Most bytes that wait for a client of `MONITOR`; more closes it.
pub const MONITOR_QUEUE_BYTES_MAX: usize = 1 << 20;

/// Longest request to the metrics port, in bytes.
pub const METRICS_REQUEST_BYTES_MAX: usize = 8 << 10;

/// How long a request to the metrics port may take, in milliseconds.
pub const METRICS_MS_MAX: u64 = 500;

/// Threads that answer on the metrics port, for each address.
pub const METRICS_THREADS: usize = 4;

/// Most log lines that wait to be written.
pub const LOG_LINES_MAX: usize = 1024;

/// How long a stopping server lets clients finish, in milliseconds.
pub const DRAIN_MS_MAX: u64 = 600;

/// How long after a stop request the server waits for a disk that does not answer, in milliseconds.
pub const STOP_MS_MAX: u64 = 900;

/// How long a stopping server waits for a rewrite that makes no progress, in milliseconds: without the rewrite there may be
/// no data file.
pub const REWRITE_MS_MAX: u64 = 5_000;

// Engine: work under locks.

/// Number of shards of the store, each with a lock.
pub const SHARDS: usize = 256;

/// Sequence numbers of last writes per shard: the more, the fewer reads wait for a write of another key.
pub const SEQUENCES_PER_SHARD: usize = 128;

/// How much work a transaction may do while it holds locks, in nanoseconds as [`work`] estimates them; one that does more
/// is rolled back.
pub const LOCKED_WORK_MAX: u64 = 40_000_000;

/// Estimates of work under locks, in nanoseconds: measured on the machine of the benchmarks, and rather too high.
pub mod work {
    /// One command of a transaction, beside what it does.
    pub const COMMAND: u64 = 300;
    /// Looking for a key, or setting it.
    pub const KEY: u64 = 100;
    /// Removing a key.
    pub const REMOVED_KEY: u64 = 130;
    /// Listing a key.
    pub const LISTED_KEY: u64 = 60;
    /// Comparing four bytes, or copying them to a reply.
    pub const FOUR_BYTES: u64 = 1;
    /// Writing a byte of a value: copying, quoting and copying it again.
    pub const WRITTEN_BYTE: u64 = 2;
    /// A cell of the table of `LCS`.
    pub const LCS_CELL: u64 = 2;
}

/// Most requests of a burst that are run in one transaction of an engine that likes few: etcd takes 128 steps at once, and
/// a request has two or three.
pub const TOGETHER_MAX: usize = 60;

/// How long those requests may be, in bytes. The last of them may exceed it.
pub const TOGETHER_BYTES_MAX: usize = 256 << 10;

/// How many keys `EXISTS` looks for while it holds locks.
pub const KEYS_AT_ONCE: usize = 1024;

/// Most hashes that a connection keeps for its next `SCAN`.
pub const SCAN_WINDOW: usize = 4096;

/// Up to so many new keys of a shard, a search for a prefix looks through them all; more are sorted into the index.
pub const NEWS_KEYS_MAX: usize = 64;

/// The same as a part of the shard's keys, one in so many, so that the cost of sorting stays bounded for each key.
pub const NEWS_SHARE: usize = 64;

// Engine: undo.

/// The undo that the changes of one burst may keep before they are committed, in bytes; one change may exceed it.
pub const UNDO_BYTES_MAX: usize = 1 << 20;

/// How many changes of a shard are freed while its lock is held.
pub const UNDO_RELEASED_MAX: usize = 4096;

/// A thread of its own frees a superseded value longer than this, in bytes, in place of the next writer.
pub const HEAVY_UNDO_BYTES: usize = 256 << 10;

/// Spare capacity, in changes, of the lists of undo.
pub const UNDO_SPARE: usize = 16;

/// How often the thread that frees undo runs, in milliseconds.
pub const UNDO_TICK_MS: u64 = 200;

// Engine: expiry and the clock.

/// How many expired keys are removed while a shard's lock is held.
pub const EXPIRED_AT_ONCE: usize = 128;

/// How often the server looks for expired keys, in milliseconds.
pub const EXPIRY_TICK_MS: u64 = 100;

/// The wall clock has jumped if it gains or loses so much at once, in milliseconds.
pub const CLOCK_JUMP_MS: i64 = 5_000;

/// How long keys that expired by a jump forward are kept, unseen, in milliseconds.
pub const CLOCK_TRUST_MS: u64 = 60_000;

// Journal.

/// How many callbacks the last batch had, at least, where the gatherer leads the next.
pub const GATHERED_MIN: usize = 2;

/// How long the gatherer waits for as many callbacks as it expects, at most, in microseconds. A switch of threads takes up
/// to ten of them.
pub const GATHER_US: u64 = 500;

/// A record of at least so many bytes moves from buffer to buffer without being copied.
pub const LARGE_RECORD_BYTES: usize = 32 << 10;

/// How much text of a long value is made at once when a record with it is written, in bytes; four times
/// [`QUOTED_AT_ONCE`] may come on top. Little, as there is memory for little nearly always: without it the write fails.
pub const RECORD_CHUNK_BYTES: usize = 64 << 10;

/// How many bytes of a long value become text at once.
pub const QUOTED_AT_ONCE: usize = 8 << 10;

/// Length at which a `DEL` line of the data file ends, in bytes; more keys go on further lines. Redis replays inline lines
/// of up to 64 KiB.
pub const DEL_LINE_BYTES_MAX: usize = 32 << 10;

/// Spare capacity that each buffer of the journal may keep, in bytes.
pub const JOURNAL_SPARE_BYTES_MAX: usize = 4 << 20;

// Compaction.

/// How far the data file may exceed 1.5 times its live data before it is compacted, in bytes.
pub const DEAD_BYTES_MAX: u64 = 24 << 20;

/// How far the data file may exceed 1.75 times its live data before writers are slowed down, in bytes: it must stay below
/// twice its live data and 64 MiB, however fast they are.
pub const LENGTH_BYTES_MAX: u64 = 40 << 20;

/// How fast writers that are slowed down may write together, in bytes per second.
pub const SLOWED_BYTES_PER_S: u64 = 32 << 20;

/// Length at which a batch of a new file is sealed, in bytes; one record may exceed it.
pub const DRAFT_BATCH_BYTES: usize = 1 << 20;

/// How many bytes of a new file are written between two fsyncs.
pub const NEW_FILE_SYNC_BYTES: u64 = 16 << 20;

/// Longest value that a new file holds in one record, in bytes, unless the key is longer; `SETRANGE` records follow with
/// the rest. Written as `\xHH` throughout, it still fits an inline line.
pub const SNAPSHOT_VALUE_BYTES_MAX: usize = 128 << 10;

/// How many bytes of a shard a compaction copies while it holds the lock.
pub const SNAPSHOT_COPY_BYTES_MAX: usize = 128 << 10;

// Engine: etcd.

/// Most connections to a cluster, however many clients there are.
pub const ETCD_CONNECTIONS_MAX: usize = 64;

/// Longest request to a cluster, in bytes: etcd advises against a longer `--max-request-bytes`. What a cluster really
/// takes, 1.5 MiB unless that flag is given, it says itself.
pub const ETCD_REQUEST_BYTES_MAX: usize = 10 << 20;

/// Longest reply of a cluster, in bytes of JSON.
pub const ETCD_REPLY_BYTES_MAX: u64 = 64 << 20;

/// Most keys that are read by one request to a cluster: etcd's `--max-txn-ops` is 128, unless it is given.
pub const ETCD_READS_MAX: usize = 64;

/// Batches of clients' reads under way at once, and of their transactions. With fewer each is fuller, and a long one keeps
/// more clients waiting: 50 clients got 5,440 `SET`s a second with one, 5,030 with two, 4,900 with four, 4,200 with eight and 2,320 with all
/// connections.
pub const ETCD_BATCHES_MAX: usize = 3;

/// Most steps of a transaction of etcd that does those of several clients, and of the longest within it: etcd counts both
/// against its `--max-txn-ops`, and takes fewer requests at once where it was given.
pub const ETCD_BATCH_STEPS_MAX: usize = 120;

/// How long what they write may be in all, in bytes: etcd takes 1.5 MiB.
pub const ETCD_BATCH_BYTES_MAX: usize = 512 << 10;

/// Keys on a page of a listing.
pub const ETCD_PAGE_KEYS: u64 = 1000;

/// How long a coffre's lease lives without being kept alive, in seconds: so long nobody deletes what has expired where
/// the coffre that did is gone.
pub const ETCD_LEASE_S: u64 = 15;

/// How long after its time a key is deleted, in milliseconds. Until then a `WATCH` notices that it came and went.
pub const ETCD_SWEEP_DELAY_MS: u64 = 5_000;

/// Most keys that one transaction deletes because they have expired.
pub const ETCD_SWEPT_AT_ONCE: usize = 40;

/// How often a transaction meets a conflict before it gives up.
pub const ETCD_CONFLICTS_MAX: u32 = 64;

/// In how many lanes the transactions of a coffre wait for each other after a conflict, by their keys.
pub const ETCD_LANES: usize = 256;

// Scripts.

/// Longest script, in bytes.
pub const SCRIPT_BYTES_MAX: usize = 1 << 20;

/// Keys and arguments of a script, in bytes, for which memory is asked without asking whether there is any.
pub const SCRIPT_SMALL_BYTES: usize = 64 << 10;

/// Most scripts that are known at once.
pub const SCRIPTS_MAX: usize = 10_000;

/// How long they may be in all, in bytes.
pub const SCRIPTS_BYTES_MAX: usize = 32 << 20;

/// Most scripts that are known only because `EVAL` ran them: one more, and the one that was not used for the longest time is
/// forgotten (Redis's number).
pub const SCRIPTS_SEEN_MAX: usize = 500;

/// Most scripts that run at once; others wait. Each may take `--script-memory`.
pub const SANDBOXES_MAX: usize = 64;

/// Most sandboxes that are kept for the next scripts.
pub const SANDBOXES_SPARE_MAX: usize = 16;

/// How much memory such a sandbox may keep, in bytes; a new one has about 100 KiB.
pub const SANDBOX_SPARE_BYTES_MAX: usize = 1 << 20;

/// Most scripts that a sandbox keeps compiled.
pub const SANDBOX_COMPILED_MAX: usize = 100;

/// After so many instructions of Lua it is seen whether a script's time is up: a single one, on strings of many megabytes,
/// takes milliseconds.
pub const SCRIPT_INSTRUCTIONS: u32 = 200;

/// How long a script must run before `SCRIPT KILL` ends it, in milliseconds.
pub const SCRIPT_OLD_MS: u64 = 100;

/// Longest line that a script writes into the log, in bytes.
pub const SCRIPT_LOG_BYTES_MAX: usize = 1024;

/// The least time between two of them, in milliseconds.
pub const SCRIPT_LOG_MS: u64 = 100;

// Relations.

const _: () = assert!(VALUE_BYTES_MAX < REQUEST_BYTES_MAX);
const _: () = assert!(LARGE_REPLY_BYTES < REPLY_COPIED_BYTES_MAX);
const _: () = assert!(LARGE_REQUEST_BYTES < SLACK_REQUEST_BYTES);
const _: () = assert!(INLINE_BYTES_MAX < REQUEST_BYTES_MAX);
const _: () =
    assert!(IDLE_BUFFER_BYTES < READ_BUFFER_BYTES && READ_BUFFER_BYTES <= BURST_BYTES_MAX);
const _: () = assert!(DRAIN_MS_MAX < STOP_MS_MAX);
const _: () = assert!(4 * MONITOR_LINE_BYTES_MAX < MONITOR_QUEUE_BYTES_MAX);
const _: () = assert!(HEADER_BYTES_MAX < IDLE_BUFFER_BYTES);
const _: () = assert!(DEL_LINE_BYTES_MAX < INLINE_BYTES_MAX);
const _: () = assert!(DEAD_BYTES_MAX < LENGTH_BYTES_MAX && LENGTH_BYTES_MAX < 64 << 20);
const _: () = assert!(4 * SNAPSHOT_VALUE_BYTES_MAX < INLINE_BYTES_MAX);
const _: () = assert!(SHARDS.is_power_of_two() && SEQUENCES_PER_SHARD.is_power_of_two());
