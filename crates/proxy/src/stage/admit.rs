//! Admission: who asks, for which host and path, under which id; refuses what has no single meaning.

use super::Exchange;
use crate::{conn::ConnFacts, snapshot::Snapshot};
use portcullis_names::normalise_host;
use portcullis_policy::{Reason, Sampling, TraceContext, TraceHeaders, normalise_path};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

/// A request as it came in.
pub(crate) struct Arrival<'a> {
    /// Host or :authority.
    pub(crate) authority: &'a str,
    /// The path without its query.
    pub(crate) path: &'a str,
    pub(crate) trace: TraceHeaders<'a>,
    pub(crate) request_id: Option<&'a [u8]>,
    /// The values of the header that the listener takes the client's address from.
    pub(crate) forwarded: Vec<&'a [u8]>,
}

/// Makes the exchange. A refusal is noted in it; the caller answers.
pub(crate) fn admit(snapshot: Arc<Snapshot>, facts: Arc<ConnFacts>, arrival: &Arrival<'_>, now: Instant) -> Exchange {
    let plan = facts.listener.plan();
    let mut fate = None;
    let host = match normalise_host(arrival.authority) {
        Some(host) => host,
        None if arrival.authority.is_empty() => String::new(),
        None => {
            fate = Some((Reason::BadHost, "admit"));
            String::new()
        }
    };
    let path = match normalise_path(arrival.path) {
        Ok(path) => path.into_owned(),
        // OPTIONS * (RFC 9112 §3.2.4).
        Err(_) if arrival.path == "*" || arrival.path.is_empty() => "/".to_owned(),
        Err(_) => {
            fate = fate.or(Some((Reason::BadPath, "admit")));
            "/".to_owned()
        }
    };
    // A unix socket has no address: whoever may open it is local.
    let peer = facts.source.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |source| source.ip());
    let peer_is_trusted = plan.client_ip.trusts(peer);
    let client_ip = plan.client_ip.decide(peer, &arrival.forwarded);
    let kept_id =
        arrival.request_id.filter(|id| peer_is_trusted && id_is_plain(id)).and_then(|id| std::str::from_utf8(id).ok());
    // What a sidecar's connection is for is known without its requests.
    let host = facts.mesh().and_then(|mesh| mesh.service.as_ref()).map_or(host, ToString::to_string);
    let sampled = snapshot.tracer.as_ref().is_some_and(|tracer| tracer.samples(fastrand::u64(..)));
    let sampling = if sampled { Sampling::Sampled } else { Sampling::NotSampled };
    Exchange {
        request_id: kept_id.map_or_else(|| format!("{:032x}", fastrand::u128(..)), str::to_owned),
        trace: Some(TraceContext::continue_from(&arrival.trace, fastrand::u128(..), fastrand::u64(..), sampling)),
        body_limit: plan.limits.body_bytes,
        snapshot,
        facts,
        started: now,
        host,
        path,
        client_ip,
        peer_is_trusted,
        plan: None,
        cleared: None,
        who: Default::default(),
        challenges: Vec::new(),
        authz: Vec::new(),
        limited: Vec::new(),
        limit_key: Default::default(),
        slots: Vec::new(),
        chosen: None,
        cluster: None,
        fallbacks: 0,
        pick: None,
        wish: None,
        tried: Default::default(),
        attempts: 0,
        attempt: None,
        stale_tries: 0,
        active: None,
        judged: false,
        retry_status: None,
        retry_wait: Duration::ZERO,
        retry_permit: None,
        set_cookie: None,
        upstream_began: None,
        upstream_took: None,
        answered: 0,
        body_in: Default::default(),
        body_out: 0,
        mirror: None,
        head_gate: None,
        ahead: None,
        said_continue: false,
        inspector: None,
        redactor: None,
        contract: None,
        allow: None,
        location: None,
        encoder: None,
        outgoing: None,
        endpoint: None,
        upstream_scheme: None,
        ride: None,
        mesh: None,
        would_refuse: Vec::new(),
        fate,
    }
}

/// An id of somebody else's goes into logs and headers: short, visible, nothing to quote.
fn id_is_plain(id: &[u8]) -> bool {
    (1..=128).contains(&id.len()) && id.iter().all(|octet| octet.is_ascii_alphanumeric() || b"-_.:/+=".contains(octet))
}
