//! Scripts in Lua 5.1, Redis's dialect: a [`Sandbox`] runs one at a time, [`Scripts`] keeps sandboxes and the texts of scripts
//! for all connections. What `redis.call` does is the caller's.
//!
//! A script is bounded: in memory by the sandbox's allocator, in time by a hook that Lua calls every few instructions. So no
//! function that a script may call runs long by itself: those with patterns, and the sorting of tables, are not Lua's own.
//! Functions in Rust never call Lua, so a script cannot nest them and use up the thread's stack.

mod bits;
mod cache;
mod call;
mod json;
mod library;
mod number;
mod pattern;
mod replies;
mod sandbox;
mod source;
#[cfg(test)]
mod tests;
mod watch;

pub use cache::{NotLoaded, Scripts, Sha, TakenSandbox};
pub use sandbox::{Calls, End, Input, Sandbox};
pub use source::{Script, ScriptError};
