//! `[credential.X]`: what the gateway adds to requests so that applications need no secrets.
//!
//! Only to a flow whose names were compared ([`Bound`]), towards the destination that names the credential, for the callers,
//! methods and paths it is scoped to. A redirect that a client follows to another host is another flow, of another
//! destination or of none: nothing of the secret goes there.

mod assertion_key;
mod header_changes;
mod secret;
mod sigv4;
mod spec;
mod token;
mod tokens;

pub use header_changes::HeaderChanges;
pub use secret::Secret;
pub use sigv4::{Payload, SignedParts, UnsignedPayload};
pub use spec::{
    AwsSigV4Spec, BasicCredentialSpec, CredentialSpec, HeaderCredentialSpec, JwtAlgorithm, OAuth2Spec, SignedJwtSpec,
};
pub use token::{TokenError, TokenSource};
pub use tokens::{TokenClient, Tokens};

use crate::{
    Bound, Caller, CallerPattern, Request,
    request_match::{Fits, RequestMatch},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use portcullis_config::{Context, Path};
use portcullis_names::{ObjectName, SecretRef};
use portcullis_policy::AccessMatchSpec;
use sigv4::SigV4;
use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

/// All of a configuration.
#[derive(Debug, Default)]
pub struct Credentials(BTreeMap<ObjectName, Arc<Credential>>);

/// One credential, compiled. Its `Debug` shows no secret.
#[derive(Debug)]
pub struct Credential {
    name: ObjectName,
    kind: Kind,
    from: Option<Vec<CallerPattern>>,
    requests: Vec<RequestMatch>,
    strip: Vec<String>,
}

#[derive(Debug)]
enum Kind {
    Header { name: String, value: Secret },
    Token(Arc<TokenSource>),
    Signature(SigV4),
    ClientCertificate(ObjectName),
}

/// What a credential does to one request.
#[derive(Debug)]
pub enum Application {
    /// It is not for this flow, caller or request, which goes on as it came.
    OutOfScope,
    Changes(HeaderChanges),
    /// A token is to be had from [`Tokens::bearer`], then [`Credential::with_token`] called.
    NeedsToken(Arc<TokenSource>),
    /// The connection is to be made with this `[certificate.X]`, and these changes to the fields.
    NeedsCertificate(ObjectName, HeaderChanges),
}

impl Credentials {
    pub fn compile(specs: &BTreeMap<ObjectName, CredentialSpec>, certificates: &[&str], cx: &mut Context) -> Self {
        let compiled = specs.iter().filter_map(|(name, spec)| {
            let at = Path::root().key("credential").key(name);
            Some((name.clone(), Arc::new(Credential::compile(name, spec, certificates, &at, cx)?)))
        });
        Self(compiled.collect())
    }

    /// The credential of a flow's destination, if that has one.
    pub fn of(&self, bound: &Bound) -> Option<&Arc<Credential>> {
        self.0.get(bound.permit().destination()?.credential()?)
    }
}

impl Credential {
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// Decides, and does what needs no waiting. `parts`: the request as it goes out, after all rewriting.
    pub fn apply(&self, bound: &Bound, caller: &Caller<'_>, parts: &SignedParts<'_>, wall: SystemTime) -> Application {
        if !self.is_for(bound, caller, parts) {
            return Application::OutOfScope;
        }
        match &self.kind {
            Kind::Header { name, value } => {
                let mut changes = self.removals();
                changes.set(name, value.clone());
                Application::Changes(changes)
            }
            Kind::Token(source) => Application::NeedsToken(source.clone()),
            Kind::Signature(signer) => {
                let mut changes = signer.sign(parts, wall);
                self.strip.iter().for_each(|name| changes.remove(name));
                Application::Changes(changes)
            }
            Kind::ClientCertificate(name) => Application::NeedsCertificate(name.clone(), self.removals()),
        }
    }

    /// Whether the hash of the request's body is a part of what this credential signs; `parts.payload` does not matter.
    pub fn signs_payload(
        &self,
        bound: &Bound,
        caller: &Caller<'_>,
        parts: &SignedParts<'_>,
    ) -> Option<UnsignedPayload> {
        match &self.kind {
            Kind::Signature(signer) => self.is_for(bound, caller, parts).then(|| signer.unsigned_payload()),
            Kind::Header { .. } | Kind::Token(_) | Kind::ClientCertificate(_) => None,
        }
    }

    /// The second step after [`Application::NeedsToken`].
    pub fn with_token(&self, token: &Secret) -> HeaderChanges {
        let mut changes = self.removals();
        changes.set("authorization", Secret::concat(&[b"Bearer ", token.expose()]));
        changes
    }

    fn is_for(&self, bound: &Bound, caller: &Caller<'_>, parts: &SignedParts<'_>) -> bool {
        let permit = bound.permit();
        let named = permit.destination().and_then(|destination| destination.credential());
        let request = Request::Seen { method: parts.method, path: parts.target };
        named == Some(&self.name)
            // Whom a rule only reports is let through with what it brought, not with our secrets.
            && permit.decision().verdict == crate::Verdict::Allow
            // The authority that goes out is the one that was compared: a rewritten Host gets no secret.
            && bound.check_host(parts.authority) == crate::HostVerdict::Same
            && crate::Target::parse_with_default(parts.authority, permit.target().port())
                .is_ok_and(|out| out.host() == permit.target().host())
            && self.from.as_ref().is_none_or(|from| from.iter().any(|pattern| pattern.matches(caller)))
            && (self.requests.is_empty() || self.requests.iter().any(|rule| rule.fits(request) == Fits::Yes))
    }

    fn removals(&self) -> HeaderChanges {
        let mut changes = HeaderChanges::default();
        changes.remove("authorization");
        self.strip.iter().for_each(|name| changes.remove(name));
        changes
    }

    fn compile(
        name: &ObjectName,
        spec: &CredentialSpec,
        certificates: &[&str],
        at: &Path,
        cx: &mut Context,
    ) -> Option<Self> {
        let kinds = [
            spec.header.is_some(),
            spec.basic.is_some(),
            spec.oauth2.is_some(),
            spec.aws_sigv4.is_some(),
            spec.signed_jwt.is_some(),
            spec.client_certificate.is_some(),
        ];
        if kinds.iter().filter(|said| **said).count() != 1 {
            cx.error(at, "a credential is of exactly one kind")
                .help("say one of `header`, `basic`, `oauth2`, `aws_sigv4`, `signed_jwt`, `client_certificate`");
        }
        let from = spec.from.as_ref().map(|from| callers(from, &at.key("from"), cx));
        let requests = requests(spec, at, cx);
        let strip = spec.strip.iter().flatten().map(|name| name.as_str().to_owned()).collect();
        let kind = kind(spec, certificates, at, cx)?;
        Some(Self { name: name.clone(), kind, from, requests, strip })
    }
}

fn kind(spec: &CredentialSpec, certificates: &[&str], at: &Path, cx: &mut Context) -> Option<Kind> {
    if let Some(header) = &spec.header {
        let at = at.key("header");
        if FRAMING.contains(&header.name.as_str()) {
            cx.error(&at.key("name"), format!("`{}` frames or routes a message; it is no credential", header.name));
        }
        let value = read(&header.value, &at.key("value"), cx)?;
        let prefix = header.prefix.as_deref().unwrap_or_default();
        let value = Secret::concat(&[prefix.as_bytes(), value.expose()]);
        return fit_for_field(value, &at.key("value"), cx)
            .map(|value| Kind::Header { name: header.name.as_str().to_owned(), value });
    }
    if let Some(basic) = &spec.basic {
        let at = at.key("basic");
        // RFC 7617 §2: the first colon ends the name.
        if basic.user.contains(':') {
            cx.error(&at.key("user"), "a user name has no colon");
        }
        let password = read(&basic.password, &at.key("password"), cx)?;
        let pair = Secret::concat(&[basic.user.as_bytes(), b":", password.expose()]);
        let encoded = Secret::new(STANDARD.encode(pair.expose()).into_bytes());
        let value = Secret::concat(&[b"Basic ", encoded.expose()]);
        return Some(Kind::Header { name: "authorization".to_owned(), value });
    }
    if let Some(aws) = &spec.aws_sigv4 {
        let at = at.key("aws_sigv4");
        let secret_access_key = read(&aws.secret_access_key, &at.key("secret_access_key"), cx);
        let session_token = match &aws.session_token {
            None => None,
            Some(token) => {
                let at = at.key("session_token");
                Some(read(token, &at, cx).and_then(|token| fit_for_field(token, &at, cx))?)
            }
        };
        return Some(Kind::Signature(SigV4 {
            access_key_id: aws.access_key_id.clone(),
            secret_access_key: secret_access_key?,
            session_token,
            region: aws.region.clone(),
            service: aws.service.clone(),
            unsigned_payload: aws.unsigned_payload,
        }));
    }
    if let Some(oauth2) = &spec.oauth2 {
        return TokenSource::from_client(oauth2, &at.key("oauth2"), cx).map(|source| Kind::Token(Arc::new(source)));
    }
    if let Some(jwt) = &spec.signed_jwt {
        return TokenSource::from_assertion(jwt, &at.key("signed_jwt"), cx).map(|source| Kind::Token(Arc::new(source)));
    }
    let name = spec.client_certificate.as_ref()?;
    if !certificates.contains(&name.as_str()) {
        cx.undefined(&at.key("client_certificate"), "certificate", name.as_str(), certificates.iter().copied());
        return None;
    }
    Some(Kind::ClientCertificate(name.clone()))
}

const FRAMING: [&str; 8] =
    ["host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "proxy-authorization"];

fn callers(texts: &[String], at: &Path, cx: &mut Context) -> Vec<CallerPattern> {
    let mut patterns = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match text.parse() {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => drop(cx.error(&at.index(index), crate::NotACaller::to_string(&error))),
        }
    }
    patterns
}

fn requests(spec: &CredentialSpec, at: &Path, cx: &mut Context) -> Vec<RequestMatch> {
    let each = |path: Option<&String>| AccessMatchSpec {
        methods: spec.methods.clone(),
        path: path.cloned(),
        ..AccessMatchSpec::default()
    };
    match &spec.paths {
        None if spec.methods.is_none() => Vec::new(),
        None => RequestMatch::compile(&each(None), at, cx).into_iter().collect(),
        Some(paths) => {
            if paths.is_empty() {
                cx.error(&at.key("paths"), "an empty list takes no request").help("leave `paths` out for all");
            }
            paths.iter().filter_map(|path| RequestMatch::compile(&each(Some(path)), at, cx)).collect()
        }
    }
}

pub(crate) fn read(secret: &SecretRef, at: &Path, cx: &mut Context) -> Option<Secret> {
    let secret = Secret::from_config(cx.secret(at, secret)?);
    if secret.expose().is_empty() {
        cx.error(at, "the secret is empty");
        return None;
    }
    Some(secret)
}

fn fit_for_field(value: Secret, at: &Path, cx: &mut Context) -> Option<Secret> {
    if value.is_field_value() {
        return Some(value);
    }
    cx.error(at, "the secret has line breaks, control characters or blanks at its ends, and is no field value");
    None
}

#[cfg(test)]
mod tests;
