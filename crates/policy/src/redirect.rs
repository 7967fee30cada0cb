//! Answers without an upstream: redirects and fixed responses.

use crate::RequestView;
use portcullis_config::{Context, Path};
use portcullis_names::{HeaderName, HostPattern, Status};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `redirect = { … }`: what is not said stays as it was requested.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedirectSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<RedirectScheme>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostPattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// 301, 302, 303, 307 or 308 (default 302).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedirectScheme {
    Http,
    Https,
}

/// `respond = { … }`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RespondSpec {
    pub status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<HeaderName, String>,
}

#[derive(Debug, Clone)]
pub struct Redirect {
    spec: RedirectSpec,
    pub status: u16,
}

#[derive(Debug, Clone)]
pub struct Respond {
    pub status: u16,
    pub body: String,
    pub headers: Vec<(String, String)>,
}

impl RedirectSpec {
    pub(crate) fn compile(&self, at: &Path, cx: &mut Context) -> Option<Redirect> {
        let status = self.status.map_or(302, Status::get);
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            cx.error(&at.key("status"), format!("{status} is not a redirect")).help("use 301, 302, 303, 307 or 308");
        }
        if matches!(self.host, Some(HostPattern::Wildcard(_) | HostPattern::Any)) {
            cx.error(&at.key("host"), "a redirect leads to one host, not to a pattern");
        }
        if self.path.as_ref().is_some_and(|path| !path.starts_with('/') || path.chars().any(char::is_control)) {
            cx.error(&at.key("path"), "a path begins with `/`");
        }
        if self.scheme.is_none() && self.host.is_none() && self.port.is_none() && self.path.is_none() {
            cx.error(at, "this redirect leads to itself").help("give a scheme, host, port or path");
        }
        Some(Redirect { spec: self.clone(), status })
    }
}

impl Redirect {
    /// Everything to https: what port 80 answers beside an https listener.
    pub fn to_https() -> Self {
        Self { spec: RedirectSpec { scheme: Some(RedirectScheme::Https), ..RedirectSpec::default() }, status: 308 }
    }

    /// The `Location`. Host and path come normalised, so nothing a client sent can break out of it.
    pub fn location(&self, request: &impl RequestView) -> String {
        let scheme = match self.spec.scheme {
            Some(RedirectScheme::Http) => "http",
            Some(RedirectScheme::Https) => "https",
            None => request.scheme().as_str(),
        };
        let host = self.spec.host.as_ref().map_or_else(|| request.host().to_owned(), ToString::to_string);
        let path = self.spec.path.as_deref().unwrap_or(request.path());
        if self.spec.scheme.is_none() && self.spec.host.is_none() && self.spec.port.is_none() {
            // RFC 9110 §10.2.2: a relative reference keeps the authority that the client used, port included.
            let query = request.query().map(|query| format!("?{query}")).unwrap_or_default();
            return format!("{path}{query}");
        }
        let port = self.spec.port.map(|port| format!(":{port}")).unwrap_or_default();
        let query = request.query().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{scheme}://{host}{port}{path}{query}")
    }
}

impl RespondSpec {
    pub(crate) fn compile(&self, at: &Path, cx: &mut Context) -> Option<Respond> {
        const BODY_MAX: usize = 1 << 20;
        let body = self.body.clone().unwrap_or_default();
        if body.len() > BODY_MAX {
            cx.error(&at.key("body"), "a fixed body is limited to 1 MiB");
        }
        for (name, value) in &self.headers {
            let here = at.key("headers").key(name);
            crate::edits::check_name(name, &here, cx);
            if value.chars().any(char::is_control) {
                cx.error(&here, "a header value has no control characters");
            }
        }
        let headers = self.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        Some(Respond { status: self.status.get(), body, headers })
    }
}
