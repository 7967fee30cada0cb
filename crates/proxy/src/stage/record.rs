//! The end of every exchange, once: metrics, the access-log line, and the span where one is sampled.

use super::Exchange;
use crate::{
    engine::{Breach, Difference, Finding, Outgoing, Redactor, ShadowReport},
    mesh::{count_request, described},
    privacy_guard::PrivacyGuard,
    snapshot::Edge,
    waf_guard::WafGuard,
};
use portcullis_ops::{
    Span,
    access_log::{Record, now_text},
};
use portcullis_policy::{Side, TraceContext};
use portcullis_rollout::Outcome;
use portcullis_waf::Audit;
use serde::Serialize;
use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// What only the engine knows when it is over.
pub(crate) struct Ending<'e> {
    pub(crate) protocol: &'static str,
    pub(crate) method: &'e str,
    pub(crate) query: Option<&'e str>,
    /// 0: nothing was answered.
    pub(crate) status: u16,
    pub(crate) user_agent: Option<&'e [u8]>,
    pub(crate) referer: Option<&'e [u8]>,
}

pub(crate) fn record(edge: &Edge, exchange: &mut Exchange, ending: &Ending<'_>, now: Instant) {
    // Released first: whoever reads the metrics after this line sees the exchange as over.
    let endpoint = exchange.pick.take().map(|pick| pick.index);
    let outcome = match exchange.fate {
        Some((reason, _)) if reason.side() == Side::Upstream => portcullis_limit::Outcome::Dropped,
        _ => portcullis_limit::Outcome::Unrelated,
    };
    exchange.sample(outcome, now);
    exchange.slots.clear();
    exchange.active = None;
    let took = now.saturating_duration_since(exchange.started);
    let snapshot = exchange.snapshot.clone();
    if let Some(metrics) = exchange.plan.and_then(|plan| snapshot.route_metrics.get(plan)) {
        metrics.ended(ending.status, took);
    }
    // What the client did wrong, or gave up, says nothing about the service.
    let by_client = exchange.fate.is_some_and(|(reason, _)| reason.side() == Side::Client);
    if let Some(releases) = exchange.releases().filter(|_| !by_client) {
        // What somebody else had to answer in its place does not speak for it.
        let own = exchange.chosen == exchange.cluster;
        let good = own && (100..500).contains(&ending.status) && exchange.fate.is_none();
        releases.record(exchange.chosen, if good { Outcome::Good } else { Outcome::Bad }, took);
    }
    if let (Some(peers), Some(took)) =
        (exchange.cluster.and_then(|cluster| snapshot.peers.cluster(cluster)), exchange.upstream_took)
    {
        peers.metrics.answered(took);
    }
    let redactor = exchange.redactor.take();
    if let Some(redactor) = &redactor {
        tell_findings(edge, exchange, ending, redactor);
    }
    // Also of requests that were refused before anybody looked for personal data in them.
    let hidden = Hidden(exchange.plan.and_then(|plan| snapshot.privacy.get(plan)).and_then(Option::as_ref));
    if let Some(contract) = exchange.contract.take() {
        tell_breaches(edge, exchange, ending, contract.into_breaches(), hidden);
    }
    if let Some((guard, audit, shadow)) = exchange.inspector.take().map(|inspector| inspector.finish()) {
        tell_audit(edge, exchange, ending, &guard, &audit, hidden);
        if let Some(shadow) = shadow {
            tell_shadow(edge, exchange, ending, &guard, Compared { shadow: &shadow, live: &audit, hidden });
        }
    }
    if let Some((reason, _)) = exchange.fate {
        edge.metrics.refused(reason.as_str());
    }
    count_request(edge, exchange, ending, took);
    if let Some(outgoing) = &exchange.outgoing {
        count_outgoing(edge, exchange, outgoing);
    }
    if let (Some(tracer), Some(trace)) = (&snapshot.tracer, exchange.trace.filter(|trace| trace.sampled)) {
        tracer.record(span(exchange, ending, trace, took, &hidden.text(&exchange.path)));
    }
    let failed = exchange.fate.is_some() || ending.status >= 500;
    if !snapshot.log.takes(failed, fastrand::u64(..)) {
        return;
    }
    let facts = &exchange.facts;
    let tls = facts.tls.as_ref();
    let cluster = exchange.cluster.and_then(|cluster| snapshot.clusters.get(cluster));
    let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let route = exchange.plan().map(|plan| plan.name());
    let identity = tls.and_then(|tls| tls.identity.as_ref());
    let path = hidden.text(&exchange.path);
    let query = ending.query.map(|query| hidden.text(query));
    let (user_agent, referer) = (hidden.octets(ending.user_agent), hidden.octets(ending.referer));
    let outgoing = exchange.outgoing.as_deref();
    let caller = outgoing.map(|outgoing| outgoing.caller.name());
    let reported = outgoing.and_then(|outgoing| outgoing.reported);
    let mesh = described(exchange);
    // Behind a sidecar the endpoint is where the connection was for.
    let behind =
        facts.mesh().filter(|mesh| cluster.is_some_and(|cluster| mesh.application.as_ref() == Some(&cluster.name)));
    let application = endpoint.and(behind).and_then(|mesh| mesh.target).map(|target| target.to_string());
    let record = Record {
        request_id: &exchange.request_id,
        trace_id: exchange.trace.map(|trace| trace.trace),
        listener: facts.listener.name.as_str(),
        client: Some(exchange.client_ip),
        peer: facts.peer,
        protocol: ending.protocol,
        tls_version: tls.map(|tls| tls.version),
        tls_cipher: tls.map(|tls| tls.cipher),
        sni: tls.and_then(|tls| tls.sni.as_deref()),
        identity: match &caller {
            Some(caller) => Some(caller.as_str()),
            None => identity.map(|identity| identity.spiffe.as_deref().unwrap_or(&identity.subject)),
        },
        subject: exchange.who.subject(),
        method: ending.method,
        host: &exchange.host,
        path: &path,
        query: query.as_deref(),
        status: ending.status,
        route: route.as_deref(),
        upstream: cluster.map(|cluster| cluster.name.as_str()),
        endpoint: application
            .or_else(|| {
                endpoint
                    .zip(cluster)
                    .and_then(|(index, cluster)| Some(cluster.endpoints.get(index)?.address.to_string()))
            })
            .or_else(|| exchange.endpoint.map(|endpoint| endpoint.to_string())),
        rule: outgoing
            .and_then(|outgoing| outgoing.rule())
            .or_else(|| exchange.mesh.as_ref()?.rule.as_ref())
            .map(|rule| rule.as_str()),
        destination: outgoing
            .and_then(|outgoing| outgoing.destination())
            .map(|name| name.as_str())
            .or(mesh.as_ref().map(|mesh| mesh.destination.as_str())),
        source: mesh.as_ref().map(|mesh| mesh.source.as_str()),
        security: mesh.as_ref().map(|mesh| mesh.security.as_str()),
        verdict: exchange.mesh.as_ref().map(|call| call.verdict),
        attempts: exchange.attempts,
        reason: exchange.fate.map(|(reason, _)| reason.as_str()).or(reported.map(|reason| reason.as_str())),
        ended_by: exchange.fate.map(|(reason, _)| reason.side().as_str()),
        stage: exchange.fate.map(|(_, stage)| stage).or(reported.map(|_| "report")),
        bytes_in: exchange.body_in.received(),
        bytes_out: exchange.body_out,
        duration_us: micros(took),
        upstream_us: exchange.upstream_took.map(micros),
        user_agent: user_agent.as_deref(),
        referer: referer.as_deref(),
    };
    edge.access_log.write(&snapshot.log, &record);
}

