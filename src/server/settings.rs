//! The settings that `CONFIG SET` may change while the server runs; they begin as the flags say, and the next run begins
//! so again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::config::Config;
use crate::util::password::Password;
use crate::util::sync::lock;

/// The settings that may change.
#[derive(Debug)]
pub struct Settings {
    /// A client that is idle for so long is closed, in seconds; 0 never.
    pub timeout: Seconds,
    /// A client that takes so long over a request is closed, in seconds; 0 never.
    pub request_timeout: Seconds,
    /// What `AUTH` asks for.
    password: Mutex<Option<Password>>,
}

/// A time in whole seconds that may change.
#[derive(Debug)]
pub struct Seconds(AtomicU32);

impl Seconds {
    /// As a number.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// As a time.
    pub fn time(&self) -> Duration {
        Duration::from_secs(self.get().into())
    }

    /// Changes it; a read that already waits keeps its timeout.
    pub fn set(&self, seconds: u32) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

impl Settings {
    /// As the flags say.
    pub fn new(config: &Config) -> Self {
        Self {
            timeout: Seconds(config.timeout.into()),
            request_timeout: Seconds(config.request_timeout.into()),
            password: Mutex::new(config.password().cloned()),
        }
    }

    /// The password, if one is set.
    pub fn password(&self) -> Option<Password> {
        lock(&self.password).clone()
    }

    /// Asks for another password, or for none; who has given the old one need not give it again.
    pub fn set_password(&self, password: Option<Password>) {
        *lock(&self.password) = password;
    }
}
