//! Why a request goes where it goes: the data path's own search, with every candidate written down.

use crate::{Action, Cors, Facts, Guard, Lookup, Plan, Reason, RequestView, RouteTable, UpstreamId};
use portcullis_auth::Decision;
use serde::Serialize;
use std::fmt;

/// The answer to "where would this request go?".
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    pub listener: String,
    pub host: String,
    pub path: String,
    /// `None`: nothing takes the request.
    pub rule: Option<String>,
    pub place: Option<String>,
    /// What we answer ourselves; `None`: the upstream answers, or it depends on counts and on others.
    pub status: Option<u16>,
    /// In the order in which they were considered; the last one took the request, if any did.
    pub candidates: Vec<Candidate>,
    /// What would happen, step by step.
    pub steps: Vec<String>,
}

/// One rule that was considered.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    pub rule: String,
    pub place: Option<String>,
    /// The first condition that did not hold; `None`: this is the one.
    pub lost_by: Option<&'static str>,
}

impl RouteTable {
    /// Uses the very search of [`RouteTable::find`].
    pub fn explain(&self, request: &Facts, upstream_name: impl Fn(UpstreamId) -> String) -> Explanation {
        let mut candidates = Vec::new();
        let lookup = self.search(request, &mut |rule, lost_by| {
            candidates.push(Candidate { rule: rule.plan.name(), place: place(&rule.plan), lost_by });
        });
        let plan = match lookup {
            Lookup::Found(plan) => Some(plan),
            Lookup::NoRule | Lookup::NoHost => None,
        };
        let (steps, status) = match plan {
            Some(plan) => steps(plan, request, upstream_name),
            None => (Vec::new(), Some(404)),
        };
        Explanation {
            listener: request.listener_name().to_owned(),
            host: request.host().to_owned(),
            path: request.path().to_owned(),
            rule: plan.map(Plan::name),
            place: plan.and_then(place),
            status,
            candidates,
            steps,
        }
    }
}

fn place(plan: &Plan) -> Option<String> {
    plan.place.as_ref().map(|place| format!("{}:{}", place.file.display(), place.line))
}

/// What happens, and the status if the answer is ours for sure.
fn steps(plan: &Plan, request: &Facts, upstream_name: impl Fn(UpstreamId) -> String) -> (Vec<String>, Option<u16>) {
    let mut steps: Vec<String> = Vec::new();
    for guard in plan.guards.iter() {
        let Some((step, ends)) = guard_step(guard, plan, request) else { continue };
        steps.push(step);
        if ends.is_some() {
            return (steps, ends);
        }
    }
    for (kind, wanted) in [("api", &plan.api), ("privacy", &plan.privacy)] {
        if !wanted.is_empty() {
            steps.push(format!("{kind}: looked at by {}", wanted.names().collect::<Vec<_>>().join(" and ")));
        }
    }
    let mut status = None;
    if plan.fault != crate::Fault::default() {
        steps.push("fault: a share is delayed or refused on purpose".to_owned());
    }
    match &plan.action {
        Action::Redirect(redirect) => {
            status = Some(redirect.status);
            steps.push(format!("redirect {} to {}", redirect.status, redirect.location(request)))
        }
        Action::Respond(respond) => {
            status = Some(respond.status);
            steps.push(format!("respond {} with {} octets", respond.status, respond.body.len()))
        }
        Action::Outward => steps.push("out to the destination".to_owned()),
        Action::Forward(split) => {
            if let Some(rewrite) = &plan.rewrite {
                if let Some(path) = rewrite.path(request.path()) {
                    steps.push(format!("rewrite path to {path}"));
                }
                if let Some(host) = &rewrite.host {
                    steps.push(format!("rewrite host to {host}"));
                }
            }
            if !plan.request_headers.is_empty() {
                steps.push("edit request headers".to_owned());
            }
            let names: Vec<_> = split.upstreams().map(upstream_name).collect();
            steps.push(format!("upstream {}", names.join(" or ")));
            steps.push(format!("timeout {:?}", plan.timeout));
            if plan.retry.attempts > 0 {
                steps.push(format!("up to {} more tries: {}", plan.retry.attempts, plan.retry));
            }
            if plan.mirror.is_some() {
                steps.push("mirror".to_owned());
            }
        }
    }
    if !plan.compress.is_empty() {
        let codings: Vec<_> = plan.compress.iter().map(|coding| coding.as_str()).collect();
        steps.push(format!("compress text for those who accept {}", codings.join(", ")));
    }
    if plan.security_headers != crate::SecurityHeaders::Off {
        steps.push("security headers where the origin says nothing".to_owned());
    }
    if !plan.response_headers.is_empty() {
        steps.push("edit response headers".to_owned());
    }
    if plan.fault.aborts() {
        status = None;
    }
    (steps, status)
}

/// What a guard does about this very request, and the status with which it ends there, if it does so for sure.
fn guard_step(guard: &Guard, plan: &Plan, request: &Facts) -> Option<(String, Option<u16>)> {
    Some(match guard {
        Guard::Ip(rules) => match rules.check(request.client_ip) {
            Ok(()) => (format!("ip: {} may pass", request.client_ip), None),
            Err(refusal) => (format!("ip: {} is refused: {refusal}", request.client_ip), Some(refusal.status())),
        },
        Guard::RateLimit(limit) => (format!("rate limit {}: {}", limit.name(), limit.rate()), None),
        Guard::Preflight if Cors::is_preflight(request) => {
            let origin = RequestView::header(request, "origin");
            let allowed = plan.cors.as_ref().zip(origin).is_some_and(|(cors, origin)| cors.allows(origin));
            let status = if allowed { 204 } else { Reason::CorsOrigin.status() };
            ("cors: a preflight is answered".to_owned(), Some(status))
        }
        Guard::Preflight => return None,
        Guard::Auth(rule) => match rule.begin(request, request.now) {
            Decision::Done(Ok(found)) => (format!("auth: {}", found.subject().unwrap_or("passed")), None),
            Decision::Done(Err(refusal)) => (format!("auth: {rule}: {refusal}"), Some(refusal.status())),
            Decision::Keys(..) | Decision::Password(_) => (format!("auth: {rule}: checked when it is asked"), None),
        },
        Guard::Authz(authz) => (format!("authz: {} decides", authz.url()), None),
        Guard::Concurrency(slots) => (format!("at most {} at a time ({})", slots.limit.max(), slots.owner), None),
    })
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "listener  {}", self.listener)?;
        writeln!(f, "host      {}", self.host)?;
        writeln!(f, "path      {}", self.path)?;
        let at = |place: &Option<String>| place.as_ref().map(|place| format!("  ({place})")).unwrap_or_default();
        match &self.rule {
            Some(rule) => writeln!(f, "rule      {rule}{}", at(&self.place))?,
            None => writeln!(f, "rule      none")?,
        }
        for candidate in &self.candidates {
            match candidate.lost_by {
                Some(lost_by) => {
                    writeln!(f, "  lost    {}: {lost_by} does not match{}", candidate.rule, at(&candidate.place))?
                }
                None => writeln!(f, "  took    {}{}", candidate.rule, at(&candidate.place))?,
            }
        }
        for step in &self.steps {
            writeln!(f, "then      {step}")?;
        }
        if let Some(status) = self.status {
            writeln!(f, "answer    {status}")?;
        }
        Ok(())
    }
}
