//! What etcd's JSON gateway takes and returns, as far as coffre needs it.
//!
//! Names of fields are those of etcd's `rpc.proto`. Bytes are base64; a 64-bit number is a string in replies.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A request: where it goes, and what comes back.
pub trait Request: Serialize {
    /// What comes back.
    type Reply: DeserializeOwned;
    /// Where it goes, after the address of a member.
    const PATH: &'static str;
}

/// Bytes, which are base64 in JSON.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(&self.0, &STANDARD))
    }
}

/// Reads a string as something else.
struct OfString<T>(PhantomData<T>, fn(&str) -> Option<T>);

impl<T> Visitor<'_> for OfString<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string as etcd writes it")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.1)(text).ok_or_else(|| E::custom("not what etcd writes"))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let decode = |text: &str| STANDARD.decode(text).ok().map(Self);
        deserializer.deserialize_str(OfString(PhantomData, decode))
    }
}

/// A 64-bit number, which is a string in replies. Those that coffre uses are never negative.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_str(OfString(PhantomData, |text| text.parse().ok()))
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The part of every reply that tells its revision.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Header {
    /// The revision of the keyspace when the request was carried out.
    #[serde(default, deserialize_with = "number")]
    pub revision: u64,
}

/// Reads keys.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RangeRequest {
    /// The key, or the first of them.
    pub key: Bytes,
    /// The first key after them, if there may be several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_end: Option<Bytes>,
    /// At most so many; 0 for all.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
    /// As they were at this revision; 0 for the last.
    #[serde(skip_serializing_if = "is_zero")]
    pub revision: u64,
    /// From whatever the member that is asked knows, without asking a majority.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub serializable: bool,
    /// Without values.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keys_only: bool,
    /// Only their number.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub count_only: bool,
}

/// What was read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RangeReply {
    /// The revision.
    #[serde(default)]
    pub header: Header,
    /// The keys, in order.
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
    /// Whether there are more.
    #[serde(default)]
    pub more: bool,
    /// How many there are in all.
    #[serde(default, deserialize_with = "number")]
    pub count: u64,
}

/// A key, its value, and when it was last changed.
#[derive(Clone, Debug, Deserialize)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value.
    #[serde(default)]
    pub value: Bytes,
    /// The revision of its last change.
    #[serde(deserialize_with = "number")]
    pub mod_revision: u64,
    /// The number of its changes since it was created.
    #[serde(deserialize_with = "number")]
    pub version: u64,
}

/// A transaction: all of `success` if all of `compare` holds, else all of `failure`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TxnRequest {
    /// What must hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compare: Vec<Compare>,
    /// What is done then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub success: Vec<Operation>,
    /// What is done otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failure: Vec<Operation>,
}

/// A condition on the last change of a key, or of each in a range; a key that is missing has revision 0.
#[derive(Clone, Debug, Serialize)]
pub struct Compare {
    key: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    range_end: Option<Bytes>,
    target: &'static str,
    result: &'static str,
    mod_revision: u64,
}

impl Compare {
    /// The key was last changed at this revision.
    pub fn is_unchanged(key: Vec<u8>, mod_revision: u64) -> Self {
        Self { key: Bytes(key), range_end: None, target: "MOD", result: "EQUAL", mod_revision }
    }

    /// No key of a range was created or changed after this revision.
    pub fn none_changed_since((start, end): (Vec<u8>, Vec<u8>), revision: u64) -> Self {
        let (key, range_end) = (Bytes(start), Some(Bytes(end)));
        Self { key, range_end, target: "MOD", result: "LESS", mod_revision: revision + 1 }
    }

    /// The one key that it is about; none if that is a range.
    pub fn key(&self) -> Option<&Bytes> {
        Some(&self.key).filter(|_| self.range_end.is_none())
    }

    /// Whether it holds of its [key](Self::key) if that was last changed at `revision`.
    pub fn holds(&self, revision: u64) -> bool {
        self.mod_revision == revision
    }
}

/// A step of a transaction.
#[derive(Clone, Debug, Serialize)]
pub enum Operation {
    /// Reads keys.
    #[serde(rename = "request_range")]
    Range(RangeRequest),
    /// Sets a key.
    #[serde(rename = "request_put")]
    Put {
        /// The key.
        key: Bytes,
        /// Its value.
        value: Bytes,
        /// The lease with which it vanishes, if it does.
        #[serde(skip_serializing_if = "Option::is_none")]
        lease: Option<i64>,
    },
    /// Deletes a key, or all of a range.
    #[serde(rename = "request_delete_range")]
    Delete {
        /// The key, or the first of them.
        key: Bytes,
        /// The first key after them, if there may be several.
        #[serde(skip_serializing_if = "Option::is_none")]
        range_end: Option<Bytes>,
    },
    /// A transaction within another: its conditions are asked of what there was before the outer one.
    #[serde(rename = "request_txn")]
    Txn(TxnRequest),
}

