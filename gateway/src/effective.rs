//! The resolved configuration as data: what was written, and every default where nothing was.

use crate::Compiled;
use portcullis_names::TimeSpan;
use portcullis_proxy::{
    InterceptPlan,
    listen::{Limits, PlanProtocol},
};
use portcullis_upstream::{Cluster, HttpProtocol};
use serde_json::{Map, Value, json};
use std::time::Duration;

pub(crate) fn effective(compiled: &Compiled) -> Value {
    let mut document = compiled.document.to_json();
    for listener in &compiled.listeners {
        let plan = &listener.plan;
        let mut defaults = json!({
            "address": plan.address,
            "protocol": match plan.protocol {
                PlanProtocol::Http => "http",
                PlanProtocol::Https(_) => "https",
                PlanProtocol::Tcp(_) => "tcp",
                PlanProtocol::Tls(_) => "tls",
                PlanProtocol::Proxy(_) => "proxy",
                PlanProtocol::Intercept(InterceptPlan::Named(_)) => "sni",
                PlanProtocol::Intercept(InterceptPlan::Transparent(_)) => "transparent",
                PlanProtocol::Mesh(_) => "mesh",
            },
            "limits": limits(&plan.limits),
        });
        if let (PlanProtocol::Mesh(_), Value::Object(keys)) = (&plan.protocol, &mut defaults) {
            // It is found out, and cannot be written.
            keys.remove("protocol");
        }
        if let (PlanProtocol::Http | PlanProtocol::Https(_), Value::Object(keys)) = (&plan.protocol, &mut defaults) {
            keys.insert("underscores".to_owned(), json!(plan.underscores));
        }
        fill(at(&mut document, "listener", plan.name.as_str()), defaults);
    }
    for listener in compiled.dns.iter().flat_map(|dns| &dns.listeners) {
        let defaults = json!({ "address": listener.address, "protocol": "dns" });
        fill(at(&mut document, "listener", listener.name.as_str()), defaults);
    }
    for cluster in compiled.clusters.iter() {
        fill(at(&mut document, "upstream", cluster.name.as_str()), upstream(cluster));
    }
    for plan in compiled.routes.plans().filter(|plan| plan.is_of_a_route()) {
        let route = at(&mut document, "route", plan.route.as_str());
        let target = match &plan.rule {
            None => route,
            Some(rule) => at(route, "rule", rule.as_str()),
        };
        fill(target, json!({ "timeout": span(plan.timeout), "retry": { "attempts": plan.retry.attempts } }));
    }
    let process = json!({
        "threads": compiled.fixed.threads,
        "drain": span(compiled.drain.exchanges),
        "stream_drain": span(compiled.drain.streams),
        "max_connections": compiled.max_connections,
        "upgrade": format!("unix:{}", compiled.fixed.upgrade.display()),
    });
    fill(key(&mut document, "process"), process);
    fill(key(&mut document, "admin"), json!({ "address": format!("unix:{}", compiled.fixed.admin.display()) }));
    document
}

fn upstream(cluster: &Cluster) -> Value {
    json!({
        "protocol": format!("{:?}", cluster.protocol).to_lowercase(),
        "balance": { "policy": cluster.balance.policy },
        "connect_timeout": span(cluster.connect_timeout),
        "read_timeout": span(cluster.read_timeout),
        "write_timeout": span(cluster.write_timeout),
        "idle_timeout": span(cluster.idle_timeout),
        "streams": cluster.streams,
        "outlier": {
            "consecutive_5xx": cluster.outlier.consecutive_5xx,
            "consecutive_gateway": cluster.outlier.consecutive_gateway,
            "consecutive_connect": cluster.outlier.consecutive_connect,
            "interval": span(cluster.outlier.interval),
            "eject": span(cluster.outlier.eject),
            "eject_longest": span(cluster.outlier.eject_longest),
            "max_ejected": cluster.outlier.max_ejected,
            "min_requests": cluster.outlier.min_requests,
        },
        "circuit_breaker": circuit_breaker(cluster),
        "retry_budget": {
            "percent": cluster.retry_budget.percent,
            "min_per_second": cluster.retry_budget.min_per_second,
        },
    })
}

/// Streams of h2 share connections: their number is not limited there, and those keys are refused.
fn circuit_breaker(cluster: &Cluster) -> Value {
    let breaker = &cluster.circuit_breaker;
    match cluster.protocol {
        HttpProtocol::H1 => json!({
            "connections": breaker.connections,
            "pending": breaker.pending,
            "requests": breaker.requests,
            "retries": breaker.retries,
        }),
        HttpProtocol::H2 | HttpProtocol::H2c => json!({ "requests": breaker.requests, "retries": breaker.retries }),
    }
}

fn limits(limits: &Limits) -> Value {
    json!({
        "connections": limits.connections,
        "connections_per_ip": limits.connections_per_ip,
        "header": portcullis_names::ByteSize::from_bytes(limits.header_bytes as u64),
        "headers": limits.headers,
        "body": portcullis_names::ByteSize::from_bytes(limits.body_bytes),
        "header_timeout": span(limits.header_timeout),
        "body_timeout": span(limits.body_timeout),
        "idle_timeout": span(limits.idle_timeout),
        "min_rate": portcullis_names::ByteSize::from_bytes(limits.min_rate.bytes_per_second),
        "streams": limits.streams,
        "requests": limits.requests,
    })
}

fn span(time: Duration) -> TimeSpan {
    TimeSpan::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn at<'v>(value: &'v mut Value, kind: &str, name: &str) -> &'v mut Value {
    key(key(value, kind), name)
}

fn key<'v>(value: &'v mut Value, name: &str) -> &'v mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(entries) => entries.entry(name).or_insert_with(|| Value::Object(Map::new())),
        other => other,
    }
}

/// Adds what is missing; what was written stays.
fn fill(target: &mut Value, defaults: Value) {
    match (target, defaults) {
        (Value::Object(have), Value::Object(defaults)) => {
            for (name, default) in defaults {
                match have.get_mut(&name) {
                    Some(value) => fill(value, default),
                    None => {
                        have.insert(name, default);
                    }
                }
            }
        }
        (target, default) if target.is_null() => *target = default,
        _ => {}
    }
}
