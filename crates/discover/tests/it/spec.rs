//! `discover` and `[discovery.X]` as text: what compiles, and what each mistake is told.

use portcullis_config::{Context, Document};
use portcullis_discover::{DiscoverSpec, DiscoverySpec, Families, Resolvers, Seek, Servers, Source};
use portcullis_names::ObjectName;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

#[derive(Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Root {
    #[serde(default)]
    discovery: BTreeMap<ObjectName, DiscoverySpec>,
    #[serde(default)]
    upstream: BTreeMap<ObjectName, Upstream>,
}

#[derive(Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Upstream {
    discover: DiscoverSpec,
}

fn compile(text: &str) -> (Option<Source>, Vec<String>) {
    let (document, report) = Document::parse("edge.toml", text);
    let (root, mut cx): (Option<Root>, Context) = Arc::new(document).read(report, &[]);
    let mut source = None;
    if let Some(root) = root {
        let resolvers = Resolvers::compile(&root.discovery, &mut cx);
        for (name, upstream) in &root.upstream {
            let at = portcullis_config::Path::root().key("upstream").key(name).key("discover");
            source = upstream.discover.compile(&resolvers, &at, &mut cx);
        }
    }
    (source, cx.finish().0.lines())
}

fn source(discover: &str) -> Source {
    let (source, problems) = compile(&format!("[upstream.shop]\ndiscover = {{ {discover} }}\n"));
    assert!(problems.is_empty(), "{discover}: {problems:#?}");
    source.unwrap()
}

#[test]
fn what_is_not_said_has_its_default() {
    let Source::Dns(dns) = source("dns = \"Shop.Internal:8080\"") else { panic!() };
    assert_eq!(dns.seek, Seek::Addresses { name: "shop.internal".parse().unwrap(), port: 8080 });
    assert_eq!((dns.families, dns.grace), (Families::Both, Duration::from_secs(30)));
    assert_eq!(dns.through.servers, Servers::System);
    assert_eq!((dns.through.timeout, dns.through.attempts), (Duration::from_secs(2), 2));
    assert_eq!(dns.through.ttl, Duration::from_secs(1)..=Duration::from_secs(3_600));
}

#[test]
fn every_key_is_taken() {
    let (found, problems) = compile(
        "[discovery.corp]\ndns = { servers = [\"10.0.0.53:53\", \"[2001:db8::53]:5353\"], timeout = \"500ms\", \
         attempts = 3, min_ttl = \"5s\", max_ttl = \"10m\" }\n\
         [upstream.shop]\ndiscover = { srv = \"_http._tcp.shop.\", family = \"ipv6\", grace = \"5m\", through = \"corp\" }\n",
    );
    assert!(problems.is_empty(), "{problems:#?}");
    let Some(Source::Dns(dns)) = found else { panic!() };
    assert_eq!(dns.seek, Seek::Services { name: "_http._tcp.shop.".parse().unwrap() });
    assert_eq!((dns.families, dns.grace), (Families::Ipv6, Duration::from_secs(300)));
    let servers = ["10.0.0.53:53", "[2001:db8::53]:5353"].map(|server| server.parse().unwrap());
    assert_eq!(dns.through.servers, Servers::Listed(servers.to_vec()));
    assert_eq!((dns.through.timeout, dns.through.attempts), (Duration::from_millis(500), 3));
    assert_eq!(dns.through.ttl, Duration::from_secs(5)..=Duration::from_secs(600));
}

#[test]
fn sources_are_equal_when_everything_that_counts_is() {
    let base = source("dns = \"shop:80\"");
    assert_eq!(base, source("dns = \"shop:80\", grace = \"30s\", family = \"both\""));
    for other in ["dns = \"shop:81\"", "dns = \"shop.:80\"", "dns = \"shop:80\", grace = \"31s\"", "srv = \"shop\""] {
        assert_ne!(base, source(other), "{other}");
    }
}

#[test]
fn mistakes_are_told_with_a_way_out() {
    for (discover, expected) in [
        ("", "does not say where"),
        ("family = \"ipv4\"", "does not say where"),
        ("dns = \"shop:80\", srv = \"_s\"", "exclude one another"),
        ("dns = \"shop:80\", file = \"a\"", "exclude one another"),
        ("dns = \"shop\"", "the port is missing"),
        ("dns = \"shop:\"", "a port is a number"),
        ("dns = \"shop:0\"", "a port is a number"),
        ("dns = \"shop:65536\"", "a port is a number"),
        ("dns = \"10.0.0.1:80\"", "it is an address"),
        ("dns = \"[::1]:80\"", "it is an address"),
        ("dns = \"a b:80\"", "only letters"),
        ("srv = \"_http._tcp.shop:80\"", "only letters"),
        ("srv = \"\"", "1 to 253 characters"),
        ("dns = \"shop:80\", through = \"corp\"", "discovery \"corp\" is not defined"),
        ("dns = \"shop:80\", grace = 5", "a duration with a unit"),
        ("dns = \"shop:80\", family = \"ipv5\"", "ipv5"),
        ("dns = \"shop:80\", ttl = \"5s\"", "unknown key `ttl`"),
        ("consul = \"shop\"", "unknown key `consul`"),
    ] {
        let (_, problems) = compile(&format!("[upstream.shop]\ndiscover = {{ {discover} }}\n"));
        assert!(problems.iter().any(|line| line.contains(expected)), "{discover}: {problems:#?}");
    }
    for (dns, expected) in [
        ("servers = []", "servers"),
        ("servers = [\"unix:/run/dns\"]", "not spoken over Unix sockets"),
        ("servers = [\"10.0.0.53\"]", "the port is missing"),
        ("timeout = \"0s\"", "longer than 0s"),
        ("timeout = \"2m\"", "at most 60s"),
        ("attempts = 11", "10"),
        ("min_ttl = \"10ms\"", "at most every 100ms"),
        ("min_ttl = \"2h\"", "`min_ttl` is longer than `max_ttl`"),
        ("max_ttl = \"500ms\"", "`min_ttl` is longer than `max_ttl`"),
    ] {
        let (_, problems) = compile(&format!("[discovery.corp]\ndns = {{ {dns} }}\n"));
        assert!(problems.iter().any(|line| line.contains(expected)), "{dns}: {problems:#?}");
    }
}

#[test]
fn a_file_is_for_later_and_has_no_dns_settings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.toml");
    let discover =
        |more: &str| compile(&format!("[upstream.shop]\ndiscover = {{ file = \"{}\"{more} }}\n", path.display()));
    let (found, problems) = discover("");
    assert!(problems.len() == 1 && problems[0].contains("no endpoints from"), "{problems:#?}");
    assert_eq!(found.unwrap().to_string(), format!("file {}", path.display()));
    std::fs::write(&path, "endpoints = [\"10.0.0.1:80\"]").unwrap();
    assert!(discover("").1.is_empty());
    for key in ["family = \"ipv4\"", "grace = \"1s\"", "through = \"corp\""] {
        let (_, problems) = discover(&format!(", {key}"));
        assert!(problems.iter().any(|line| line.contains("has no effect with `file`")), "{key}: {problems:#?}");
    }
}
