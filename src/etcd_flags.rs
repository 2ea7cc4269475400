//! The flags that say how an etcd cluster is reached: those of the server, of `export` and of `import`.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, parse_pem};

use crate::engine::etcd::Options;
use crate::engine::etcd::cluster::Access;
use crate::util::password::first_line;

/// The members of a cluster, as `etcd://10.0.0.1:2379,10.0.0.2:2379`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members(Vec<String>);

const SCHEME: &str = "etcd://";

impl FromStr for Members {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("{SCHEME}HOST:PORT, with more of them after commas");
        let hosts = text.strip_prefix(SCHEME).ok_or_else(wanted)?.trim_end_matches('/');
        let is_member = |member: &&str| {
            let has_host = |(host, port): (&str, &str)| {
                !host.is_empty()
                    && !host.contains(['/', '@', '?', ' '])
                    && port.parse::<u16>().is_ok()
            };
            !member.rsplit_once(':').is_some_and(has_host)
        };
        match hosts.split(',').find(is_member) {
            Some(wrong) => Err(format!("{wrong:?} is no HOST:PORT: {}", wanted())),
            None => Ok(Self(hosts.split(',').map(str::to_owned).collect())),
        }
    }
}

/// How a cluster is reached, and where in it the keys are.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "With --engine etcd://")]
pub struct EtcdFlags {
    /// What the names of all keys in etcd begin with: several keyspaces have room in one cluster
    #[arg(long, env = "COFFRE_ETCD_PREFIX", value_name = "PREFIX", default_value = "/coffre/", value_parser = prefix)]
    pub etcd_prefix: String,

    /// User of etcd, where it asks for one
    #[arg(long, env = "COFFRE_ETCD_USER", value_name = "NAME", requires = "etcd_password_file")]
    pub etcd_user: Option<String>,

    /// File whose first line is that user's password
    #[arg(long, env = "COFFRE_ETCD_PASSWORD_FILE", value_name = "PATH", requires = "etcd_user")]
    pub etcd_password_file: Option<PathBuf>,

    /// Speak https: the authorities that signed the members' certificates, a PEM file
    #[arg(long, env = "COFFRE_ETCD_CA", value_name = "PATH")]
    pub etcd_ca: Option<PathBuf>,

    /// Certificate to show to the members, a PEM file
    #[arg(
        long,
        env = "COFFRE_ETCD_CERT",
        value_name = "PATH",
        requires = "etcd_key",
        requires = "etcd_ca"
    )]
    pub etcd_cert: Option<PathBuf>,

    /// Its private key, a PEM file
    #[arg(long, env = "COFFRE_ETCD_KEY", value_name = "PATH", requires = "etcd_cert")]
    pub etcd_key: Option<PathBuf>,

    /// How long a command waits for the cluster, in seconds, before it is answered by an error
    #[arg(long, env = "COFFRE_ETCD_TIMEOUT", value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub etcd_timeout: Duration,

    /// Let etcd forget its history after so long, in seconds. Without it coffre leaves that to etcd's own
    /// settings
    #[arg(long, env = "COFFRE_ETCD_COMPACT", value_name = "SECONDS", value_parser = seconds)]
    pub etcd_compact: Option<Duration>,
}

fn prefix(text: &str) -> Result<String, String> {
    let is_one = text.len() > 1 && text.ends_with('/') && text.len() <= 256;
    is_one
        .then(|| text.to_owned())
        .ok_or_else(|| "a name that ends in a slash, as /coffre/".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    const MOST: f64 = 30.0 * 24.0 * 3600.0;
    let seconds = text.parse().ok().filter(|seconds: &f64| (0.1..=MOST).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "a number of seconds from 0.1 on".to_owned())
}

/// A file that a flag names cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct FileError {
    path: PathBuf,
    source: io::Error,
}

