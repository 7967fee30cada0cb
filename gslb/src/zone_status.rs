//! A zone as its operator and the operator of its parent see it. Only tells; asks nobody.

use crate::{Name, RecordType, rdata, snapshot::Snapshot, steer::Clocks, zone::Zone};
use serde::Serialize;

/// A zone that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ZoneStatus {
    /// Its key in the document.
    pub zone: String,
    pub name: String,
    pub serial: u32,
    /// Names, empty non-terminals among them.
    pub names: usize,
    pub signed: bool,
    pub transferred: bool,
    /// Of a zone that is fetched: seconds for which the copy still holds, 0 when it is answered from no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holds_for_seconds: Option<u32>,
}

/// What the parent of a zone must have, as lines of a zone file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Delegation {
    pub ns: Vec<String>,
    /// Addresses of servers inside the zone: without them nobody finds it.
    pub glue: Vec<String>,
    pub ds: Vec<String>,
    /// Servers inside the zone without an address.
    pub missing: Vec<String>,
}

impl Snapshot {
    pub fn zones(&self, clocks: Clocks) -> Vec<ZoneStatus> {
        let now = clocks.unix as u32;
        let each = self.zones.zones.iter().map(|served| ZoneStatus {
            zone: served.name.to_string(),
            name: served.zone.apex.to_string(),
            serial: served.zone.serial,
            names: served.zone.nodes.len(),
            signed: served.zone.signer.is_some(),
            transferred: served.transfer.is_some(),
            holds_for_seconds: served.secondary.as_ref().map(|secondary| secondary.holds_for(now)),
        });
        each.collect()
    }

    /// `None`: no zone has this apex.
    pub fn delegation(&self, apex: &Name) -> Option<Delegation> {
        self.zones.at(apex.as_wire()).map(|served| Delegation::of(&served.zone))
    }
}

impl Delegation {
    fn of(zone: &Zone) -> Self {
        let mut delegation = Self::default();
        let line = |owner: &Name, of_type: RecordType, ttl: u32, data: &[u8]| {
            format!("{owner} {ttl} IN {of_type} {}", rdata::display(of_type, data))
        };
        let servers = zone.nodes.get(&zone.apex).and_then(|node| node.set(RecordType::NS));
        for (ttl, data) in servers.iter().flat_map(|set| set.data.iter().map(|data| (set.ttl, data))) {
            delegation.ns.push(line(&zone.apex, RecordType::NS, ttl, data));
            let Some(server) = Name::from_wire(data).ok().filter(|server| zone.holds(server.as_wire())) else {
                continue;
            };
            let before = delegation.glue.len();
            for set in zone.addresses(server.as_wire()) {
                delegation.glue.extend(set.data.iter().map(|data| line(&server, set.of_type, set.ttl, data)));
            }
            if delegation.glue.len() == before {
                delegation.missing.push(server.to_string());
            }
        }
        if let (Some(signer), Some(set)) = (&zone.signer, servers) {
            let lines = signer.ds(&zone.apex);
            delegation.ds.extend(lines.iter().map(|data| line(&zone.apex, RecordType::DS, set.ttl, data)));
        }
        delegation
    }
}
