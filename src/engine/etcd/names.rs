//! The addresses of the members' names.
//!
//! The resolver of the HTTP library starts a thread for each request, whether a connection is there or not. This one
//! remembers what it found for half a minute; an address in digits needs no search at all.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::util::sync::lock;

/// See the module.
#[derive(Debug, Default)]
pub struct Names {
    known: Mutex<HashMap<String, (Vec<SocketAddr>, Instant)>>,
}

impl Names {
    /// The addresses of `host:port`, at most half a minute old, or older if the search fails.
    fn find(&self, name: &str) -> Vec<SocketAddr> {
        const FRESH: Duration = Duration::from_secs(30);
        if let Ok(address) = name.parse() {
            return vec![address];
        }
        let old = lock(&self.known).get(name).cloned();
        if let Some((addresses, found)) = &old
            && found.elapsed() < FRESH
        {
            return addresses.clone();
        }
        let addresses: Vec<_> = name.to_socket_addrs().into_iter().flatten().collect();
        if addresses.is_empty() {
            return old.map(|(addresses, _)| addresses).unwrap_or_default();
        }
        lock(&self.known).insert(name.to_owned(), (addresses.clone(), Instant::now()));
        addresses
    }
}

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let name = uri.authority().map_or("", |authority| authority.as_str());
        let family = config.ip_family();
        let mut found = self.empty();
        // As many as the library takes.
        const ADDRESSES_MAX: usize = 16;
        for address in family.keep_wanted(self.find(name).into_iter()).take(ADDRESSES_MAX) {
            found.push(address);
        }
        match found.is_empty() {
            true => Err(ureq::Error::HostNotFound),
            false => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_once_and_digits_are_no_names() {
        let names = Names::default();
        assert_eq!(names.find("127.0.0.1:1"), ["127.0.0.1:1".parse().unwrap()]);
        assert_eq!(names.find("[::1]:2"), ["[::1]:2".parse().unwrap()]);
        assert!(lock(&names.known).is_empty());
        let found = names.find("localhost:3");
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 3));
        assert!(!found.is_empty() && lock(&names.known).contains_key("localhost:3"));
        assert!(names.find("nothing.invalid:4").is_empty());
    }
}
