//! What travels over a connection: bytes to requests, replies to bytes.

pub mod reply;
pub mod request;
pub mod telnet;
