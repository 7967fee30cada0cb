//! Who a workload is: `spiffe://corp/ns/pay/sa/payments`, as the SPIFFE-ID standard has it.

use crate::text::{ParseError, text_type};
use std::{fmt, str::FromStr, sync::Arc};

/// The name of a trust domain: who vouches (SPIFFE-ID §2.1). Lower case letters, digits, `.`, `-`, `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

text_type!(
    TrustDomain,
    format = "trust-domain",
    expects = "a trust domain of lower case letters, digits, `.`, `-` and `_`, at most 255 of them, like \"corp\""
);

/// A workload's name, in the one spelling that the standard allows: bytes compare as names do (SPIFFE-ID §2.2, §2.3).
/// Clones share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins in `text`; its end when there is none.
    path_at: usize,
}

text_type!(SpiffeId, format = "spiffe-id", expects = "a SPIFFE id, like \"spiffe://corp/ns/pay/sa/payments\"");

const SCHEME: &str = "spiffe://";

impl TrustDomain {
    /// SPIFFE-ID §2.1.
    pub const MAX_BYTES: usize = 255;

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its own id: the one that authorities carry (X.509-SVID §3.1).
    pub fn id(&self) -> SpiffeId {
        let text = format!("{SCHEME}{}", self.0);
        SpiffeId { path_at: text.len(), text: text.into() }
    }
}

impl SpiffeId {
    /// SPIFFE-ID §2.3.
    pub const MAX_BYTES: usize = 2048;

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.text.get(SCHEME.len()..self.path_at).unwrap_or_default().into())
    }

    pub fn is_in(&self, domain: &TrustDomain) -> bool {
        self.text.get(SCHEME.len()..self.path_at) == Some(domain.as_str())
    }

    /// With its first slash; empty for the trust domain itself.
    pub fn path(&self) -> &str {
        self.text.get(self.path_at..).unwrap_or_default()
    }

    /// `pay` of `/ns/pay/sa/payments`, the layout that meshes use. `None` for any other.
    pub fn namespace(&self) -> Option<&str> {
        self.workload().map(|(namespace, _)| namespace)
    }

    /// `payments` of `/ns/pay/sa/payments`.
    pub fn service(&self) -> Option<&str> {
        self.workload().map(|(_, service)| service)
    }

    fn workload(&self) -> Option<(&str, &str)> {
        let (namespace, service) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        (!namespace.contains('/') && !service.contains('/')).then_some((namespace, service))
    }
}

impl FromStr for TrustDomain {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(Self::EXPECTS, text);
        if text.len() > Self::MAX_BYTES {
            return Err(wrong().because(format!("it has {} octets", text.len())));
        }
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || !text.bytes().all(is_plain) {
            return Err(wrong());
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for SpiffeId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(Self::EXPECTS, text);
        if text.len() > Self::MAX_BYTES {
            return Err(wrong().because(format!("it has {} octets, at most {} can be", text.len(), Self::MAX_BYTES)));
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong().because("it does not begin with `spiffe://`"))?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // No user, port, query or fragment: none of their marks is in the grammar of a trust domain or segment.
        domain.parse::<TrustDomain>().map_err(|_| wrong().because(format!("`{domain}` is not a trust domain")))?;
        if let Some(segments) = path.strip_prefix('/') {
            for segment in segments.split('/') {
                check_segment(segment).map_err(|why| wrong().because(why))?;
            }
        }
        Ok(Self { text: text.into(), path_at: SCHEME.len() + domain.len() })
    }
}

/// SPIFFE-ID §2.2: no empty or dotted segments and no percent-encoding, so that nobody can normalise two into one.
fn check_segment(segment: &str) -> Result<(), String> {
    match segment {
        "" => Err("a segment of its path is empty".to_owned()),
        "." | ".." => Err("`.` and `..` are not segments".to_owned()),
        _ => {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            match segment.chars().find(|c| !is_plain(*c)) {
                None => Ok(()),
                Some(bad) => Err(format!("`{}` cannot be in its path", bad.escape_default())),
            }
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_the_standard_are_read_into_their_parts() {
        for (text, domain, path, namespace, service) in [
            ("spiffe://corp/ns/pay/sa/api", "corp", "/ns/pay/sa/api", Some("pay"), Some("api")),
            (
                "spiffe://corp.example/ns/acme.lab/sa/cart",
                "corp.example",
                "/ns/acme.lab/sa/cart",
                Some("acme.lab"),
                Some("cart"),
            ),
            ("spiffe://a-b_c.9/X", "a-b_c.9", "/X", None, None),
            ("spiffe://corp", "corp", "", None, None),
            ("spiffe://corp/ns/pay/sa/api/extra", "corp", "/ns/pay/sa/api/extra", None, None),
            ("spiffe://corp/ns/pay/x/sa/api", "corp", "/ns/pay/x/sa/api", None, None),
        ] {
            let id: SpiffeId = text.parse().unwrap();
            assert_eq!((id.trust_domain().as_str(), id.path()), (domain, path), "{text}");
            assert_eq!((id.namespace(), id.service()), (namespace, service), "{text}");
            assert!(id.is_in(&domain.parse().unwrap()) && id.to_string() == text);
        }
        assert_eq!("corp".parse::<TrustDomain>().unwrap().id().as_str(), "spiffe://corp");
    }

    #[test]
    fn spiffe_id_2_what_the_standard_forbids_is_refused() {
        let long = format!("spiffe://corp/{}", "x".repeat(2048 - 13));
        assert_eq!(long.len(), 2049);
        for bad in [
            "",
            "corp",
            "http://corp/x",
            "SPIFFE://corp/x",
            "spiffe:///x",
            "spiffe://",
            "spiffe://Corp/x",
            "spiffe://user@corp/x",
            "spiffe://corp:443/x",
            "spiffe://corp/",
            "spiffe://corp/x/",
            "spiffe://corp//x",
            "spiffe://corp/./x",
            "spiffe://corp/../x",
            "spiffe://corp/x?y",
            "spiffe://corp/x#y",
            "spiffe://corp/%78",
            "spiffe://corp/x y",
            "spiffe://corp/é",
            "spiffe://corp/x\n",
            "spiffe://[::1]/x",
            &format!("spiffe://{}/x", "d".repeat(256)),
            &long,
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
        let longest = format!("spiffe://{}/{}", "d".repeat(255), "x".repeat(2048 - 9 - 256));
        assert_eq!(longest.parse::<SpiffeId>().unwrap().as_str().len(), 2048);
    }
}
