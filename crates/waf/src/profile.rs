//! What one route asks of a rule set: mode, paranoia, thresholds and exclusions, compiled once and shared.
//!
//! Not rules: a profile changes nothing in the rule set, so that any number of routes share one.

use std::sync::Arc;
use std::time::Duration;

use crate::operator::Pattern;
use crate::program::Program;
use crate::program::rule_set::RuleSet;
use crate::seclang::action::{EngineMode, RuleSelector, ids};
use crate::seclang::target::{Target, parse_target};

/// How a route wants to be guarded, as configuration gives it. Absent values are those of the rule files.
#[derive(Debug, Clone, Default)]
pub struct ProfileSpec {
    /// Whether rules act, only log, or do not run.
    pub mode: Option<EngineMode>,
    /// The paranoia level that blocks, 1 to 4.
    pub paranoia: Option<u8>,
    /// The paranoia level whose rules also run and are logged, without counting towards blocking; at least `paranoia`.
    pub detection_paranoia: Option<u8>,
    /// The score at which a request is refused.
    pub inbound_threshold: Option<u32>,
    /// The score at which a response is refused.
    pub outbound_threshold: Option<u32>,
    /// Where rules do not apply.
    pub exclusions: Vec<ExclusionSpec>,
}

/// A place where rules do not apply.
#[derive(Debug, Clone)]
pub struct ExclusionSpec {
    /// Which rules.
    pub rules: ExcludedRules,
    /// What they no longer look at, as rules write it (`ARGS:comment`, `REQUEST_COOKIES:/^_ga/`); `None` turns the rules
    /// off.
    pub target: Option<String>,
    /// The decoded path of the request, `*` for any run of bytes; `None` is every path.
    pub path: Option<String>,
    /// Methods, as sent; none are all.
    pub methods: Vec<String>,
    /// Since the epoch; from then on the exclusion is no more.
    pub expires: Option<Duration>,
    /// Why: shown by whoever lists exclusions, and required so that someone can later tell whether it still holds.
    pub reason: String,
}

/// The rules of an exclusion.
#[derive(Debug, Clone)]
pub enum ExcludedRules {
    /// Ids and ranges: `942100,942200-942299`.
    Ids(String),
    /// Rules with a tag that matches this pattern: `attack-sqli`.
    Tag(String),
}

/// A compiled [`ProfileSpec`], good for the rule set that compiled it.
#[derive(Debug, Clone)]
pub struct Profile {
    pub(crate) mode: Option<EngineMode>,
    /// Members of TX that rules cannot change.
    pub(crate) tx: Vec<(&'static str, String)>,
    pub(crate) exclusions: Vec<Exclusion>,
}

#[derive(Debug, Clone)]
pub(crate) struct Exclusion {
    path: Option<Box<str>>,
    methods: Vec<Box<str>>,
    expires: Option<Duration>,
    pub(crate) effect: ExclusionEffect,
}

#[derive(Debug, Clone)]
pub(crate) enum ExclusionEffect {
    Rules(RuleSet),
    Target(Arc<(RuleSet, Target)>),
}

/// What is wrong with an exclusion or another value of a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// An exclusion, by its place in the list.
    #[error("exclusion {number}: {message}")]
    Exclusion {
        /// From zero.
        number: usize,
        /// What is wrong.
        message: String,
    },
    /// A paranoia level that there is not.
    #[error("paranoia level {0} is not one of 1 to 4")]
    Paranoia(u8),
    /// Rules that block have to run.
    #[error("detection paranoia {detection} is below the paranoia level {blocking} that blocks")]
    Detection {
        /// The level that blocks.
        blocking: u8,
        /// The level that only logs.
        detection: u8,
    },
}

impl Profile {
    pub(crate) fn compile(spec: &ProfileSpec, program: &Program) -> Result<Self, Vec<ProfileError>> {
        let mut errors = Vec::new();
        let levels = [spec.paranoia, spec.detection_paranoia].into_iter().flatten();
        errors.extend(levels.filter(|level| !(1..=4).contains(level)).map(ProfileError::Paranoia));
        if let (Some(blocking), Some(detection)) = (spec.paranoia, spec.detection_paranoia)
            && detection < blocking
        {
            errors.push(ProfileError::Detection { blocking, detection });
        }
        let mut exclusions = Vec::new();
        for (number, exclusion) in spec.exclusions.iter().enumerate() {
            match Exclusion::compile(exclusion, program) {
                Ok(exclusion) => exclusions.push(exclusion),
                Err(message) => errors.push(ProfileError::Exclusion { number, message }),
            }
        }
        if errors.is_empty() { Ok(Self { mode: spec.mode, tx: tx(spec), exclusions }) } else { Err(errors) }
    }
}

