//! The members of a cluster, and how a request finds one that answers.
//!
//! A request goes to a member that is not suspected, and to another one when it gets no answer. What only reads is sent
//! again until the deadline; of what writes it is said whether it was certainly not done, or may have been.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ureq::tls::{ClientCert, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Timeout};

use super::gateway::{Authenticate, Refusal, Request};
use super::names::Names;
use crate::limits::{ETCD_CONNECTIONS_MAX, ETCD_REPLY_BYTES_MAX, ETCD_REQUEST_BYTES_MAX};
use crate::util::latency::{Histogram, Latencies};
use crate::util::sync::lock;

/// How a cluster is reached.
pub struct Access {
    /// The addresses of the members, as `http://host:port`.
    pub endpoints: Vec<String>,
    /// The name of a user and its password, if the cluster asks for them.
    pub user: Option<(String, String)>,
    /// The authorities that the members' certificates are signed by; none for those of the public web.
    pub authorities: Option<RootCerts>,
    /// The certificate that is shown to the members, if any is.
    pub certificate: Option<ClientCert>,
    /// How long a command may wait for the cluster.
    pub timeout: Duration,
}

impl fmt::Debug for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Access").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

/// A cluster, and what is known of its members.
#[derive(Debug)]
pub struct Cluster {
    agent: Agent,
    members: Vec<Member>,
    user: Option<(String, String)>,
    /// What requests are authorized by.
    token: Mutex<Option<Arc<str>>>,
    /// How long a command may wait.
    timeout: Duration,

    /// How long requests took.
    latencies: Histogram,
    /// How often a member gave no answer.
    failures: AtomicU64,
}

/// A member.
#[derive(Debug)]
pub struct Member {
    /// Its address.
    pub url: String,
    /// It gave no answer when it was last asked.
    is_suspected: AtomicBool,
}

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It was certainly not done.
    NotDone(Reason, String),
    /// It may have been done, or may still be.
    Unknown(String),
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No member could be reached, or none knows of a majority.
    Unavailable,
    /// The cluster refuses it, for a reason of its own.
    Refused,
    /// It is more than the cluster takes at once.
    TooLarge,
    /// The cluster has no room.
    Full,
    /// The lease that it names is gone.
    LeaseGone,
    /// The revision that it names is no longer there.
    Compacted,
}

/// What became of one try.
enum Tried {
    /// Nothing was sent.
    NotSent(String),
    /// Something was sent, and no answer came.
    Lost(String),
    /// The member refused.
    Refused(u16, Vec<u8>),
}

impl Cluster {
    /// A cluster that is not asked yet.
    pub fn new(access: Access) -> Self {
        let Access { endpoints, user, authorities, certificate, timeout } = access;
        let tls = TlsConfig::builder()
            .root_certs(authorities.unwrap_or(RootCerts::WebPki))
            .client_cert(certificate);
        let config = Agent::config_builder()
            .tls_config(tls.build())
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_idle_connections(ETCD_CONNECTIONS_MAX)
            .max_idle_connections_per_host(ETCD_CONNECTIONS_MAX)
            .max_idle_age(Duration::from_secs(60))
            .timeout_global(Some(attempt_time(timeout)))
            .timeout_connect(Some(attempt_time(timeout) * 3 / 4))
            // Each connection has both.
            .input_buffer_size(16 << 10)
            .output_buffer_size(16 << 10)
            .user_agent("coffre");
        let member = |url| Member { url, is_suspected: AtomicBool::new(false) };
        Self {
            agent: Agent::with_parts(config.build(), DefaultConnector::default(), Names::default()),
            members: endpoints.into_iter().map(member).collect(),
            user,
            token: Mutex::default(),
            timeout,
            latencies: Histogram::default(),
            failures: AtomicU64::new(0),
        }
    }

    /// When what begins now has waited for as long as it may.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// The members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How long requests took.
    pub fn latencies(&self) -> Latencies {
        Latencies::of([&self.latencies].into_iter())
    }

    /// How often a member gave no answer.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Sends what only reads, again and again until a member answers.
    pub fn read<R: Request>(
        &self,
        request: &R,
        first: usize,
        deadline: Instant,
    ) -> Result<R::Reply, Failure> {
        self.call(request, first, deadline, true)
    }

    /// Sends what writes, once to a member that takes it.
    pub fn write<R: Request>(
        &self,
        request: &R,
        first: usize,
        deadline: Instant,
    ) -> Result<R::Reply, Failure> {
        self.call(request, first, deadline, false)
    }

