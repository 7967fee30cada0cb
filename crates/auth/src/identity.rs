//! One issuer, compiled: which tokens of it are believed. Pure; its keys come from a file at compile time or are put in by
//! the fetcher.

use crate::{
    Algorithm, Claims, HttpUrl, IdentitySpec, JwksSpec, JwtRefusal, KeyOrigin, KeySet, KeySetError, UrlError,
    json_object::parse_object,
    key_set::{KID_MAX_BYTES, Lookup},
    unless_wrong::unless_wrong,
    verified_cache::VerifiedCache,
};
use arc_swap::ArcSwapOption;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_config::{Context, Path};
use portcullis_names::{ObjectName, SecretRef};
use serde_json::{Map, Value};
use std::{sync::Arc, time::Duration};

/// An issuer, and what a token of it must say.
#[derive(Debug)]
pub struct Identity {
    name: ObjectName,
    issuer: String,
    audiences: Vec<String>,
    algorithms: Option<Vec<Algorithm>>,
    leeway_secs: i64,
    require: Vec<String>,
    source: KeySource,
    /// `None` until the first fetch.
    keys: ArcSwapOption<HeldKeys>,
    verified: VerifiedCache<Arc<Claims>>,
}

#[derive(Debug)]
struct HeldKeys {
    set: KeySet,
    /// Seconds since 1970.
    fetched: i64,
}

/// Where an identity's keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Read at compile time; a change of the file is a change of the configuration.
    File,
    Fetched {
        from: KeyPlace,
        ttl: Duration,
        /// Beyond `ttl`.
        stale: Duration,
    },
}

/// Whom to ask for keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPlace {
    /// The key set itself.
    Url(HttpUrl),
    /// The issuer's metadata, which says where the key set is (OpenID Connect Discovery 1.0 §4).
    Discovery(HttpUrl),
}

/// No honest token is larger: request heads end at 16 KiB by default.
const TOKEN_MAX_BYTES: usize = 8 << 10;
/// Of tokens whose verification is remembered, for each issuer; some 20,000 of common size.
const CACHE_BYTES: u64 = 16 << 20;
const LEEWAY_DEFAULT: Duration = Duration::from_secs(30);
/// More is no clock difference but a longer life for every token.
const LEEWAY_MAX: Duration = Duration::from_secs(600);
const TTL_DEFAULT: Duration = Duration::from_secs(3600);
const TTL_MIN: Duration = Duration::from_secs(60);
const STALE_DEFAULT: Duration = Duration::from_secs(86_400);

impl Identity {
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn source(&self) -> &KeySource {
        &self.source
    }

    /// The claims of `token`, if it is to be believed at `now`, in seconds since 1970.
    pub fn verify(&self, token: &[u8], now: i64) -> Result<Arc<Claims>, JwtRefusal> {
        // Its length is checked before it is hashed.
        let parts = Parts::split(token)?;
        let fingerprint = self.verified.fingerprint(&[token]);
        if let Some(claims) = self.verified.get(fingerprint, now) {
            return Ok(claims);
        }
        let generation = self.verified.generation();
        let header = Header::read(parts.header)?;
        let keys_end = self.check_signature(&header, &parts, now)?;
        let claims = Arc::new(self.check_claims(decode_object(parts.payload)?, now)?);
        let until = claims.expires().saturating_add(self.leeway_secs).min(keys_end);
        self.verified.put(fingerprint, claims.clone(), until, generation, token.len());
        Ok(claims)
    }

    /// Puts other keys in place, fetched at `now`, in seconds since 1970. The same keys again only live longer.
    pub fn set_keys(&self, set: KeySet, now: i64) {
        let same = self.keys.load().as_ref().is_some_and(|current| current.set.is_same(&set));
        self.keys.store(Some(Arc::new(HeldKeys { set, fetched: now })));
        if !same {
            self.verified.flush();
        }
    }

    /// Takes over what `previous` has fetched, so that a reload does not refuse anybody. Of another source nothing is taken.
    pub fn adopt(&self, previous: &Self) {
        let fetched = matches!(self.source, KeySource::Fetched { .. });
        if fetched && self.issuer == previous.issuer && self.has_same_place(previous) {
            self.keys.store(previous.keys.load_full());
            self.verified.flush();
        }
    }

