//! `authz = { … }` on routes and rules.

use super::{AuthorityFields, Authz, AuthzProtocol, is_framing};
use crate::{HttpUrl, Transport, unless_wrong::unless_wrong};
use http::HeaderName as HttpHeaderName;
use portcullis_config::{Context, Path};
use portcullis_names::{ByteSize, HeaderName, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Another program that decides about requests. Exactly one of `http` and `grpc`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct AuthzSpec {
    /// Asked with the request's own method, and its path behind this URL's; 200 lets it pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Speaks `envoy.service.auth.v3.Authorization`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// Default 200ms, at most 1m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// What becomes of a request when the authority cannot be reached, is late, fails or cannot be understood (default
    /// "deny"). A denial is one in either case, and so is a request that cannot be put to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_fail: Option<OnFail>,
    /// Fields of the request that the authority is shown (default: authorization).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<Vec<HeaderName>>,
    /// Fields of an allowing answer that the request takes over, and of a denying one that the client is sent (default:
    /// none by http, all by grpc). The client's own fields of these names never pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_headers: Option<Vec<HeaderName>>,
    /// The authority is shown bodies up to this size; larger ones are refused (default: no body is shown; at most 64KiB).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<ByteSize>,
}

/// What becomes of a request whose authority failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFail {
    Deny,
    Allow,
}

const TIMEOUT_DEFAULT: Duration = Duration::from_millis(200);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// What is held for a retry anyway: the body must still reach the upstream after the authority has seen it.
const BODY_MAX_BYTES: u64 = 64 << 10;

impl AuthzSpec {
    /// `None` when something is wrong; all of it is then in the report.
    pub fn compile(&self, at: &Path, cx: &mut Context) -> Option<Authz> {
        unless_wrong(cx, |cx| self.authz(at, cx))
    }

    fn authz(&self, at: &Path, cx: &mut Context) -> Option<Authz> {
        let timeout = self.timeout.map_or(TIMEOUT_DEFAULT, |timeout| timeout.get());
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            cx.error(&at.key("timeout"), "an authority is given more than nothing and at most 1m");
        }
        let body_max = self.body.map(ByteSize::bytes);
        if body_max.is_some_and(|bytes| bytes == 0 || bytes > BODY_MAX_BYTES) {
            cx.error(&at.key("body"), "an authority is shown bodies of at most 64KiB")
                .help("leave it out to show none");
        }
        let request_headers = header_names(self.request_headers.as_deref(), &at.key("request_headers"), cx);
        let response_headers = header_names(self.response_headers.as_deref(), &at.key("response_headers"), cx);
        let (protocol, url) = self.place(at, cx)?;
        let response_headers = match (response_headers?, protocol) {
            (Some(names), _) => AuthorityFields::These(names),
            (None, AuthzProtocol::Http) => AuthorityFields::These(Vec::new()),
            (None, AuthzProtocol::Grpc) => AuthorityFields::All,
        };
        Some(Authz {
            protocol,
            url,
            timeout,
            on_fail: self.on_fail.unwrap_or(OnFail::Deny),
            request_headers: request_headers?.unwrap_or_else(|| vec![http::header::AUTHORIZATION]),
            response_headers,
            body_max: body_max.and_then(|bytes| usize::try_from(bytes).ok()),
        })
    }

    fn place(&self, at: &Path, cx: &mut Context) -> Option<(AuthzProtocol, HttpUrl)> {
        let (protocol, key, text) = match (&self.http, &self.grpc) {
            (Some(text), None) => (AuthzProtocol::Http, "http", text),
            (None, Some(text)) => (AuthzProtocol::Grpc, "grpc", text),
            (None, None) => {
                cx.error(at, "no authority is named").help("say `http = \"http://…\"` or `grpc = \"http://…\"`");
                return None;
            }
            (Some(_), Some(_)) => {
                cx.error_at_key(&at.key("grpc"), "`http` and `grpc` exclude one another");
                return None;
            }
        };
        let at = at.key(key);
        let url: HttpUrl = match text.parse() {
            Ok(url) => url,
            Err(error) => {
                cx.error(&at, format!("{error}"));
                return None;
            }
        };
        if protocol == AuthzProtocol::Grpc && url.target() != "/" {
            cx.error(&at, format!("`{text}`: a gRPC service has no path of its own"));
            return None;
        }
        if url.target().contains('?') {
            cx.error(&at, format!("`{text}`: the request brings its own query"));
            return None;
        }
        if url.transport() == Transport::Clear && HttpUrl::parse_protected(text).is_err() {
            cx.warning(&at, format!("`{text}`: credentials and answers travel in the clear")).help("use https");
        }
        Some((protocol, url))
    }
}

/// `Some(None)`: not said.
fn header_names(names: Option<&[HeaderName]>, at: &Path, cx: &mut Context) -> Option<Option<Vec<HttpHeaderName>>> {
    let Some(names) = names else { return Some(None) };
    let mut parsed = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        match HttpHeaderName::from_bytes(name.as_str().as_bytes()) {
            Ok(name) if !is_framing(&name) => parsed.push(name),
            _ => drop(cx.error(&at.index(index), format!("`{name}` belongs to one message and cannot be passed on"))),
        }
    }
    (parsed.len() == names.len()).then_some(Some(parsed))
}
