//! What happens to the requests of an external destination: the same plan that a route's requests have, without a search.
//!
//! Who may go there is not decided here: `egress` does. What `[defaults]` demands is demanded of those who come in, not of those who
//! go out.

use crate::{
    GuardSpecs, HeaderEditsSpec, KnownGuards, Level, Plan, RetrySpec, RouteWafSpec, SecurityHeaders, plan::Action,
};
use portcullis_config::{Context, Path};
use portcullis_names::ObjectName;
use std::time::Duration;

/// What a destination says of its requests.
#[derive(Debug, Clone)]
pub struct Outward<'s> {
    pub destination: &'s ObjectName,
    pub at: Path,
    pub timeout: Duration,
    pub retry: Option<&'s RetrySpec>,
    pub request_headers: Option<&'s HeaderEditsSpec>,
    pub response_headers: Option<&'s HeaderEditsSpec>,
    pub waf: Option<&'s RouteWafSpec>,
    pub privacy: Option<&'s str>,
    pub api: Option<&'s str>,
}

impl Outward<'_> {
    pub(crate) fn compile(&self, known: KnownGuards<'_>, index: usize, cx: &mut Context) -> Plan {
        let asked = GuardSpecs {
            ip: None,
            rate_limit: None,
            auth: None,
            authz: None,
            concurrency: None,
            waf: self.waf,
            privacy: self.privacy,
            api: self.api,
            relax: &[],
            may_relax: &[],
        };
        let level = asked.compile(self.destination.as_str(), &Level::default(), known, &self.at, cx);
        let edits = |spec: Option<&HeaderEditsSpec>, key: &str, cx: &mut Context| {
            spec.map(|edits| edits.compile(&self.at.key(key), cx)).unwrap_or_default()
        };
        let retry = self.retry.map(|retry| retry.compile(self.timeout, &self.at.key("retry"), cx));
        Plan {
            index,
            route: self.destination.clone(),
            rule: None,
            place: cx.place(&self.at),
            guards: level.guards(None),
            waf: level.waf().cloned(),
            privacy: level.privacy().clone(),
            api: level.api().clone(),
            action: Action::Outward,
            rewrite: None,
            request_headers: edits(self.request_headers, "request_headers", cx),
            response_headers: edits(self.response_headers, "response_headers", cx),
            mirror: None,
            timeout: self.timeout,
            retry: retry.unwrap_or_default(),
            fault: crate::Fault::default(),
            cors: None,
            compress: Vec::new(),
            security_headers: SecurityHeaders::Off,
        }
    }
}
