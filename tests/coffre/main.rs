//! coffre tested from outside, as its users meet it: the built program over raw sockets, and the data
//! file under every kind of damage.
//!
//! - [`sessions`]: what is sent and what comes back, as transcripts in `sessions/`
//! - [`protocol`]: abuse of the protocol that no transcript can show
//! - [`protocol_fuzz`]: requests mutated at random
//! - [`properties`]: random commands against a model, random requests cut anywhere
//! - [`clients`]: the list of clients, and what the server tells of itself
//! - [`deadlines`]: clients that are idle, slow, deaf or gone
//! - [`overload`]: too many clients, too little memory, no thread or descriptor for another
//! - [`bystander`]: how long a client waits while another does something large; on request
//! - [`refused_memory`]: long arguments where the system has no memory for them
//! - [`security`]: passwords, strangers, foreign protocols
//! - [`stopping`]: signals, `SHUTDOWN`, and panics
//! - [`soak`]: all kinds of clients at once, good and bad
//! - [`concurrency`]: many clients against an oracle
//! - [`shown`]: no reply comes before what it shows is on disk, command by command
//! - [`durability`]: `kill -9`, restarts, a full disk
//! - [`histories`], by [`history_check`]: is a server under faults strictly serializable?
//! - [`compaction`]: a smaller file while clients go on
//! - [`healing`]: the data file removed, replaced, cut under the server
//! - [`corruption`]: the data file cut, flipped, repeated, swapped, pasted, hand-written
//! - [`simulation`], on a [`simulated_disk`]: power cuts and failing calls at every moment, against a model
//! - [`races`]: failures between two threads, at the gates of a [`gated_disk`]
//! - [`mutations`]: the data file mutated at random
//! - [`offline`]: the tools for data files, `check`, `repair`, `seal`, `compact`
//! - [`optimistic`]: a second engine, on which the tests of commands and connections run once more
//! - [`etcd`]: coffres in front of a cluster; those tests, too
//! - [`suite`]: the tests of commands and connections, for both
//! - [`startup`]: flags, exit codes, one server per file, signals
//! - [`harness`]: a server and its clients, by the replies of [`resp`] and the whole [`state`] of each
//! - [`real_clients`], [`injected_faults`], [`real_disks`]: need other programs, run by `.ci/run` with `--ignored`

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod bystander;
mod clients;
mod compaction;
mod concurrency;
mod corruption;
mod databases;
mod deadlines;
mod differential;
mod durability;
mod etcd;
mod expiry;
mod gated_disk;
mod handle;
mod harness;
mod healing;
mod histories;
mod history_check;
mod injected_faults;
mod mutations;
mod offline;
mod optimistic;
mod overload;
mod properties;
mod protocol;
mod protocol_fuzz;
mod races;
mod real_clients;
mod real_disks;
mod redis_rs;
mod refused_memory;
mod resp;
mod scanning;
mod script_replies;
mod scripts;
mod security;
mod server_commands;
mod sessions;
mod shown;
mod simulated_disk;
mod simulation;
mod soak;
mod startup;
mod state;
mod stopping;
mod suite;
mod transactions;