impl Operation {
    /// Reads one key.
    pub fn get(key: Vec<u8>, revision: u64) -> Self {
        Self::Range(RangeRequest { key: Bytes(key), revision, ..RangeRequest::default() })
    }

    /// Sets a key that stays.
    pub fn put(key: Vec<u8>, value: Vec<u8>) -> Self {
        Self::Put { key: Bytes(key), value: Bytes(value), lease: None }
    }

    /// Deletes one key.
    pub fn delete(key: Vec<u8>) -> Self {
        Self::Delete { key: Bytes(key), range_end: None }
    }

    /// Deletes a range of keys.
    pub fn delete_range(start: Vec<u8>, end: Vec<u8>) -> Self {
        Self::Delete { key: Bytes(start), range_end: Some(Bytes(end)) }
    }

    /// How long its key and its value are, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.0.len() + value.0.len(),
            Self::Range(RangeRequest { key, .. }) | Self::Delete { key, .. } => key.0.len(),
            Self::Txn(txn) => txn.success.iter().map(Self::bytes).sum(),
        }
    }

    /// The one key that it changes; none if it changes several, or none.
    pub fn changed_key(&self) -> Option<&Bytes> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, range_end: None } => Some(key),
            _ => None,
        }
    }
}

/// What a transaction did.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct TxnReply {
    /// The revision.
    #[serde(default)]
    pub header: Header,
    /// Whether all conditions held.
    #[serde(default)]
    pub succeeded: bool,
    /// A reply to each step.
    #[serde(default)]
    pub responses: Vec<OperationReply>,
}

/// The reply to a step.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct OperationReply {
    /// What was read, of a step that reads.
    #[serde(default)]
    pub response_range: RangeReply,
    /// What was done, of a transaction within another.
    #[serde(default)]
    pub response_txn: Option<Box<TxnReply>>,
}

/// Asks for a lease: what is put with it vanishes some time after it was last kept alive.
#[derive(Clone, Debug, Serialize)]
pub struct LeaseGrant {
    /// That time, in seconds.
    #[serde(rename = "TTL")]
    pub ttl_s: u64,
}

/// A lease.
#[derive(Clone, Debug, Deserialize)]
pub struct Lease {
    /// Its number.
    #[serde(rename = "ID", deserialize_with = "number")]
    pub id: u64,
    /// How long it lives without being kept alive, in seconds; 0 if it is gone.
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    pub ttl_s: u64,
}

/// Keeps a lease alive.
#[derive(Clone, Debug, Serialize)]
pub struct LeaseKeepAlive {
    /// Its number.
    #[serde(rename = "ID")]
    pub id: i64,
}

/// The first message of a stream, which has no other.
#[derive(Clone, Debug, Deserialize)]
pub struct Streamed<T> {
    /// The message.
    pub result: T,
}

/// Gives a lease up.
#[derive(Clone, Debug, Serialize)]
pub struct LeaseRevoke {
    /// Its number.
    #[serde(rename = "ID")]
    pub id: i64,
}

/// A reply of which nothing is needed.
#[derive(Clone, Debug, Deserialize)]
pub struct Nothing {}

/// Asks a member how it is.
#[derive(Clone, Debug, Serialize)]
pub struct StatusRequest {}

/// How a member is.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct MemberStatus {
    /// The revision of the keyspace, as far as this member knows.
    #[serde(default)]
    pub header: MemberHeader,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// The length of its database, in bytes.
    #[serde(rename = "dbSize", default, deserialize_with = "number")]
    pub database_bytes: u64,
    /// How much of that holds something, in bytes.
    #[serde(rename = "dbSizeInUse", default, deserialize_with = "number")]
    pub database_used_bytes: u64,
    /// The number of the member that leads, 0 if it knows of none.
    #[serde(default, deserialize_with = "number")]
    pub leader: u64,
}

/// Which member it is, and what it knows.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct MemberHeader {
    /// Its number.
    #[serde(default, deserialize_with = "number")]
    pub member_id: u64,
    /// The revision of the keyspace.
    #[serde(default, deserialize_with = "number")]
    pub revision: u64,
    /// How many leaders were elected.
    #[serde(default, deserialize_with = "number")]
    pub raft_term: u64,
}

