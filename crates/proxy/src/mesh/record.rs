//! What became of a call, told once: the metrics with both identities, the board, and of tunnels the access-log line.

use super::{
    How, LiveMesh, Security,
    board::{PeerEntry, Went},
};
use crate::{
    conn::ConnFacts,
    listen::Direction,
    snapshot::Edge,
    stage::{Ending, Exchange},
};
use portcullis_names::ObjectName;
use portcullis_ops::{access_log::Record, metrics::MeshFlow};
use portcullis_policy::{Reason, Side};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// Of a request: counted beside what every request is counted by.
pub(crate) fn count_request(edge: &Edge, exchange: &Exchange, ending: &Ending<'_>, took: Duration) {
    let facts = exchange.facts.clone();
    let (Some(mesh), Some(live)) = (facts.mesh(), exchange.snapshot.mesh.as_ref()) else { return };
    let verdict = exchange.mesh.as_ref().map_or("allowed", |call| call.verdict);
    let failed = exchange.fate.is_some() || ending.status >= 500;
    let refused = exchange.fate.is_some_and(|(_, stage)| stage == "access");
    let went = match verdict {
        _ if refused => Went::Refused,
        _ if failed => Went::Failed,
        "reported" => Went::Reported,
        _ => Went::Well,
    };
    let Some(Described { source, destination, security }) = described(exchange) else { return };
    let entry = match mesh.direction {
        Direction::Inbound => mesh.entry.clone(),
        Direction::Outbound => {
            (destination != "none").then(|| live.state.board.entry(Direction::Outbound, &destination))
        }
    };
    if let Some(entry) = entry {
        entry.called(went, exchange.started);
    }
    edge.metrics.mesh.request(
        &MeshFlow {
            direction: mesh.direction.as_str(),
            source: &source,
            destination: &destination,
            security: security.as_str(),
        },
        if refused { "refused" } else { verdict },
        ending.status,
        took,
    );
    for rule in &exchange.would_refuse {
        edge.metrics.mesh.would_refuse(rule.as_str());
    }
    if let Some(rule) = exchange.mesh.as_ref().and_then(|call| call.rule.as_ref()) {
        edge.metrics.mesh.rule(rule.as_str(), verdict);
    }
}

/// Between whom a request is.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) security: Security,
}

/// `None`: it is not between workloads.
pub(crate) fn described(exchange: &Exchange) -> Option<Described> {
    let (mesh, live) = (exchange.facts.mesh()?, exchange.snapshot.mesh.as_ref()?);
    let own = live.plan.own.to_string();
    Some(match mesh.direction {
        Direction::Inbound => Described { source: mesh.source(), destination: own, security: mesh.security },
        Direction::Outbound => {
            let cluster = exchange.cluster.and_then(|cluster| exchange.snapshot.clusters.get(cluster));
            let towards = cluster.and_then(|cluster| live.plan.towards(&cluster.name));
            let in_clear = exchange.endpoint.is_some_and(|endpoint| live.state.is_plain(endpoint, Instant::now()));
            let security = match towards.map(|towards| towards.how) {
                Some(How::MeshOrPlain) if in_clear => Security::Plain,
                Some(How::Mesh | How::MeshOrPlain) => Security::Mtls,
                Some(How::Plain) | None => Security::Plain,
            };
            let destination = towards.map_or_else(|| "none".to_owned(), |towards| towards.name().to_string());
            Described { source: own, destination, security }
        }
    })
}

/// A stream of octets, from its beginning to its end.
#[derive(Debug)]
pub(super) struct TunnelRecord {
    pub(super) direction: Direction,
    pub(super) protocol: &'static str,
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) identity: Option<String>,
    pub(super) security: Security,
    pub(super) entry: Option<Arc<PeerEntry>>,
    pub(super) verdict: &'static str,
    pub(super) rule: Option<ObjectName>,
    pub(super) would_refuse: Vec<ObjectName>,
    pub(super) upstream: Option<ObjectName>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) sni: Option<String>,
    pub(super) attempts: u32,
    pub(super) began: Instant,
}

