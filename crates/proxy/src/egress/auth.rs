//! Who uses an explicit proxy: a name and password in Proxy-Authorization or SOCKS, checked by the rule of `auth`.

use portcullis_auth::{AuthRefusal, AuthRequest, AuthRule, Decision, Presented, TlsNames};
use portcullis_tls::PeerIdentity;
use std::borrow::Cow;

/// Presents Proxy-Authorization where the rule looks for Authorization (RFC 9110 §11.7 is §11.6 for proxies).
struct ProxyRequest<'r> {
    authorization: Option<&'r [u8]>,
    identity: Option<&'r PeerIdentity>,
}

impl AuthRequest for ProxyRequest<'_> {
    fn header(&self, name: &str) -> Presented<'_> {
        match self.authorization.filter(|_| name == "authorization") {
            Some(value) => Presented::One(Cow::Borrowed(value)),
            None => Presented::Absent,
        }
    }

    fn cookie(&self, _: &str) -> Presented<'_> {
        Presented::Absent
    }

    fn query(&self, _: &str) -> Presented<'_> {
        Presented::Absent
    }

    fn tls_names(&self) -> Option<TlsNames<'_>> {
        self.identity.map(|identity| TlsNames { uris: &identity.uris, dns: &identity.dns })
    }
}

/// The user's name, or `None` where the rule asks for a certificate only.
pub(crate) async fn authenticate(
    rule: &AuthRule,
    authorization: Option<&[u8]>,
    identity: Option<&PeerIdentity>,
) -> Result<Option<String>, AuthRefusal> {
    let now = crate::unix_seconds();
    let found = match rule.begin(&ProxyRequest { authorization, identity }, now) {
        Decision::Done(found) => found?,
        // Tokens are not taken here, so no keys are ever wanted: fails closed.
        Decision::Keys(_, refusal) => return Err(refusal),
        Decision::Password(check) => match tokio::task::spawn_blocking(move || check.finish(now)).await {
            Ok(found) => found?,
            // The check panicked or the process ends: fails closed.
            Err(_) => return Err(AuthRefusal::CredentialsMissing),
        },
    };
    Ok(found.consumer.map(|consumer| consumer.name().to_string()))
}
