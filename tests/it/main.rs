//! Whole-program tests: a real process, real sockets, clients that nobody here wrote where it matters.
#![allow(clippy::unwrap_used)]

mod support;

mod api;
mod auth;
mod ca;
mod check;
mod discovery;
mod dns;
mod dns_signed;
mod dns_zones;
mod egress;
mod egress_clients;
mod egress_credentials;
mod egress_reload;
mod examples;
mod explain;
mod filters;
mod forwarding;
mod h1_strict;
mod h2;
mod keys;
mod lifecycle;
mod limits;
mod mesh;
mod mesh_identity;
mod mesh_kit;
mod mesh_policy;
mod mesh_scenario;
mod mesh_tunnels;
#[path = "../../gslb/tests/it/mmdb.rs"]
mod mmdb;
mod observe;
mod policy_keys;
mod privacy;
mod releases;
mod reload;
mod resilience;
mod routing;
mod slow_clients;
mod structure;
mod tls;
mod tunnels;
mod upstreams;
mod waf;
mod waf_cli;
mod websocket;
