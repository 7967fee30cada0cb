//! One `auth` rule, compiled: decides who a request is from and whether that is enough.

use crate::{
    AuthRefusal, AuthRequest, Claims, Consumer, Consumers, Identity, JwtRefusal, KeySource, Presented,
    consumers::BasicCredentials,
};
use portcullis_names::{HeaderName, SanPattern};
use std::{borrow::Cow, fmt, sync::Arc};

/// What a request must show. A route's rule and its own both apply: security accumulates.
#[derive(Debug)]
pub struct AuthRule {
    pub(crate) jwt: Option<JwtRule>,
    pub(crate) api_key: Option<ApiKeyPlace>,
    pub(crate) basic: Option<Realm>,
    pub(crate) groups: Option<Arc<[String]>>,
    pub(crate) client_cert: Option<Vec<SanPattern>>,
    pub(crate) consumers: Arc<Consumers>,
}

#[derive(Debug)]
pub(crate) struct JwtRule {
    pub(crate) identity: Arc<Identity>,
    pub(crate) places: Vec<Place>,
    /// Names other than `scope`, each with its accepted values.
    pub(crate) claims: Vec<(String, Vec<String>)>,
    pub(crate) scopes: Vec<String>,
    /// For challenges.
    pub(crate) scope_text: Option<String>,
}

#[derive(Debug)]
pub(crate) struct ApiKeyPlace(pub(crate) Place);

/// Where a credential is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Header(HeaderName),
    Cookie(String),
    Query(String),
}

/// A realm free of `"` and `\`, so that it can stand in a challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Realm(String);

/// Who a request is from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Authenticated {
    /// Of the token, if it came with one.
    pub claims: Option<Arc<Claims>>,
    /// Behind the API key or password, if it came with one.
    pub consumer: Option<Arc<Consumer>>,
    /// The name in the client's certificate that let it pass, if the rule asks for one.
    pub certificate: Option<Arc<str>>,
}

/// A decision, or what it still takes.
#[derive(Debug)]
pub enum Decision {
    Done(Result<Authenticated, AuthRefusal>),
    /// The token's key is not there, and perhaps only not yet: [`crate::KeyHandle::refreshed`] of this identity is to be
    /// awaited, then [`AuthRule::begin`] called again, and if that says the same, the refusal stands.
    Keys(Arc<Identity>, AuthRefusal),
    /// A password must be checked, on a thread that may be busy for milliseconds.
    Password(PasswordCheck),
}

/// A check that is slow by design.
pub struct PasswordCheck {
    consumers: Arc<Consumers>,
    credentials: BasicCredentials,
    groups: Option<Arc<[String]>>,
    certificate: Option<Arc<str>>,
}

impl Authenticated {
    /// The consumer's name, else the token's subject, else the certificate's name. One text can be a name of each kind; where
    /// that matters, the fields tell them apart.
    pub fn subject(&self) -> Option<&str> {
        let consumer = self.consumer.as_ref().map(|consumer| consumer.name().as_str());
        let claimed = || self.claims.as_ref()?.subject();
        consumer.or_else(claimed).or(self.certificate.as_deref())
    }

    /// With what a rule further inside found, which counts where both found something.
    pub fn and(self, inner: Self) -> Self {
        Self {
            claims: inner.claims.or(self.claims),
            consumer: inner.consumer.or(self.consumer),
            certificate: inner.certificate.or(self.certificate),
        }
    }
}

impl AuthRule {
    /// Decides, as far as that needs no waiting. `now` in seconds since 1970.
    pub fn begin(&self, request: &dyn AuthRequest, now: i64) -> Decision {
        // Before any credential is looked at: nothing is learnt about those by who may not even ask.
        let certificate = match self.check_certificate(request) {
            Ok(certificate) => certificate,
            Err(refusal) => return Decision::Done(Err(refusal)),
        };
        match self.begin_credentials(request, now) {
            Decision::Done(found) => Decision::Done(found.map(|found| Authenticated { certificate, ..found })),
            Decision::Password(check) => Decision::Password(PasswordCheck { certificate, ..check }),
            Decision::Keys(identity, refusal) => Decision::Keys(identity, refusal),
        }
    }

    fn begin_credentials(&self, request: &dyn AuthRequest, now: i64) -> Decision {
        if let Some(rule) = &self.jwt
            && let Some(outcome) = rule.check(request, now)
        {
            return match outcome {
                Err(refusal) if rule.awaits_keys(refusal) => Decision::Keys(rule.identity.clone(), refusal),
                outcome => Decision::Done(outcome.and_then(|claims| self.admit_claims(claims))),
            };
        }
        if let Some(ApiKeyPlace(place)) = &self.api_key {
            match place.presented(request) {
                Presented::Absent => {}
                Presented::Many => return Decision::Done(Err(AuthRefusal::CredentialsRepeated)),
                Presented::One(key) => {
                    let consumer = self.consumers.by_key(&key).cloned().ok_or(AuthRefusal::ApiKeyUnknown);
                    return Decision::Done(consumer.and_then(|found| admit_consumer(found, self.groups.as_deref())));
                }
            }
        }
        if self.basic.is_some()
            && let Some(decision) = self.begin_basic(request, now)
        {
            return decision;
        }
        Decision::Done(self.without_credentials())
    }

