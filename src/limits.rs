//! Every bound coffre keeps, in one place, with the relations between them checked at compile time.
//!
//! A name ends in its unit. Nothing here is a setting: settings are in [`crate::config`].

/// Longest key or value that `--max-value` allows, in bytes (Redis: `proto-max-bulk-len`).
pub const VALUE_BYTES_MAX: usize = 512 << 20;

/// Longest inline request line, in bytes, line end excluded. Redis stops at 64 KiB; a line of
/// `donnees.txt` must replay through netcat.
pub const INLINE_BYTES_MAX: usize = 1 << 20;

/// Most arguments of one request, the command's name included (Redis: 2,147,483,647).
pub const ARGUMENTS_MAX: usize = 1 << 20;

/// Longest `*count` or `$length` line, in bytes: `$-9223372036854775808` and its CR LF fit.
pub const HEADER_BYTES_MAX: usize = 32;

/// Largest request that `--max-request` allows, in bytes (Redis: `client-query-buffer-limit`).
pub const REQUEST_BYTES_MAX: usize = 1 << 30;

/// Most arguments of a request before `AUTH`, where a password is asked for (Redis's bound).
pub const UNAUTHENTICATED_ARGUMENTS_MAX: usize = 10;

/// Longest argument or line of a request before `AUTH`, in bytes (Redis's bound).
pub const UNAUTHENTICATED_BYTES_MAX: usize = 16 << 10;

/// A connection's read buffer at first, and once its client has been idle for [`TICK_MS`], in bytes. Ten
/// thousand of them are to be cheap; a request that is longer makes it grow.
pub const IDLE_BUFFER_BYTES: usize = 512;

/// A connection's read buffer when it is in use, in bytes.
pub const READ_BUFFER_BYTES: usize = 16 << 10;

/// How far the read buffer grows for a pipelining client, in bytes. Only one large request goes
/// further, and only as its bytes arrive.
pub const BURST_BYTES_MAX: usize = 256 << 10;

/// How often a read looks for bytes before it waits for them, at most: about a microsecond each.
pub const POLLS_MAX: u32 = 64;

/// How much more often it may the next time, once it found some.
pub const POLLS_MORE: u32 = 8;

/// Replies held back before they are committed and sent, in bytes; one reply may pass it.
pub const REPLY_BYTES_MAX: usize = 256 << 10;

/// How much of a client's unread replies may be copies, in bytes: so long is the longest reply to `KEYS`, to `MGET` of
/// short values, or to an `EXEC` of many. A command whose reply would be longer gets an error.
pub const REPLY_COPIED_BYTES_MAX: usize = 64 << 20;

/// How long the values may be that a client's unread replies share with memory, each counted once, in bytes; one value
/// may pass it.
pub const REPLY_SHARED_BYTES_MAX: usize = 1 << 30;

/// Replies of at most so many bytes may be sent by the thread that committed them, not their client's own.
pub const DELIVERED_BYTES_MAX: usize = 16 << 10;

/// A reply longer than this, in bytes, is one that `--maxmemory` may refuse.
pub const LARGE_REPLY_BYTES: usize = 1 << 20;

/// What one burst's changes may keep for being taken back, in bytes, before it is committed; one
/// change may pass it.
pub const UNDO_BYTES_MAX: usize = 1 << 20;

/// Most cells of the table of `LCS` that are kept, of four bytes each.
pub const LCS_TABLE_CELLS_MAX: usize = 16 << 20;

/// Most cells that are computed: about two seconds of the client's own thread.
pub const LCS_CELLS_MAX: u64 = 1 << 30;

/// Longest `KEYS` pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 64 << 10;

/// Longest line of a data file, in bytes: a key and a value of the greatest length, each byte
/// written as `\xHH`, and the command around them.
pub const RECORD_BYTES_MAX: usize = 2 * 4 * VALUE_BYTES_MAX + 64;

/// A record at least so long, in bytes, is handed from buffer to buffer and not copied.
pub const LARGE_RECORD_BYTES: usize = 32 << 10;

/// Longest `DEL` line written to the data file, in bytes; more keys go on further lines. Redis
/// replays inline lines up to 64 KiB.
pub const DEL_LINE_BYTES_MAX: usize = 32 << 10;

/// How long a batch of a rewritten file grows, in bytes; one record may pass it.
pub const DRAFT_BATCH_BYTES: usize = 1 << 20;

