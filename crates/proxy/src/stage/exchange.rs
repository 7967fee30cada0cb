//! One request and its response, from admission to record.

use super::body_in::BodyIn;
use crate::{
    conn::ConnFacts,
    engine::{Ahead, Attempt, Contract, Encoder, HeadGate, Inspector, MirrorTap, Outgoing, Redactor, Ride},
    mesh::MeshCall,
    release::Releases,
    snapshot::Snapshot,
};
use portcullis_auth::{Authenticated, AuthzEdits};
use portcullis_limit::{ConcurrencyPermit, Key, Outcome, RateLimit, Verdict};
use portcullis_names::ObjectName;
use portcullis_ops::metrics::ActiveRequest;
use portcullis_policy::{Cleared, Plan, Reason, Scheme, TraceContext};
use portcullis_upstream::{Cluster, ClusterId, Permit, Pick, StickyToken, Tried, Wish};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

/// What the stages know and decide of one request.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Pinned: one request sees one configuration.
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) facts: Arc<ConnFacts>,
    pub(crate) started: Instant,
    /// Normalised.
    pub(crate) host: String,
    /// Normalised.
    pub(crate) path: String,
    pub(crate) client_ip: IpAddr,
    pub(crate) peer_is_trusted: bool,
    pub(crate) request_id: String,
    pub(crate) trace: Option<TraceContext>,
    pub(crate) body_limit: u64,
    pub(crate) plan: Option<usize>,
    pub(crate) cleared: Option<Cleared>,
    /// Who is asking, as far as that was found out.
    pub(crate) who: Authenticated,
    /// How to say who one is, for the answer to those who did not.
    pub(crate) challenges: Vec<String>,
    /// What external authorities want changed, in the order in which they were asked.
    pub(crate) authz: Vec<AuthzEdits>,
    /// What the rate limits said, in the order in which they were asked; the last one refused, if any did.
    pub(crate) limited: Vec<Limited>,
    /// Kept from limit to limit.
    pub(crate) limit_key: Key,
    /// Given back at the end.
    pub(crate) slots: Vec<ConcurrencyPermit>,
    /// Whom the split or a release chose.
    pub(crate) chosen: Option<ClusterId>,
    /// Who serves it: the chosen one, or one that it falls back to.
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) fallbacks: u32,
    pub(crate) pick: Option<Pick>,
    pub(crate) wish: Option<Wish>,
    pub(crate) tried: Tried,
    pub(crate) attempts: u32,
    /// Chosen, and not gone about yet.
    pub(crate) attempt: Option<Attempt>,
    /// Tries that met a dead pooled connection.
    pub(crate) stale_tries: u32,
    pub(crate) active: Option<ActiveRequest>,
    /// Outlier detection knows how the present attempt ended.
    pub(crate) judged: bool,
    /// The status that the present attempt is thrown away for.
    pub(crate) retry_status: Option<u16>,
    pub(crate) retry_wait: Duration,
    pub(crate) retry_permit: Option<Permit>,
    /// For the client's cookie.
    pub(crate) set_cookie: Option<StickyToken>,
    pub(crate) upstream_began: Option<Instant>,
    pub(crate) upstream_took: Option<Duration>,
    /// The status of the upstream's answer once it is on its way to the client; 0 before.
    pub(crate) answered: u16,
    pub(crate) body_in: BodyIn,
    pub(crate) body_out: u64,
    pub(crate) mirror: Option<MirrorTap>,
    /// The upstream connection's, while the head waits for a verdict on the body.
    pub(crate) head_gate: Option<HeadGate>,
    /// What was read of the body before its head was sent.
    pub(crate) ahead: Option<Ahead>,
    /// The client that asked whether to send its body was told to.
    pub(crate) said_continue: bool,
    /// What the WAF has seen of it.
    pub(crate) inspector: Option<Box<Inspector>>,
    /// How it differs from what the documents of its API say.
    pub(crate) contract: Option<Box<Contract>>,
    /// The methods that the document knows for the path, when the request's is none of them.
    pub(crate) allow: Option<String>,
    /// What personal data was found in it.
    pub(crate) redactor: Option<Box<Redactor>>,
    /// Where a rule of the WAF sends the client instead.
    pub(crate) location: Option<String>,
    /// Of the response body, when it is compressed here.
    pub(crate) encoder: Option<Encoder>,
    /// Egress: who it is for, by which rule, to where.
    pub(crate) outgoing: Option<Box<Outgoing>>,
    /// Egress: the address of the present attempt.
    pub(crate) endpoint: Option<SocketAddr>,
    /// What the present attempt's head says over h2 inside a TLS that the engine knows nothing of; `None`: as the engine has it.
    pub(crate) upstream_scheme: Option<http::uri::Scheme>,
    /// The present attempt's place on a connection that others share.
    pub(crate) ride: Option<Ride>,
    /// Inbound to a sidecar: what the policy said. Held as long as the request is under way.
    pub(crate) mesh: Option<Box<MeshCall>>,
    /// Rules that only report, and would have refused it.
    pub(crate) would_refuse: Vec<ObjectName>,
    /// Why it failed, and in which stage that was found.
    pub(crate) fate: Option<(Reason, &'static str)>,
}

/// One rate limit's word on a request.
#[derive(Debug)]
pub(crate) struct Limited {
    pub(crate) limit: Arc<RateLimit>,
    pub(crate) verdict: Verdict,
}

impl Exchange {
    pub(crate) fn plan(&self) -> Option<&Plan> {
        self.snapshot.routes.plan(self.plan?)
    }

    /// Whom it is served by: an upstream, or the addresses of an external host.
    pub(crate) fn serving(&self) -> Option<Arc<Cluster>> {
        match &self.outgoing {
            Some(outgoing) => outgoing.pool().cloned(),
            None => self.snapshot.clusters.get(self.cluster?).cloned(),
        }
    }

    /// A later attempt comes after its wait.
    pub(crate) async fn wait_for_attempt(&mut self) {
        if !self.retry_wait.is_zero() {
            tokio::time::sleep(std::mem::take(&mut self.retry_wait)).await;
        }
    }

    /// Tells adaptive limits how the upstream bore it; the first word counts, the places are kept to the end.
    pub(crate) fn sample(&mut self, outcome: Outcome, now: Instant) {
        for slot in &mut self.slots {
            slot.sample(now, outcome);
        }
    }

    /// `Some`: the upstream is the application behind this sidecar; with the address that the connection was for, where one is known.
    pub(crate) fn application(&self, cluster: &Cluster) -> Option<Option<SocketAddr>> {
        let mesh = self.facts.mesh().filter(|mesh| mesh.application.as_ref() == Some(&cluster.name))?;
        Some(mesh.target)
    }

    pub(crate) fn releases(&self) -> Option<&Releases> {
        self.snapshot.releases.get(self.plan?)
    }

    pub(crate) fn scheme(&self) -> Scheme {
        // What sidecars do between them is none of the applications' business: they speak http.
        if self.facts.tls.is_some() && self.facts.mesh().is_none() { Scheme::Https } else { Scheme::Http }
    }

    /// The first cause stands; what follows is its consequence.
    pub(crate) fn fail(&mut self, reason: Reason, stage: &'static str) -> Reason {
        self.fate.get_or_insert((reason, stage)).0
    }
}