/// This hop: no header field and no query, and of the path what the log may have.
fn span(exchange: &Exchange, ending: &Ending<'_>, trace: TraceContext, took: Duration, path: &str) -> Span {
    let route = exchange.plan().map(|plan| plan.name());
    let mut text = vec![
        ("http.request.method", ending.method.to_owned()),
        ("url.path", path.to_owned()),
        ("server.address", exchange.host.clone()),
        ("client.address", exchange.client_ip.to_string()),
        ("network.protocol.name", ending.protocol.to_owned()),
        ("portcullis.request_id", exchange.request_id.clone()),
    ];
    let cluster = exchange.cluster.and_then(|cluster| exchange.snapshot.clusters.get(cluster));
    text.extend(route.as_ref().map(|route| ("http.route", route.to_string())));
    text.extend(cluster.map(|cluster| ("portcullis.upstream", cluster.name.to_string())));
    if let Some(mesh) = described(exchange) {
        text.push(("portcullis.mesh.source", mesh.source));
        text.push(("portcullis.mesh.destination", mesh.destination));
    }
    let name = route.map_or_else(|| ending.method.to_owned(), |route| format!("{} {route}", ending.method));
    Span {
        trace: trace.trace,
        span: trace.span,
        parent: trace.parent,
        name,
        began: SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH),
        took,
        failed: match (exchange.fate, ending.status) {
            (Some((reason, _)), _) => Some(reason.as_str()),
            // Semantic conventions for HTTP servers: 4xx are the client's.
            (None, 500..) => Some("status"),
            (None, _) => None,
        },
        text,
        numbers: vec![("http.response.status_code", i64::from(ending.status))],
    }
}