/// Longest value that a rewritten file holds in one record, in bytes, unless its key is longer: the rest
/// follows in `SETRANGE`s. Written as `\xHH` throughout it still fits an inline line.
pub const SNAPSHOT_VALUE_BYTES_MAX: usize = 128 << 10;

/// How much of a shard is copied at once for a rewrite, with its lock held, in bytes.
pub const SNAPSHOT_COPY_BYTES_MAX: usize = 128 << 10;

/// How much of a rewritten file is written before it is synced, in bytes.
pub const DRAFT_SYNC_BYTES: u64 = 16 << 20;

/// How long the data file may be beyond 1.5 times its live data before it is compacted, in bytes.
pub const DEAD_BYTES_MAX: u64 = 24 << 20;

/// How long it may be beyond 1.75 times its live data before writers are slowed down, in bytes: it is to
/// stay below twice its live data and 64 MiB, however fast they are.
pub const LENGTH_BYTES_MAX: u64 = 40 << 20;

/// How fast slowed writers write, in bytes per second.
pub const SLOWED_BYTES_PER_S: u64 = 32 << 20;

/// Words of a request that `SLOWLOG` keeps.
pub const SLOW_ARGUMENTS_MAX: usize = 32;

/// How much of each, in bytes.
pub const SLOW_ARGUMENT_BYTES_MAX: usize = 128;

/// Entries of `SLOWLOG`.
pub const SLOWLOG_ENTRIES_MAX: usize = 128;

/// A request longer than this, in bytes, is one that `--maxmemory` may refuse before it is complete.
pub const LARGE_REQUEST_BYTES: usize = 64 << 10;

/// Where `--maxmemory` is reached requests of up to this length, in bytes, still find room, so that many keys can be
/// removed at once: all clients together as much as [`REQUEST_SLACK_SHARE`] says.
pub const SLACK_REQUEST_BYTES: usize = 4 << 20;

/// That room, as a part of `--maxmemory`: one in so many.
pub const REQUEST_SLACK_SHARE: usize = 8;

/// What all clients together may hold that have yet to give the password, beside a small buffer each, in bytes.
pub const UNAUTHENTICATED_TOTAL_BYTES_MAX: usize = 8 << 20;

/// About how long a line of `MONITOR` may be, in bytes; escapes make it up to four times as long.
pub const MONITOR_LINE_BYTES_MAX: usize = 16 << 10;

/// What may wait for a client that watches, in bytes; more closes it.
pub const MONITOR_QUEUE_BYTES_MAX: usize = 1 << 20;

/// How much a client may keep for `EXEC`, and as much for `WATCH`, before `--maxmemory` may refuse more, in bytes.
pub const TRANSACTION_BYTES_SURE: usize = 1 << 20;

/// What the keys that a client watches may take, in bytes: about 60,000 short ones.
pub const WATCH_BYTES_MAX: usize = 16 << 20;

/// Longest password, in bytes: comparing takes time for all of it.
pub const PASSWORD_BYTES_MAX: usize = 512;

/// Longest request to the metrics port, in bytes.
pub const METRICS_REQUEST_BYTES_MAX: usize = 8 << 10;

/// How long one may take, in milliseconds.
pub const METRICS_MS_MAX: u64 = 500;

/// Threads that answer there, for each address.
pub const METRICS_THREADS: usize = 4;

/// Spare capacity the journal's buffers may keep, in bytes.
pub const JOURNAL_SPARE_BYTES_MAX: usize = 4 << 20;

/// Spare capacity each of a connection's buffers may keep, in bytes.
pub const CLIENT_SPARE_BYTES_MAX: usize = 16 << 10;

/// A long value is kept in blocks of so many bytes, which are shared with those who read it; a shorter one
/// in one piece, beside its key unless it grew. It is what a `GET` copies with a shard locked at most.
pub const VALUE_BLOCK_BYTES: usize = 64 << 10;

/// Room for so many changes is kept where changes wait to be safe, or to be forgotten.
pub const SETTLED_SPARE: usize = 16;

/// A replaced value longer than this, in bytes, is freed by a thread of its own, not by the next writer.
pub const HEAVY_UNDO_BYTES: usize = 256 << 10;

/// How many changes of a shard are forgotten at one moment.
pub const UNDOS_AT_ONCE: usize = 4096;

/// How often that thread looks for some, in milliseconds.
pub const SETTLE_TICK_MS: u64 = 200;

