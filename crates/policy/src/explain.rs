//! Why a request goes where it goes: the data path's own search, with every candidate written down.

use crate::{Action, Lookup, Plan, RequestView, RouteTable, UpstreamId};
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
    pub fn explain(&self, request: &impl RequestView, upstream_name: impl Fn(UpstreamId) -> String) -> Explanation {
        let mut candidates = Vec::new();
        let lookup = self.search(request, &mut |rule, lost_by| {
            candidates.push(Candidate { rule: rule.plan.name(), place: place(&rule.plan), lost_by });
        });
        let (plan, status) = match lookup {
            Lookup::Found(plan) => (Some(plan), None),
            Lookup::NoRule | Lookup::NoHost => (None, Some(404)),
        };
        Explanation {
            listener: request.listener_name().to_owned(),
            host: request.host().to_owned(),
            path: request.path().to_owned(),
            rule: plan.map(Plan::name),
            place: plan.and_then(place),
            status,
            candidates,
            steps: plan.map_or_else(Vec::new, |plan| steps(plan, request, upstream_name)),
        }
    }
}

fn place(plan: &Plan) -> Option<String> {
    plan.place.as_ref().map(|place| format!("{}:{}", place.file.display(), place.line))
}

fn steps(plan: &Plan, request: &impl RequestView, upstream_name: impl Fn(UpstreamId) -> String) -> Vec<String> {
    let mut steps = Vec::new();
    match &plan.action {
        Action::Redirect(redirect) => {
            steps.push(format!("redirect {} to {}", redirect.status, redirect.location(request)))
        }
        Action::Respond(respond) => {
            steps.push(format!("respond {} with {} octets", respond.status, respond.body.len()))
        }
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
            steps.push(format!(
                "timeout {:?}, {} more tries when an endpoint cannot be connected to",
                plan.timeout, plan.retry.attempts
            ));
            if plan.mirror.is_some() {
                steps.push("mirror".to_owned());
            }
        }
    }
    if !plan.response_headers.is_empty() {
        steps.push("edit response headers".to_owned());
    }
    steps
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "listener  {}", self.listener)?;
        writeln!(f, "host      {}", self.host)?;
        writeln!(f, "path      {}", self.path)?;
        let at = |place: &Option<String>| place.as_ref().map(|place| format!("  ({place})")).unwrap_or_default();
        match &self.rule {
            Some(rule) => writeln!(f, "rule      {rule}{}", at(&self.place))?,
            None => writeln!(f, "rule      none: {}", self.status.unwrap_or(404))?,
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
        Ok(())
    }
}
