//! What a stage can see of a request, whichever engine carries it.

use crate::ListenerId;
use portcullis_auth::{AuthRequest, AuthRule, Claims, Presented, TlsNames};
use std::{borrow::Cow, net::IpAddr, sync::Arc};

/// A request as the stages see it: borrowed text, nothing parsed twice.
pub trait RequestView {
    fn method(&self) -> &str;
    /// Normalised: lower case, no port (`portcullis_names::normalise_host`).
    fn host(&self) -> &str;
    /// Normalised: see [`crate::normalise_path`].
    fn path(&self) -> &str;
    fn query(&self) -> Option<&str>;
    /// The first value of a field; `name` in lower case.
    fn header(&self, name: &str) -> Option<&[u8]>;
    fn client_ip(&self) -> IpAddr;
    fn listener(&self) -> ListenerId;
    fn listener_name(&self) -> &str;
    fn scheme(&self) -> Scheme;
    /// The verified client certificate's names.
    fn identity(&self) -> Option<IdentityFacts<'_>>;
    fn request_id(&self) -> &str;
    /// Who the API key or password stands for, once authentication was passed.
    fn consumer(&self) -> Option<&str>;
    /// A claim of the verified token as text, once authentication was passed.
    fn claim(&self, name: &str) -> Option<Cow<'_, str>>;
    /// Where the client's address is, if a database says.
    fn country(&self) -> Option<&str>;
    /// The claims of a token that `rule` takes, before its turn: for `match.claims`.
    fn token(&self, rule: &AuthRule) -> Option<Arc<Claims>>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Who a client certificate says it belongs to.
#[derive(Debug, Clone, Copy)]
pub struct IdentityFacts<'a> {
    pub spiffe: Option<&'a str>,
    pub uris: &'a [String],
    pub dns: &'a [String],
    pub common_name: Option<&'a str>,
}

impl<'a> IdentityFacts<'a> {
    /// The one name to show: SPIFFE id, else URI, else DNS name, else common name.
    pub fn name(&self) -> Option<&'a str> {
        let uri = self.uris.first().map(String::as_str);
        let dns = self.dns.first().map(String::as_str);
        self.spiffe.or(uri).or(dns).or(self.common_name)
    }
}

/// A request that was never on a wire: what `explain` and tests ask about.
#[derive(Debug, Clone)]
pub struct Facts {
    pub method: String,
    pub host: String,
    pub path: String,
    pub query: Option<String>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub client_ip: IpAddr,
    pub listener: ListenerId,
    pub listener_name: String,
    pub scheme: Scheme,
    pub identity: Option<String>,
    pub country: Option<String>,
    /// Seconds since 1970: what the question's credentials are judged by.
    pub now: i64,
}

impl RequestView for Facts {
    fn method(&self) -> &str {
        &self.method
    }
    fn host(&self) -> &str {
        &self.host
    }
    fn path(&self) -> &str {
        &self.path
    }
    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_bytes())
    }
    fn client_ip(&self) -> IpAddr {
        self.client_ip
    }
    fn listener(&self) -> ListenerId {
        self.listener
    }
    fn listener_name(&self) -> &str {
        &self.listener_name
    }
    fn scheme(&self) -> Scheme {
        self.scheme
    }
    fn identity(&self) -> Option<IdentityFacts<'_>> {
        let uris = std::slice::from_ref(self.identity.as_ref()?);
        Some(IdentityFacts {
            spiffe: self.identity.as_deref().filter(|id| id.starts_with("spiffe://")),
            uris,
            dns: uris,
            common_name: None,
        })
    }
    fn request_id(&self) -> &str {
        "-"
    }
    fn country(&self) -> Option<&str> {
        self.country.as_deref()
    }
    // Nobody has passed authentication yet.
    fn consumer(&self) -> Option<&str> {
        None
    }
    fn claim(&self, _: &str) -> Option<Cow<'_, str>> {
        None
    }
    fn token(&self, rule: &AuthRule) -> Option<Arc<Claims>> {
        rule.claims(self, self.now)
    }
}

impl AuthRequest for Facts {
    fn header(&self, name: &str) -> Presented<'_> {
        let values = self.headers.iter().filter(|(field, _)| field == name);
        Presented::from_values(values.map(|(_, value)| Cow::Borrowed(value.as_bytes())))
    }
    fn cookie(&self, name: &str) -> Presented<'_> {
        let fields = self.headers.iter().filter(|(field, _)| field == "cookie");
        Presented::cookie(fields.map(|(_, value)| value.as_bytes()), name)
    }
    fn query(&self, name: &str) -> Presented<'_> {
        self.query.as_deref().map_or(Presented::Absent, |query| Presented::query(query, name))
    }
    fn tls_names(&self) -> Option<TlsNames<'_>> {
        let names = std::slice::from_ref(self.identity.as_ref()?);
        Some(TlsNames { uris: names, dns: names })
    }
}