/// What went out, by destination.
fn count_outgoing(edge: &Edge, exchange: &Exchange, outgoing: &Outgoing) {
    let metrics = &edge.metrics.egress;
    let destination = outgoing.destination().map(|name| name.as_str());
    let refused = matches!(exchange.fate, Some((_, "access")));
    metrics.flow(
        destination,
        "request",
        match outgoing.reported {
            _ if refused => "refused",
            Some(_) => "reported",
            None => "allowed",
        },
    );
    if let Some((reason, _)) = exchange.fate {
        metrics.refused(destination, reason.as_str());
    }
    let (up, down) = (exchange.body_in.received(), if refused { 0 } else { exchange.body_out });
    metrics.moved(destination, up, down);
    outgoing.spend(up.saturating_add(down));
}

/// One line for each transaction that matched something or was cut in an odd way, and a count for every one.
fn tell_audit(
    edge: &Edge,
    exchange: &Exchange,
    ending: &Ending<'_>,
    guard: &WafGuard,
    audit: &Audit,
    hidden: Hidden<'_>,
) {
    let outcome = match (&audit.intervention, audit.matches.is_empty()) {
        (Some(_), _) => "blocked",
        (None, false) => "matched",
        (None, true) => "passed",
    };
    edge.metrics.inspected(&guard.name, outcome);
    audit.cut.iter().for_each(|cut| edge.metrics.uninspected(&guard.name, cut.as_str()));
    let odd = audit.cut.iter().any(|cut| cut.is_odd());
    if audit.matches.is_empty() && audit.intervention.is_none() && !odd {
        return;
    }
    write_audit(edge, exchange, ending, Told { waf: &guard.name, outcome, audit, shadow: None, hidden });
}

/// A count for each comparison, a line for each that found a difference.
fn tell_shadow(edge: &Edge, exchange: &Exchange, ending: &Ending<'_>, guard: &WafGuard, compared: Compared<'_>) {
    let Compared { shadow, live, hidden } = compared;
    let outcome = shadow.difference.as_str();
    edge.metrics.shadowed(&guard.name, &shadow.guard.name, outcome);
    if shadow.difference == Difference::Same {
        return;
    }
    let ids = |one: &Audit, other: &Audit| {
        let own = one.matches.iter().map(|matched| matched.id);
        own.filter(|id| !other.matches.iter().any(|matched| matched.id == *id)).collect()
    };
    let difference = ShadowLine {
        waf: &guard.name,
        only_live: ids(live, &shadow.audit),
        only_shadow: ids(&shadow.audit, live),
        refused_live: live.objects(),
        refused_shadow: shadow.audit.objects(),
    };
    let told = Told { waf: &shadow.guard.name, outcome, audit: &shadow.audit, shadow: Some(difference), hidden };
    write_audit(edge, exchange, ending, told);
}

struct Told<'a> {
    waf: &'a str,
    outcome: &'static str,
    audit: &'a Audit,
    shadow: Option<ShadowLine<'a>>,
    hidden: Hidden<'a>,
}

/// What a rule set that only looks on found, beside what the one that decides did.
struct Compared<'a> {
    shadow: &'a ShadowReport,
    live: &'a Audit,
    hidden: Hidden<'a>,
}

fn write_audit(edge: &Edge, exchange: &Exchange, ending: &Ending<'_>, told: Told<'_>) {
    let line = AuditLine {
        time: now_text(),
        waf: told.waf,
        outcome: told.outcome,
        request_id: &exchange.request_id,
        client: exchange.client_ip,
        method: ending.method,
        host: &exchange.host,
        path: &told.hidden.text(&exchange.path),
        status: ending.status,
        route: exchange.plan().map(|plan| plan.name()),
        shadow: told.shadow,
        audit: &told.hidden.audit(told.audit),
    };
    if let Ok(mut line) = serde_json::to_vec(&line) {
        line.push(b'\n');
        edge.audit_log.write_line(line);
    }
}

