//! What became of a flow, told once: one access-log line and the metrics.

use super::{CallerFacts, admission};
use crate::{conn::ConnFacts, snapshot::Edge};
use portcullis_egress::{Decision, FirstOctets, Reason, Target, Verdict};
use portcullis_ops::access_log::Record;
use std::{net::SocketAddr, time::Instant};

/// A tunnel, from its asking to its end. Requests have a record of their own in `stage::record`.
#[derive(Debug)]
pub(crate) struct FlowRecord {
    id: u128,
    /// `CONNECT`, `SOCKS5`, `SNI` …
    pub(crate) protocol: &'static str,
    pub(crate) caller: Option<CallerFacts>,
    /// As asked for, as far as it was understood.
    pub(crate) target: String,
    pub(crate) sni: Option<String>,
    pub(crate) decision: Option<Decision>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) began: Instant,
}

/// How a tunnel came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Before an octet went through.
    Refused(Reason),
    /// Both sides were done.
    Finished,
    /// One side broke off.
    Broken,
    /// Nothing moved for too long.
    Idle,
    /// By us: grant, policy or budget.
    Cut(Reason),
    /// The listener or the process ended.
    Drained,
}

/// Octets of a tunnel, seen from the caller.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Octets {
    pub(crate) up: u64,
    pub(crate) down: u64,
}

impl FlowRecord {
    /// Boxed: it goes from hand to hand, and is told at the very end.
    pub(crate) fn new(protocol: &'static str) -> Box<Self> {
        Box::new(Self {
            id: fastrand::u128(..),
            protocol,
            caller: None,
            target: String::new(),
            sni: None,
            decision: None,
            endpoint: None,
            began: Instant::now(),
        })
    }

    /// As logs and answers have it.
    pub(crate) fn request_id(&self) -> String {
        format!("{:032x}", self.id)
    }

    pub(crate) fn learn_sni(&mut self, first: FirstOctets) {
        if let FirstOctets::Tls(hello) = first {
            self.sni = hello.sni;
        }
    }

    pub(crate) fn set_target(&mut self, target: &Target) {
        self.target = target.to_string();
    }

    /// `reported`: what was let through although it would be denied.
    pub(crate) fn tell(&self, edge: &Edge, facts: &ConnFacts, ended: Ended, reported: Option<Reason>, octets: Octets) {
        let destination = self.decision.as_ref().and_then(|decision| decision.destination.as_ref());
        let destination = destination.map(|destination| destination.name().as_str());
        let metrics = &edge.metrics.egress;
        let verdict = self.decision.as_ref().map(|decision| decision.verdict);
        let reported = reported.or(match verdict {
            Some(Verdict::Report(reason)) => Some(reason),
            Some(Verdict::Allow | Verdict::Deny(_)) | None => None,
        });
        match ended {
            Ended::Refused(reason) => {
                metrics.flow(destination, "tunnel", "refused");
                metrics.refused(destination, reason.as_str());
                edge.metrics.refused(reason.as_str());
            }
            _ if reported.is_some() => metrics.flow(destination, "tunnel", "reported"),
            _ => metrics.flow(destination, "tunnel", self.decision.as_ref().map_or("allowed", admission::outcome)),
        }
        if let Ended::Cut(reason) = ended {
            metrics.refused(destination, reason.as_str());
            edge.metrics.refused(reason.as_str());
        }
        metrics.moved(destination, octets.up, octets.down);
        let (reason, side, stage) = match (ended, reported) {
            (Ended::Refused(reason), _) => (Some(reason.as_str()), Some("gateway"), Some("access")),
            (Ended::Cut(reason), _) => (Some(reason.as_str()), Some("gateway"), Some("tunnel")),
            (Ended::Idle, _) => (Some("idle"), Some("gateway"), Some("tunnel")),
            (Ended::Drained, _) => (Some("drained"), Some("gateway"), Some("tunnel")),
            (Ended::Broken, None) => (Some("broken_off"), None, Some("tunnel")),
            (Ended::Finished | Ended::Broken, Some(reason)) => (Some(reason.as_str()), None, Some("report")),
            (Ended::Finished, None) => (None, None, None),
        };
        let snapshot = edge.snapshot();
        if !snapshot.log.takes(reason.is_some(), fastrand::u64(..)) {
            return;
        }
        let caller = self.caller.as_ref().map(CallerFacts::name);
        let tls = facts.tls.as_ref();
        let record = Record {
            request_id: &self.request_id(),
            listener: facts.listener.name.as_str(),
            client: facts.source.map(|source| source.ip()),
            peer: facts.peer,
            protocol: self.protocol,
            tls_version: tls.map(|tls| tls.version),
            tls_cipher: tls.map(|tls| tls.cipher),
            sni: self.sni.as_deref(),
            identity: caller.as_ref().map(portcullis_egress::CallerName::as_str),
            method: "CONNECT",
            host: &self.target,
            status: match ended {
                Ended::Refused(reason) => reason.status(),
                Ended::Finished | Ended::Broken | Ended::Idle | Ended::Cut(_) | Ended::Drained => 200,
            },
            rule: self.decision.as_ref().and_then(|decision| decision.rule.as_ref()).map(|rule| rule.as_str()),
            destination,
            endpoint: self.endpoint.map(|endpoint| endpoint.to_string()),
            attempts: u32::from(self.endpoint.is_some()),
            reason,
            ended_by: side,
            stage,
            bytes_in: octets.up,
            bytes_out: octets.down,
            duration_us: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
            ..Record::default()
        };
        edge.access_log.write(&snapshot.log, &record);
    }
}
