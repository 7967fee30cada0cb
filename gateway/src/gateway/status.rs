//! What an operator is told of the running gateway, as data.

use super::{Gateway, State};
use std::time::{Instant, SystemTime};

impl Gateway {
    pub(crate) fn status(&self) -> serde_json::Value {
        let state = self.state();
        serde_json::json!({
            "pid": std::process::id(),
            "generation": state.generation,
            "sidecar": state.compiled.mesh.is_some().then(|| state.around.status()),
            "tracing": state.compiled.tracer.as_ref().map(|tracer| {
                let (sent, dropped) = tracer.counts();
                serde_json::json!({ "sent": sent, "dropped": dropped })
            }),
            "draining": state.draining,
            "connections": self.0.edge.open_connections(),
            "last_reload": state.last_reload,
            "listeners": listeners(&state),
            "upstreams": upstreams(&state),
            "overload": self.0.edge.shedding.state(),
            "discovery": discovery(&state),
            "objectives": state.releases.objectives(),
            "rollouts": state.releases.rollouts(),
            "certificates": state.compiled.certificates.iter().map(|certificate| serde_json::json!({
                "name": certificate.name.as_str(),
                "hosts": certificate.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "seconds_left": certificate.seconds_left(SystemTime::now()),
            })).collect::<Vec<_>>(),
        })
    }
}

fn listeners(state: &State) -> Vec<serde_json::Value> {
    let each = state.listeners.iter().map(|live| {
        serde_json::json!({
            "name": live.plan.name.as_str(),
            "address": live.plan.address.to_string(),
            "bound": live.bound.map(|bound| bound.to_string()),
            "connections": live.runtime.open_connections(),
        })
    });
    let dns = state.dns.bound().map(|(name, address, bound, protocol)| {
        serde_json::json!({ "name": name, "address": address, "bound": bound.to_string(), "protocol": protocol })
    });
    each.chain(dns).collect()
}

fn discovery(state: &State) -> Vec<serde_json::Value> {
    let each = state.discovery.status().into_iter().map(|status| {
        serde_json::json!({
            "source": status.source.to_string(),
            "endpoints": status.endpoints,
            "left_out": status.left_out,
            "seconds_since_change": status.changed.map(|changed| changed.elapsed().as_secs()),
            "trouble": status.trouble,
        })
    });
    each.collect()
}

fn upstreams(state: &State) -> Vec<portcullis_upstream::UpstreamStatus> {
    let now = Instant::now();
    state.compiled.clusters.iter().map(|cluster| cluster.status(now)).collect()
}