    fn has_same_place(&self, other: &Self) -> bool {
        match (&self.source, &other.source) {
            (KeySource::Fetched { from: ours, .. }, KeySource::Fetched { from: theirs, .. }) => ours == theirs,
            (KeySource::File | KeySource::Fetched { .. }, _) => false,
        }
    }

    /// Whether there are keys that are not stale.
    pub fn has_keys(&self, now: i64) -> bool {
        self.keys.load().as_ref().is_some_and(|held| now < self.end_of(held))
    }

    /// When keys are too old to be believed: a withdrawn one would else be good for as long as somebody keeps the issuer from
    /// us. Decided here and not by whoever fetches, so that it also holds when nobody does.
    fn end_of(&self, held: &HeldKeys) -> i64 {
        let KeySource::Fetched { ttl, stale, .. } = &self.source else { return i64::MAX };
        let lasts = i64::try_from(ttl.saturating_add(*stale).as_secs()).unwrap_or(i64::MAX);
        held.fetched.saturating_add(lasts)
    }

    /// Until when the key that fits may be used.
    fn check_signature(&self, header: &Header, parts: &Parts<'_>, now: i64) -> Result<i64, JwtRefusal> {
        let algorithm = header.algorithm;
        if self.algorithms.as_ref().is_some_and(|pinned| !pinned.contains(&algorithm)) {
            return Err(JwtRefusal::AlgNotAllowed);
        }
        let held = self.keys.load();
        let held = held.as_ref().ok_or(JwtRefusal::KeysUnavailable)?;
        let end = self.end_of(held);
        if now >= end {
            return Err(JwtRefusal::KeysUnavailable);
        }
        match held.set.lookup(header.kid.as_deref(), algorithm) {
            Lookup::UnknownKey => Err(JwtRefusal::UnknownKey),
            Lookup::AlgorithmNotAllowed => Err(JwtRefusal::AlgNotAllowed),
            Lookup::Try(keys) => {
                let fits = keys.iter().any(|key| key.verifies(parts.signature, parts.message, algorithm));
                if fits { Ok(end) } else { Err(JwtRefusal::BadSignature) }
            }
        }
    }

    fn check_claims(&self, payload: Map<String, Value>, now: i64) -> Result<Claims, JwtRefusal> {
        match payload.get("iss") {
            Some(Value::String(issuer)) if *issuer == self.issuer => {}
            _ => return Err(JwtRefusal::WrongIssuer),
        }
        if !payload.get("aud").is_some_and(|aud| self.is_audience(aud)) {
            return Err(JwtRefusal::WrongAudience);
        }
        // A token that never ends cannot be taken back; RFC 9068 §2.2 demands `exp`.
        let expires = numeric_date(&payload, "exp")?.ok_or(JwtRefusal::MissingClaim)?;
        // RFC 7519 §4.1.4: "on or after" which it must not be accepted.
        if now >= expires.saturating_add(self.leeway_secs) {
            return Err(JwtRefusal::Expired);
        }
        if numeric_date(&payload, "nbf")?.is_some_and(|begins| now.saturating_add(self.leeway_secs) < begins) {
            return Err(JwtRefusal::NotYetValid);
        }
        let claims = Claims::new(payload, expires);
        if self.require.iter().any(|name| !claims.is_present(name)) {
            return Err(JwtRefusal::MissingClaim);
        }
        Ok(claims)
    }

    /// RFC 7519 §4.1.3: a text, or a list of texts of which one must be ours.
    fn is_audience(&self, aud: &Value) -> bool {
        let ours = |value: &Value| value.as_str().is_some_and(|text| self.audiences.iter().any(|ours| ours == text));
        match aud {
            Value::Array(items) => items.iter().any(ours),
            value => ours(value),
        }
    }
}

/// A token in compact form (RFC 7515 §3.1), still encoded.
struct Parts<'t> {
    header: &'t str,
    payload: &'t str,
    signature: &'t str,
    /// What was signed.
    message: &'t [u8],
}

