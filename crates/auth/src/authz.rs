//! External authorisation by Envoy's `ext_authz` protocol: what is asked and what an answer means. One module writes and reads
//! the HTTP form, one the gRPC form, both without a socket; `client` sends.

mod client;
mod grpc;
mod http;
mod message;
mod spec;

use crate::HttpUrl;
use ::http::{HeaderMap, HeaderName as HttpHeaderName, Request};
use bytes::Bytes;
use std::{net::SocketAddr, time::Duration};

pub use client::AuthzClient;
pub use spec::{AuthzSpec, OnFail};

/// An authority that is asked about requests.
#[derive(Debug, Clone)]
pub struct Authz {
    pub(crate) protocol: AuthzProtocol,
    pub(crate) url: HttpUrl,
    pub(crate) timeout: Duration,
    pub(crate) on_fail: OnFail,
    pub(crate) request_headers: Vec<HttpHeaderName>,
    pub(crate) response_headers: AuthorityFields,
    pub(crate) body_max: Option<usize>,
}

/// Which fields of an answer are passed on.
#[derive(Debug, Clone)]
pub(crate) enum AuthorityFields {
    All,
    These(Vec<HttpHeaderName>),
}

/// How an authority is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthzProtocol {
    /// HTTP/1.1.
    Http,
    /// h2, with or without TLS as the URL says.
    Grpc,
}

/// A request as an authority is told of it.
#[derive(Debug, Clone, Copy)]
pub struct AuthzFacts<'r> {
    pub id: &'r str,
    pub method: &'r str,
    pub scheme: &'r str,
    pub host: &'r str,
    /// Path and query.
    pub target: &'r str,
    /// "HTTP/1.1" or "HTTP/2".
    pub protocol: &'r str,
    /// At least those named by [`Authz::request_headers`].
    pub headers: &'r HeaderMap,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// The name in the client's verified certificate.
    pub principal: Option<&'r str>,
    pub sni: Option<&'r str>,
    /// The whole body, if [`Authz::body_max`] asks for one; else empty.
    pub body: &'r [u8],
    /// As announced.
    pub body_size: Option<u64>,
    /// Since 1970.
    pub time: Duration,
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq)]
pub enum AuthzVerdict {
    Allow(AuthzEdits),
    Deny(AuthzDenial),
    /// No answer that could be relied on; see [`Authz::on_failure`].
    Failed(AuthzFailure),
}

/// Changes to a request that may pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuthzEdits {
    /// Applied before `request`.
    pub remove: Vec<HttpHeaderName>,
    pub request: Vec<AuthzEdit>,
    /// To the client's answer.
    pub response: Vec<AuthzEdit>,
}

/// One field to change.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthzEdit {
    pub name: HttpHeaderName,
    pub value: ::http::HeaderValue,
    pub how: EditHow,
}

/// What becomes of a field's values of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditHow {
    /// Replaces them.
    Set,
    Append,
    AddIfAbsent,
    SetIfPresent,
}

/// What a client who may not pass is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthzDenial {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no answer; its name is the metric label and the log field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AuthzFailure {
    #[error("the authority could not be reached")]
    Unreachable,
    #[error("the authority did not answer in time")]
    Timeout,
    #[error("the authority failed")]
    Error,
    #[error("the authority's answer cannot be read")]
    Malformed,
    #[error("the authority wants a change that is not possible")]
    BadEdit,
    #[error("the request cannot be put to the authority")]
    Unaskable,
}

/// Longer answers are no answers.
const ANSWER_MAX_BYTES: usize = 64 << 10;
const EDITS_MAX: usize = 100;

impl AuthzFailure {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "authz_unreachable",
            Self::Timeout => "authz_timeout",
            Self::Error => "authz_error",
            Self::Malformed => "authz_malformed",
            Self::BadEdit => "authz_bad_edit",
            Self::Unaskable => "authz_unaskable",
        }
    }

    /// Of a request that is refused because of it.
    pub const fn status(self) -> u16 {
        match self {
            Self::Unaskable => 400,
            // Nothing the client could do better.
            Self::Unreachable | Self::Timeout | Self::Error | Self::Malformed | Self::BadEdit => 503,
        }
    }

    /// Whether nothing is known of what the authority would have said. What depends on the request is not among it: who
    /// sends requests must not be able to choose that nobody is asked.
    const fn is_outage(self) -> bool {
        match self {
            Self::Unreachable | Self::Timeout | Self::Error | Self::Malformed => true,
            Self::BadEdit | Self::Unaskable => false,
        }
    }
}

impl Authz {
    pub fn protocol(&self) -> AuthzProtocol {
        self.protocol
    }

    pub fn url(&self) -> &HttpUrl {
        &self.url
    }

    /// For connecting, asking and the whole answer together.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Fields of the request that the authority is shown.
    pub fn request_headers(&self) -> &[HttpHeaderName] {
        &self.request_headers
    }

    /// How much body the authority is shown; a longer one must be refused, since what is not shown is not judged. `None`:
    /// no body is waited for.
    pub fn body_max(&self) -> Option<usize> {
        self.body_max
    }

    /// How much of an answer's body to read, and one more octet to show that it is longer.
    pub const fn answer_max() -> usize {
        ANSWER_MAX_BYTES
    }

    /// The question to send to [`Authz::url`]'s host.
    pub fn question(&self, facts: &AuthzFacts<'_>) -> Result<Request<Bytes>, AuthzFailure> {
        match self.protocol {
            AuthzProtocol::Http => http::question(self, facts),
            AuthzProtocol::Grpc => grpc::question(self, facts),
        }
    }

    /// What an answer means. `trailers` matter for gRPC only. By HTTP the head decides: where no whole body came in time, an
    /// empty one is to be given, lest `on_fail = "allow"` turn a denial into a permission.
    pub fn verdict(
        &self,
        status: u16,
        headers: &HeaderMap,
        body: &Bytes,
        trailers: Option<&HeaderMap>,
    ) -> AuthzVerdict {
        match self.protocol {
            AuthzProtocol::Http => http::verdict(self, status, headers, body),
            AuthzProtocol::Grpc => grpc::verdict(self, status, headers, body, trailers),
        }
    }

    /// Whether a request passes although its authority failed.
    pub fn on_failure(&self, failure: AuthzFailure) -> Result<AuthzEdits, AuthzFailure> {
        match self.on_fail {
            OnFail::Allow if failure.is_outage() => Ok(self.no_edits()),
            OnFail::Allow | OnFail::Deny => Err(failure),
        }
    }

    /// What only the authority may set must not come from the client, also where the authority says nothing.
    fn no_edits(&self) -> AuthzEdits {
        let remove = match &self.response_headers {
            AuthorityFields::All => Vec::new(),
            AuthorityFields::These(names) => names.clone(),
        };
        AuthzEdits { remove, ..AuthzEdits::default() }
    }
}

/// Fields that frame or route a message: no authority may set or take them away.
fn is_framing(name: &HttpHeaderName) -> bool {
    const FRAMING: [&str; 9] = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
    ];
    FRAMING.contains(&name.as_str())
}

#[cfg(test)]
mod tests;
