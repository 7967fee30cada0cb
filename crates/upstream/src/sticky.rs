//! `sticky = { … }`: one client stays with one endpoint, by a cookie.

use aws_lc_rs::hmac;
use portcullis_config::{Context, Path};
use portcullis_names::{EndpointAddress, ObjectName, SecretRef, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// A cookie that keeps a client with its endpoint as long as that one serves, or is drained.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StickySpec {
    /// The cookie's name.
    #[schemars(length(min = 1, max = 64))]
    pub cookie: String,
    /// How long the client keeps it (default: until it ends its session).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<TimeSpan>,
    /// At least 16 octets, the same on all gateways that share clients: with it, nobody else can tell what the cookie says
    /// or make one. Without it, a client that knows an endpoint's address can compute the value and choose that endpoint.
    /// A new secret gives every client a new choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
}

/// What the cookie says: an endpoint, without naming it. Equal on every gateway, and after every restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StickyToken(u64);

/// Makes the tokens of one upstream.
#[derive(Debug, Clone)]
pub(crate) struct StickyTokens {
    upstream: String,
    secret: Option<hmac::Key>,
}

/// Fewer octets can be tried one by one, away from here, by a client that knows one address and its token.
const SECRET_MIN: usize = 16;

impl StickyTokens {
    pub(crate) fn compile(upstream: &ObjectName, spec: Option<&StickySpec>, at: &Path, cx: &mut Context) -> Self {
        let at = at.key("secret");
        let secret = spec.and_then(|spec| spec.secret.as_ref()).and_then(|secret| cx.secret(&at, secret));
        // An editor's newline at the end of a file is not part of it.
        let secret = secret.as_deref().map(<[u8]>::trim_ascii);
        if secret.is_some_and(|secret| secret.len() < SECRET_MIN) {
            cx.error(&at, format!("the secret has fewer than {SECRET_MIN} octets: it can be guessed"))
                .help("`openssl rand -hex 32` makes a good one");
        }
        let secret = secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret));
        Self { upstream: upstream.to_string(), secret }
    }

    pub(crate) fn of(&self, address: &EndpointAddress) -> StickyToken {
        let text = format!("{}\0{address}", self.upstream);
        let Some(secret) = &self.secret else { return StickyToken(xxh3_64(text.as_bytes())) };
        let tag = hmac::sign(secret, text.as_bytes());
        // A quarter of the tag is enough: a wrong guess only gets the client another endpoint.
        StickyToken(tag.as_ref().iter().take(8).fold(0, |token, octet| token << 8 | u64::from(*octet)))
    }
}

impl StickyToken {
    /// From a cookie's value; anything else is a client without an endpoint.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let plain = text.len() == 16 && text.bytes().all(|octet| matches!(octet, b'0'..=b'9' | b'a'..=b'f'));
        plain.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl std::fmt::Display for StickyToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(upstream: &str, secret: Option<&str>) -> (StickyTokens, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let secret = secret.map(|secret| {
            let file = folder.path().join("secret");
            std::fs::write(&file, secret).unwrap();
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            SecretRef::File(file)
        });
        let (spec, mut cx) = (StickySpec { cookie: "aff".to_owned(), ttl: None, secret }, Context::default());
        let tokens = StickyTokens::compile(&upstream.parse().unwrap(), Some(&spec), &Path::root(), &mut cx);
        (tokens, cx.report().lines())
    }

    #[test]
    fn a_token_survives_its_cookie_and_tells_nothing_else() {
        let address: EndpointAddress = "10.0.0.1:80".parse().unwrap();
        let token = tokens("shop", None).0.of(&address);
        assert_eq!(StickyToken::parse(token.to_string().as_bytes()), Some(token));
        assert_ne!(tokens("other", None).0.of(&address), token);
        assert_eq!(token.to_string(), "53d5a5175c921ec9", "clients hold these over upgrades");
        for bad in ["", "x", "00000000000000000", "+000000000000000", "ABCDEFABCDEFABCD", "10.0.0.1:80"] {
            assert_eq!(StickyToken::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_token_depends_on_the_secret_and_on_nothing_of_this_process() {
        let address: EndpointAddress = "10.0.0.1:80".parse().unwrap();
        let of = |upstream: &str, secret: Option<&str>| tokens(upstream, secret).0.of(&address).to_string();
        let (one, two) = (Some("correct horse battery"), Some("correct horse batterz"));
        // printf 'shop\00010.0.0.1:80' | openssl dgst -sha256 -hmac 'correct horse battery'
        assert_eq!(of("shop", one), "d2aa7d4698cc624d", "clients hold these over upgrades");
        assert_eq!(of("shop", one), of("shop", Some("correct horse battery\n")));
        let all = [of("shop", None), of("shop", one), of("shop", two), of("cart", one)];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len(), "{all:?}");
    }

    #[test]
    fn a_secret_that_can_be_guessed_or_not_be_read_is_refused_and_not_shown() {
        for (secret, told) in [("", 1), ("hunter2\n", 1), ("0123456789abcdef", 0)] {
            let lines = tokens("shop", Some(secret)).1;
            assert_eq!(lines.len(), told, "{lines:?}");
            assert!(lines.iter().all(|line| line.contains("fewer than 16 octets") && !line.contains("hunter2")));
        }
    }
}