    fn call<R: Request>(
        &self,
        request: &R,
        first: usize,
        deadline: Instant,
        is_read: bool,
    ) -> Result<R::Reply, Failure> {
        let body = serde_json::to_vec(request)
            .map_err(|error| Failure::NotDone(Reason::Refused, error.to_string()))?;
        // Of base64 four bytes are three.
        if body.len() / 4 * 3 > ETCD_REQUEST_BYTES_MAX {
            let reason = format!("etcd takes no request of {} bytes", body.len() / 4 * 3);
            return Err(Failure::NotDone(Reason::TooLarge, reason));
        }
        let mut is_authorized_anew = false;
        let mut tries = 0;
        loop {
            let member = self.choose(first + tries);
            tries += 1;
            let reason = match self.try_member(member, R::PATH, &body) {
                Ok(reply) => {
                    return serde_json::from_slice(&reply).map_err(|error| {
                        Failure::Unknown(format!("{}: {error} in its reply", member.url))
                    });
                }
                Err(Tried::Refused(_, reply)) if is_of_token(&refusal(&reply)) => {
                    if self.user.is_none() || std::mem::replace(&mut is_authorized_anew, true) {
                        let reason = format!("{}: {}", member.url, refusal(&reply).error);
                        return Err(Failure::NotDone(Reason::Refused, reason));
                    }
                    self.authorize(member)?;
                    continue;
                }
                Err(Tried::NotSent(reason)) => reason,
                Err(Tried::Refused(status, reply)) => match classify(status, &refusal(&reply)) {
                    Failure::NotDone(Reason::Unavailable, reason) => reason,
                    Failure::NotDone(kind, reason) => return Err(Failure::NotDone(kind, reason)),
                    Failure::Unknown(reason) => {
                        self.suspect(member, &reason);
                        match is_read {
                            true => reason,
                            false => return Err(Failure::Unknown(reason)),
                        }
                    }
                },
                Err(Tried::Lost(reason)) if is_read => reason,
                Err(Tried::Lost(reason)) => {
                    self.suspect(member, &reason);
                    return Err(Failure::Unknown(reason));
                }
            };
            self.suspect(member, &reason);
            if Instant::now() >= deadline {
                return Err(Failure::NotDone(Reason::Unavailable, reason));
            }
            if tries.is_multiple_of(self.members.len()) {
                // All were asked: a new leader is elected within a second or so.
                thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// A member that is not suspected, or any if all are.
    fn choose(&self, number: usize) -> &Member {
        let all =
            (number..number + self.members.len()).map(|n| &self.members[n % self.members.len()]);
        let mut trusted = all.filter(|member| !member.is_suspected());
        trusted.next().unwrap_or(&self.members[number % self.members.len()])
    }

    fn suspect(&self, member: &Member, reason: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if !member.is_suspected.swap(true, Ordering::Relaxed) && self.members.len() > 1 {
            log::warn!("etcd member {}: {reason}", member.url);
        }
    }

    /// Sends a request to a member and reads its reply.
    fn try_member(&self, member: &Member, path: &str, body: &[u8]) -> Result<Vec<u8>, Tried> {
        let mut request = self.agent.post([&member.url, path].concat());
        let token = lock(&self.token).clone();
        if let Some(token) = &token {
            request = request.header("Authorization", &**token);
        }
        let started = Instant::now();
        let lost = |error: ureq::Error| {
            let reason = format!("{}: {error}", member.url);
            if is_before_sending(&error) { Tried::NotSent(reason) } else { Tried::Lost(reason) }
        };
        let mut response = request.content_type("application/json").send(body).map_err(lost)?;
        let status = response.status().as_u16();
        let reply = response.body_mut().with_config().limit(ETCD_REPLY_BYTES_MAX).read_to_vec();
        let reply = reply.map_err(|error| match error {
            // The reply is there; it is only too long to be taken.
            ureq::Error::BodyExceedsLimit(_) => Tried::Refused(413, Vec::new()),
            error => Tried::Lost(format!("{}: {error}", member.url)),
        })?;
        self.latencies.add(started.elapsed().as_nanos() as u64);
        match status {
            200 => {
                member.is_suspected.store(false, Ordering::Relaxed);
                Ok(reply)
            }
            _ => Err(Tried::Refused(status, reply)),
        }
    }

    /// Asks one member, once.
    pub fn ask<R: Request>(&self, member: &Member, request: &R) -> Result<R::Reply, String> {
        let body = serde_json::to_vec(request).map_err(|error| error.to_string())?;
        match self.try_member(member, R::PATH, &body) {
            Ok(reply) => serde_json::from_slice(&reply).map_err(|error| error.to_string()),
            Err(Tried::NotSent(reason) | Tried::Lost(reason)) => {
                self.suspect(member, &reason);
                Err(reason)
            }
            Err(Tried::Refused(_, reply)) => Err(refusal(&reply).error),
        }
    }

    /// Gets a token from a member.
    fn authorize(&self, member: &Member) -> Result<(), Failure> {
        let Some((name, password)) = &self.user else { return Ok(()) };
        // The old one would be refused.
        *lock(&self.token) = None;
        let refused = |reason| Failure::NotDone(Reason::Refused, reason);
        let authenticated = self.ask(member, &Authenticate { name, password }).map_err(refused)?;
        *lock(&self.token) = Some(authenticated.token.into());
        Ok(())
    }
}

impl Member {
    /// Whether it gave no answer when it was last asked.
    pub fn is_suspected(&self) -> bool {
        self.is_suspected.load(Ordering::Relaxed)
    }
}

/// How long one member is waited for: others are to be asked within `timeout`, too.
fn attempt_time(timeout: Duration) -> Duration {
    timeout / 4
}

/// What a member said when it refused.
fn refusal(reply: &[u8]) -> Refusal {
    serde_json::from_slice(reply).unwrap_or_else(|_| Refusal {
        error: String::from_utf8_lossy(&reply[..reply.len().min(200)]).into_owned(),
        code: 0,
    })
}

/// Whether a request was refused because its token is unknown or too old, or it has none.
fn is_of_token(refusal: &Refusal) -> bool {
    const UNAUTHENTICATED: u32 = 16;
    refusal.code == UNAUTHENTICATED
        || ["user name is empty", "revision of auth store is old"]
            .iter()
            .any(|part| refusal.error.contains(part))
}

/// What follows from a refusal; the codes are gRPC's.
fn classify(status: u16, refusal: &Refusal) -> Failure {
    let Refusal { error, code } = refusal;
    let has = |part: &str| error.contains(part);
    let reason = match (status, *code) {
        (413, _) => {
            let reason = format!("the reply is longer than {ETCD_REPLY_BYTES_MAX} bytes");
            return Failure::NotDone(Reason::TooLarge, reason);
        }
        (_, 3) if has("too large") || has("too many operations") => Reason::TooLarge,
        (_, 5) if has("lease not found") => Reason::LeaseGone,
        (_, 8) if has("space exceeded") => Reason::Full,
        (_, 8) if has("too many requests") => Reason::Unavailable,
        (_, 8) if has("larger than max") => Reason::TooLarge,
        (_, 11) => Reason::Compacted,
        (_, 3 | 5 | 6 | 7 | 9 | 12) => Reason::Refused,
        _ if has("proposal dropped") || has("no leader") => Reason::Unavailable,
        // No gateway of etcd's answers so.
        (404 | 405, 0) => Reason::Refused,
        _ => return Failure::Unknown(error.clone()),
    };
    Failure::NotDone(reason, error.clone())
}

/// Whether an error can only come before a request is sent.
fn is_before_sending(error: &ureq::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable};
    match error {
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::BadUri(_)
        | ureq::Error::Tls(_)
        | ureq::Error::Rustls(_) => true,
        ureq::Error::Io(error) => matches!(
            error.kind(),
            ConnectionRefused | HostUnreachable | NetworkUnreachable | AddrNotAvailable
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u32, error: &str) -> Failure {
        classify(400, &Refusal { error: error.to_owned(), code })
    }

    #[test]
    fn a_refusal_says_whether_anything_was_done() {
        for (code, error, reason) in [
            (3, "etcdserver: request is too large", Reason::TooLarge),
            (3, "etcdserver: too many operations in txn request", Reason::TooLarge),
            (3, "etcdserver: duplicate key given in txn request", Reason::Refused),
            (5, "etcdserver: requested lease not found", Reason::LeaseGone),
            (7, "etcdserver: permission denied", Reason::Refused),
            (8, "etcdserver: mvcc: database space exceeded", Reason::Full),
            (11, "etcdserver: mvcc: required revision has been compacted", Reason::Compacted),
            (2, "raft proposal dropped", Reason::Unavailable),
            (14, "etcdserver: no leader", Reason::Unavailable),
        ] {
            assert_eq!(refused(code, error), Failure::NotDone(reason, error.to_owned()));
        }
        for (code, error) in [
            (14, "etcdserver: request timed out"),
            (14, "etcdserver: leader changed"),
            (14, "etcdserver: request timed out, possibly due to previous leader failure"),
            (13, "anything else"),
        ] {
            assert_eq!(refused(code, error), Failure::Unknown(error.to_owned()));
        }
        assert!(matches!(
            classify(404, &refusal(b"404 page not found")),
            Failure::NotDone(Reason::Refused, _)
        ));
    }

    #[test]
    fn a_member_that_gave_no_answer_is_asked_last() {
        let access = Access {
            endpoints: ["a", "b", "c"].map(str::to_owned).to_vec(),
            user: None,
            authorities: None,
            certificate: None,
            timeout: Duration::from_secs(1),
        };
        let cluster = Cluster::new(access);
        let chosen = |number| cluster.choose(number).url.clone();
        assert_eq!([0, 1, 2, 3].map(chosen), ["a", "b", "c", "a"]);
        cluster.suspect(&cluster.members[1], "");
        assert_eq!([0, 1, 2, 3].map(chosen), ["a", "c", "c", "a"]);
        cluster.members.iter().for_each(|member| cluster.suspect(member, ""));
        assert_eq!([0, 1, 2, 3].map(chosen), ["a", "b", "c", "a"]);
        assert_eq!(cluster.failures(), 4);
    }
}
