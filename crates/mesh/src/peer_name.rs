//! Who a service's endpoints must prove to be.

use crate::{GlobalName, Workload};
use portcullis_names::{SanPattern, SpiffeId};
use std::fmt;

/// The ids that count as one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName {
    name: GlobalName,
    /// Written out in `[service.X] spiffe`; else its id follows from its name.
    ids: Option<Vec<SanPattern>>,
    own: Workload,
}

impl PeerName {
    pub(crate) fn new(name: GlobalName, ids: Option<Vec<SanPattern>>, own: &Workload) -> Self {
        Self { name, ids, own: own.clone() }
    }

    pub fn name(&self) -> &GlobalName {
        &self.name
    }

    /// Fails closed: an id that is not clearly the service's is another's.
    pub fn is(&self, id: &SpiffeId) -> bool {
        match &self.ids {
            Some(ids) => ids.iter().any(|pattern| pattern.matches_uri(id.as_str())),
            None => {
                id.service() == Some(self.name.service.as_str())
                    && self.own.namespace_of(id).as_deref() == Some(self.name.namespace.as_str())
            }
        }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}
