//! `[tcp_route.X]` and `[tls_route.X]`: as written, and compiled.

use portcullis_names::{HostPattern, ObjectName};
use portcullis_upstream::ProxyProtocolVersion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, sync::Arc};

/// Everything of the listeners to one upstream.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpRouteSpec {
    pub listeners: Vec<String>,
    pub upstream: String,
}

/// TLS for these names to one upstream, unopened.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsRouteSpec {
    pub listeners: Vec<String>,
    /// Names in the ClientHello; `"*"` takes what no other route does, also hellos without a name.
    pub sni: Vec<HostPattern>,
    pub upstream: String,
}

/// Where a tunnel leads. The upstream is looked up by name when the tunnel opens: it may have been reloaded since.
#[derive(Debug, Clone)]
pub struct TcpRoute {
    pub name: ObjectName,
    pub upstream: ObjectName,
    pub proxy_protocol: Option<ProxyProtocolVersion>,
}

/// The tunnels of one `tls` listener.
#[derive(Debug, Default)]
pub struct SniRoutes {
    exact: HashMap<String, Arc<TcpRoute>>,
    wildcard: HashMap<String, Arc<TcpRoute>>,
    any: Option<Arc<TcpRoute>>,
}

impl SniRoutes {
    /// Adds a name; gives the route that has it already, if any.
    pub fn insert(&mut self, pattern: &HostPattern, route: Arc<TcpRoute>) -> Option<Arc<TcpRoute>> {
        match pattern {
            HostPattern::Exact(name) => self.exact.insert(name.clone(), route),
            HostPattern::Wildcard(suffix) => self.wildcard.insert(suffix.clone(), route),
            HostPattern::Any => self.any.replace(route),
        }
    }

    /// The most specific route for a name.
    pub fn find(&self, sni: Option<&str>) -> Option<&Arc<TcpRoute>> {
        let named = sni.and_then(|sni| {
            let mut suffixes = sni.match_indices('.').filter_map(|(at, _)| sni.get(at + 1..));
            self.exact.get(sni).or_else(|| suffixes.find_map(|suffix| self.wildcard.get(suffix)))
        });
        named.or(self.any.as_ref())
    }
}
