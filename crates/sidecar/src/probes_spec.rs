//! `[workload] probes = { … }`: health probes that get to the application past mTLS, and nothing else does.

use crate::{Probes, dns_server::socket_address};
use portcullis_config::{Context, Path};
use portcullis_names::{Cidr, CidrSet, ListenAddress};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;

/// A port of the sidecar's own for probes. Strict mode stays strict: only these requests, only from these addresses, and
/// only what they say (GET, no body) goes on, to loopback.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct ProbesSpec {
    /// Where probes are answered: `":15020"`. Leave its port out of the capture.
    pub address: ListenAddress,
    /// Who probes: the node's addresses.
    pub from: Vec<Cidr>,
    /// What may be asked for.
    #[schemars(length(min = 1))]
    pub allow: Vec<ProbeSpec>,
}

/// `{ port = 8080, path = "/healthz" }` is asked for as `/8080/healthz`; without a path, as `/8080`, and answered by whether
/// the port takes connections.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct ProbeSpec {
    /// The application's, on loopback.
    pub port: NonZeroU16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// More is no probing.
const PROBES_MAX: usize = 64;
const PATH_MAX_BYTES: usize = 1024;

impl ProbesSpec {
    /// `None`: the report says why not.
    pub fn compile(&self, at: &Path, cx: &mut Context) -> Option<Probes> {
        let address = socket_address(&self.address);
        if address.is_none() {
            cx.error(&at.key("address"), "probes come over TCP").help("like \":15020\"");
        }
        if self.allow.is_empty() || self.allow.len() > PROBES_MAX {
            cx.error(&at.key("allow"), format!("1 to {PROBES_MAX} probes are allowed"));
        }
        for (index, probe) in self.allow.iter().enumerate() {
            let Some(path) = &probe.path else { continue };
            let is_plain = path.len() <= PATH_MAX_BYTES && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
            if !path.starts_with('/') || !is_plain {
                cx.error(&at.key("allow").index(index).key("path"), format!("`{path}` is no path like \"/healthz\""));
            }
        }
        Some(Probes { address: address?, from: CidrSet::new(&self.from), allow: self.allow.clone() })
    }
}
