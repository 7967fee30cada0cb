//! `[dns.fleet]` as the operator writes it, and with every value settled.

use crate::steer::Registries;
use portcullis_config::{Context, Path};
use portcullis_names::{ObjectName, TimeSpan};
use portcullis_tls::{UpstreamTls, UpstreamTlsSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::{NonZeroU8, NonZeroU32},
    time::Duration,
};

/// `[dns.fleet]`: other nodes that answer for the same services, and whose word on members counts beside our own.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FleetSpec {
    /// The name of this node; the peers know it by this.
    pub node: ObjectName,
    /// The site of the published services at which this node stands.
    pub site: ObjectName,
    /// A `[certificate.NAME]` that is shown to the peers: it carries the name of this node.
    pub certificate: String,
    /// A `[trust.NAME]` that has signed the peers' certificates.
    pub trust: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub peer: BTreeMap<ObjectName, PeerSpec>,
    /// A `[store.NAME]` through which documents go as well. Whoever may write to it may speak for any node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<ObjectName>,
    /// How long a peer may hold a question back while nothing changes (default 1s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poll: Option<TimeSpan>,
    /// The word of a peer that was not heard for this long counts no more (default 5s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<TimeSpan>,
    /// A peer that was not heard for this long is called unreachable (default 1m).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forget_after: Option<TimeSpan>,
    /// Nodes that must say down (default: most of those that are heard and know).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quorum: Option<NonZeroU8>,
    /// Nodes that must be heard, this one among them; with fewer, our own word counts alone (default 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_vantages: Option<NonZeroU32>,
    /// How long the nodes must be of one mind before an answer changes (default 500ms).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settle: Option<TimeSpan>,
    /// How long the last state is held when we may be wrong (default 30s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<TimeSpan>,
    /// What takes a member out when the peers at its site have vanished (default probe).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover_needs: Option<FailoverNeeds>,
}

/// `peer.us-1 = { site = "us", address = "192.0.2.7:8443" }`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeerSpec {
    /// The site at which it stands.
    pub site: ObjectName,
    /// Its listener of protocol verdicts. May be left out where the fleet has a `store`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub address: Option<SocketAddr>,
    /// The name that its certificate carries (default: the name of the peer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum FailoverNeeds {
    /// Our own checks are enough.
    #[default]
    #[serde(rename = "probe")]
    Probe,
    /// A peer must say so as well, for as long as `hold`: a site that vanishes together with its nodes may be cut off, and well.
    #[serde(rename = "probe+peer")]
    ProbeAndPeer,
}

/// The rules of the combining function.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) quorum: Option<u8>,
    pub(crate) min_vantages: usize,
    pub(crate) settle: Duration,
    pub(crate) hold: Duration,
    pub(crate) failover_needs: FailoverNeeds,
}

/// A fleet as this node sees it.
#[derive(Debug)]
pub(crate) struct FleetPlan {
    pub(crate) node: ObjectName,
    pub(crate) site: ObjectName,
    pub(crate) peers: BTreeMap<ObjectName, PeerPlan>,
    pub(crate) store: Option<ObjectName>,
    pub(crate) poll: Duration,
    pub(crate) stale_after: Duration,
    pub(crate) forget_after: Duration,
    pub(crate) rules: Rules,
}

#[derive(Debug, Clone)]
pub(crate) struct PeerPlan {
    pub(crate) site: ObjectName,
    pub(crate) address: Option<SocketAddr>,
    /// In its certificate, in lower case.
    pub(crate) name: String,
    /// `None`: the report says why not.
    pub(crate) tls: Option<UpstreamTls>,
}

/// All pairs talk to one another: beyond this, that is no plan.
const PEERS_MAX: usize = 63;
const POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));
const HOLD_MAX: Duration = Duration::from_secs(3_600);

impl Default for Rules {
    fn default() -> Self {
        Self {
            quorum: None,
            min_vantages: 2,
            settle: Duration::from_millis(500),
            hold: Duration::from_secs(30),
            failover_needs: FailoverNeeds::Probe,
        }
    }
}

