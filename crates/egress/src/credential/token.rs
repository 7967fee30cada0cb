//! How a token is asked for, and what the answer says. Pure: [`super::Tokens`] does the asking.

use super::{OAuth2Spec, Secret, SignedJwtSpec, assertion_key::AssertionKey, read};
use crate::PrivateRanges;
use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use portcullis_auth::HttpUrl;
use portcullis_config::{Context, Path};
use portcullis_names::Cidr;
use serde_json::json;
use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Where tokens come from and what is said for one. Its `Debug` shows only the place.
pub struct TokenSource {
    pub(crate) url: HttpUrl,
    pub(crate) private: PrivateRanges,
    /// Of everything it is made of: the same over a reload means that its token is still good.
    pub(crate) fingerprint: [u8; 32],
    scopes: String,
    grant: Grant,
}

enum Grant {
    Client { id: String, secret: Secret, audience: Option<String> },
    Assertion { claims: Claims, key: AssertionKey, key_id: Option<String> },
}

struct Claims {
    issuer: String,
    subject: String,
    audience: String,
}

/// What is sent: a form, and Authorization where the client says who it is.
pub(crate) struct TokenForm {
    pub(crate) body: Secret,
    pub(crate) authorization: Option<Secret>,
}

/// A token and how long it is good.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) value: Secret,
    pub(crate) lasts: Duration,
}

/// Why there is no token. Says nothing of what was sent or answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token endpoint cannot be reached: {0}")]
    Unreachable(crate::Reason),
    #[error("TLS with the token endpoint failed")]
    Tls,
    #[error("the token endpoint gave no valid HTTP answer in time")]
    Protocol,
    #[error("the token endpoint answered with status {0} instead of 200")]
    Status(u16),
    #[error("the token endpoint's answer is no JSON with `access_token` and `token_type` Bearer (RFC 6749 §5.1)")]
    NotAToken,
    #[error("the assertion could not be signed")]
    Signing,
}

/// RFC 6749 §5.1 recommends `expires_in` and does not demand it.
const LASTS_DEFAULT: u64 = 300;
const LASTS_MAX: u64 = 86_400;
const ASSERTION_LASTS: u64 = 300;
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl TokenSource {
    pub(crate) fn from_client(spec: &OAuth2Spec, at: &Path, cx: &mut Context) -> Option<Self> {
        let url = url(&spec.token_url, &at.key("token_url"), cx);
        let secret = read(&spec.client_secret, &at.key("client_secret"), cx);
        let scopes = scopes(spec.scopes.as_deref(), &at.key("scopes"), cx);
        let (url, secret) = (url?, secret?);
        let audience = spec.audience.clone();
        let parts = [&spec.token_url, &spec.client_id, &scopes, audience.as_deref().unwrap_or_default()];
        let fingerprint = fingerprint(&parts, &secret);
        let grant = Grant::Client { id: spec.client_id.clone(), secret, audience };
        Some(Self { url, private: private(spec.private_addresses.as_deref()), fingerprint, scopes, grant })
    }

    pub(crate) fn from_assertion(spec: &SignedJwtSpec, at: &Path, cx: &mut Context) -> Option<Self> {
        let url = url(&spec.token_url, &at.key("token_url"), cx);
        let secret = read(&spec.key, &at.key("key"), cx);
        let scopes = scopes(spec.scopes.as_deref(), &at.key("scopes"), cx);
        let (url, secret) = (url?, secret?);
        let Some(key) = AssertionKey::read(spec.algorithm, &secret) else {
            cx.error(&at.key("key"), "the file is no private key in PEM (PKCS #8) that fits the algorithm");
            return None;
        };
        let claims = Claims {
            issuer: spec.issuer.clone(),
            subject: spec.subject.clone().unwrap_or_else(|| spec.issuer.clone()),
            audience: spec.audience.clone().unwrap_or_else(|| url.to_string()),
        };
        let parts = [&spec.token_url, &claims.issuer, &claims.subject, claims.audience.as_str(), &scopes];
        let fingerprint = fingerprint(&parts, &secret);
        let grant = Grant::Assertion { claims, key, key_id: spec.key_id.clone() };
        Some(Self { url, private: private(spec.private_addresses.as_deref()), fingerprint, scopes, grant })
    }

    /// `id` makes the assertion unlike any other (`jti`).
    pub(crate) fn form(&self, wall: SystemTime, id: u128) -> Result<TokenForm, TokenError> {
        let mut pairs: Vec<(&str, Secret)> = Vec::new();
        let text = |text: &str| Secret::new(text.as_bytes().to_vec());
        let authorization = match &self.grant {
            Grant::Client { id, secret, audience } => {
                pairs.push(("grant_type", text("client_credentials")));
                pairs.extend(audience.as_deref().map(|audience| ("audience", text(audience))));
                // RFC 6749 §2.3.1: both are form-encoded before they are joined.
                let pair = Secret::concat(&[encode(id.as_bytes()).expose(), b":", encode(secret.expose()).expose()]);
                let encoded = Secret::new(STANDARD.encode(pair.expose()).into_bytes());
                Some(Secret::concat(&[b"Basic ", encoded.expose()]))
            }
            Grant::Assertion { claims, key, key_id } => {
                let now = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let claims = json!({
                    "iss": claims.issuer, "sub": claims.subject, "aud": claims.audience,
                    "iat": now, "exp": now.saturating_add(ASSERTION_LASTS), "jti": format!("{id:032x}"),
                });
                let assertion = key.sign(key_id.as_deref(), &claims).ok_or(TokenError::Signing)?;
                pairs.push(("grant_type", text("urn:ietf:params:oauth:grant-type:jwt-bearer")));
                pairs.push(("assertion", assertion));
                None
            }
        };
        if !self.scopes.is_empty() {
            pairs.push(("scope", text(&self.scopes)));
        }
        let mut body = Secret::new(Vec::new());
        for (name, value) in pairs {
            let between: &[u8] = if body.expose().is_empty() { b"" } else { b"&" };
            body = Secret::concat(&[body.expose(), between, name.as_bytes(), b"=", encode(value.expose()).expose()]);
        }
        Ok(TokenForm { body, authorization })
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenSource({})", self.url)
    }
}

