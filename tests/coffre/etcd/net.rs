//! Machines on this machine: network namespaces on one bridge, so that one can be cut off. They need root.

use std::process::{Command, Stdio};

/// Where a program runs.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its address.
    pub address: String,
    /// Its namespace; none is this machine itself.
    namespace: Option<String>,
}

/// Some machines and what connects them.
pub struct Net {
    bridge: String,
    pub hosts: Vec<Host>,
}

fn ip(words: &[&str]) -> bool {
    let status = Command::new("ip").args(words).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Host {
    /// This machine.
    pub fn here() -> Self {
        Self { address: "127.0.0.1".to_owned(), namespace: None }
    }

    /// Whether it is a machine of its own, all of whose ports are free.
    pub fn is_apart(&self) -> bool {
        self.namespace.is_some()
    }

    /// A command that runs there.
    pub fn command(&self, program: &str) -> Command {
        match &self.namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, program]);
                command
            }
        }
    }

    /// Cuts it off, or connects it again.
    pub fn set_connected(&self, is_connected: bool) {
        let state = if is_connected { "up" } else { "down" };
        self.run(&["link", "set", "eth0", state]);
    }

    /// Nothing that it sends arrives at `other` any more, or it does again; what that one sends to it always does.
    pub fn set_heard_by(&self, other: &Self, is_heard: bool) {
        let action = if is_heard { "del" } else { "add" };
        self.run(&["route", action, "blackhole", &format!("{}/32", other.address)]);
    }

    fn run(&self, words: &[&str]) {
        if let Some(namespace) = &self.namespace {
            assert!(ip(&[&["-n", namespace], words].concat()), "{words:?}");
        }
    }
}

impl Net {
    /// So many machines; none where this machine does not allow it, which it says.
    pub fn new(count: usize) -> Option<Self> {
        let id = std::process::id() % 100_000;
        let subnet = format!("10.{}.{}", 100 + id / 250 % 100, id % 250);
        let net = Self { bridge: format!("cfb{id}"), hosts: Vec::new() };
        let is_there = ip(&["link", "add", &net.bridge, "type", "bridge"])
            && ip(&["addr", "add", &format!("{subnet}.1/24"), "dev", &net.bridge])
            && ip(&["link", "set", &net.bridge, "up"]);
        let mut net = net;
        for number in 0..count {
            let namespace = format!("cf{id}-{number}");
            let (outside, address) =
                (format!("cf{id}.{number}"), format!("{subnet}.{}", number + 10));
            let is_made = is_there && ip(&["netns", "add", &namespace]);
            net.hosts.push(Host { address: address.clone(), namespace: Some(namespace.clone()) });
            let inside = ["link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns"];
            let is_connected = is_made
                && ip(&[&inside[..], &[&namespace]].concat())
                && ip(&["link", "set", &outside, "master", &net.bridge, "up"])
                && ip(&["-n", &namespace, "addr", "add", &format!("{address}/24"), "dev", "eth0"])
                && ip(&["-n", &namespace, "link", "set", "eth0", "up"])
                && ip(&["-n", &namespace, "link", "set", "lo", "up"]);
            if !is_connected {
                println!("SKIPPED: this machine allows no network namespaces");
                return None;
            }
        }
        Some(net)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in &self.hosts {
            if let Some(namespace) = &host.namespace {
                ip(&["netns", "del", namespace]);
            }
        }
        ip(&["link", "del", &self.bridge]);
    }
}
