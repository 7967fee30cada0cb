//! `compress = ["zstd", "br", "gzip"]`: whether a response is compressed, and how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A content coding (RFC 9110 §8.4.1, RFC 7932, RFC 8878).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Coding {
    Zstd,
    Br,
    Gzip,
}

/// What is to be known of a response before it is compressed.
#[derive(Debug, Clone, Copy)]
pub struct Compressible<'r> {
    pub method: &'r str,
    pub status: u16,
    pub content_type: Option<&'r [u8]>,
    pub content_encoding: Option<&'r [u8]>,
    pub cache_control: Option<&'r [u8]>,
    pub content_range: Option<&'r [u8]>,
    pub content_length: Option<u64>,
    /// Of the request.
    pub accept_encoding: Option<&'r [u8]>,
}

/// Below this the coding's own frame eats what it saves, and it all fits into one packet anyway.
const LENGTH_MIN: u64 = 1024;

impl Coding {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Br => "br",
            Self::Gzip => "gzip",
        }
    }
}

impl Compressible<'_> {
    /// Whether responses like this are compressed for those who ask; then the answer varies by `Accept-Encoding`.
    pub fn varies(&self) -> bool {
        let no_transform = self.cache_control.is_some_and(|value| contains_token(value, "no-transform"));
        self.status == 200
            && self.method != "HEAD"
            && self.content_encoding.is_none()
            && self.content_range.is_none()
            && !no_transform
            && self.content_length.is_none_or(|length| length >= LENGTH_MIN)
            && self.content_type.is_some_and(is_text)
    }

    /// The coding that the client likes best; among equals the first of `offered`.
    pub fn choose(&self, offered: &[Coding]) -> Option<Coding> {
        let accepted = std::str::from_utf8(self.accept_encoding?).ok()?;
        let identity = weight(accepted, "identity").unwrap_or(0);
        let mut best: Option<(u16, Coding)> = None;
        for coding in offered {
            let weight = weight(accepted, coding.as_str()).or_else(|| weight(accepted, "*")).unwrap_or(0);
            if weight > 0 && weight >= identity && best.is_none_or(|(other, _)| weight > other) {
                best = Some((weight, *coding));
            }
        }
        best.map(|(_, coding)| coding)
    }
}

/// The weight of a coding in thousandths (RFC 9110 §12.4.2); `None` when it is not named.
fn weight(accepted: &str, coding: &str) -> Option<u16> {
    accepted.split(',').find_map(|item| {
        let mut parts = item.split(';');
        if !parts.next()?.trim().eq_ignore_ascii_case(coding) {
            return None;
        }
        let quality = parts.find_map(|part| part.trim().strip_prefix("q="));
        // What is no number is no wish.
        Some(quality.map_or(1000, |q| q.parse::<f32>().map_or(0, |q| (q.clamp(0.0, 1.0) * 1000.0) as u16)))
    })
}

fn contains_token(value: &[u8], token: &str) -> bool {
    value.split(|octet| *octet == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Text shrinks; images, archives and video were compressed by those who made them. Event streams and gRPC are left alone: they
/// frame their messages themselves, and each must leave at once.
fn is_text(content_type: &[u8]) -> bool {
    let kind = content_type.split(|octet| *octet == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    if kind == b"text/event-stream" || kind.starts_with(b"application/grpc") {
        return false;
    }
    const KINDS: [&[u8]; 9] = [
        b"application/json",
        b"application/javascript",
        b"application/xml",
        b"application/wasm",
        b"application/x-javascript",
        b"application/manifest+json",
        b"application/vnd.ms-fontobject",
        b"image/svg+xml",
        b"font/ttf",
    ];
    kind.starts_with(b"text/") || kind.ends_with(b"+json") || kind.ends_with(b"+xml") || KINDS.contains(&&*kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTML: Compressible<'static> = Compressible {
        method: "GET",
        status: 200,
        content_type: Some(b"text/html; charset=utf-8"),
        content_encoding: None,
        cache_control: None,
        content_range: None,
        content_length: Some(5000),
        accept_encoding: Some(b"gzip, br"),
    };

    #[test]
    fn what_is_compressed() {
        assert!(HTML.varies());
        for (what, response) in [
            ("a head", Compressible { method: "HEAD", ..HTML }),
            ("a part", Compressible { status: 206, content_range: Some(b"bytes 0-1/2"), ..HTML }),
            ("an error", Compressible { status: 404, ..HTML }),
            ("what is compressed", Compressible { content_encoding: Some(b"br"), ..HTML }),
            ("what must not be changed", Compressible { cache_control: Some(b"public, No-Transform"), ..HTML }),
            ("what is short", Compressible { content_length: Some(1023), ..HTML }),
            ("a picture", Compressible { content_type: Some(b"image/png"), ..HTML }),
            ("events", Compressible { content_type: Some(b"text/event-stream"), ..HTML }),
            ("gRPC", Compressible { content_type: Some(b"application/grpc+json"), ..HTML }),
            ("what has no type", Compressible { content_type: None, ..HTML }),
        ] {
            assert!(!response.varies(), "{what}");
        }
        for kind in ["application/json", "application/problem+json", "image/svg+xml", "TEXT/CSS"] {
            assert!(
                Compressible { content_type: Some(kind.as_bytes()), content_length: None, ..HTML }.varies(),
                "{kind}"
            );
        }
    }

    #[test]
    fn the_client_chooses_and_the_operator_breaks_ties() {
        let all = [Coding::Zstd, Coding::Br, Coding::Gzip];
        for (accepted, expected) in [
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("gzip, br", Some(Coding::Br)),
            ("gzip;q=1.0, br;q=0.5", Some(Coding::Gzip)),
            ("*", Some(Coding::Zstd)),
            ("zstd;q=0, *;q=0.1", Some(Coding::Br)),
            ("identity, gzip;q=0.5", None),
            ("gzip;q=0", None),
            ("gzip;q=banana", None),
            ("deflate", None),
            ("", None),
        ] {
            let response = Compressible { accept_encoding: Some(accepted.as_bytes()), ..HTML };
            assert_eq!(response.choose(&all), expected, "{accepted}");
        }
        assert_eq!(Compressible { accept_encoding: None, ..HTML }.choose(&all), None);
    }
}