impl<'t> Parts<'t> {
    fn split(token: &'t [u8]) -> Result<Self, JwtRefusal> {
        if token.is_empty() {
            return Err(JwtRefusal::Missing);
        }
        if token.len() > TOKEN_MAX_BYTES {
            return Err(JwtRefusal::TooLarge);
        }
        let text = std::str::from_utf8(token).map_err(|_| JwtRefusal::Malformed)?;
        let (message, signature) = text.rsplit_once('.').ok_or(JwtRefusal::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(JwtRefusal::Malformed)?;
        // Five parts are an encrypted token (RFC 7516), which nobody here can read.
        if header.is_empty() || payload.contains('.') {
            return Err(JwtRefusal::Malformed);
        }
        Ok(Self { header, payload, signature, message: message.as_bytes() })
    }
}

/// What a token says of its own signature. `jwk`, `jku`, `x5u` and `x5c` name keys of the sender's choice: never looked at.
struct Header {
    algorithm: Algorithm,
    kid: Option<String>,
}

impl Header {
    fn read(encoded: &str) -> Result<Self, JwtRefusal> {
        let object = decode_object(encoded)?;
        let Some(Value::String(name)) = object.get("alg") else { return Err(JwtRefusal::Malformed) };
        if name.trim().is_empty() || name.trim().eq_ignore_ascii_case("none") {
            return Err(JwtRefusal::AlgNone);
        }
        // RFC 7515 §4.1.11: an extension that is not understood makes the token invalid, and none is understood here.
        if object.contains_key("crit") {
            return Err(JwtRefusal::Malformed);
        }
        let kid = match object.get("kid") {
            None => None,
            // It is compared and nothing else; what cannot be printed would still reach a log.
            Some(Value::String(kid)) if is_plain_kid(kid) => Some(kid.clone()),
            Some(_) => return Err(JwtRefusal::BadKid),
        };
        let algorithm = Algorithm::named(name).ok_or(JwtRefusal::AlgNotAllowed)?;
        Ok(Self { algorithm, kid })
    }
}

fn is_plain_kid(kid: &str) -> bool {
    !kid.is_empty() && kid.len() <= KID_MAX_BYTES && kid.bytes().all(|octet| octet == b' ' || octet.is_ascii_graphic())
}

fn decode_object(encoded: &str) -> Result<Map<String, Value>, JwtRefusal> {
    let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| JwtRefusal::Malformed)?;
    parse_object(&bytes).ok_or(JwtRefusal::Malformed)
}

/// RFC 7519 §2 NumericDate: seconds, perhaps with a fraction. A wrong type is no date that could be kept to.
fn numeric_date(payload: &Map<String, Value>, name: &str) -> Result<Option<i64>, JwtRefusal> {
    match payload.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => {
            let fraction = || number.as_f64().map(|seconds| seconds as i64);
            number.as_i64().or_else(fraction).map(Some).ok_or(JwtRefusal::Malformed)
        }
        Some(_) => Err(JwtRefusal::Malformed),
    }
}

impl IdentitySpec {
    /// `None` when something is wrong; all of it is then in the report.
    pub fn compile(&self, name: &ObjectName, at: &Path, cx: &mut Context) -> Option<Identity> {
        unless_wrong(cx, |cx| self.identity(name, at, cx))
    }

    fn identity(&self, name: &ObjectName, at: &Path, cx: &mut Context) -> Option<Identity> {
        let audiences = self.check_audiences(at, cx);
        let leeway = self.leeway.map_or(LEEWAY_DEFAULT, |leeway| leeway.get());
        if leeway > LEEWAY_MAX {
            cx.error(
                &at.key("leeway"),
                format!("{}s is more than a clock can be wrong (at most 10m)", leeway.as_secs()),
            );
        }
        if let Some([]) = self.algorithms.as_deref() {
            cx.error(&at.key("algorithms"), "the list allows no algorithm").help("leave it out: each key decides");
        }
        let source = self.source(at, cx);
        let keys = match &self.jwks {
            Some(JwksSpec { file: Some(file), .. }) => {
                let set = self.read_keys(file, &at.key("jwks").key("file"), cx)?;
                Some(Arc::new(HeldKeys { set, fetched: 0 }))
            }
            _ => None,
        };
        Some(Identity {
            name: name.clone(),
            issuer: self.issuer.clone(),
            audiences: audiences?,
            algorithms: self.algorithms.clone(),
            leeway_secs: i64::try_from(leeway.as_secs()).ok()?,
            require: self.require.clone().unwrap_or_default(),
            source: source?,
            keys: ArcSwapOption::from(keys),
            verified: VerifiedCache::new(CACHE_BYTES),
        })
    }

