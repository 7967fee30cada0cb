//! "What would happen to this request?", answered by the data path's own search.

use crate::{Compiled, CompiledListener};
use portcullis_names::normalise_host;
use portcullis_policy::{Explanation, Facts, Lookup, Scheme, normalise_path};
use portcullis_proxy::{
    WafGuard,
    listen::{Direction, PlanProtocol, Underscores},
};
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, sync::Arc};

/// A request that was never sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Question {
    pub method: String,
    pub url: String,
    /// `Name: value`.
    #[serde(default)]
    pub headers: Vec<String>,
    pub from: IpAddr,
}

/// Explains against a compiled configuration. The error says what is wrong with the question.
pub fn explain(compiled: &Compiled, question: &Question) -> Result<Explanation, String> {
    let (facts, listener) = facts(compiled, question)?;
    let name = |id: portcullis_policy::UpstreamId| {
        compiled.clusters.get(id.0 as usize).map_or_else(String::new, |cluster| cluster.name.to_string())
    };
    let mut explanation = compiled.routes.explain(&facts, name);
    if listener.plan.redirects_to_https {
        explanation.steps = vec!["redirect 308 to https".to_owned()];
        explanation.status = Some(308);
    }
    Ok(explanation)
}

/// What the WAF would be shown of a request, and by whom.
#[derive(Debug)]
pub struct WafView {
    /// The rule that would take it.
    pub route: String,
    /// What looks at its requests, if anything does.
    pub guard: Option<Arc<WafGuard>>,
    /// Whether the listener drops a field before anybody sees it.
    pub dropped: fn(&str) -> bool,
}

/// Finds the route of a request as the data path does.
pub fn waf_of(compiled: &Compiled, question: &Question) -> Result<WafView, String> {
    let (facts, listener) = facts(compiled, question)?;
    let Lookup::Found(plan) = compiled.routes.find(&facts) else {
        return Err(format!("no route takes {} {}", question.method, question.url));
    };
    let dropped: fn(&str) -> bool = match listener.plan.underscores {
        Underscores::Drop => |name| name.contains('_'),
        Underscores::Refuse | Underscores::Pass => |_| false,
    };
    Ok(WafView { route: plan.name(), guard: compiled.wafs.get(plan.index).cloned().flatten(), dropped })
}

/// The request as routes see it, and the listener that would get it.
fn facts<'c>(compiled: &'c Compiled, question: &Question) -> Result<(Facts, &'c CompiledListener), String> {
    let url: http::Uri = question.url.parse().map_err(|error| format!("`{}` is not a URL: {error}", question.url))?;
    let scheme = match url.scheme_str() {
        Some("https") => Scheme::Https,
        Some("http") => Scheme::Http,
        _ => return Err(format!("`{}` is not an http or https URL", question.url)),
    };
    let authority = url.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let host = normalise_host(authority).ok_or_else(|| format!("`{authority}` is not a host"))?;
    let path = normalise_path(url.path()).map_err(|_| format!("`{}` is a path that is refused", url.path()))?;
    let fits = |protocol: &PlanProtocol| match protocol {
        PlanProtocol::Https(_) => scheme == Scheme::Https,
        PlanProtocol::Http => scheme == Scheme::Http,
        PlanProtocol::Mesh(mesh) => scheme == Scheme::Http && mesh.direction() == Direction::Outbound,
        PlanProtocol::Tcp(_) | PlanProtocol::Tls(_) | PlanProtocol::Proxy(_) | PlanProtocol::Intercept(_) => false,
    };
    let port = url.port_u16().unwrap_or(if scheme == Scheme::Https { 443 } else { 80 });
    let candidates = || compiled.listeners.iter().filter(|listener| fits(&listener.plan.protocol));
    let listener = candidates()
        .find(|listener| listener.plan.address.port() == Some(port))
        .or_else(|| candidates().next())
        .ok_or_else(|| format!("no listener speaks {}", scheme.as_str()))?;
    let mut headers = Vec::new();
    for header in &question.headers {
        let (name, value) = header.split_once(':').ok_or_else(|| format!("`{header}` is not `Name: value`"))?;
        let name = name.trim().to_ascii_lowercase();
        match listener.plan.underscores {
            Underscores::Drop if name.contains('_') => continue,
            Underscores::Refuse if name.contains('_') => {
                return Err(format!("`{name}`: names with underscores are refused"));
            }
            _ => headers.push((name, value.trim().to_owned())),
        }
    }
    let facts = Facts {
        method: question.method.clone(),
        host,
        path: path.into_owned(),
        query: url.query().map(str::to_owned),
        headers,
        client_ip: question.from,
        listener: listener.plan.id,
        listener_name: listener.plan.name.to_string(),
        scheme,
        identity: None,
        country: compiled.geo.as_ref().and_then(|geo| geo.country(question.from)).map(str::to_owned),
        now: unix_seconds(),
    };
    Ok((facts, listener))
}

fn unix_seconds() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
