//! `health_check = { … }`.

use crate::{
    BodySpec, ExpirySpec,
    check::{Ask, DnsCheck, GrpcCheck, HealthCheck, HttpCheck, Part, Several, StatusRange},
};
use http::uri::{Authority, PathAndQuery};
use portcullis_config::{Context, Path};
use portcullis_names::{Method, Percent, Status, TimeSpan};
use rustls::pki_types::ServerName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
    time::Duration,
};

/// How endpoints are asked whether they are well: with `path` by HTTP, with `grpc` by its health protocol, without either
/// by a TCP connection (and TLS handshake).
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheckSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The Host to send (default: the name in TLS, else the endpoint's address).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Default GET.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// What the request to `path` is spoken in (default h1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ProbeProtocol>,
    /// Statuses that count as well (default: 200 to 399).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Vec<Status>>,
    /// What the body must say for the endpoint to be well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<BodySpec>,
    /// The service to ask for by grpc.health.v1; `""` is the server as a whole. Over h2, with TLS where the upstream has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// Ask a name server over UDP: well is who has an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsCheckSpec>,
    /// An echo by ICMP, where the system lets this process (Linux: `net.ipv4.ping_group_range`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp: Option<bool>,
    /// A program and its arguments, run with ADDRESS and PORT in its environment: well is who makes it end with 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// A file in which somebody else writes lines of `ADDRESS up` and `ADDRESS down`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Several checks, of which `need` have to go well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub of: Vec<HealthCheckSpec>,
    /// Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub need: Option<NonZeroU32>,
    /// The port to ask, in place of the endpoint's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// The name to ask for and to verify in TLS (default: the upstream's `tls.sni`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// What to do when the endpoint's certificate ends sooner than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_expiry: Option<ExpirySpec>,
    /// Default 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<TimeSpan>,
    /// Default 2s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// Successes in a row to come up (default 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy: Option<NonZeroU32>,
    /// Failures in a row to go down (default 3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<NonZeroU32>,
    /// How much each interval varies (default 20%), so that probes of many gateways do not come at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Percent>,
}

/// The HTTP of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbeProtocol {
    H1,
    /// Over TLS by ALPN, in clear with prior knowledge.
    H2,
}

/// `dns = { name = "www.example.com" }`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsCheckSpec {
    pub name: String,
    /// Default A.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub of_type: Option<DnsCheckType>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum DnsCheckType {
    A,
    Ns,
    Soa,
    Txt,
    Aaaa,
}

impl DnsCheckType {
    /// RFC 1035 §3.2.2, RFC 3596 §2.1.
    const fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Ns => 2,
            Self::Soa => 6,
            Self::Txt => 16,
            Self::Aaaa => 28,
        }
    }
}

/// A probe more often than this is a load test.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// A name of a gRPC service is at most so long; its length then fits one octet of protobuf.
const SERVICE_MAX: usize = 127;
const WORDS_MAX: usize = 64;
const PARTS_MAX: usize = 8;

impl HealthCheckSpec {
    pub fn compile(&self, at: &Path, cx: &mut Context) -> HealthCheck {
        let (interval, timeout) = self.rhythm(at, cx);
        self.refuse_pointless(at, cx);
        let host = self.host.as_ref().and_then(|host| self::host(host, &at.key("host"), cx));
        let ask = match (&self.path, &self.grpc) {
            (None, None) => self.without_http(at, cx),
            (Some(path), None) => self.http(path, host, at, cx).map_or(Ask::Connect, Ask::Http),
            (None, Some(service)) => {
                if service.len() > SERVICE_MAX || !service.bytes().all(|b| b.is_ascii_graphic()) {
                    cx.error(
                        &at.key("grpc"),
                        format!("a service is named by at most {SERVICE_MAX} letters, digits and dots"),
                    );
                }
                Ask::Grpc(GrpcCheck { service: service.clone(), host })
            }
            (Some(_), Some(_)) => {
                cx.error_at_key(&at.key("grpc"), "`grpc` and `path` exclude one another").help("leave one of them");
                Ask::Connect
            }
        };
        let sni = self.sni.as_ref().and_then(|sni| {
            let name = ServerName::try_from(sni.clone());
            if name.is_err() {
                cx.error(&at.key("sni"), format!("`{sni}` is not a host name or an IP address"));
            }
            name.ok()
        });
        self.refuse_mixture(at, cx);
        HealthCheck {
            ask,
            sni,
            port: self.port.map(NonZeroU16::get),
            tls_expiry: self.tls_expiry.as_ref().map(|expiry| expiry.compile(&at.key("tls_expiry"), cx)),
            interval,
            timeout,
            healthy: self.healthy.map_or(2, NonZeroU32::get),
            unhealthy: self.unhealthy.map_or(3, NonZeroU32::get),
            jitter: self.jitter.unwrap_or(Percent::from_whole(20)),
        }
    }

