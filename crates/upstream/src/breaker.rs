//! `circuit_breaker = { … }`: how much an upstream is given at one time (Envoy: circuit breakers).
//!
//! Beyond a limit requests fail at once, so that a slow upstream cannot fill the gateway with waiting ones.

use crate::HttpProtocol;
use portcullis_config::{Context, Path};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

/// Limits towards one upstream, over all its endpoints and all cores.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CircuitBreakerSpec {
    /// Open connections (default 65536): those in use, those being made, and those kept idle until `idle_timeout`. At the
    /// limit an idle one is closed for one that is needed, so that only connections in use keep a new one out. Not for
    /// protocol h2c.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<NonZeroU32>,
    /// Requests that wait for a connection to be made (default 4096). Not for protocol h2c.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<NonZeroU32>,
    /// Requests in flight (default 65536).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<NonZeroU32>,
    /// Retries in flight (default 1024; the retry budget is usually reached before).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<NonZeroU32>,
}

/// The settings with every value settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreaker {
    pub connections: u32,
    pub pending: u32,
    pub requests: u32,
    pub retries: u32,
}

impl CircuitBreakerSpec {
    pub(crate) fn compile(&self, protocol: HttpProtocol, at: &Path, cx: &mut Context) -> CircuitBreaker {
        if protocol == HttpProtocol::H2c {
            self.refuse_connection_keys(at, cx);
        }
        let value = |value: Option<NonZeroU32>, default| value.map_or(default, NonZeroU32::get);
        CircuitBreaker {
            connections: value(self.connections, 65_536),
            pending: value(self.pending, 4096),
            requests: value(self.requests, 65_536),
            retries: value(self.retries, 1024),
        }
    }
}

impl CircuitBreakerSpec {
    /// The engine opens these connections by itself: a limit that does not limit would be taken for protection.
    fn refuse_connection_keys(&self, at: &Path, cx: &mut Context) {
        for (key, given) in [("connections", self.connections.is_some()), ("pending", self.pending.is_some())] {
            if given {
                cx.error_at_key(&at.key(key), format!("`{key}` has no effect on an upstream of protocol h2c"))
                    .help("its requests share connections: limit `requests` instead");
            }
        }
    }
}

/// A count of what is in use.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicU32>);

/// One unit of a gauge, given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<AtomicU32>);

impl Gauge {
    /// `None`: `most` are in use.
    pub fn enter(&self, most: u32) -> Option<Permit> {
        if self.0.fetch_add(1, Relaxed) >= most {
            self.0.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Permit(self.0.clone()))
    }

    pub fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_would_not_limit_are_refused() {
        use HttpProtocol::{H1, H2, H2c};
        for (protocol, spec, refused) in [
            (H1, r#"{"connections":9,"pending":9,"requests":9,"retries":9}"#, 0),
            (H2c, r#"{"requests":9,"retries":9}"#, 0),
            (H2c, r#"{"connections":9,"pending":9}"#, 2),
            (H2, r#"{"connections":9,"pending":9,"requests":9}"#, 0),
        ] {
            let mut cx = Context::default();
            let spec: CircuitBreakerSpec = serde_json::from_str(spec).unwrap();
            spec.compile(protocol, &Path::root(), &mut cx);
            let told: Vec<_> = cx.report().lines().iter().map(ToString::to_string).collect();
            assert_eq!(told.len(), refused, "{protocol:?} {spec:?}: {told:?}");
            assert!(told.iter().all(|line| line.contains("has no effect on an upstream of protocol h2c")), "{told:?}");
        }
    }

    #[test]
    fn a_gauge_gives_so_many_permits_and_takes_them_back() {
        let gauge = Gauge::default();
        let held: Vec<_> = (0..3).map_while(|_| gauge.enter(2)).collect();
        assert_eq!((held.len(), gauge.get()), (2, 2));
        drop(held);
        assert!(gauge.enter(1).is_some());
        assert_eq!(gauge.get(), 0);
    }
}
