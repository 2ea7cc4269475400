//! The lease of this coffre: what it put with it vanishes some seconds after the coffre has.
//!
//! One thread asks for it and keeps it alive; writers wait for it. Lock order: none is taken with it.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::gateway::{LeaseGrant, LeaseKeepAlive, LeaseRevoke};
use crate::limits::ETCD_LEASE_S;
use crate::util::sync::{lock, wait_timeout};

/// See the module.
#[derive(Debug, Default)]
pub struct Lease {
    id: Mutex<Option<i64>>,
    /// There is one now, or none any more.
    changed: Condvar,
}

impl Lease {
    /// The lease, once there is one; none if there is none until the deadline.
    pub fn get(&self, deadline: Instant) -> Option<i64> {
        let mut id = lock(&self.id);
        while id.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            id = wait_timeout(&self.changed, id, left);
        }
        *id
    }

    /// The lease, if there is one.
    pub fn current(&self) -> Option<i64> {
        *lock(&self.id)
    }

    /// The cluster knows this lease no more: another one is asked for.
    pub fn lost(&self, gone: i64) {
        let mut id = lock(&self.id);
        if *id == Some(gone) {
            *id = None;
            self.changed.notify_all();
        }
    }

    /// Asks for the lease, or keeps it alive; then waits until that is due again.
    pub fn tend(&self, cluster: &Cluster) {
        const PAUSE: Duration = Duration::from_secs(ETCD_LEASE_S / 4);
        const RETRY: Duration = Duration::from_millis(100);
        let before = self.current();
        let pause = match before {
            None => match cluster.write(&LeaseGrant { ttl_s: ETCD_LEASE_S }, 0, cluster.deadline())
            {
                Ok(granted) => {
                    *lock(&self.id) = Some(granted.id as i64);
                    self.changed.notify_all();
                    PAUSE
                }
                Err(_) => RETRY,
            },
            Some(id) => match cluster.read(&LeaseKeepAlive { id }, 0, cluster.deadline()) {
                Ok(kept) if kept.result.ttl_s == 0 => {
                    self.lost(id);
                    Duration::ZERO
                }
                Ok(_) => PAUSE,
                Err(_) => RETRY,
            },
        };
        let id = lock(&self.id);
        if id.is_some() || pause == RETRY {
            drop(wait_timeout(&self.changed, id, pause));
        }
    }

    /// Gives the lease up: what was put with it vanishes at once.
    pub fn revoke(&self, cluster: &Cluster) {
        if let Some(id) = lock(&self.id).take() {
            // If nothing answers it runs out by itself.
            let _ = cluster.write(&LeaseRevoke { id }, 0, Instant::now());
        }
    }
}
