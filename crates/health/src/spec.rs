//! `health_check = { … }`.

use portcullis_config::{Context, Path};
use portcullis_names::{Method, Percent, Status, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{num::NonZeroU32, ops::RangeInclusive, time::Duration};

/// How endpoints are asked whether they are well. With a `path` by HTTP, without one by a TCP connection (or TLS handshake).
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheckSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The Host to send (default: the upstream's `tls.sni`, else the endpoint's address).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Default GET.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Statuses that count as well (default: 200 to 399).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Vec<Status>>,
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

/// Statuses that count as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusRange {
    Between(RangeInclusive<u16>),
    Listed(Vec<u16>),
}

/// The settings with every value settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// `None`: a connection is enough.
    pub http: Option<HttpCheck>,
    pub interval: Duration,
    pub timeout: Duration,
    pub healthy: u32,
    pub unhealthy: u32,
    pub jitter: Percent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    pub method: String,
    pub path: String,
    pub host: Option<String>,
    pub status: StatusRange,
}

impl StatusRange {
    pub fn contains(&self, status: u16) -> bool {
        match self {
            Self::Between(range) => range.contains(&status),
            Self::Listed(list) => list.contains(&status),
        }
    }
}

/// A probe more often than this is a load test.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

impl HealthCheckSpec {
    pub fn compile(&self, at: &Path, cx: &mut Context) -> HealthCheck {
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
        let printable = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if self.path.as_ref().is_some_and(|path| !path.starts_with('/') || !printable(path)) {
            cx.error(&at.key("path"), "a path begins with `/` and has no spaces or control characters");
        }
        if self.host.as_ref().is_some_and(|host| !printable(host)) {
            cx.error(&at.key("host"), "a host has no spaces or control characters");
        }
        if self.path.is_none() {
            for (key, given) in
                [("host", self.host.is_some()), ("method", self.method.is_some()), ("status", self.status.is_some())]
            {
                if given {
                    cx.error(&at.key(key), format!("`{key}` has no effect without `path`"))
                        .help("give a `path` to check by HTTP");
                }
            }
        }
        let status = match &self.status {
            None => StatusRange::Between(200..=399),
            Some(list) => StatusRange::Listed(list.iter().map(|status| status.get()).collect()),
        };
        let http = self.path.as_ref().map(|path| HttpCheck {
            method: self.method.as_ref().map_or("GET".to_owned(), |method| method.as_str().to_owned()),
            path: path.clone(),
            host: self.host.clone(),
            status,
        });
        HealthCheck {
            http,
            interval,
            timeout,
            healthy: self.healthy.map_or(2, NonZeroU32::get),
            unhealthy: self.unhealthy.map_or(3, NonZeroU32::get),
            jitter: self.jitter.unwrap_or(Percent::from_whole(20)),
        }
    }
}
