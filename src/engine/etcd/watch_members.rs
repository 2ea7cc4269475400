//! How the members of the cluster are: asked each second, for `INFO`, metrics and `/health`, and so that a member that is
//! back is used again.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::EtcdEngine;
use super::gateway::{AlarmRequest, Bytes, MemberStatus, RangeRequest, StatusRequest};
use super::layout::Layout;
use crate::engine::Figure;
use crate::limits::ETCD_CONNECTIONS_MAX;
use crate::util::sync::lock;

/// What the members said last.
#[derive(Debug, Default)]
pub struct Members {
    /// In the order of the addresses; none of those that did not answer.
    statuses: Vec<Option<MemberStatus>>,
    alarms: Vec<String>,
    counted: Option<Instant>,
}

impl Members {
    /// The length of the longest of their databases, in bytes.
    pub fn database_bytes(&self) -> u64 {
        self.answered().map(|status| status.database_bytes).max().unwrap_or(0)
    }

    fn answered(&self) -> impl Iterator<Item = &MemberStatus> {
        self.statuses.iter().flatten()
    }
}

impl EtcdEngine {
    /// Asks each member how it is, and those that gave no answer whether they do now.
    pub(super) fn watch_members(&self) {
        const COUNT_EVERY: Duration = Duration::from_secs(5);
        let cluster = &self.slots.cluster;
        let key = Bytes(Layout::description_name(&self.prefix));
        let read = RangeRequest { key, ..RangeRequest::default() };
        let mut statuses = Vec::new();
        for member in cluster.members() {
            if member.is_suspected() && cluster.ask(member, &read).is_ok() {
                log::info!("etcd member {}: it answers again", member.url);
            }
            statuses.push(cluster.ask(member, &StatusRequest {}).ok());
        }
        if self.slots.is_down() {
            // One read through a majority says that there is one again.
            let _ = self.slots.read(&read, cluster.deadline());
        }
        let alarms = cluster.read(&AlarmRequest { action: "GET" }, 0, Instant::now());
        let alarms = alarms.map(|alarms| alarms.alarms).unwrap_or_default();
        let counted = {
            let mut members = lock(&self.members);
            members.statuses = statuses;
            members.alarms = alarms.into_iter().map(|alarm| alarm.alarm).collect();
            members.counted
        };
        if counted.is_none_or(|counted| counted.elapsed() > COUNT_EVERY)
            && self.count_keys().is_ok()
        {
            lock(&self.members).counted = Some(Instant::now());
        }
    }

    /// Why the cluster takes no writes, if it does not.
    pub(super) fn fault(&self) -> Option<String> {
        if self.slots.is_down() {
            return Some("etcd has no majority, or does not answer".to_owned());
        }
        let members = lock(&self.members);
        let alarm = members.alarms.first()?;
        Some(format!("etcd raises the alarm {alarm}"))
    }

    /// The figures of `INFO cluster_engine` and of metrics.
    pub(super) fn all_figures(&self) -> Vec<Figure> {
        let members = lock(&self.members);
        let cluster = &self.slots.cluster;
        let latencies = cluster.latencies();
        let newest = members.answered().max_by_key(|status| status.header.revision);
        let leader = newest.map_or(0, |newest| newest.leader);
        let is_leader = |status: &Option<MemberStatus>| {
            status.as_ref().is_some_and(|status| status.header.member_id == leader && leader > 0)
        };
        let leads = members.statuses.iter().position(is_leader);
        let leader = leads.map_or("", |place| cluster.members()[place].url.as_str());
        let urls: Vec<_> = cluster.members().iter().map(|member| member.url.as_str()).collect();
        let header = newest.map(|newest| newest.header.clone()).unwrap_or_default();
        let ms = |share| latencies.quantile_ns(share) as f64 / 1e6;
        let us = |share| format!("{:.0}", ms(share) * 1000.0);
        let count = |value: u64| (value.to_string(), Some(value as f64));
        let text = |value: String| (value, None);
        let answering = members.answered().count() as u64;
        let used = members.answered().map(|status| status.database_used_bytes).max().unwrap_or(0);
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let version = newest.map_or(String::new(), |newest| newest.version.clone());
        let rows = [
            ("engine", text("etcd".to_owned()), ""),
            ("endpoints", text(urls.join(",")), ""),
            ("prefix", text(self.prefix.clone()), ""),
            ("leader", text(leader.to_owned()), ""),
            ("version", text(version), ""),
            ("members_answering", count(answering), "Members of the cluster that answer."),
            ("term", count(header.raft_term), "How many leaders the cluster has elected."),
            ("revision", count(header.revision), "The revision of the cluster's keyspace."),
            (
                "database_bytes",
                count(members.database_bytes()),
                "Length of etcd's database in bytes.",
            ),
            ("database_used_bytes", count(used), "How much of it holds something."),
            ("alarms", count(members.alarms.len() as u64), "Alarms that etcd raises."),
            (
                "conflicts",
                count(load(&self.conflicts)),
                "Transactions that ran again because something had changed.",
            ),
            (
                "gave_up",
                count(load(&self.gave_up)),
                "Transactions that gave up because of conflicts.",
            ),
            ("no_answers", count(cluster.failures()), "Requests to a member that got no answer."),
            (
                "connections_max",
                count(ETCD_CONNECTIONS_MAX as u64),
                "Most connections to the cluster.",
            ),
            ("requests", count(latencies.count()), "Requests to the cluster."),
            (
                "latency_p50_us",
                (us(0.5), Some(ms(0.5) * 1000.0)),
                "Median time of a request in microseconds.",
            ),
            ("latency_p99_us", (us(0.99), Some(ms(0.99) * 1000.0)), "99th percentile of that."),
        ];
        let figure = |(name, (shown, number), help)| Figure { name, shown, number, help };
        rows.into_iter().map(figure).collect()
    }
}