/// So few new keys of a shard are looked through by each search for a prefix, rather than sorted into its index.
pub const NEWS_KEYS_MAX: usize = 64;

/// The same as a part of the shard's keys, one in so many: so the cost of sorting them in stays bounded for each.
pub const NEWS_SHARE: usize = 64;

/// How many hashes a connection keeps for its next `SCAN`, at most.
pub const SCAN_WINDOW: usize = 4096;

/// How many keys that have expired are removed at one moment.
pub const EXPIRED_AT_ONCE: usize = 128;

/// How often somebody looks for keys that have expired, in milliseconds.
pub const EXPIRY_TICK_MS: u64 = 100;

/// A wall clock that gains or loses so much at once has jumped, in milliseconds.
pub const CLOCK_JUMP_MS: i64 = 5_000;

/// After a jump forward what has expired is kept for so long, unseen, in milliseconds.
pub const CLOCK_TRUST_MS: u64 = 60_000;

/// How long a transaction may work with its shards locked, in nanoseconds as [`work`] estimates them; one that takes
/// more is taken back.
pub const LOCKED_WORK_MAX: u64 = 40_000_000;

/// What is reckoned for work under locks, in nanoseconds: measured on the machine of the benchmarks, and on the safe
/// side.
pub mod work {
    /// A command of a transaction, beside what it does.
    pub const COMMAND: u64 = 300;
    /// A key that is looked for, or set.
    pub const KEY: u64 = 100;
    /// A key that is removed.
    pub const REMOVED_KEY: u64 = 130;
    /// A key that is listed.
    pub const LISTED_KEY: u64 = 60;
    /// Four bytes that are compared, or copied to a reply.
    pub const FOUR_BYTES: u64 = 1;
    /// A byte of a value that is written: copied, quoted and copied again.
    pub const WRITTEN_BYTE: u64 = 2;
    /// A cell of the table of `LCS`.
    pub const LCS_CELL: u64 = 2;
}

/// How many keys `EXISTS` looks for at one moment.
pub const KEYS_AT_ONCE: usize = 1024;

/// Shards of the store; one lock each.
pub const SHARDS: usize = 256;

/// Most databases that there may be: each may have a table in each shard.
pub const DATABASES_MAX: usize = 256;

/// Marks per shard: how finely a read tells the keys whose last write is not on disk yet.
pub const MARKS_PER_SHARD: usize = 128;

/// Stack of a client's thread, in bytes. No command recurses; the deepest call chain measured uses
/// under 16 KiB of it, and only touched pages take memory.
pub const CLIENT_STACK_BYTES: usize = 256 << 10;

/// Log lines that may wait to be written.
pub const LOG_LINES_MAX: usize = 1024;

/// Threads that may wait for another client once theirs has left.
pub const IDLE_THREADS_MAX: usize = 64;

/// How long each waits, in milliseconds.
pub const IDLE_THREAD_MS: u64 = 1_000;

/// Connections the kernel may hold for us before `accept`.
pub const LISTEN_BACKLOG: i32 = 4096;

/// How often a connection that waits for bytes looks at the clock, in milliseconds: once if its client is
/// idle, again and again while a request has begun.
pub const TICK_MS: u64 = 1_000;

/// How slowly a request that has begun may come, in bytes per second, once `--request-timeout` is over.
pub const REQUEST_BYTES_PER_S: u64 = 16 << 10;

/// File descriptors kept for other things than clients: files, listeners, signals (Redis's number).
pub const DESCRIPTORS_RESERVED: u64 = 32;

/// How long a stopping server lets its clients finish, in milliseconds.
pub const DRAIN_MS_MAX: u64 = 600;

/// How long after it was told to stop a server waits for a disk that does not answer, in milliseconds.
pub const STOP_MS_MAX: u64 = 900;

/// The same while a rewrite goes on, without which there may be no file at all: since it last went on.
pub const REWRITE_MS_MAX: u64 = 5_000;

/// How long a connection closed by an error waits for its peer to read that error, in milliseconds.
pub const LINGER_MS_MAX: u64 = 1_000;

/// How much such a connection reads and throws away meanwhile, in bytes.
pub const LINGER_BYTES_MAX: usize = 4 << 20;

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
const _: () = assert!(SHARDS.is_power_of_two() && MARKS_PER_SHARD.is_power_of_two());
