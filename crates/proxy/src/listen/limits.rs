//! What one client may take: the limits of a listener, with the defaults of an edge.

use portcullis_config::{Context, Path};
use portcullis_names::{ByteSize, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use std::time::Duration;

/// `[listener.X] limits = { … }`. Every key has a default; none can be switched off.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsSpec {
    /// Connections of this listener at one time (default 100 000).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<NonZeroU32>,
    /// Connections from one address at one time (default 1 000).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_per_ip: Option<NonZeroU32>,
    /// Size of a request head, request line included (default 16KiB).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<ByteSize>,
    /// Number of header fields (default 100).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<NonZeroU32>,
    /// Size of a request body (default 10MiB).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<ByteSize>,
    /// From the first octet of a request to the end of its head; also for the TLS handshake (default 10s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_timeout: Option<TimeSpan>,
    /// Longest silence within a request body or while a client takes the response (default 60s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_timeout: Option<TimeSpan>,
    /// Longest silence between requests (default 60s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<TimeSpan>,
    /// The least octets per second a request body must average after five seconds (default 240B, as Kestrel).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_rate: Option<ByteSize>,
    /// Concurrent h2 streams of one connection (default 100).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<NonZeroU32>,
    /// Requests on one connection before it is closed kindly (default 10 000).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<NonZeroU32>,
}

/// The limits with every value settled.
#[derive(Debug, Clone)]
pub struct Limits {
    pub connections: u32,
    pub connections_per_ip: u32,
    pub header_bytes: usize,
    pub headers: usize,
    pub body_bytes: u64,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub idle_timeout: Duration,
    pub min_rate: MinRate,
    pub streams: u32,
    pub requests: u32,
}

/// The least a request body must achieve, as in Kestrel's `MinRequestBodyDataRate` and Apache's `mod_reqtimeout`.
#[derive(Debug, Clone, Copy)]
pub struct MinRate {
    pub bytes_per_second: u64,
    /// Waiting time that costs nothing.
    pub grace: Duration,
}

impl MinRate {
    /// The time that so many octets may take.
    pub(crate) fn allowance(self, received: u64) -> Duration {
        self.grace + Duration::from_millis(received.saturating_mul(1000) / self.bytes_per_second.max(1))
    }
}

/// Grace of `min_rate`: a client on a bad line may need a moment to get going.
const MIN_RATE_GRACE: Duration = Duration::from_secs(5);
const HEADER_BYTES: std::ops::RangeInclusive<u64> = 1024..=1 << 20;
const HEADERS_MAX: u32 = 256;
const STREAMS_MAX: u32 = 10_000;

impl LimitsSpec {
    /// Values out of range are errors in the report; the default stands in so that the run can go on.
    pub fn compile(&self, at: &Path, cx: &mut Context) -> Limits {
        let header_bytes = self.header.map_or(16 << 10, ByteSize::bytes);
        if !HEADER_BYTES.contains(&header_bytes) {
            cx.error(&at.key("header"), "a request head is limited to something between 1KiB and 1MiB");
        }
        let headers = self.headers.map_or(100, NonZeroU32::get);
        if headers > HEADERS_MAX {
            cx.error(&at.key("headers"), format!("at most {HEADERS_MAX} header fields are supported"));
        }
        let streams = self.streams.map_or(100, NonZeroU32::get);
        if streams > STREAMS_MAX {
            cx.error(&at.key("streams"), format!("at most {STREAMS_MAX} concurrent streams are supported"));
        }
        let mut time = |key: &str, value: Option<TimeSpan>, default: u64| {
            if value.is_some_and(TimeSpan::is_zero) {
                cx.error(&at.key(key), format!("{key} cannot be zero"))
                    .help("there is no way to switch it off: give a long time");
            }
            value.map_or(Duration::from_secs(default), TimeSpan::get)
        };
        Limits {
            connections: self.connections.map_or(100_000, NonZeroU32::get),
            connections_per_ip: self.connections_per_ip.map_or(1_000, NonZeroU32::get),
            header_bytes: usize::try_from(header_bytes).unwrap_or(usize::MAX),
            headers: headers as usize,
            body_bytes: self.body.map_or(10 << 20, ByteSize::bytes),
            header_timeout: time("header_timeout", self.header_timeout, 10),
            body_timeout: time("body_timeout", self.body_timeout, 60),
            idle_timeout: time("idle_timeout", self.idle_timeout, 60),
            min_rate: MinRate {
                bytes_per_second: self.min_rate.map(ByteSize::bytes).filter(|rate| *rate > 0).unwrap_or(MIN_RATE),
                grace: MIN_RATE_GRACE,
            },
            streams,
            requests: self.requests.map_or(10_000, NonZeroU32::get),
        }
    }
}

const MIN_RATE: u64 = 240;
