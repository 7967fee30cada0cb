//! `maintenance = [{ from = "2026-12-01T02:00:00Z", until = "2026-12-01T04:00:00Z" }]`: when the configuration itself drains a
//! site or a member. Stands above the orders of operators.

use super::service::Member;
use portcullis_config::{Context, Path};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A time in which a site, or one member of it, is drained.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceSpec {
    /// As RFC 3339 writes it, with `Z` or an offset.
    pub from: String,
    pub until: String,
    /// Default: the whole site.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub member: Option<IpAddr>,
    /// For whoever reads the status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Maintenance {
    /// Seconds since 1970.
    from: u64,
    until: u64,
    pub(crate) member: Option<IpAddr>,
    pub(crate) why: Option<String>,
}

const WINDOWS_MAX: usize = 100;
const WHY_MAX: usize = 200;

impl Maintenance {
    pub(crate) fn compile(specs: &[MaintenanceSpec], members: &[Member], at: &Path, cx: &mut Context) -> Vec<Self> {
        if specs.len() > WINDOWS_MAX {
            cx.error(at, format!("more than {WINDOWS_MAX} times of maintenance"));
        }
        let each = specs.iter().take(WINDOWS_MAX).enumerate();
        each.filter_map(|(index, spec)| Self::one(spec, members, &at.index(index), cx)).collect()
    }

    fn one(spec: &MaintenanceSpec, members: &[Member], at: &Path, cx: &mut Context) -> Option<Self> {
        let mut time = |key: &str, text: &str| {
            let seconds = OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp);
            let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
            if seconds.is_none() {
                cx.error(&at.key(key), format!("`{text}` is not a time")).help("write it as 2026-12-01T02:00:00Z");
            }
            seconds
        };
        let (from, until) = (time("from", &spec.from), time("until", &spec.until));
        let (from, until) = (from?, until?);
        if until <= from {
            cx.error(&at.key("until"), "a maintenance ends after it begins");
        }
        if let Some(member) = spec.member.filter(|member| !members.iter().any(|own| own.address == *member)) {
            cx.error(&at.key("member"), format!("the site has no member {member}"));
        }
        if spec.why.as_ref().is_some_and(|why| why.len() > WHY_MAX) {
            cx.error(&at.key("why"), format!("at most {WHY_MAX} octets"));
        }
        Some(Self { from, until, member: spec.member, why: spec.why.clone() })
    }

    pub(crate) fn is_on(&self, member: Option<IpAddr>, now: u64) -> bool {
        self.member == member && (self.from..self.until).contains(&now)
    }
}
