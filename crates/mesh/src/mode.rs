//! Encrypted or not: `[mtls]`, and what becomes of a connection that came or goes.

use portcullis_config::{Context, Path};
use portcullis_names::Cidr;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

/// How much of the mesh's encryption is demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Only peers with an identity.
    #[default]
    Strict,
    /// Both, while workloads move in.
    Permissive,
    /// Clear text inside the namespace; between namespaces always mTLS.
    Off,
}

/// `[mtls]`: the nearest wins, port before service before namespace before `mode`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct MtlsSpec {
    /// Default `"strict"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// By the workload's port: `{ "9090" = "permissive" }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<BTreeMap<String, Mode>>,
    /// By the service's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<BTreeMap<String, Mode>>,
    /// By the global namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<BTreeMap<String, Mode>>,
    /// Where the workloads of other global namespaces are: `{ bank = ["10.2.0.0/16"] }`. Who shows no identity is of the namespace
    /// of its address, and between namespaces nothing but mTLS is taken in any mode; of an address that is not listed nothing is
    /// known, and it is taken for one of our own. A stranger's address can be anything: a rule that lets clear text in is no safer
    /// than the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<BTreeMap<String, Vec<Cidr>>>,
}

/// `[mtls]`, compiled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modes {
    default: Mode,
    ports: BTreeMap<u16, Mode>,
    services: BTreeMap<String, Mode>,
    namespaces: BTreeMap<String, Mode>,
    addresses: Vec<(Cidr, String)>,
}

/// What a connection turned out to be by its first octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// TLS of a sidecar.
    MeshTls,
    /// TLS of the application itself.
    AppTls,
    Clear,
}

/// Whether both ends are of one global namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    Same,
    Other,
}

/// What is done with a connection that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound {
    /// The sidecar ends TLS and knows who it is.
    Terminate,
    /// The application's own TLS goes on to it unopened.
    PassThrough,
    /// Clear text goes on, counted as such.
    Plain,
    Refuse(ModeRefusal),
}

/// Why a connection is closed: the label in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeRefusal {
    ClearInStrict,
    AppTlsInStrict,
    /// Between namespaces nothing but mTLS, whatever the mode.
    NotMeshAcrossNamespaces,
}

/// How a connection to a peer of the mesh is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outbound {
    MeshTls,
    Plain,
}

impl Modes {
    pub fn compile(spec: &MtlsSpec, at: &Path, cx: &mut Context) -> Self {
        let mut ports = BTreeMap::new();
        for (text, mode) in spec.ports.iter().flatten() {
            match text.parse::<u16>() {
                Ok(port) if port > 0 && port.to_string() == *text => drop(ports.insert(port, *mode)),
                Ok(_) | Err(_) => {
                    cx.error(&at.key("ports").key(text), format!("`{text}` is not a port"))
                        .help("a number from 1 to 65535, in quotes as every key is");
                }
            }
        }
        let services = spec.services.clone().unwrap_or_default();
        let namespaces = spec.namespaces.clone().unwrap_or_default();
        let listed = spec.addresses.clone().unwrap_or_default();
        let names = [
            ("services", services.keys().collect::<Vec<_>>()),
            ("namespaces", namespaces.keys().collect()),
            ("addresses", listed.keys().collect()),
        ];
        for (kind, names) in names {
            for name in names.into_iter().filter(|name| !crate::namespace::is_name(name)) {
                cx.error(
                    &at.key(kind).key(name),
                    format!("`{name}` is no name: expected DNS labels like \"acme.lab\""),
                );
            }
        }
        let of_name = |(name, prefixes): (&String, &Vec<Cidr>)| {
            prefixes.iter().map(|prefix| (*prefix, name.clone())).collect::<Vec<_>>()
        };
        let mut addresses: Vec<_> = listed.iter().flat_map(of_name).collect();
        // The nearest wins here as well.
        addresses.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_length()));
        Self { default: spec.mode.unwrap_or_default(), ports, services, namespaces, addresses }
    }

    /// The global namespace that an address is listed for.
    pub fn namespace_at(&self, address: IpAddr) -> Option<&str> {
        let (_, name) = self.addresses.iter().find(|(prefix, _)| prefix.contains(address))?;
        Some(name)
    }

    pub fn of(&self, namespace: &str, service: &str, port: u16) -> Mode {
        let nearest = self.ports.get(&port).or_else(|| self.services.get(service));
        nearest.or_else(|| self.namespaces.get(namespace)).copied().unwrap_or(self.default)
    }
}

impl Mode {
    pub fn inbound(self, wire: Wire, relation: Relation) -> Inbound {
        match (wire, relation, self) {
            // In `off` too: what is safer than demanded is no reason to refuse, and other namespaces come on the same port.
            (Wire::MeshTls, Relation::Same | Relation::Other, Self::Strict | Self::Permissive | Self::Off) => {
                Inbound::Terminate
            }
            (Wire::AppTls | Wire::Clear, Relation::Other, Self::Permissive | Self::Off) => {
                Inbound::Refuse(ModeRefusal::NotMeshAcrossNamespaces)
            }
            (Wire::AppTls, Relation::Same | Relation::Other, Self::Strict) => {
                Inbound::Refuse(ModeRefusal::AppTlsInStrict)
            }
            (Wire::Clear, Relation::Same | Relation::Other, Self::Strict) => {
                Inbound::Refuse(ModeRefusal::ClearInStrict)
            }
            (Wire::AppTls, Relation::Same, Self::Permissive | Self::Off) => Inbound::PassThrough,
            (Wire::Clear, Relation::Same, Self::Permissive | Self::Off) => Inbound::Plain,
        }
    }