/// RFC 6749 §5.1.
pub(crate) fn parse_answer(body: &[u8]) -> Result<Token, TokenError> {
    #[derive(serde::Deserialize)]
    struct Answer {
        access_token: String,
        token_type: String,
        expires_in: Option<serde_json::Value>,
    }
    let answer: Answer = serde_json::from_slice(body).map_err(|_| TokenError::NotAToken)?;
    let value = Secret::new(answer.access_token.into_bytes());
    if !answer.token_type.eq_ignore_ascii_case("bearer") || !value.is_field_value() {
        return Err(TokenError::NotAToken);
    }
    // Some servers write the number as a text.
    let seconds = answer.expires_in.and_then(|said| said.as_u64().or_else(|| said.as_str()?.parse().ok()));
    let lasts = Duration::from_secs(seconds.unwrap_or(LASTS_DEFAULT).clamp(1, LASTS_MAX));
    Ok(Token { value, lasts })
}

fn encode(octets: &[u8]) -> Secret {
    match std::str::from_utf8(octets) {
        Ok(text) => Secret::new(utf8_percent_encode(text, FORM).to_string().into_bytes()),
        Err(_) => Secret::new(percent_encoding::percent_encode(octets, FORM).to_string().into_bytes()),
    }
}

/// Not a secret itself, and shown nowhere all the same.
fn fingerprint(parts: &[&str], secret: &Secret) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts.iter().map(|part| part.as_bytes()).chain([secret.expose()]) {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    context.finish().as_ref().try_into().unwrap_or_default()
}

fn url(text: &str, at: &Path, cx: &mut Context) -> Option<HttpUrl> {
    match HttpUrl::parse_protected(text) {
        Ok(url) => Some(url),
        Err(error) => {
            cx.error(at, error.to_string());
            None
        }
    }
}

/// RFC 6749 §3.3.
fn scopes(scopes: Option<&[String]>, at: &Path, cx: &mut Context) -> String {
    let scopes = scopes.unwrap_or_default();
    let is_scope = |scope: &&String| !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"');
    if let Some(wrong) = scopes.iter().find(|scope| !is_scope(scope)) {
        cx.error(at, format!("\"{}\" is not one scope", wrong.escape_debug()));
    }
    scopes.join(" ")
}

fn private(ranges: Option<&[Cidr]>) -> PrivateRanges {
    PrivateRanges::new(ranges.unwrap_or_default())
}
