//! Sockets and the threads behind them: clients let in, bytes received, replies sent.

pub mod connection;
mod idle_threads;
pub mod listener;
pub mod metrics;
mod send_queue;