    /// The destination's mode decides, for its side of the table refuses what does not fit.
    pub fn outbound(self, relation: Relation) -> Outbound {
        match (self, relation) {
            (Self::Off, Relation::Same) => Outbound::Plain,
            (Self::Strict | Self::Permissive, Relation::Same)
            | (Self::Strict | Self::Permissive | Self::Off, Relation::Other) => Outbound::MeshTls,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
            Self::Off => "off",
        }
    }
}

impl ModeRefusal {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClearInStrict => "clear_in_strict",
            Self::AppTlsInStrict => "app_tls_in_strict",
            Self::NotMeshAcrossNamespaces => "not_mesh_across_namespaces",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::problems;

    #[test]
    fn all_eighteen_cells_of_the_table() {
        use Inbound::{PassThrough, Plain, Refuse, Terminate};
        use Mode::{Off, Permissive, Strict};
        use ModeRefusal::{AppTlsInStrict, ClearInStrict, NotMeshAcrossNamespaces};
        use Relation::{Other, Same};
        use Wire::{AppTls, Clear, MeshTls};
        let table = [
            (Strict, MeshTls, Same, Terminate),
            (Strict, MeshTls, Other, Terminate),
            (Strict, AppTls, Same, Refuse(AppTlsInStrict)),
            (Strict, AppTls, Other, Refuse(AppTlsInStrict)),
            (Strict, Clear, Same, Refuse(ClearInStrict)),
            (Strict, Clear, Other, Refuse(ClearInStrict)),
            (Permissive, MeshTls, Same, Terminate),
            (Permissive, MeshTls, Other, Terminate),
            (Permissive, AppTls, Same, PassThrough),
            (Permissive, AppTls, Other, Refuse(NotMeshAcrossNamespaces)),
            (Permissive, Clear, Same, Plain),
            (Permissive, Clear, Other, Refuse(NotMeshAcrossNamespaces)),
            (Off, MeshTls, Same, Terminate),
            (Off, MeshTls, Other, Terminate),
            (Off, AppTls, Same, PassThrough),
            (Off, AppTls, Other, Refuse(NotMeshAcrossNamespaces)),
            (Off, Clear, Same, Plain),
            (Off, Clear, Other, Refuse(NotMeshAcrossNamespaces)),
        ];
        for (mode, wire, relation, expected) in table {
            assert_eq!(mode.inbound(wire, relation), expected, "{mode:?} {wire:?} {relation:?}");
        }
        // What one side sends, the other takes.
        for mode in [Strict, Permissive, Off] {
            for relation in [Same, Other] {
                let sent = if mode.outbound(relation) == Outbound::MeshTls { MeshTls } else { Clear };
                assert!(!matches!(mode.inbound(sent, relation), Refuse(_)), "{mode:?} {relation:?}");
            }
        }
        assert_eq!(Off.outbound(Same), Outbound::Plain);
    }

    #[test]
    fn the_nearest_mode_wins() {
        let text = "mode = \"permissive\"\nports = { 9090 = \"off\" }\nservices = { pay = \"strict\" }\nnamespaces = { \"acme.lab\" = \"off\" }";
        let (modes, found) = problems(text, |spec: &MtlsSpec, at, cx| Modes::compile(spec, at, cx));
        assert!(found.is_empty(), "{found:?}");
        for (namespace, service, port, mode) in [
            ("acme.lab", "pay", 9090, Mode::Off),
            ("acme.lab", "pay", 80, Mode::Strict),
            ("acme.lab", "cart", 80, Mode::Off),
            ("other", "cart", 80, Mode::Permissive),
        ] {
            assert_eq!(modes.of(namespace, service, port), mode, "{namespace} {service} {port}");
        }
        assert_eq!(Modes::default().of("a", "b", 1), Mode::Strict);
        let text = "addresses = { bank = [\"10.2.0.0/16\", \"2001:db8::/32\"], \"acme.lab\" = [\"10.2.7.0/24\"] }";
        let (modes, found) = problems(text, |spec: &MtlsSpec, at, cx| Modes::compile(spec, at, cx));
        assert!(found.is_empty(), "{found:?}");
        for (address, namespace) in [
            ("10.2.0.1", Some("bank")),
            ("10.2.7.1", Some("acme.lab")),
            ("2001:db8::1", Some("bank")),
            ("10.3.0.1", None),
        ] {
            assert_eq!(modes.namespace_at(address.parse().unwrap()), namespace, "{address}");
        }
        let (_, found) = problems(
            "ports = { \"0\" = \"off\", x = \"off\", \"080\" = \"off\" }\nnamespaces = { \"a b\" = \"off\" }\naddresses = { \"-\" = [] }",
            |spec: &MtlsSpec, at, cx| Modes::compile(spec, at, cx),
        );
        assert_eq!(found.len(), 5, "{found:?}");
    }
}
