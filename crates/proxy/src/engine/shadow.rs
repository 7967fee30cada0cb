//! A second rule set beside the one that decides: shown the same, asked nothing, compared at the end.

use crate::waf_guard::WafGuard;
use portcullis_waf::{Audit, Phase, Transaction};
use serde::Serialize;
use std::sync::Arc;

/// The other rule set's side of one exchange.
pub(super) struct Shadow {
    guard: Arc<WafGuard>,
    pub(super) transaction: Transaction<'static>,
    /// Whether there is a body: one that was not shown to the end because the other refused first leaves the question open.
    pub(super) body: RequestBody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestBody {
    Absent,
    Present,
}

/// What the comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Difference {
    Same,
    /// The decision is the same, for other reasons.
    OtherRules,
    /// The shadow would have refused.
    Stricter,
    /// It would not have.
    Laxer,
    /// The exchange ended before it had seen enough.
    Undecided,
}

impl Difference {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::OtherRules => "other_rules",
            Self::Stricter => "stricter",
            Self::Laxer => "laxer",
            Self::Undecided => "undecided",
        }
    }
}

/// What the shadow has to tell.
pub(crate) struct ShadowReport {
    pub(crate) guard: Arc<WafGuard>,
    pub(crate) difference: Difference,
    pub(crate) audit: Audit,
}

impl Shadow {
    pub(super) fn new(guard: Arc<WafGuard>, transaction: Transaction<'static>, body: RequestBody) -> Self {
        Self { guard, transaction, body }
    }

    pub(super) fn finish(self, live: &Audit) -> ShadowReport {
        let audit = self.transaction.finish();
        ShadowReport { guard: self.guard, difference: compare(live, &audit, self.body), audit }
    }
}

fn compare(live: &Audit, shadow: &Audit, body: RequestBody) -> Difference {
    let ids = |audit: &Audit| audit.matches.iter().map(|matched| matched.id).collect::<Vec<_>>();
    match (live.objects(), shadow.objects()) {
        (false, true) => Difference::Stricter,
        (true, false) => {
            let early = live.intervention.as_ref().is_some_and(|end| end.phase == Phase::RequestHeaders);
            if early && body == RequestBody::Present { Difference::Undecided } else { Difference::Laxer }
        }
        (true, true) | (false, false) if ids(live) == ids(shadow) => Difference::Same,
        (true, true) | (false, false) => Difference::OtherRules,
    }
}