    /// To be called for an upstream that is spoken to in clear.
    pub fn refuse_tls_keys(&self, at: &Path, cx: &mut Context) {
        for (key, given) in [("sni", self.sni.is_some()), ("tls_expiry", self.tls_expiry.is_some())] {
            if given {
                cx.error_at_key(&at.key(key), format!("`{key}` has no effect on an upstream without `tls`"))
                    .help("give the upstream a `tls`");
            }
        }
    }

    /// One way of asking, or `of` with several.
    fn refuse_mixture(&self, at: &Path, cx: &mut Context) {
        let ways = [
            ("path", self.path.is_some()),
            ("grpc", self.grpc.is_some()),
            ("dns", self.dns.is_some()),
            ("icmp", self.icmp == Some(true)),
            ("command", self.command.is_some()),
            ("file", self.file.is_some()),
            ("of", !self.of.is_empty()),
        ];
        let mut given = ways.into_iter().filter(|(_, given)| *given).map(|(key, _)| key);
        if let (Some(first), Some(second)) = (given.next(), given.next())
            && (first, second) != ("path", "grpc")
        {
            cx.error_at_key(&at.key(second), format!("`{first}` and `{second}` exclude one another"))
                .help("of = [{ … }, { … }] makes several checks");
        }
        if self.need.is_some() && self.of.is_empty() {
            cx.error_at_key(&at.key("need"), "`need` has no effect without `of`");
        }
        if self.port.is_some() && (self.icmp == Some(true) || self.file.is_some()) {
            cx.error_at_key(&at.key("port"), "neither an echo nor a file has a port");
        }
    }

    fn without_http(&self, at: &Path, cx: &mut Context) -> Ask {
        if let Some(dns) = &self.dns {
            return dns.compile(&at.key("dns"), cx).map_or(Ask::Connect, Ask::Dns);
        }
        if self.icmp == Some(true) {
            return Ask::Icmp;
        }
        if let Some(command) = &self.command {
            if command.first().is_none_or(String::is_empty) || command.len() > WORDS_MAX {
                cx.error(&at.key("command"), format!("a program and at most {WORDS_MAX} words"));
            }
            return Ask::Command(command.clone());
        }
        if let Some(file) = &self.file {
            return Ask::File(cx.resolve(&at.key("file"), file));
        }
        if self.of.is_empty() { Ask::Connect } else { Ask::Several(self.several(at, cx)) }
    }

    fn several(&self, at: &Path, cx: &mut Context) -> Several {
        let of_at = at.key("of");
        if self.of.len() > PARTS_MAX {
            cx.error(&of_at, format!("more than {PARTS_MAX} checks of one endpoint"));
        }
        let mut parts = Vec::with_capacity(self.of.len());
        for (index, spec) in self.of.iter().take(PARTS_MAX).enumerate() {
            let at = of_at.index(index);
            let whole = [
                ("interval", spec.interval.is_some()),
                ("timeout", spec.timeout.is_some()),
                ("healthy", spec.healthy.is_some()),
                ("unhealthy", spec.unhealthy.is_some()),
                ("jitter", spec.jitter.is_some()),
                ("tls_expiry", spec.tls_expiry.is_some()),
                ("of", !spec.of.is_empty()),
            ];
            for (key, _) in whole.into_iter().filter(|(_, given)| *given) {
                cx.error_at_key(&at.key(key), format!("`{key}` is of the check as a whole"));
            }
            let bare = Self { of: Vec::new(), interval: None, timeout: None, ..spec.clone() };
            let HealthCheck { ask, port, sni, .. } = bare.compile(&at, cx);
            parts.push(Part { ask, port, sni });
        }
        let need = self.need.map_or(parts.len(), |need| need.get() as usize);
        if need > parts.len() {
            cx.error(&at.key("need"), format!("there are {} checks: it would never be well", parts.len()));
        }
        Several { need, of: parts }
    }