    fn check_audiences(&self, at: &Path, cx: &mut Context) -> Option<Vec<String>> {
        let wrong = self.audiences.is_empty() || self.audiences.iter().any(String::is_empty);
        if wrong {
            // RFC 8725 §3.9: without it, a token made for any other service of the issuer is good here.
            cx.error(&at.key("audiences"), "at least one audience is needed, and none may be empty")
                .help("the `aud` that the issuer puts into tokens for this service");
        }
        if self.issuer.is_empty() {
            cx.error(&at.key("issuer"), "the issuer is empty").help("the `iss` of its tokens, exactly");
        }
        (!wrong && !self.issuer.is_empty()).then(|| self.audiences.clone())
    }

    fn source(&self, at: &Path, cx: &mut Context) -> Option<KeySource> {
        let jwks_at = at.key("jwks");
        let jwks = self.jwks.clone().unwrap_or_default();
        if jwks.file.is_some() {
            for (key, written) in
                [("url", jwks.url.is_some()), ("ttl", jwks.ttl.is_some()), ("stale", jwks.stale.is_some())]
            {
                if written {
                    cx.error_at_key(&jwks_at.key(key), format!("`{key}` has no meaning beside `file`"));
                }
            }
            return Some(KeySource::File);
        }
        let ttl = jwks.ttl.map_or(TTL_DEFAULT, |ttl| ttl.get());
        if ttl < TTL_MIN {
            cx.error(&jwks_at.key("ttl"), "keys are fetched at most once a minute").help("1m or more");
        }
        let from = match &jwks.url {
            Some(url) => HttpUrl::parse_protected(url).map(KeyPlace::Url).map_err(|error| (jwks_at.key("url"), error)),
            None => discovery_of(&self.issuer).map(KeyPlace::Discovery).map_err(|error| (at.key("issuer"), error)),
        };
        match from {
            Ok(from) => {
                Some(KeySource::Fetched { from, ttl, stale: jwks.stale.map_or(STALE_DEFAULT, |stale| stale.get()) })
            }
            Err((at, error)) => {
                cx.error(&at, error.to_string()).help("or name the keys: jwks = { file = … } or { url = … }");
                None
            }
        }
    }

    fn read_keys(&self, file: &std::path::Path, at: &Path, cx: &mut Context) -> Option<KeySet> {
        let text = cx.read(at, file)?;
        let keys = match KeySet::parse(&text, KeyOrigin::File) {
            Ok(keys) => keys,
            Err(error @ (KeySetError::NotASet | KeySetError::TooManyKeys(_) | KeySetError::NoUsableKey(_))) => {
                cx.error(at, format!("{}: {error}", file.display()));
                return None;
            }
        };
        if keys.has_secrets()
            && let Some(parent) = at.parent()
        {
            // Warns if others can read it.
            cx.secret(&parent, &SecretRef::File(file.to_owned()));
        }
        for algorithm in self.algorithms.iter().flatten().filter(|algorithm| !keys.knows(**algorithm)) {
            cx.warning(at, format!("no key in {} can be used with {}", file.display(), algorithm.as_str()));
        }
        Some(keys)
    }
}

/// OpenID Connect Discovery 1.0 §4: the well-known path goes behind the issuer's own path.
fn discovery_of(issuer: &str) -> Result<HttpUrl, UrlError> {
    let without_slash = issuer.strip_suffix('/').unwrap_or(issuer);
    if issuer.contains('?') {
        return Err(UrlError::NotAUrl(issuer.to_owned()));
    }
    HttpUrl::parse_protected(&format!("{without_slash}/.well-known/openid-configuration"))
}

#[cfg(test)]
mod tests;
