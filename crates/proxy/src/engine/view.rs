//! pingora's request as the stages see it.

use crate::stage::Exchange;
use pingora::http::RequestHeader;
use portcullis_policy::{IdentityFacts, ListenerId, RequestView, Scheme};
use std::net::IpAddr;

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
}