/// How it came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Finished,
    Broken,
    Idle,
    /// By us: a new policy, or a refusal before an octet went through.
    Refused(&'static str),
    Failed(Reason),
    Drained,
}

impl TunnelRecord {
    pub(super) fn new(direction: Direction, protocol: &'static str, live: &LiveMesh) -> Self {
        Self {
            direction,
            protocol,
            source: live.plan.own.to_string(),
            destination: live.plan.own.to_string(),
            identity: None,
            security: Security::Plain,
            entry: None,
            verdict: "allowed",
            rule: None,
            would_refuse: Vec::new(),
            upstream: None,
            endpoint: None,
            sni: None,
            attempts: 0,
            began: Instant::now(),
        }
    }

    pub(super) fn tell(&self, edge: &Edge, facts: &ConnFacts, ended: Ended, octets: (u64, u64)) {
        let flow = MeshFlow {
            direction: self.direction.as_str(),
            source: &self.source,
            destination: &self.destination,
            security: self.security.as_str(),
        };
        let (reason, side, went) = match ended {
            Ended::Finished => (None, None, Went::Well),
            Ended::Broken => (Some("broken_off"), None, Went::Well),
            Ended::Idle => (Some("idle"), Some("gateway"), Went::Well),
            Ended::Drained => (Some("drained"), Some("gateway"), Went::Well),
            Ended::Refused(reason) => (Some(reason), Some("gateway"), Went::Refused),
            Ended::Failed(reason) => (Some(reason.as_str()), Some(Side::as_str(reason.side())), Went::Failed),
        };
        let outcome = match (went, self.verdict) {
            (Went::Refused, _) => "refused",
            (Went::Failed, _) => "failed",
            (Went::Well | Went::Reported, verdict) => verdict,
        };
        edge.metrics.mesh.tunnel(&flow, outcome, octets);
        if let (Went::Refused | Went::Failed, Some(reason)) = (went, reason) {
            edge.metrics.mesh.refused(self.direction.as_str(), reason);
            edge.metrics.refused(reason);
        }
        if let Some(rule) = &self.rule {
            edge.metrics.mesh.rule(rule.as_str(), self.verdict);
        }
        for rule in &self.would_refuse {
            edge.metrics.mesh.would_refuse(rule.as_str());
        }
        if let Some(entry) = &self.entry {
            let went = if went == Went::Well && self.verdict == "reported" { Went::Reported } else { went };
            entry.called(went, self.began);
            if let Ended::Refused(reason) = ended {
                entry.denied(reason, self.rule.as_ref().map(ObjectName::as_str));
            }
        }
        let snapshot = edge.snapshot();
        if !snapshot.log.takes(reason.is_some(), fastrand::u64(..)) {
            return;
        }
        let tls = facts.tls.as_ref();
        let record = Record {
            request_id: "-",
            listener: facts.listener.name.as_str(),
            client: facts.source.map(|source| source.ip()),
            peer: facts.peer,
            protocol: self.protocol,
            tls_version: tls.map(|tls| tls.version),
            tls_cipher: tls.map(|tls| tls.cipher),
            sni: self.sni.as_deref(),
            identity: self.identity.as_deref(),
            upstream: self.upstream.as_ref().map(ObjectName::as_str),
            rule: self.rule.as_ref().map(ObjectName::as_str),
            source: Some(&self.source),
            destination: Some(&self.destination),
            security: Some(self.security.as_str()),
            verdict: Some(self.verdict),
            endpoint: self.endpoint.map(|endpoint| endpoint.to_string()),
            attempts: self.attempts,
            reason,
            ended_by: side,
            bytes_in: octets.0,
            bytes_out: octets.1,
            duration_us: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
            ..Record::default()
        };
        edge.access_log.write(&snapshot.log, &record);
    }
}