/// Asks for the alarms of all members.
#[derive(Clone, Debug, Serialize)]
pub struct AlarmRequest {
    /// What is to be done.
    pub action: &'static str,
}

/// The alarms.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Alarms {
    /// One for each member that has one.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
}

/// An alarm.
#[derive(Clone, Debug, Deserialize)]
pub struct Alarm {
    /// Its kind.
    #[serde(default)]
    pub alarm: String,
}

/// Forgets the history before a revision.
#[derive(Clone, Debug, Serialize)]
pub struct CompactRequest {
    /// The revision.
    pub revision: u64,
}

/// Asks for a token to send with further requests.
#[derive(Serialize)]
pub struct Authenticate<'a> {
    /// The name of the user.
    pub name: &'a str,
    /// The password.
    pub password: &'a str,
}

/// The token.
#[derive(Deserialize)]
pub struct Authenticated {
    /// To send with further requests.
    pub token: String,
}

/// Why a request was refused.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Refusal {
    /// A sentence.
    #[serde(default)]
    pub error: String,
    /// A code of gRPC.
    #[serde(default)]
    pub code: u32,
}

macro_rules! requests {
    ($($request:ty => $reply:ty, $path:literal;)*) => {
        $(impl Request for $request {
            type Reply = $reply;
            const PATH: &'static str = $path;
        })*
    };
}

requests! {
    RangeRequest => RangeReply, "/v3/kv/range";
    TxnRequest => TxnReply, "/v3/kv/txn";
    CompactRequest => Nothing, "/v3/kv/compaction";
    LeaseGrant => Lease, "/v3/lease/grant";
    LeaseKeepAlive => Streamed<Lease>, "/v3/lease/keepalive";
    LeaseRevoke => Nothing, "/v3/lease/revoke";
    StatusRequest => MemberStatus, "/v3/maintenance/status";
    AlarmRequest => Alarms, "/v3/maintenance/alarm";
    Authenticate<'_> => Authenticated, "/v3/auth/authenticate";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_written_as_etcd_reads_it() {
        let request = TxnRequest {
            compare: vec![
                Compare::is_unchanged(b"a".to_vec(), 7),
                Compare::none_changed_since((b"a".to_vec(), b"b".to_vec()), 7),
            ],
            success: vec![
                Operation::put(b"a".to_vec(), b"\xff".to_vec()),
                Operation::delete_range(b"b".to_vec(), b"c".to_vec()),
            ],
            failure: vec![Operation::get(b"a".to_vec(), 0)],
        };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"compare":[{"key":"YQ==","target":"MOD","result":"EQUAL","mod_revision":7},"#
                .to_owned()
                + r#"{"key":"YQ==","range_end":"Yg==","target":"MOD","result":"LESS","mod_revision":8}],"#
                + r#""success":[{"request_put":{"key":"YQ==","value":"/w=="}},"#
                + r#"{"request_delete_range":{"key":"Yg==","range_end":"Yw=="}}],"#
                + r#""failure":[{"request_range":{"key":"YQ=="}}]}"#
        );
    }

    /// Replies of etcd 3.4.23.
    #[test]
    fn replies_are_read_as_etcd_writes_them() {
        let text = r#"{"header":{"cluster_id":"324952591200643719","member_id":"3319814642761637952",
            "revision":"2","raft_term":"2"},"succeeded":true,"responses":[{"response_put":{"header":{"revision":"2"}}},
            {"response_range":{"header":{"revision":"2"},"kvs":[{"key":"YQ==","create_revision":"2",
            "mod_revision":"2","version":"1","value":"Pz4+fn52"}],"count":"1"}}]}"#;
        let reply: TxnReply = serde_json::from_str(text).unwrap();
        assert!(reply.succeeded && reply.header.revision == 2);
        let [_, range] = &reply.responses[..] else { panic!("{reply:?}") };
        let [read] = &range.response_range.kvs[..] else { panic!("{reply:?}") };
        assert_eq!((&read.key.0[..], &read.value.0[..]), (&b"a"[..], &b"?>>~~v"[..]));
        let empty: TxnReply = serde_json::from_str("{}").unwrap();
        assert!(!empty.succeeded && empty.responses.is_empty());
        assert!(serde_json::from_str::<Bytes>(r#""*""#).is_err());
    }
}