impl EtcdFlags {
    /// What the flags say of a keyspace of so many databases in the cluster of these members.
    pub fn options(&self, members: &Members, databases: usize) -> Result<Options, FileError> {
        let scheme = if self.etcd_ca.is_some() { "https" } else { "http" };
        let user = match (&self.etcd_user, &self.etcd_password_file) {
            (Some(name), Some(path)) => Some((name.clone(), read(path, password)?)),
            _ => None,
        };
        let authorities = match &self.etcd_ca {
            Some(path) => Some(RootCerts::Specific(Arc::new(read(path, certificates)?))),
            None => None,
        };
        let certificate = match (&self.etcd_cert, &self.etcd_key) {
            (Some(cert), Some(key)) => Some(ClientCert::new_with_certs(
                &read(cert, certificates)?,
                read(key, private_key)?,
            )),
            _ => None,
        };
        let access = Access {
            endpoints: members.0.iter().map(|host| format!("{scheme}://{host}")).collect(),
            user,
            authorities,
            certificate,
            timeout: self.etcd_timeout,
        };
        Ok(Options {
            access,
            prefix: self.etcd_prefix.clone(),
            databases,
            compact_after: self.etcd_compact,
            breakage: None,
        })
    }
}

/// Reads a file and makes something of it.
fn read<T>(path: &Path, parse: fn(&[u8]) -> Result<T, String>) -> Result<T, FileError> {
    let invalid = |reason| io::Error::new(io::ErrorKind::InvalidData, reason);
    let made = std::fs::read(path).and_then(|bytes| parse(&bytes).map_err(invalid));
    made.map_err(|source| FileError { path: path.to_owned(), source })
}

fn password(bytes: &[u8]) -> Result<String, String> {
    match first_line(bytes) {
        [] => Err("its first line is empty".to_owned()),
        line => String::from_utf8(line.to_vec()).map_err(|error| error.to_string()),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let mut found = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| error.to_string())? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(found) }
}

fn private_key(pem: &[u8]) -> Result<PrivateKey<'static>, String> {
    PrivateKey::from_pem(pem).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    fn flags(words: &[&str]) -> Result<EtcdFlags, clap::Error> {
        let command = EtcdFlags::augment_args(Command::new("coffre").no_binary_name(true));
        EtcdFlags::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    #[test]
    fn members_are_hosts_and_ports() {
        let members: Members = "etcd://10.0.0.1:2379,[::1]:2379,host:1/".parse().unwrap();
        assert_eq!(members.0, ["10.0.0.1:2379", "[::1]:2379", "host:1"]);
        for wrong in [
            "",
            "etcd://",
            "10.0.0.1:2379",
            "etcd://host",
            "etcd://:1",
            "etcd://a:1,,b:1",
            "etcd://a/b:1",
            "etcd://a:99999",
        ] {
            assert!(wrong.parse::<Members>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn flags_that_belong_together_are_given_together() {
        assert!(flags(&[]).is_ok());
        for wrong in [
            &["--etcd-user", "a"][..],
            &["--etcd-password-file", "a"],
            &["--etcd-cert", "a", "--etcd-key", "b"],
            &["--etcd-ca", "a", "--etcd-key", "b"],
            &["--etcd-prefix", "coffre"],
            &["--etcd-prefix", "/"],
            &["--etcd-timeout", "0"],
            &["--etcd-timeout", "nan"],
        ] {
            assert!(flags(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let members: Members = "etcd://host:1".parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let said = |words: &[&str]| {
            let words: Vec<_> = words
                .iter()
                .map(|word| if *word == "FILE" { path.to_str().unwrap() } else { word })
                .collect();
            flags(&words)
                .unwrap()
                .options(&members, 16)
                .map(drop)
                .map_err(|error| error.to_string())
        };
        let missing = said(&["--etcd-ca", "FILE"]).unwrap_err();
        assert!(missing.starts_with(path.to_str().unwrap()), "{missing}");
        std::fs::write(&path, "\nsecret\n").unwrap();
        assert!(
            said(&["--etcd-ca", "FILE"]).unwrap_err().ends_with("there is no certificate in it")
        );
        let user = ["--etcd-user", "a", "--etcd-password-file", "FILE"];
        assert!(said(&user).unwrap_err().ends_with("its first line is empty"));
        std::fs::write(&path, "secret\n").unwrap();
        assert!(said(&user).is_ok());
    }
}
