//! `[listener.X]` as the operator writes it.

use super::LimitsSpec;
use crate::{egress::Capture, mesh::Otherwise};
use portcullis_auth::RuleAuthSpec;
use portcullis_names::{Cidr, ListenAddress};
use portcullis_policy::ClientIpSpec;
use portcullis_tls::ListenerTlsSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;

/// A socket and how its connections are spoken with.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerSpec {
    pub address: ListenAddress,
    /// Default: `https` when certificates are named or the port is 443, else `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// HTTP versions spoken: h2 by ALPN on https, by prior knowledge on http. Default: both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub versions: Option<Vec<HttpVersion>>,
    /// Names of certificates; the first is served when none fits. Default on https: all of the document; on dns: no TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTlsSpec>,
    /// Peers whose connections begin with a PROXY protocol header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocolSpec>,
    /// Where the client's address is taken from behind trusted proxies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<ClientIpSpec>,
    /// What becomes of request fields whose names have underscores. Default: `drop`, as nginx does; `pass` on
    /// ways out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underscores: Option<Underscores>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsSpec>,
    /// On a proxy listener: the user name and password, or the certificate, that clients must show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<RuleAuthSpec>,
    /// On an sni listener: the port that is meant at destinations (default 443, and 80 for http).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_port: Option<NonZeroU16>,
    /// A sidecar's listener: `inbound` is what comes to its application, `outbound` what the application sends. Such a
    /// listener finds out by itself what is spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Of a sidecar's listener that nothing is captured for. Inbound: the application's address. Outbound: the service that
    /// its connections are for, `"cart"` or `"cart.acme.lab"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Of an outbound listener: what becomes of connections that are for no service (default refuse).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<Otherwise>,
    /// Of an outbound listener: the upstream that is an egress gateway; connections for no service go through it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Of an inbound listener: it takes HBONE and nothing else, as ztunnel and Istio speak it; on port 15008 as a rule. Without
    /// `to`, each stream is for a port of the address that it came to (default false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hbone: Option<bool>,
    /// Of a sidecar's listener: ports whose connections are carried without a look, in place of 25, 587, 3306, 4444, 5432,
    /// 6379, 9300 and 11211.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opaque_ports: Option<Vec<u16>>,
    /// On a transparent listener, or a sidecar's without `to`: how connections come here (default redirect).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<Capture>,
    /// On an https listener at port 443: answer port 80 of the same address with 308 (default true).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_redirect: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http,
    Https,
    /// Bytes to the upstream of a `tcp_route`.
    Tcp,
    /// TLS passed through unopened, by SNI, to the upstream of a `tls_route`.
    Tls,
    /// Zones over UDP and TCP; with certificates, over TLS and HTTPS.
    Dns,
    /// What this node says of published services, for the peers of `[dns.fleet]`.
    Verdicts,
    /// An explicit proxy for what goes out: CONNECT, targets in absolute form, SOCKS 5. Over TLS when certificates are named.
    Proxy,
    /// What goes out without knowing of a proxy: TLS passed through unopened by SNI, http by Host. Names lead here by DNS.
    Sni,
    /// The same where the packet filter leads connections here, with the port they were for.
    Transparent,
    /// A sidecar's: by `direction`, never written.
    #[serde(skip)]
    Mesh,
}

/// Which way the connections of a sidecar's listener go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// CGI and its heirs (WSGI, Rack, PHP) read `X_Forwarded_For` and `X-Forwarded-For` as one variable, so that a client could
/// overwrite with the one what we write into the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Underscores {
    /// The field never came, for routing, policies and the upstream.
    #[default]
    Drop,
    /// 400.
    Refuse,
    /// The upstreams know better.
    Pass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HttpVersion {
    H1,
    H2,
}

/// `proxy_protocol = { from = [...] }`: a peer inside `from` must send the header, nobody else may.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocolSpec {
    pub from: Vec<Cidr>,
}

impl ListenerSpec {
    pub fn effective_protocol(&self) -> Protocol {
        if self.direction.is_some() {
            return Protocol::Mesh;
        }
        self.protocol.unwrap_or(match (&self.certificates, self.address.port()) {
            (Some(_), _) | (None, Some(443)) => Protocol::Https,
            (None, _) => Protocol::Http,
        })
    }
}
