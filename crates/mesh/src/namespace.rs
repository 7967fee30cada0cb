//! Global namespaces: `cart.acme.lab` is the service `cart` of the namespace `acme.lab`, wherever it runs.

use crate::{Attributes, PeerName, Relation, Workload};
use portcullis_config::{Context, Path};
use portcullis_names::{ObjectName, SanPattern};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, net::IpAddr, num::NonZeroU16};

/// A service of a global namespace.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct ServiceSpec {
    /// The global namespace: `acme.lab`.
    pub namespace: String,
    /// The `[upstream.X]` that it is. Without, it is somebody who calls, and is not called from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<ObjectName>,
    /// Whose certificates its endpoints show: ids, or ids below `…/*`. Default: `ns/NAMESPACE/sa/SERVICE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<Vec<SanPattern>>,
    /// The address that its name stands for here: captured connections to it, on any port, are for this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its endpoints take HBONE on this port, as ztunnel and Istio speak it: 15008 as a rule. Whatever is for it is then carried
    /// as octets, and always encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hbone: Option<NonZeroU16>,
    /// What is known of it beside its identity, for `attributes` of access rules: `{ version = "v7", cvss = "4.2" }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<BTreeMap<String, String>>,
}

/// Service and namespace, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GlobalName {
    pub service: String,
    pub namespace: String,
}

/// Why a text is no service's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no service: expected SERVICE.NAMESPACE in DNS labels, like \"cart.acme.lab\"")]
pub struct NotAGlobalName(String);

/// Every service that is known here, and the namespace that this workload is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    own_namespace: String,
    by_name: BTreeMap<GlobalName, Service>,
    by_address: BTreeMap<IpAddr, GlobalName>,
}

/// One service, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub upstream: Option<ObjectName>,
    pub peer: PeerName,
    pub hbone: Option<NonZeroU16>,
    pub attributes: Attributes,
}

impl GlobalName {
    /// The namespace has one label or more; the first label of the whole is the service.
    pub fn parse(text: &str) -> Result<Self, NotAGlobalName> {
        let wrong = || NotAGlobalName(text.chars().take(80).collect());
        // DNS names compare without case, and may end in the root's dot (RFC 4343, RFC 1034 §3.1).
        let plain = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let (service, namespace) = plain.split_once('.').ok_or_else(wrong)?;
        if !is_name(&plain) {
            return Err(wrong());
        }
        Ok(Self { service: service.to_owned(), namespace: namespace.to_owned() })
    }
}

impl Services {
    /// `upstreams` are those that the document defines.
    pub fn compile(
        own: &Workload,
        specs: &BTreeMap<ObjectName, ServiceSpec>,
        upstreams: &[&ObjectName],
        at: &Path,
        cx: &mut Context,
    ) -> Self {
        let mut by_name = BTreeMap::new();
        let mut by_address = BTreeMap::new();
        for (name, spec) in specs {
            let at = at.key(name);
            if let Some(upstream) = spec.upstream.as_ref().filter(|name| !upstreams.contains(name)) {
                let defined = upstreams.iter().map(|name| name.as_str());
                cx.undefined(&at.key("upstream"), "upstream", upstream.as_str(), defined);
            }
            let global = GlobalName::parse(&format!("{name}.{}", spec.namespace));
            match global {
                Ok(global) if global.service == name.as_str() && global.namespace == spec.namespace => {
                    if let Some(address) = spec.address
                        && let Some(other) = by_address.insert(address, global.clone())
                    {
                        cx.error(&at.key("address"), format!("{address} is the address of {other} already"));
                    }
                    let service = Service {
                        upstream: spec.upstream.clone(),
                        peer: PeerName::new(global.clone(), spec.spiffe.clone(), own),
                        hbone: spec.hbone,
                        attributes: spec.attributes.clone().unwrap_or_default(),
                    };
                    by_name.insert(global, service);
                }
                Ok(_) => drop(cx.error(&at, format!("`{name}.{}` is written in lower case", spec.namespace))),
                Err(error) => drop(cx.error(&at.key("namespace"), error.to_string())),
            }
        }
        Self { own_namespace: own.namespace.clone(), by_name, by_address }
    }