impl FleetPlan {
    pub(crate) fn compile(spec: &FleetSpec, registries: Registries<'_>, at: &Path, cx: &mut Context) -> Self {
        if spec.peer.is_empty() {
            cx.error(at, "a fleet has peers").help("add [dns.fleet.peer.NAME] for each other node");
        }
        if spec.peer.len() > PEERS_MAX {
            cx.error(&at.key("peer"), format!("a fleet has at most {PEERS_MAX} peers: each asks every other")).help(
                "a node or two of each site are enough: the others answer from a fleet of their own, or without one",
            );
        }
        if spec.peer.contains_key(&spec.node) {
            cx.error(&at.key("peer").key(&spec.node), "a node is no peer of itself");
        }
        let peers = spec.peer.iter().take(PEERS_MAX);
        let peers = peers.map(|(name, peer)| {
            (name.clone(), PeerPlan::compile(name, peer, spec, registries, &at.key("peer").key(name), cx))
        });
        let peers: BTreeMap<_, _> = peers.collect();
        let nodes = peers.len() + 1;
        let min_vantages = spec.min_vantages.map_or(2, |given| given.get() as usize);
        if min_vantages > nodes {
            cx.error(&at.key("min_vantages"), format!("the fleet has {nodes} nodes: this one would always be alone"));
        }
        if spec.quorum.is_some_and(|quorum| usize::from(quorum.get()) > nodes) {
            cx.error(&at.key("quorum"), format!("the fleet has {nodes} nodes: nothing would ever be down"));
        }
        let mut span = |key: &str, given: Option<TimeSpan>, default: u64, (least, most): (Duration, Duration)| {
            let value = given.map_or(Duration::from_millis(default), TimeSpan::get);
            if value < least || value > most {
                cx.error(&at.key(key), format!("`{key}` is from {least:?} to {most:?}"));
            }
            value
        };
        let poll = span("poll", spec.poll, 1_000, POLL);
        // One question that is lost is no silence.
        let stale_after = span("stale_after", spec.stale_after, 5_000, (poll.saturating_mul(2), HOLD_MAX));
        let forget_after = span("forget_after", spec.forget_after, 60_000, (stale_after, HOLD_MAX.saturating_mul(24)));
        let rules = Rules {
            quorum: spec.quorum.map(NonZeroU8::get),
            min_vantages,
            settle: span("settle", spec.settle, 500, (Duration::ZERO, Duration::from_secs(60))),
            hold: span("hold", spec.hold, 30_000, (Duration::ZERO, HOLD_MAX)),
            failover_needs: spec.failover_needs.unwrap_or_default(),
        };
        Self {
            node: spec.node.clone(),
            site: spec.site.clone(),
            peers,
            store: spec.store.clone(),
            poll,
            stale_after,
            forget_after,
            rules,
        }
    }

    /// Names that a document may call a vantage by: of nodes and of sites.
    pub(crate) fn knows(&self, name: &ObjectName) -> bool {
        let own = self.node == *name || self.site == *name;
        own || self.peers.iter().any(|(node, peer)| node == name || peer.site == *name)
    }

    /// Whether this node is one of the vantages given; of none given, all are.
    pub(crate) fn is_among(&self, vantages: &[ObjectName]) -> bool {
        vantages.is_empty() || vantages.iter().any(|name| *name == self.node || *name == self.site)
    }
}

impl PeerPlan {
    fn compile(
        name: &ObjectName,
        spec: &PeerSpec,
        fleet: &FleetSpec,
        registries: Registries<'_>,
        at: &Path,
        cx: &mut Context,
    ) -> Self {
        if spec.address.is_none() && fleet.store.is_none() {
            cx.error_at_key(at, "there is no way to this peer").help("give its `address`, or the fleet a `store`");
        }
        let name = spec.name.clone().unwrap_or_else(|| name.to_string()).to_lowercase();
        let tls = UpstreamTlsSpec {
            sni: Some(name.clone()),
            trust: Some(fleet.trust.clone()),
            certificate: Some(fleet.certificate.clone()),
            ..UpstreamTlsSpec::default()
        };
        let tls = UpstreamTls::compile(&tls, registries.certificates, registries.trusts, at, cx).ok().flatten();
        Self { site: spec.site.clone(), address: spec.address, name, tls }
    }
}
