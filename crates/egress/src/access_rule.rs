//! One `[access.X]`, compiled.

use crate::{
    Caller, CallerPattern,
    request_match::{Fits, Request, RequestMatch},
};
use portcullis_config::{Context, Path};
use portcullis_names::ObjectName;
use portcullis_policy::{AccessAction, AccessSpec};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

#[derive(Debug)]
pub(crate) struct AccessRule {
    pub(crate) name: ObjectName,
    pub(crate) action: AccessAction,
    from: Vec<CallerPattern>,
    matches: Option<RequestMatch>,
    pub(crate) until: Option<SystemTime>,
    pub(crate) why: Option<Arc<str>>,
    tally: Arc<Tally>,
}

/// Since the rule came to be, over reloads.
#[derive(Debug, Default)]
struct Tally {
    applied: AtomicU64,
    would_deny: AtomicU64,
}

/// What a rule has decided so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleCounts {
    pub applied: u64,
    /// Let through by action = "report".
    pub would_deny: u64,
}

/// What a rule says about one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleOutcome {
    Applies,
    OtherCaller,
    Expired,
    OtherRequest,
    /// It is about requests, and this one cannot be seen or has no safe spelling.
    RequestUnseen,
}

impl AccessRule {
    pub(crate) fn compile(name: &ObjectName, spec: &AccessSpec, now: SystemTime, at: &Path, cx: &mut Context) -> Self {
        for key in spec.keys_of_services() {
            let at = key.split('.').fold(at.clone(), |at, key| at.key(key));
            cx.error_at_key(&at, format!("`{key}` has an effect only on rules that are about services alone"));
        }
        if spec.action == AccessAction::Quarantine {
            cx.error(&at.key("action"), "quarantine is for peers that call services").help("use \"deny\"");
        }
        let mut from = Vec::with_capacity(spec.from.len());
        for (index, text) in spec.from.iter().enumerate() {
            match text.parse::<CallerPattern>() {
                Ok(pattern) => from.push(pattern),
                Err(error) => drop(cx.error(&at.key("from").index(index), error.to_string())),
            }
        }
        if spec.from.is_empty() {
            cx.error(&at.key("from"), "an empty list is nobody").help("write \"*\" for everybody");
        }
        let until = spec.until.as_deref().and_then(|text| until(text, now, &at.key("until"), cx));
        let matches = spec.matches.as_ref().and_then(|spec| RequestMatch::compile(spec, &at.key("match"), cx));
        let why = spec.reason.as_deref().map(Arc::from);
        Self { name: name.clone(), action: spec.action, from, matches, until, why, tally: Arc::default() }
    }

    pub(crate) fn judge(&self, caller: &Caller<'_>, request: Request<'_>, now: SystemTime) -> RuleOutcome {
        if !self.from.iter().any(|pattern| pattern.matches(caller)) {
            return RuleOutcome::OtherCaller;
        }
        if self.until.is_some_and(|until| until <= now) {
            return RuleOutcome::Expired;
        }
        match self.matches.as_ref().map_or(Fits::Yes, |matches| matches.fits(request)) {
            Fits::Yes => RuleOutcome::Applies,
            Fits::No => RuleOutcome::OtherRequest,
            Fits::CannotTell => RuleOutcome::RequestUnseen,
        }
    }

    pub(crate) fn is_about_processes(&self) -> bool {
        self.from.iter().any(|from| matches!(from, CallerPattern::Uid(_) | CallerPattern::Cgroup(_)))
    }

    pub(crate) fn is_about_requests(&self) -> bool {
        self.matches.is_some()
    }

    pub(crate) fn carry_over(&mut self, previous: &Self) {
        self.tally = previous.tally.clone();
    }

    pub(crate) fn count(&self) {
        self.tally.applied.fetch_add(1, Ordering::Relaxed);
        if self.action == AccessAction::Report {
            self.tally.would_deny.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn counts(&self) -> RuleCounts {
        RuleCounts {
            applied: self.tally.applied.load(Ordering::Relaxed),
            would_deny: self.tally.would_deny.load(Ordering::Relaxed),
        }
    }
}

fn until(text: &str, now: SystemTime, at: &Path, cx: &mut Context) -> Option<SystemTime> {
    let format = &time::format_description::well_known::Rfc3339;
    let Ok(moment) = time::OffsetDateTime::parse(text, format) else {
        cx.error(at, format!("`{text}` is not a moment like \"2027-01-31T00:00:00Z\""));
        // A grant whose end cannot be read ends now: it fails closed, should anybody go on with this policy.
        return Some(SystemTime::UNIX_EPOCH);
    };
    let moment = SystemTime::from(moment);
    if moment <= now {
        cx.warning(at, "the rule's time is over: it does nothing").help("remove it, or set a later end");
    }
    Some(moment)
}