    /// The upstream behind a name as a captured workload asks for it. A bare `cart` is only ever the own namespace's: what
    /// another namespace calls its services changes nothing here.
    pub fn resolve(&self, host: &str) -> Option<(&GlobalName, &Service)> {
        let name = GlobalName::parse(host)
            .or_else(|_| GlobalName::parse(&format!("{}.{}", host.trim_end_matches('.'), self.own_namespace)))
            .ok()?;
        self.by_name.get_key_value(&name)
    }

    /// The service whose address this is.
    pub fn at(&self, address: IpAddr) -> Option<(&GlobalName, &Service)> {
        self.by_name.get_key_value(self.by_address.get(&address)?)
    }

    /// What its name stands for here.
    pub fn address_of(&self, name: &GlobalName) -> Option<IpAddr> {
        self.by_address.iter().find(|(_, known)| *known == name).map(|(address, _)| *address)
    }

    pub fn get(&self, name: &GlobalName) -> Option<&Service> {
        self.by_name.get(name)
    }

    /// In the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&GlobalName, &Service)> {
        self.by_name.iter()
    }

    /// How a peer stands to this workload. Who is of no namespace is not of another one: whether strangers get in is for
    /// modes and rules to say.
    pub fn relation(&self, peer_namespace: Option<&str>) -> Relation {
        match peer_namespace {
            Some(other) if other != self.own_namespace => Relation::Other,
            Some(_) | None => Relation::Same,
        }
    }

    pub fn own_namespace(&self) -> &str {
        &self.own_namespace
    }
}

impl fmt::Display for GlobalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.service, self.namespace)
    }
}

/// DNS labels (RFC 1123 §2.1), at most 253 octets with their dots (RFC 1035 §2.3.4).
pub(crate) fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let plain = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        (1..=63).contains(&label.len()) && plain && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::problems;

    const TEXT: &str =
        "[cart]\nnamespace = \"acme.lab\"\nupstream = \"cart\"\n[pay]\nnamespace = \"bank\"\nupstream = \"cart\"";

    fn compile(text: &str) -> (Services, Vec<String>) {
        let cart: ObjectName = "cart".parse().unwrap();
        let own = Workload {
            service: "web".parse().unwrap(),
            version: None,
            namespace: "acme.lab".to_owned(),
            spiffe: "spiffe://corp/ns/acme/sa/web".parse().unwrap(),
        };
        problems(text, |specs, at, cx| Services::compile(&own, specs, &[&cart], at, cx))
    }

    #[test]
    fn services_are_found_by_their_global_name_and_in_the_own_namespace_by_their_first_label() {
        let (services, found) = compile(TEXT);
        assert!(found.is_empty(), "{found:?}");
        for (asked, expected) in [
            ("cart.acme.lab", Some("cart.acme.lab")),
            ("CART.acme.LAB.", Some("cart.acme.lab")),
            ("cart", Some("cart.acme.lab")),
            ("pay.bank", Some("pay.bank")),
            ("pay", None),
            ("pay.acme.lab", None),
            ("cart.bank", None),
            ("", None),
            ("a..b", None),
            ("cart.acme.lab.evil", None),
        ] {
            assert_eq!(services.resolve(asked).map(|(name, _)| name.to_string()).as_deref(), expected, "{asked}");
        }
        for (peer, relation) in
            [(Some("acme.lab"), Relation::Same), (Some("bank"), Relation::Other), (None, Relation::Same)]
        {
            assert_eq!(services.relation(peer), relation, "{peer:?}");
        }
    }

    #[test]
    fn mistakes_in_services_are_found_together() {
        let text = "[cart]\nnamespace = \"Acme\"\nupstream = \"cart\"\n[a]\nnamespace = \"-x\"\nupstream = \"none\"";
        let (_, found) = compile(text);
        let all = found.join("\n");
        assert!(found.len() == 3 && all.contains("lower case") && all.contains("\"none\" is not defined"), "{all}");
    }
}
