//! What looks at the requests of a rule: a compiled rule set, and what the rule wants of it.

use portcullis_waf::{Connection, Profile, Transaction, Waf};
use std::{fmt, sync::Arc};

/// Shared by all rules that want the same.
pub struct WafGuard {
    /// Of the rule set, for metrics and audit lines.
    pub name: String,
    pub waf: Arc<Waf>,
    pub profile: Arc<Profile>,
    /// Octets of a request body that are held and shown; what comes after them passes unseen.
    pub body_limit: usize,
}

impl WafGuard {
    pub(crate) fn begin(&self, connection: Connection) -> Transaction<'static> {
        self.waf.begin(connection, Some(self.profile.clone()))
    }
}

impl fmt::Debug for WafGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WafGuard").field("name", &self.name).finish_non_exhaustive()
    }
}
