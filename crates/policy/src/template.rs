//! Header values with variables: `"${host}-${client_ip}"`, parsed at compile time.

use crate::{RequestView, matcher};
use portcullis_config::{Context, Path, nearest};

/// A parsed value.
#[derive(Debug, Clone)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    ClientIp,
    Host,
    Path,
    Query,
    Method,
    Scheme,
    RequestId,
    Identity,
    Listener,
    Consumer,
    Country,
    Claim(String),
    Header(String),
    QueryValue(String),
    Cookie(String),
}

const VARIABLES: [&str; 15] = [
    "client_ip",
    "host",
    "path",
    "query",
    "method",
    "scheme",
    "request_id",
    "identity",
    "listener",
    "consumer",
    "country",
    "claim.NAME",
    "header.NAME",
    "query.NAME",
    "cookie.NAME",
];
/// What one expansion may grow to; field limits of common origins are 8 KiB.
const EXPANDED_MAX: usize = 8 << 10;

impl Template {
    pub(crate) fn compile(text: &str, at: &Path, cx: &mut Context) -> Option<Self> {
        if text.chars().any(|c| c.is_control() && c != '\t') {
            cx.error(at, "a header value has no control characters");
            return None;
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (front, tail) = rest.split_at(start);
            if let Some(front) = front.strip_suffix('$') {
                parts.push(Part::Text(format!("{front}${{")));
                rest = &tail[2..];
                continue;
            }
            parts.push(Part::Text(front.to_owned()));
            let Some(end) = tail.find('}') else {
                cx.error(at, format!("`{tail}` has no closing `}}`")).help("write `$${` for a literal `${`");
                return None;
            };
            parts.push(Self::variable(&tail[2..end], at, cx)?);
            rest = &tail[end + 1..];
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        Some(Self(parts))
    }

    fn variable(name: &str, at: &Path, cx: &mut Context) -> Option<Part> {
        Some(match name {
            "client_ip" => Part::ClientIp,
            "host" => Part::Host,
            "path" => Part::Path,
            "query" => Part::Query,
            "method" => Part::Method,
            "scheme" => Part::Scheme,
            "request_id" => Part::RequestId,
            "identity" => Part::Identity,
            "listener" => Part::Listener,
            "consumer" => Part::Consumer,
            "country" => Part::Country,
            _ => match name.split_once('.') {
                Some(("header", field)) if !field.is_empty() => Part::Header(field.to_ascii_lowercase()),
                Some(("claim", name)) if !name.is_empty() => Part::Claim(name.to_owned()),
                Some(("query", key)) if !key.is_empty() => Part::QueryValue(key.to_owned()),
                Some(("cookie", key)) if !key.is_empty() => Part::Cookie(key.to_owned()),
                _ => {
                    let problem = cx.error(at, format!("unknown variable `{name}`; known: {}", VARIABLES.join(", ")));
                    if let Some(best) = nearest(name, VARIABLES) {
                        problem.help(format!("did you mean `${{{best}}}`?"));
                    }
                    return None;
                }
            },
        })
    }

    /// What a client sent goes in without octets that could end the field: no client can add one.
    pub(crate) fn expand(&self, request: &impl RequestView) -> Vec<u8> {
        if let [Part::Text(text)] = self.0.as_slice() {
            return text.clone().into_bytes();
        }
        let mut value = Vec::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => push(&mut value, text.as_bytes()),
                Part::ClientIp => push(&mut value, request.client_ip().to_string().as_bytes()),
                Part::Host => push(&mut value, request.host().as_bytes()),
                Part::Path => push(&mut value, request.path().as_bytes()),
                Part::Query => push(&mut value, request.query().unwrap_or_default().as_bytes()),
                Part::Method => push(&mut value, request.method().as_bytes()),
                Part::Scheme => push(&mut value, request.scheme().as_str().as_bytes()),
                Part::RequestId => push(&mut value, request.request_id().as_bytes()),
                Part::Listener => push(&mut value, request.listener_name().as_bytes()),
                Part::Identity => {
                    let identity = request.identity();
                    push(&mut value, identity.and_then(|identity| identity.name()).unwrap_or_default().as_bytes());
                }
                Part::Consumer => push(&mut value, request.consumer().unwrap_or_default().as_bytes()),
                Part::Country => push(&mut value, request.country().unwrap_or_default().as_bytes()),
                Part::Claim(name) => push(&mut value, request.claim(name).unwrap_or_default().as_bytes()),
                Part::Header(name) => push(&mut value, request.header(name).unwrap_or_default()),
                Part::QueryValue(key) => {
                    push(&mut value, matcher::query_value(request.query(), key).unwrap_or_default().as_bytes())
                }
                Part::Cookie(key) => {
                    push(&mut value, matcher::cookie_value(request.header("cookie"), key).unwrap_or_default())
                }
            }
        }
        value.truncate(EXPANDED_MAX);
        value
    }
}

fn push(value: &mut Vec<u8>, bytes: &[u8]) {
    value.extend(bytes.iter().copied().filter(|octet| *octet >= 0x20 && *octet != 0x7f));
}