    fn rhythm(&self, at: &Path, cx: &mut Context) -> (Duration, Duration) {
        let interval = self.interval.map_or(Duration::from_secs(5), TimeSpan::get);
        let timeout = self.timeout.map_or(Duration::from_secs(2).min(interval), TimeSpan::get);
        if interval < INTERVAL_MIN {
            cx.error(&at.key("interval"), "health is checked at most every 100ms");
        }
        if timeout > interval || timeout.is_zero() {
            cx.error(
                &at.key("timeout"),
                "a check ends before the next begins: the timeout is more than zero and at most the interval",
            );
        }
        (interval, timeout)
    }

    /// Every key changes what is asked, or it is a misunderstanding.
    fn refuse_pointless(&self, at: &Path, cx: &mut Context) {
        if self.path.is_some() {
            return;
        }
        if self.host.is_some() && self.grpc.is_none() {
            cx.error(&at.key("host"), "`host` has no effect without `path` or `grpc`")
                .help("give a `path` to check by HTTP");
        }
        for (key, given) in [
            ("method", self.method.is_some()),
            ("protocol", self.protocol.is_some()),
            ("status", self.status.is_some()),
            ("body", self.body.is_some()),
        ] {
            if given {
                cx.error_at_key(&at.key(key), format!("`{key}` has no effect without `path`"))
                    .help("give a `path` to check by HTTP");
            }
        }
    }

    fn http(&self, path: &str, host: Option<Authority>, at: &Path, cx: &mut Context) -> Option<HttpCheck> {
        // The library would drop a fragment without a word.
        let parsed = PathAndQuery::try_from(path).ok();
        let parsed = parsed.filter(|parsed| parsed.as_str() == path && path.starts_with('/'));
        if parsed.is_none() {
            cx.error(&at.key("path"), "a path begins with `/` and has no spaces, fragment or control characters");
        }
        let method = self.method.as_ref().map_or("GET", Method::as_str);
        let method = http::Method::from_bytes(method.as_bytes()).ok().filter(|method| method != http::Method::CONNECT);
        if method.is_none() {
            cx.error(&at.key("method"), "a check does not open tunnels").help("use GET, HEAD or OPTIONS");
        }
        let body = self.body.as_ref().map(|body| (body, body.compile(&at.key("body"), cx)));
        if body.is_some() && method == Some(http::Method::HEAD) {
            cx.error_at_key(&at.key("body"), "the answer to HEAD has no body").help("use GET");
        }
        if self.status.as_ref().is_some_and(Vec::is_empty) {
            cx.error(&at.key("status"), "with an empty list no endpoint would ever be well")
                .help("leave `status` out to take 200 to 399");
        }
        let status = match &self.status {
            None => StatusRange::Between(200..=399),
            Some(list) => StatusRange::Listed(list.iter().map(|status| status.get()).collect()),
        };
        let protocol = self.protocol.unwrap_or(ProbeProtocol::H1);
        Some(HttpCheck {
            method: method?,
            path: parsed?,
            host,
            protocol,
            status,
            body: body.and_then(|(_, compiled)| compiled),
        })
    }
}

impl DnsCheckSpec {
    fn compile(&self, at: &Path, cx: &mut Context) -> Option<DnsCheck> {
        let mut name = Vec::new();
        let text = self.name.trim_end_matches('.');
        for label in text.split('.').filter(|_| !text.is_empty()) {
            let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length) && label.is_ascii());
            let Some(length) = length else {
                cx.error(&at.key("name"), format!("`{}` is not a name", self.name));
                return None;
            };
            name.push(length);
            name.extend(label.as_bytes());
        }
        name.push(0);
        if name.len() > 255 {
            cx.error(&at.key("name"), "a name has at most 255 octets");
            return None;
        }
        Some(DnsCheck { name, of_type: self.of_type.unwrap_or(DnsCheckType::A).number() })
    }
}

fn host(host: &str, at: &Path, cx: &mut Context) -> Option<Authority> {
    let authority = Authority::try_from(host).ok().filter(|_| !host.contains('@'));
    if authority.is_none() {
        cx.error(at, format!("`{host}` is not a host")).help("write \"shop.internal\" or \"shop.internal:8080\"");
    }
    authority
}