    /// Whether it looks at tokens, and so may find claims.
    pub fn takes_tokens(&self) -> bool {
        self.jwt.is_some()
    }

    /// The claims of the request's token as far as that is verified without waiting; for decisions before this rule's own turn.
    pub fn claims(&self, request: &dyn AuthRequest, now: i64) -> Option<Arc<Claims>> {
        self.jwt.as_ref()?.check(request, now)?.ok()
    }

    /// The values of WWW-Authenticate for a refusal: one for each way to say who one is (RFC 9110 §11.6.1).
    pub fn challenges(&self, refusal: AuthRefusal) -> Vec<String> {
        let mut challenges = Vec::new();
        challenges.extend(self.jwt.as_ref().and_then(|rule| rule.challenge(refusal)));
        if refusal.status() == 401 {
            challenges.extend(self.api_key.as_ref().map(|_| "ApiKey realm=\"restricted\"".to_owned()));
            // RFC 7617 §2.1: the only charset there is.
            challenges
                .extend(self.basic.as_ref().map(|Realm(realm)| format!("Basic realm=\"{realm}\", charset=\"UTF-8\"")));
        }
        challenges
    }

    fn without_credentials(&self) -> Result<Authenticated, AuthRefusal> {
        match (&self.jwt, &self.api_key, &self.basic) {
            // The certificate was all that was asked for.
            (None, None, None) => Ok(Authenticated::default()),
            (Some(_), None, None) => Err(JwtRefusal::Missing.into()),
            _ => Err(AuthRefusal::CredentialsMissing),
        }
    }

    /// The name that fits, if the rule asks for one.
    fn check_certificate(&self, request: &dyn AuthRequest) -> Result<Option<Arc<str>>, AuthRefusal> {
        let Some(patterns) = &self.client_cert else { return Ok(None) };
        let names = request.tls_names().ok_or(AuthRefusal::CertificateMissing)?;
        let uri = names.uris.iter().find(|uri| patterns.iter().any(|pattern| pattern.matches_uri(uri)));
        let dns = || names.dns.iter().find(|dns| patterns.iter().any(|pattern| pattern.matches_dns(dns)));
        let name = uri.or_else(dns).ok_or(AuthRefusal::CertificateName)?;
        Ok(Some(Arc::from(name.as_str())))
    }

    fn begin_basic(&self, request: &dyn AuthRequest, now: i64) -> Option<Decision> {
        let value = match request.header("authorization") {
            Presented::Absent => return None,
            Presented::Many => return Some(Decision::Done(Err(AuthRefusal::CredentialsRepeated))),
            Presented::One(value) => value,
        };
        let encoded = after_scheme(&value, "basic")?;
        let Some(credentials) = BasicCredentials::read(encoded) else {
            return Some(Decision::Done(Err(AuthRefusal::PasswordMalformed)));
        };
        Some(match self.consumers.remembered(&credentials, now) {
            Some(known) => Decision::Done(known.and_then(|found| admit_consumer(found, self.groups.as_deref()))),
            None => Decision::Password(PasswordCheck {
                consumers: self.consumers.clone(),
                credentials,
                groups: self.groups.clone(),
                certificate: None,
            }),
        })
    }

    fn admit_claims(&self, claims: Arc<Claims>) -> Result<Authenticated, AuthRefusal> {
        let inside = |groups: &Arc<[String]>| groups.iter().any(|group| claims.has("groups", group));
        if self.groups.as_ref().is_some_and(|groups| !inside(groups)) {
            return Err(AuthRefusal::NotInGroup);
        }
        Ok(Authenticated { claims: Some(claims), ..Authenticated::default() })
    }
}

/// What is asked for, for people.
impl fmt::Display for AuthRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ways: Vec<String> = Vec::new();
        ways.extend(self.jwt.as_ref().map(|rule| format!("a token of {}", rule.identity.name())));
        ways.extend(self.api_key.as_ref().map(|_| "an API key".to_owned()));
        ways.extend(self.basic.as_ref().map(|_| "a password".to_owned()));
        f.write_str(&ways.join(" or "))?;
        if self.client_cert.is_some() {
            f.write_str(if ways.is_empty() { "a client certificate" } else { ", and a client certificate" })?;
        }
        match &self.groups {
            Some(groups) => write!(f, ", in group {}", groups.join(" or ")),
            None => Ok(()),
        }
    }
}

impl PasswordCheck {
    /// Takes milliseconds of a core, and blocks for up to a second before while others do: to be called where that hurts
    /// nobody, such as `tokio::task::spawn_blocking`.
    pub fn finish(self, now: i64) -> Result<Authenticated, AuthRefusal> {
        let found = self.consumers.check(&self.credentials, now)?;
        let found = admit_consumer(found, self.groups.as_deref())?;
        Ok(Authenticated { certificate: self.certificate, ..found })
    }
}

