//! `cors = { … }`: which pages of other origins may read what is served here (Fetch standard, "HTTP extensions").

use crate::{HeaderSink, RequestView};
use portcullis_config::{Context, Path};
use portcullis_names::{HeaderName, Method, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What browsers are told. The gateway answers preflight requests itself and replaces what the origin says about this.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CorsSpec {
    /// `https://www.example.com`, `https://*.example.com`, or `*` for everybody.
    #[schemars(length(min = 1, max = 100))]
    pub origins: Vec<String>,
    /// Default: GET, HEAD and POST, which no browser asks about, and whatever is listed here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<Method>,
    /// Request fields that pages may set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderName>,
    /// Response fields that pages may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<HeaderName>,
    /// Whether cookies and passwords may go along (default false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<bool>,
    /// How long a browser may remember the answer (default: its own, some seconds).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<TimeSpan>,
}

/// Compiled; the fixed values as they are sent.
#[derive(Debug)]
pub struct Cors {
    any: bool,
    exact: Vec<String>,
    /// Scheme with `://`, and `.suffix` with its port.
    wildcard: Vec<(String, String)>,
    methods: String,
    headers: String,
    expose: String,
    credentials: bool,
    max_age: Option<String>,
}

impl CorsSpec {
    pub(crate) fn compile(&self, at: &Path, cx: &mut Context) -> Cors {
        let mut cors = Cors {
            any: false,
            exact: Vec::new(),
            wildcard: Vec::new(),
            methods: join(["GET", "HEAD", "POST"].into_iter().chain(self.methods.iter().map(Method::as_str))),
            headers: join(self.headers.iter().map(HeaderName::as_str)),
            expose: join(self.expose.iter().map(HeaderName::as_str)),
            credentials: self.credentials.unwrap_or(false),
            max_age: self.max_age.map(|age| age.get().as_secs().to_string()),
        };
        for (index, origin) in self.origins.iter().enumerate() {
            let here = at.key("origins").index(index);
            match origin.as_str() {
                "*" => cors.any = true,
                origin => match parse_origin(origin) {
                    Some((scheme, host)) => match host.strip_prefix('*') {
                        Some(suffix) => cors.wildcard.push((scheme.to_owned(), suffix.to_owned())),
                        None => cors.exact.push(origin.to_owned()),
                    },
                    None => {
                        cx.error(&here, format!("`{origin}` is not an origin")).help(
                            "an origin is a scheme and a host in lower case, and no path: https://www.example.com",
                        );
                    }
                },
            }
        }
        if cors.any && cors.credentials {
            cx.error(&at.key("credentials"), "credentials for every origin would let any page act as its visitor")
                .help("list the origins that may");
        }
        cors
    }
}

/// Scheme with `://`, and host with its port. No path, no upper case, `*` only as the whole first label.
fn parse_origin(text: &str) -> Option<(&str, &str)> {
    let at = text.find("://")?;
    let (scheme, host) = (text.get(..at + 3)?, text.get(at + 3..)?);
    let rest = host.strip_prefix("*.").unwrap_or(host);
    let fits = !rest.is_empty()
        && rest.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b".-:[]_".contains(&octet));
    (at > 0
        && fits
        && scheme
            .bytes()
            .take(at)
            .all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"+-.".contains(&octet)))
    .then_some((scheme, host))
}

fn join<'s>(words: impl Iterator<Item = &'s str>) -> String {
    let mut all = String::new();
    for word in words {
        let _ = write!(all, "{}{word}", if all.is_empty() { "" } else { ", " });
    }
    all
}

impl Cors {
    /// Whether the request asks what it may do (a preflight), and so is answered by us.
    pub fn is_preflight(request: &impl RequestView) -> bool {
        request.method() == "OPTIONS"
            && request.header("origin").is_some()
            && request.header("access-control-request-method").is_some()
    }

    pub fn allows(&self, origin: &[u8]) -> bool {
        let Ok(origin) = std::str::from_utf8(origin) else { return false };
        self.any
            || self.exact.iter().any(|exact| exact == origin)
            || self.wildcard.iter().any(|(scheme, suffix)| {
                let label = origin.strip_prefix(scheme.as_str()).and_then(|host| host.strip_suffix(suffix.as_str()));
                label.is_some_and(|label| !label.is_empty() && !label.contains(['/', '@', ':']))
            })
    }

    /// The fields of the answer to a preflight from an origin that is allowed.
    pub fn answer(&self, origin: &[u8], sink: &mut impl HeaderSink) {
        self.allow(origin, sink);
        sink.set("access-control-allow-methods", self.methods.as_bytes());
        if !self.headers.is_empty() {
            sink.set("access-control-allow-headers", self.headers.as_bytes());
        }
        if let Some(age) = &self.max_age {
            sink.set("access-control-max-age", age.as_bytes());
        }
    }

    /// Puts our word in the place of the origin's on any other response.
    pub fn apply(&self, request: &impl RequestView, sink: &mut impl HeaderSink) {
        for name in [
            "access-control-allow-origin",
            "access-control-allow-credentials",
            "access-control-expose-headers",
            "access-control-allow-methods",
            "access-control-allow-headers",
            "access-control-max-age",
        ] {
            sink.remove(name);
        }
        if !self.any {
            // The answer depends on it even for those who sent none.
            sink.add("vary", b"Origin");
        }
        let Some(origin) = request.header("origin").filter(|origin| self.allows(origin)) else { return };
        self.allow(origin, sink);
        if !self.expose.is_empty() {
            sink.set("access-control-expose-headers", self.expose.as_bytes());
        }
    }

    fn allow(&self, origin: &[u8], sink: &mut impl HeaderSink) {
        sink.set("access-control-allow-origin", if self.any { b"*" } else { origin });
        if self.credentials {
            sink.set("access-control-allow-credentials", b"true");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str]) -> (Cors, bool) {
        let mut cx = Context::default();
        let spec: CorsSpec = serde_json::from_value(serde_json::json!({ "origins": origins })).unwrap();
        let cors = spec.compile(&Path::root(), &mut cx);
        (cors, cx.report().has_errors())
    }

    #[test]
    fn which_origins_are_allowed() {
        for (listed, origin, allowed) in [
            ("https://a.test", "https://a.test", true),
            ("https://a.test", "http://a.test", false),
            ("https://a.test", "https://a.test:444", false),
            ("https://a.test", "https://a.test.evil.test", false),
            ("https://*.a.test", "https://x.a.test", true),
            ("https://*.a.test", "https://x.y.a.test", true),
            ("https://*.a.test", "https://a.test", false),
            ("https://*.a.test", "https://.a.test", false),
            ("https://*.a.test", "https://evil.test/.a.test", false),
            ("https://*.a.test", "https://evil.test:1@x.a.test", false),
            ("https://*.a.test:8443", "https://x.a.test:8443", true),
            ("*", "null", true),
            ("https://a.test", "null", false),
        ] {
            assert_eq!(cors(&[listed]).0.allows(origin.as_bytes()), allowed, "{listed} {origin}");
        }
    }

    #[test]
    fn what_is_no_origin() {
        for origin in ["a.test", "https://a.test/", "https://A.test", "https://a.*.test", "https://", "://a"] {
            assert!(cors(&[origin]).1, "{origin}");
        }
    }
}
