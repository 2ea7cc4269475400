//! What travels over a connection: bytes to requests, replies to bytes. Sockets are left to [`crate::net`].

pub mod reader;
pub mod reply;
pub mod request;
pub mod telnet;
