//! What the record needs of a request whose session is gone by then.

use crate::stage::Ending;
use http::{HeaderValue, Method, Uri, Version, header};
use pingora::http::RequestHeader;

/// Of its head.
pub(super) struct Told {
    version: Version,
    method: Method,
    uri: Uri,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
}

impl Told {
    pub(super) fn of(header: &RequestHeader) -> Self {
        Self {
            version: header.version,
            method: header.method.clone(),
            uri: header.uri.clone(),
            user_agent: header.headers.get(header::USER_AGENT).cloned(),
            referer: header.headers.get(header::REFERER).cloned(),
        }
    }

    pub(super) fn ending(&self, status: u16) -> Ending<'_> {
        Ending {
            protocol: protocol(self.version),
            method: self.method.as_str(),
            query: self.uri.query(),
            status,
            user_agent: self.user_agent.as_ref().map(HeaderValue::as_bytes),
            referer: self.referer.as_ref().map(HeaderValue::as_bytes),
        }
    }
}

/// How a version of HTTP is called in the access log.
pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}