/// The members of TX by which the Core Rule Set is set up: version 4 first, then the names of version 3.
fn tx(spec: &ProfileSpec) -> Vec<(&'static str, String)> {
    let detection = spec.detection_paranoia.or(spec.paranoia);
    let numbers = [
        ("blocking_paranoia_level", spec.paranoia.map(u32::from)),
        ("detection_paranoia_level", detection.map(u32::from)),
        ("paranoia_level", spec.paranoia.map(u32::from)),
        ("executing_paranoia_level", detection.map(u32::from)),
        ("inbound_anomaly_score_threshold", spec.inbound_threshold),
        ("outbound_anomaly_score_threshold", spec.outbound_threshold),
    ];
    numbers.into_iter().filter_map(|(name, number)| Some((name, number?.to_string()))).collect()
}

impl Exclusion {
    fn compile(spec: &ExclusionSpec, program: &Program) -> Result<Self, String> {
        let rules = select(&spec.rules, program)?;
        let effect = match &spec.target {
            None => ExclusionEffect::Rules(rules),
            Some(target) => ExclusionEffect::Target(Arc::new((rules, parse_target(target)?))),
        };
        if spec.reason.trim().is_empty() {
            return Err("says no reason; write down why the rules do not apply".to_owned());
        }
        Ok(Self {
            path: spec.path.as_deref().map(Into::into),
            methods: spec.methods.iter().map(|method| method.as_str().into()).collect(),
            expires: spec.expires,
            effect,
        })
    }

    pub(crate) fn applies(&self, method: &[u8], path: &[u8], now: Duration) -> bool {
        self.expires.is_none_or(|expires| now < expires)
            && (self.methods.is_empty() || self.methods.iter().any(|wanted| wanted.as_bytes() == method))
            && self.path.as_ref().is_none_or(|pattern| wildcard(pattern.as_bytes(), path))
    }
}

fn select(rules: &ExcludedRules, program: &Program) -> Result<RuleSet, String> {
    let heads = || program.rules.iter().enumerate().filter(|(_, rule)| rule.id != 0);
    let (chosen, asked): (Vec<usize>, &str) = match rules {
        ExcludedRules::Ids(text) => {
            let RuleSelector::Ids(ranges) = ids(text)? else { return Err("expected rule ids".to_owned()) };
            let wanted = |id: u32| ranges.iter().any(|(low, high)| (*low..=*high).contains(&id));
            (heads().filter(|(_, rule)| wanted(rule.id)).map(|(at, _)| at).collect(), text)
        }
        ExcludedRules::Tag(text) => {
            let pattern = Pattern::compile(text)?;
            let tagged =
                heads().filter(|(_, rule)| rule.actions.tags.iter().any(|tag| pattern.is_match(tag.as_bytes())));
            (tagged.map(|(at, _)| at).collect(), text)
        }
    };
    if chosen.is_empty() {
        return Err(format!("no rule is meant by \"{asked}\""));
    }
    Ok(chosen.into_iter().collect())
}

/// `*` stands for any run of bytes. Linear but for the number of stars: the last one is what backtracks.
fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match (pattern.get(from), text.get(at)) {
            (Some(b'*'), _) => {
                star = Some((from, at));
                from += 1;
            }
            (Some(wanted), Some(byte)) if wanted == byte => {
                from += 1;
                at += 1;
            }
            _ => match star {
                Some((place, taken)) => {
                    star = Some((place, taken + 1));
                    from = place + 1;
                    at = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(from..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, expected) in [
            ("/blog/*", "/blog/a/b", true),
            ("/blog/*", "/blog", false),
            ("*", "", true),
            ("/*/edit", "/a/b/edit", true),
            ("/*/edit", "/a/editor", false),
            ("/a*b*c", "/axxbyyc", true),
            ("/a", "/a", true),
            ("/a", "/ab", false),
        ] {
            assert_eq!(wildcard(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
