//! Whole-program tests: a real process, real sockets, clients that nobody here wrote where it matters.
#![allow(clippy::unwrap_used)]

mod support;

mod api;
mod auth;
mod authz_grpc;
mod breaker_keys;
mod ca;
mod check;
mod conf_keys;
mod discovery;
mod discovery_keys;
mod dns;
mod dns_signed;
mod dns_zones;
mod egress;
mod egress_clients;
mod egress_credentials;
mod egress_reload;
mod examples;
mod explain;
mod fact_keys;
mod filters;
mod forwarding;
mod h1_strict;
mod h2;
mod keys;
mod lifecycle;
mod limit_keys;
mod limits;
#[path = "../../gslb/tests/it/mmdb.rs"]
mod mmdb;
mod observe;
mod policy_keys;
mod privacy;
mod probe_keys;
mod releases;
mod reload;
mod resilience;
mod routing;
mod slow_clients;
mod structure;
mod tls;
mod token_keys;
mod tunnels;
mod upstreams;
mod waf;
mod waf_cli;
mod waf_front_end;
mod waf_held;
mod websocket;
