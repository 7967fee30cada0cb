//! `[access.X]` as the operator writes it: one table for what goes out (`destination:`) and for calls between services
//! (`service:`). What a rule means is compiled where it is judged, in `egress` and `mesh`; nothing is decided here.

use portcullis_names::{Cidr, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who may reach what.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct AccessSpec {
    /// To destinations: SPIFFE ids, `certificate:NAME`, address ranges, `user:NAME`, `uid:NUMBER`, `cgroup:/PATH`. To services:
    /// `service:cart` (own namespace), `service:cart.acme.lab`, `namespace:acme.lab`, SPIFFE ids. Everybody: `"*"`.
    #[schemars(length(min = 1))]
    pub from: Vec<String>,
    /// `"destination:NAME"`, with action deny or report also `"*"`, with action deny and from `"*"` also address ranges; or
    /// `"service:NAME"`, and `"*"` for every service. What names another service is not this sidecar's.
    #[schemars(length(min = 1))]
    pub to: Vec<String>,
    /// Only these requests (default all).
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<AccessMatchSpec>,
    /// To services: only peers with these attributes: `{ version = "v7*", cvss = ">=7.0", owner = "absent" }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<BTreeMap<String, String>>,
    pub action: AccessAction,
    /// To services: `true` with deny or quarantine only counts what the rule would refuse (default `false`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<bool>,
    /// To destinations: end of the grant, RFC 3339: `"2027-01-31T00:00:00Z"` (default none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// To destinations: why there is this rule; shown by `explain` and in refusals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Which requests a rule is about. Of a connection that is not opened no request is seen.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct AccessMatchSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<Method>>,
    /// A prefix of whole segments: `/charge` takes `/charge` and `/charge/7`, not `/charges`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// To services: ports of the workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<u16>>,
    /// To services: claims of the caller's verified token: text, or one of a list of texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<BTreeMap<String, String>>,
}

/// Quarantine beats deny, deny beats allow, allow beats report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessAction {
    Allow,
    Deny,
    /// Lets through what nothing else allows, and counts it as what would be denied.
    Report,
    /// To services: the peer is cut off altogether, whatever it calls.
    Quarantine,
}

/// What one of a rule's targets is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessTarget<'a> {
    Everything,
    Destination(&'a str),
    Addresses(Cidr),
    Service(&'a str),
    Unknown,
}

impl<'a> AccessTarget<'a> {
    pub fn parse(text: &'a str) -> Self {
        match text.split_once(':') {
            _ if text == "*" => Self::Everything,
            Some(("destination", name)) => Self::Destination(name),
            Some(("service", name)) => Self::Service(name),
            _ => text.parse().map_or(Self::Unknown, Self::Addresses),
        }
    }
}

impl AccessSpec {
    /// Whether the rule can be about what goes out.
    pub fn is_about_destinations(&self) -> bool {
        self.targets().any(|to| !matches!(to, AccessTarget::Service(_))) || self.to.is_empty()
    }

    /// Whether the rule can be about calls between services.
    pub fn is_about_services(&self) -> bool {
        self.targets().any(|to| !matches!(to, AccessTarget::Destination(_) | AccessTarget::Addresses(_)))
            || self.to.is_empty()
    }

    fn targets(&self) -> impl Iterator<Item = AccessTarget<'_>> {
        self.to.iter().map(|to| AccessTarget::parse(to))
    }

    /// Keys that only rules about services know, as far as they are written.
    pub fn keys_of_services(&self) -> impl Iterator<Item = &'static str> {
        let matches = self.matches.as_ref();
        let keys = [
            ("attributes", self.attributes.is_some()),
            ("report", self.report.is_some()),
            ("match.ports", matches.is_some_and(|matches| matches.ports.is_some())),
            ("match.claims", matches.is_some_and(|matches| matches.claims.is_some())),
        ];
        keys.into_iter().filter(|(_, written)| *written).map(|(key, _)| key)
    }

    /// Keys that only rules about destinations know, as far as they are written.
    pub fn keys_of_destinations(&self) -> impl Iterator<Item = &'static str> {
        let keys = [("until", self.until.is_some()), ("reason", self.reason.is_some())];
        keys.into_iter().filter(|(_, written)| *written).map(|(key, _)| key)
    }
}
