//! What looks at the requests of a rule: a compiled rule set, and what the rule wants of it.

use portcullis_waf::{Audit, Connection, Profile, Transaction, Waf};
use self_cell::self_cell;
use std::{fmt, sync::Arc};

/// Shared by all rules that want the same.
pub struct WafGuard {
    /// Of the rule set, for metrics and audit lines.
    pub name: String,
    pub waf: Arc<Waf>,
    pub profile: Profile,
    /// Octets of a request body that are held and shown; what comes after them passes unseen.
    pub body_limit: usize,
}

type Running<'w> = Option<Transaction<'w>>;

self_cell!(
    struct Pair {
        owner: Arc<WafGuard>,
        #[not_covariant]
        dependent: Running,
    }
);

/// A transaction in progress.
pub(crate) struct Inspection(Pair);

impl Inspection {
    pub(crate) fn begin(guard: Arc<WafGuard>, connection: Connection) -> Self {
        Self(Pair::new(guard, |guard| Some(guard.waf.transaction_with(connection, &guard.profile))))
    }

    pub(crate) fn guard(&self) -> &Arc<WafGuard> {
        self.0.borrow_owner()
    }

    /// `None` once it is finished.
    pub(crate) fn with<R>(&mut self, act: impl FnOnce(&mut Transaction<'_>) -> R) -> Option<R> {
        self.0.with_dependent_mut(|_, running| running.as_mut().map(act))
    }

    pub(crate) fn finish(&mut self) -> Option<Audit> {
        self.0.with_dependent_mut(|_, running| running.take().map(Transaction::finish))
    }
}

impl fmt::Debug for WafGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WafGuard").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inspection")
    }
}