impl std::fmt::Debug for PasswordCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordCheck")
    }
}

fn admit_consumer(consumer: Arc<Consumer>, groups: Option<&[String]>) -> Result<Authenticated, AuthRefusal> {
    if groups.is_some_and(|groups| !consumer.is_in_any(groups)) {
        return Err(AuthRefusal::NotInGroup);
    }
    Ok(Authenticated { consumer: Some(consumer), ..Authenticated::default() })
}

impl JwtRule {
    /// `None` when the request brings no token.
    fn check(&self, request: &dyn AuthRequest, now: i64) -> Option<Result<Arc<Claims>, AuthRefusal>> {
        let token = match self.places.iter().find_map(|place| place.token(request))? {
            Presented::One(token) => token,
            Presented::Absent => return None,
            Presented::Many => return Some(Err(AuthRefusal::CredentialsRepeated)),
        };
        // A place that is there but empty holds a token that is none, rather than no token.
        if token.is_empty() {
            return Some(Err(JwtRefusal::Malformed.into()));
        }
        Some(self.identity.verify(&token, now).and_then(|claims| self.permit(claims)).map_err(AuthRefusal::from))
    }

    /// Keys of a file do not come later.
    fn awaits_keys(&self, refusal: AuthRefusal) -> bool {
        let unknown = matches!(refusal, AuthRefusal::Jwt(JwtRefusal::UnknownKey | JwtRefusal::KeysUnavailable));
        unknown && matches!(self.identity.source(), KeySource::Fetched { .. })
    }

    fn challenge(&self, refusal: AuthRefusal) -> Option<String> {
        let told = match refusal {
            AuthRefusal::Jwt(told) => told,
            // RFC 6750 §3.1: it "requires higher privileges than provided by the access token".
            AuthRefusal::NotInGroup => JwtRefusal::InsufficientScope,
            AuthRefusal::CredentialsRepeated => {
                let realm = self.identity.name();
                return Some(format!(
                    "Bearer realm=\"{realm}\", error=\"invalid_request\", error_description=\"{refusal}\""
                ));
            }
            AuthRefusal::CredentialsMissing
            | AuthRefusal::ApiKeyUnknown
            | AuthRefusal::PasswordMalformed
            | AuthRefusal::PasswordWrong => JwtRefusal::Missing,
            // No credentials of HTTP would help.
            AuthRefusal::PasswordBusy | AuthRefusal::CertificateMissing | AuthRefusal::CertificateName => return None,
        };
        told.www_authenticate(self.identity.name().as_str(), self.scope_text.as_deref())
    }

    fn permit(&self, claims: Arc<Claims>) -> Result<Arc<Claims>, JwtRefusal> {
        let granted = |wanted: &String| claims.scopes().any(|scope| scope == wanted);
        let fits = |(name, values): &(String, Vec<String>)| values.iter().any(|value| claims.has(name, value));
        if self.scopes.iter().all(granted) && self.claims.iter().all(fits) {
            Ok(claims)
        } else {
            Err(JwtRefusal::InsufficientScope)
        }
    }
}

impl Place {
    fn presented<'r>(&self, request: &'r dyn AuthRequest) -> Presented<'r> {
        match self {
            Self::Header(name) => request.header(name.as_str()),
            Self::Cookie(name) => request.cookie(name),
            Self::Query(name) => request.query(name),
        }
    }

    /// `None` when the place has nothing that looks like a token.
    fn token<'r>(&self, request: &'r dyn AuthRequest) -> Option<Presented<'r>> {
        let value = match self.presented(request) {
            Presented::Absent => return None,
            Presented::Many => return Some(Presented::Many),
            Presented::One(value) => value,
        };
        let Self::Header(name) = self else { return Some(Presented::One(value)) };
        match after_scheme(&value, "bearer") {
            Some(token) => Some(Presented::One(Cow::Owned(token.to_vec()))),
            // Another scheme, for somebody else.
            None if name.as_str() == "authorization" => None,
            None => Some(Presented::One(value)),
        }
    }
}

/// RFC 9110 §11.4: the scheme's name without regard to case, blanks, the credentials.
fn after_scheme<'v>(value: &'v [u8], scheme: &str) -> Option<&'v [u8]> {
    let (name, rest) = value.split_at_checked(scheme.len())?;
    let fits = name.eq_ignore_ascii_case(scheme.as_bytes()) && rest.first().is_none_or(|octet| *octet == b' ');
    fits.then(|| rest.trim_ascii())
}

impl Realm {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let plain = |octet: u8| octet == b' ' || (octet.is_ascii_graphic() && octet != b'"' && octet != b'\\');
        (!text.is_empty() && text.len() <= 128 && text.bytes().all(plain)).then(|| Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests;
