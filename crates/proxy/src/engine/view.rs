//! pingora's request as the stages see it.

use crate::stage::Exchange;
use pingora::http::RequestHeader;
use portcullis_auth::{AuthRequest, AuthRule, Claims, Presented, TlsNames};
use portcullis_policy::{IdentityFacts, ListenerId, RequestView, Scheme};
use std::{borrow::Cow, net::IpAddr, sync::Arc};

pub(super) struct View<'v> {
    pub(super) header: &'v RequestHeader,
    pub(super) exchange: &'v Exchange,
}

impl RequestView for View<'_> {
    fn method(&self) -> &str {
        self.header.method.as_str()
    }
    fn host(&self) -> &str {
        &self.exchange.host
    }
    fn path(&self) -> &str {
        &self.exchange.path
    }
    fn query(&self) -> Option<&str> {
        self.header.uri.query()
    }
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.header.headers.get(name).map(http::HeaderValue::as_bytes)
    }
    fn client_ip(&self) -> IpAddr {
        self.exchange.client_ip
    }
    fn listener(&self) -> ListenerId {
        self.exchange.facts.listener.id
    }
    fn listener_name(&self) -> &str {
        self.exchange.facts.listener.name.as_str()
    }
    fn scheme(&self) -> Scheme {
        self.exchange.scheme()
    }
    fn identity(&self) -> Option<IdentityFacts<'_>> {
        let identity = self.exchange.facts.tls.as_ref()?.identity.as_ref()?;
        Some(IdentityFacts {
            spiffe: identity.spiffe.as_deref(),
            uris: &identity.uris,
            dns: &identity.dns,
            common_name: identity.common_name.as_deref(),
        })
    }
    fn request_id(&self) -> &str {
        &self.exchange.request_id
    }
    fn consumer(&self) -> Option<&str> {
        self.exchange.who.consumer.as_ref().map(|consumer| consumer.name().as_str())
    }
    fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
        self.exchange.who.claims.as_ref()?.claim(name)
    }
    fn country(&self) -> Option<&str> {
        self.exchange.snapshot.geo.as_ref()?.country(self.exchange.client_ip)
    }
    fn token(&self, rule: &AuthRule) -> Option<Arc<Claims>> {
        rule.claims(self, crate::unix_seconds())
    }
}

impl AuthRequest for View<'_> {
    fn header(&self, name: &str) -> Presented<'_> {
        Presented::from_values(self.header.headers.get_all(name).iter().map(|value| Cow::Borrowed(value.as_bytes())))
    }
    fn cookie(&self, name: &str) -> Presented<'_> {
        Presented::cookie(self.header.headers.get_all("cookie").iter().map(http::HeaderValue::as_bytes), name)
    }
    fn query(&self, name: &str) -> Presented<'_> {
        self.header.uri.query().map_or(Presented::Absent, |query| Presented::query(query, name))
    }
    fn tls_names(&self) -> Option<TlsNames<'_>> {
        let identity = self.exchange.facts.tls.as_ref()?.identity.as_ref()?;
        Some(TlsNames { uris: &identity.uris, dns: &identity.dns })
    }
}
