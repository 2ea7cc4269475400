//! What travels over a connection: bytes to requests, replies to bytes. Sockets are left to [`crate::net`].

pub mod reader;
pub mod reply;
pub mod request;
pub mod telnet;

/// The version of Redis whose commands these are: client libraries choose by it what they use.
pub const REDIS_VERSION: &str = "7.4.0";