/// In the line of a rule set that only looks on: what it was compared with, and how they differ.
#[derive(Serialize)]
struct ShadowLine<'a> {
    waf: &'a str,
    only_live: Vec<u32>,
    only_shadow: Vec<u32>,
    refused_live: bool,
    refused_shadow: bool,
}

#[derive(Serialize)]
struct AuditLine<'a> {
    time: String,
    waf: &'a str,
    outcome: &'static str,
    request_id: &'a str,
    client: std::net::IpAddr,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    status: u16,
    route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<ShadowLine<'a>>,
    audit: &'a Audit,
}

/// What our own lines must not tell.
#[derive(Clone, Copy)]
struct Hidden<'r>(Option<&'r Arc<PrivacyGuard>>);

impl Hidden<'_> {
    fn text<'t>(self, text: &'t str) -> Cow<'t, str> {
        self.0.map_or(Cow::Borrowed(text), |guard| guard.hide(text).into())
    }

    /// Rules quote what matched, in their messages as well.
    fn audit(self, audit: &Audit) -> Cow<'_, Audit> {
        let Some(guard) = self.0 else { return Cow::Borrowed(audit) };
        let mut hidden = audit.clone();
        for matched in &mut hidden.matches {
            matched.message = guard.hide(&matched.message);
            for finding in &mut matched.findings {
                // Names are the client's to choose.
                finding.variable = guard.hide(&finding.variable);
                finding.excerpt = guard.hide(&String::from_utf8_lossy(&finding.excerpt)).into_bytes();
                finding.data = guard.hide(&finding.data);
            }
        }
        Cow::Owned(hidden)
    }

    fn octets<'t>(self, octets: Option<&'t [u8]>) -> Option<Cow<'t, [u8]>> {
        octets.map(|octets| match self.0 {
            None => Cow::Borrowed(octets),
            Some(guard) => guard.hide(&String::from_utf8_lossy(octets)).into_bytes().into(),
        })
    }
}

/// One line for each exchange in which something was found, and a count for every place.
fn tell_findings(edge: &Edge, exchange: &Exchange, ending: &Ending<'_>, redactor: &Redactor) {
    let findings = redactor.findings();
    if findings.is_empty() {
        return;
    }
    let route = exchange.plan().map(|plan| plan.name()).unwrap_or_default();
    for one in &findings {
        let (direction, part) = (one.direction.as_str(), one.part.as_str());
        edge.metrics.privacy.found(&route, &one.detector, direction, part, one.action, one.count);
    }
    let guard = redactor.guard();
    let line = FindingsLine {
        time: now_text(),
        privacy: &guard.names,
        request_id: &exchange.request_id,
        client: exchange.client_ip,
        method: ending.method,
        host: &exchange.host,
        path: &guard.hide(&exchange.path),
        status: ending.status,
        route: &route,
        findings,
    };
    if let Ok(mut line) = serde_json::to_vec(&line) {
        line.push(b'\n');
        edge.audit_log.write_line(line);
    }
}

#[derive(Serialize)]
struct FindingsLine<'a> {
    time: String,
    privacy: &'a [String],
    request_id: &'a str,
    client: std::net::IpAddr,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    status: u16,
    route: &'a str,
    findings: Vec<Finding>,
}

/// One line for each exchange that differs from a document, and a count for every difference.
fn tell_breaches(edge: &Edge, exchange: &Exchange, ending: &Ending<'_>, mut breaches: Vec<Breach>, hidden: Hidden<'_>) {
    if breaches.is_empty() {
        return;
    }
    let route = exchange.plan().map(|plan| plan.name()).unwrap_or_default();
    for breach in &mut breaches {
        edge.metrics.violated(&route, &breach.api, breach.violation.kind.as_str(), breach.action);
        // Names of properties are the client's to choose.
        breach.violation.place = hidden.text(&breach.violation.place).into_owned();
        breach.violation.message = hidden.text(&breach.violation.message).into_owned();
    }
    let line = BreachesLine {
        time: now_text(),
        request_id: &exchange.request_id,
        client: exchange.client_ip,
        method: ending.method,
        host: &exchange.host,
        path: &hidden.text(&exchange.path),
        status: ending.status,
        route: &route,
        violations: breaches,
    };
    if let Ok(mut line) = serde_json::to_vec(&line) {
        line.push(b'\n');
        edge.audit_log.write_line(line);
    }
}

#[derive(Serialize)]
struct BreachesLine<'a> {
    time: String,
    request_id: &'a str,
    client: std::net::IpAddr,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    status: u16,
    route: &'a str,
    violations: Vec<Breach>,
}
