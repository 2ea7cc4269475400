//! Random numbers that need not be secret.

use std::hash::{BuildHasher, RandomState};

/// A number that differs from call to call and from run to run.
pub fn random() -> u64 {
    RandomState::new().hash_one(0)
}
