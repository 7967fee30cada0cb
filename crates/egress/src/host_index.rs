//! Finds the destinations of a host among many thousand by a few hash look-ups.

use crate::{Host, HostRule};
use portcullis_names::Cidr;
use std::{collections::HashMap, net::IpAddr};

/// Which destination, by its place in the policy's list.
pub(crate) type DestinationIndex = usize;

#[derive(Debug, Default)]
pub(crate) struct HostIndex {
    exact: HashMap<String, Vec<DestinationIndex>>,
    one_label: HashMap<String, Vec<DestinationIndex>>,
    below: HashMap<String, Vec<DestinationIndex>>,
    /// Longest prefix first.
    addresses: Vec<(u8, Cidr, DestinationIndex)>,
}

impl HostIndex {
    pub(crate) fn insert(&mut self, rule: &HostRule, destination: DestinationIndex) {
        let (table, name) = match rule {
            HostRule::Exact(name) => (&mut self.exact, name),
            HostRule::OneLabel(suffix) => (&mut self.one_label, suffix),
            HostRule::Below(suffix) => (&mut self.below, suffix),
            HostRule::Addresses(range) => {
                self.addresses.push((prefix_length(range), *range, destination));
                self.addresses.sort_by_key(|(length, ..)| std::cmp::Reverse(*length));
                return;
            }
        };
        table.entry(name.as_str().to_owned()).or_default().push(destination);
    }

    /// All destinations that have the host, most specific first, each once.
    pub(crate) fn find(&self, host: &Host) -> Vec<DestinationIndex> {
        let mut found = Vec::new();
        match host {
            Host::Address(address) => self.find_address(*address, &mut found),
            Host::Name(name) => self.find_name(name.as_str(), &mut found),
        }
        let mut seen = Vec::with_capacity(found.len());
        found.retain(|at| {
            let fresh = !seen.contains(at);
            seen.push(*at);
            fresh
        });
        found
    }

    fn find_address(&self, address: IpAddr, found: &mut Vec<DestinationIndex>) {
        found.extend(self.addresses.iter().filter(|(_, range, _)| range.contains(address)).map(|(.., at)| *at));
    }

    fn find_name(&self, name: &str, found: &mut Vec<DestinationIndex>) {
        let mut extend =
            |table: &HashMap<String, Vec<_>>, key: &str| found.extend(table.get(key).into_iter().flatten());
        extend(&self.exact, name);
        let mut suffixes = name.match_indices('.').filter_map(|(dot, _)| name.get(dot + 1..));
        if let Some(parent) = suffixes.clone().next() {
            extend(&self.one_label, parent);
        }
        // From the longest suffix to the shortest: a name has at most 127 labels.
        suffixes.by_ref().for_each(|suffix| extend(&self.below, suffix));
    }
}

/// `Cidr` prints its length and does not otherwise tell it.
fn prefix_length(range: &Cidr) -> u8 {
    let text = range.to_string();
    let length = text.rsplit('/').next().and_then(|length| length.parse().ok()).unwrap_or(0);
    if text.contains(':') { length } else { length + 96 }
}
