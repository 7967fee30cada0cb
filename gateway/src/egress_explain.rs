//! "May this caller reach that URL?", answered by the policy's own decision.

use crate::Compiled;
use portcullis_egress::{Caller, Facts, Request, Target, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, Ipv4Addr},
    time::SystemTime,
};

/// A flow that never was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EgressQuestion {
    pub url: String,
    /// Everything that is known of the caller, in the spelling of `from`.
    pub from: Vec<String>,
    pub method: String,
}

/// Who asks, as it was described.
#[derive(Default)]
struct Described {
    address: Option<IpAddr>,
    spiffe: Option<String>,
    certificate_names: Vec<String>,
    user: Option<String>,
    uid: Option<u32>,
    cgroup: Option<String>,
}

impl Described {
    fn parse(texts: &[String]) -> Result<Self, String> {
        let mut found = Self::default();
        for text in texts {
            let strange = || {
                format!(
                    "`{text}` is no caller: expected an address, spiffe://…, certificate:NAME, user:NAME, uid:NUMBER or cgroup:/PATH"
                )
            };
            if text.starts_with("spiffe://") {
                found.spiffe = Some(text.clone());
            } else if let Ok(address) = text.parse() {
                found.address = Some(address);
            } else {
                let (kind, name) = text.split_once(':').ok_or_else(strange)?;
                match kind {
                    "certificate" => found.certificate_names.push(name.to_ascii_lowercase()),
                    "user" => found.user = Some(name.to_owned()),
                    "uid" => found.uid = Some(name.parse().map_err(|_| strange())?),
                    "cgroup" => found.cgroup = Some(name.to_owned()),
                    _ => return Err(strange()),
                }
            }
        }
        Ok(found)
    }

    fn caller(&self) -> Caller<'_> {
        Caller {
            address: self.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            spiffe: self.spiffe.as_deref(),
            certificate_names: &self.certificate_names,
            user: self.user.as_deref(),
            uid: self.uid,
            cgroup: self.cgroup.as_deref(),
        }
    }
}

/// Explains against a compiled configuration. The error says what is wrong with the question.
pub fn explain_egress(compiled: &Compiled, question: &EgressQuestion) -> Result<Value, String> {
    let plan = compiled.egress.as_ref().ok_or("the configuration has no way out: everything stays inside")?;
    let url: http::Uri = question.url.parse().map_err(|error| format!("`{}` is not a URL: {error}", question.url))?;
    let port = match url.scheme_str() {
        Some("https") => 443,
        Some("http") => 80,
        _ => return Err(format!("`{}` is not an http or https URL", question.url)),
    };
    let authority = url.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let target = Target::parse_with_default(authority, port).map_err(|reason| format!("`{authority}`: {reason}"))?;
    let described = Described::parse(&question.from)?;
    let path = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let (policy, now) = (&plan.policy, SystemTime::now());
    let facts = |request| Facts { caller: described.caller(), target: &target, request };
    let unseen = policy.decide(&facts(Request::Unseen), now);
    let sees = unseen.destination.as_ref().is_some_and(|destination| destination.sees_requests());
    let request = if sees { Request::Seen { method: &question.method, path } } else { Request::Unseen };
    let explanation = policy.explain(&facts(request), now);
    let decision = &explanation.decision;
    let verdict = match decision.verdict {
        Verdict::Allow => "allow",
        Verdict::Report(_) => "report",
        Verdict::Deny(_) => "deny",
    };
    let credential = decision.destination.as_ref().and_then(|destination| destination.credential());
    let mut text = format!("{explanation}\n");
    if let Some(credential) = credential.filter(|_| verdict == "allow") {
        text.push_str(&format!("  credential {credential} is added where it is in scope\n"));
    }
    if decision.destination.is_some() && !sees {
        text.push_str("  the tunnel is not opened: method and path are not seen\n");
    }
    Ok(json!({
        "text": text,
        "verdict": verdict,
        "reason": decision.reason().map(portcullis_egress::Reason::as_str),
        "rule": decision.rule.as_ref().map(|rule| rule.as_str()),
        "destination": decision.destination.as_ref().map(|destination| destination.name().as_str()),
        "credential": credential.map(|credential| credential.as_str()),
    }))
}
