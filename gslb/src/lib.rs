//! An authoritative DNS server that answers by health, weight and place.
//!
//! [`GslbSpec`] is what the operator writes, [`Snapshot`] what it means, [`Server`] what runs it; a reload publishes the next
//! snapshot to the same `Live`. A query is decided by pure functions of snapshot, client, time and draw ([`Snapshot::answer`]);
//! sockets are in `udp`, `tcp`, `doh`, `notify` and the house's prober only.
//!
//! Deliberately absent: recursion, forwarding, caches of others' data, files opened for anybody but the compile
//! step, and any knowledge of the proxy.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod checks;
mod compiled;
mod cookie;
mod dnssec;
mod dnstap;
mod doh;
mod doq;
mod edns;
mod fetch;
mod fleet;
mod inflow;
mod journal;
mod journals;
mod kept;
mod memory;
mod message;
mod metrics;
mod name;
mod notify;
mod plan;
mod query;
mod query_log;
mod rate_limit;
mod rdata;
mod record_type;
mod secondary;
mod server;
mod snapshot;
mod spec;
mod steer;
mod svcb;
mod tcp;
mod token;
mod transfer;
mod transfer_in;
mod tsig;
mod udp;
mod update;
mod updater;
mod updates;
mod zone;
mod zone_file;
mod zone_status;
mod zones;

pub use answer::{Asked, Transport};
pub use checks::Checks;
pub use dnssec::{
    Algorithm, AutomaticKeysSpec, CdsSpec, DenialSpec, DnssecKeySpec, DnssecSpec, KeyError, KeyRole, KeySchemeSpec,
    generate_key,
};
pub use fleet::{
    Content, Document, DocumentError, FailoverNeeds, FleetSpec, FleetStatus, GatewayReport, MemberWord, PeerSpec,
    PeerState, PeerStatus, Presence, SKEW_SHOWN, Sight, Why, Word,
};
pub use metrics::DnsMetrics;
pub use name::{Name, NameError};
pub use query_log::{QueryLog, QueryRecord};
pub use record_type::{Rcode, RecordType, UnknownType};
pub use server::{Host, Listeners, Republish, Server, TlsSwitch};
pub use snapshot::{Pace, Snapshot};
pub use spec::{
    CookiesSpec, DnsSpec, DnstapSpec, RateLimitSpec, RateLimitSwitch, SecondarySpec, TcpSpec, TransferSpec,
    TsigAlgorithm, TsigSpec, UpdateSpec,
};
pub use spec::{GslbSpec, SoaSpec, ZoneSpec};
pub use steer::{
    AllDownSpec, Area, Balance, BindingSpec, Clocks, Endpoints, Explanation, Forced, GeoDatabaseSpec, GeoSpec, Initial,
    MaintenanceSpec, MemberSpec, MemberStatus, Order, OrderError, Ordered, Policies, Policy, PublicServiceSpec,
    Registries, SiteSpec, SiteStatus, SitesSpec, Spread, Stamp, Standing, ToldMember, Votes, WhatIf,
};
pub use zone_status::{Delegation, ZoneStatus};
