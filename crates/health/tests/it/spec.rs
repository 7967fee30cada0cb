//! `health_check` as text: what each mistake is told.

use portcullis_config::{Context, Document, Path};
use portcullis_health::HealthCheckSpec;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Root {
    health_check: HealthCheckSpec,
}

/// For an upstream without TLS if `clear`.
fn problems(check: &str, upstream: &str) -> Vec<String> {
    let (document, report) = Document::parse("edge.toml", &format!("health_check = {{ {check} }}\n"));
    let (root, mut cx): (Option<Root>, Context) = Arc::new(document).read(report, &[]);
    if let Some(root) = root {
        let at = Path::root().key("health_check");
        root.health_check.compile(&at, &mut cx);
        if upstream == "clear" {
            root.health_check.refuse_tls_keys(&at, &mut cx);
        }
    }
    cx.finish().0.lines()
}

#[test]
fn what_is_meant_compiles() {
    for check in [
        "",
        "path = \"/healthz?full\", host = \"shop.internal:80\", method = \"GET\", status = [200, 204], body = \"ok\"",
        "path = \"/\", protocol = \"h2\", body = { regex = \"^ok\", within = \"1MiB\" }",
        "grpc = \"\"",
        "grpc = \"grpc.shop.Cart\", host = \"cart\", sni = \"cart.internal\"",
        "tls_expiry = \"14d\"",
        "tls_expiry = { within = \"14d\", action = \"down\" }, interval = \"1h\", timeout = \"10s\"",
        "healthy = 1, unhealthy = 1, jitter = \"0%\"",
    ] {
        let problems = problems(check, "tls");
        assert!(problems.is_empty(), "{check}: {problems:#?}");
    }
}

#[test]
fn mistakes_are_told_with_a_way_out() {
    for (check, expected) in [
        ("path = \"healthz\"", "a path begins with `/`"),
        ("path = \"/a b\"", "a path begins with `/`"),
        ("path = \"/a#b\"", "a path begins with `/`"),
        ("path = \"/\", host = \"a b\"", "is not a host"),
        ("path = \"/\", host = \"user@a\"", "is not a host"),
        ("path = \"/\", method = \"CONNECT\"", "does not open tunnels"),
        ("path = \"/\", status = []", "no endpoint would ever be well"),
        ("path = \"/\", status = [99]", "a number from 200 to 599"),
        ("path = \"/\", protocol = \"h3\"", "h3"),
        ("path = \"/\", method = \"HEAD\", body = \"ok\"", "the answer to HEAD has no body"),
        ("path = \"/\", body = \"\"", "every body contains nothing"),
        ("path = \"/\", body = {}", "give `contains` or `regex`"),
        ("path = \"/\", body = { contains = \"a\", regex = \"b\" }", "exclude one another"),
        ("path = \"/\", body = { regex = \"(\" }", "not an expression"),
        ("path = \"/\", body = { regex = \"(a{1000}){1000}\" }", "not an expression"),
        ("path = \"/\", body = { contains = \"a\", within = \"0B\" }", "1B to 1MiB"),
        ("path = \"/\", body = { contains = \"a\", within = \"2MiB\" }", "1B to 1MiB"),
        ("path = \"/\", body = { contain = \"a\" }", "unknown key `contain`"),
        ("path = \"/\", grpc = \"\"", "exclude one another"),
        ("grpc = \"a b\"", "a service is named"),
        ("grpc = \"\", status = [200]", "`status` has no effect without `path`"),
        ("grpc = \"\", body = \"a\"", "`body` has no effect without `path`"),
        ("method = \"GET\"", "`method` has no effect without `path`"),
        ("protocol = \"h2\"", "`protocol` has no effect without `path`"),
        ("host = \"a\"", "`host` has no effect without `path` or `grpc`"),
        ("sni = \"a b\"", "not a host name or an IP address"),
        ("sni = \"a.b\"", "`sni` has no effect on an upstream without `tls`"),
        ("tls_expiry = \"14d\"", "`tls_expiry` has no effect on an upstream without `tls`"),
        ("tls_expiry = \"0s\"", "an expired certificate is refused in any case"),
        ("tls_expiry = 14", "a duration with a unit"),
        ("tls_expiry = { action = \"down\" }", "within"),
        ("interval = \"10ms\"", "at most every 100ms"),
        ("interval = \"1s\", timeout = \"2s\"", "at most the interval"),
        ("timeout = \"0s\"", "more than zero"),
        ("healthy = 0", "health"),
    ] {
        let problems = problems(check, "clear");
        assert!(problems.iter().any(|line| line.contains(expected)), "{check}: {problems:#?}");
    }
}
