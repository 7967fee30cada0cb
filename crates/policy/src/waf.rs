//! `waf = { … }` on defaults, routes and rules: which rule set looks at requests, how strictly, and where it does not.

use portcullis_config::{Context, Path};
use portcullis_names::{Method, Percent};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

/// How requests are looked at. Levels accumulate: the strictest mode, the highest paranoia and the lowest thresholds hold, and
/// exclusions add up, unless a level is let off by `relax = ["waf"]`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteWafSpec {
    /// A `[waf.NAME]`, or "builtin" (default: the only one there is, else builtin).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Default detect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<WafMode>,
    /// The level of the rules that block, 1 to 4 (default 1).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4))]
    pub paranoia: Option<u8>,
    /// Rules up to this level run as well and are written down, without counting (default: `paranoia`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4))]
    pub detection_paranoia: Option<u8>,
    /// The share of requests that is looked at (default all): for trying rules out on a busy site.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Percent>,
    /// Another rule set that sees a share of the same requests; where it would have decided otherwise is written down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<WafShadowSpec>,
    /// Scores at which a request or a response is refused (default 5 and 4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<WafScoreSpec>,
    /// Where rules do not apply: ids, or tables that say more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<WafExclusionSpec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WafMode {
    Off,
    /// Everything is logged, nothing refused.
    Detect,
    Block,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WafShadowSpec {
    /// A `[waf.NAME]`, or "builtin".
    pub profile: String,
    /// Default 100%.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Percent>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WafScoreSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub inbound: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub outbound: Option<u32>,
}

/// `942100`, or a table that says more.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WafExclusionSpec {
    /// Ids and ranges: "942100,942200-942299".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Instead: every rule with a tag that matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<Method>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExclusionTable {
    /// Ids and ranges: "942100,942200-942299".
    rule: Option<String>,
    /// Instead: every rule with a tag that matches this expression.
    tag: Option<String>,
    /// What the rules no longer look at, as rules write it: "ARGS:comment" (default: they do not run at all).
    target: Option<String>,
    /// Of the request, `*` for any run of characters (default every path).
    path: Option<String>,
    /// Default all.
    #[serde(default)]
    methods: Vec<Method>,
    /// The day from which it is no more: "2027-01-31".
    expires: Option<String>,
    /// So that somebody can tell later whether it still holds.
    reason: Option<String>,
}

const EXPECTS: &str = "a rule's id, \"ids and ranges\", or { rule | tag, target, path, methods, expires, reason }";

impl<'de> Deserialize<'de> for WafExclusionSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = WafExclusionSpec;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(EXPECTS)
            }
            fn visit_i64<E: de::Error>(self, id: i64) -> Result<WafExclusionSpec, E> {
                Ok(WafExclusionSpec::of(id.to_string()))
            }
            fn visit_u64<E: de::Error>(self, id: u64) -> Result<WafExclusionSpec, E> {
                Ok(WafExclusionSpec::of(id.to_string()))
            }
            fn visit_str<E: de::Error>(self, ids: &str) -> Result<WafExclusionSpec, E> {
                Ok(WafExclusionSpec::of(ids.to_owned()))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<WafExclusionSpec, A::Error> {
                let table = ExclusionTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(WafExclusionSpec {
                    rule: table.rule,
                    tag: table.tag,
                    target: table.target,
                    path: table.path,
                    methods: table.methods,
                    expires: table.expires,
                    reason: table.reason,
                })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl WafExclusionSpec {
    fn of(ids: String) -> Self {
        Self { rule: Some(ids), tag: None, target: None, path: None, methods: Vec::new(), expires: None, reason: None }
    }
}

impl JsonSchema for WafExclusionSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "WafExclusionSpec".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let table = generator.subschema_for::<ExclusionTable>();
        schemars::json_schema!({ "x-expects": EXPECTS, "anyOf": [{ "type": "integer", "minimum": 1 }, { "type": "string" }, table] })
    }
}

/// What a rule wants of the WAF, all levels taken together. Compiled by whoever has the rule sets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WafWish {
    pub profile: Option<(String, Path)>,
    pub mode: Option<WafMode>,
    pub paranoia: Option<u8>,
    pub detection_paranoia: Option<u8>,
    /// `None`: every request.
    pub sample: Option<Percent>,
    /// Where it is written, for what is wrong with it.
    pub shadow: Option<(WafShadowSpec, Path)>,
    pub inbound: Option<u32>,
    pub outbound: Option<u32>,
    /// Each where it is written.
    pub exclude: Vec<(WafExclusionSpec, Path)>,
}

impl WafWish {
    /// With what a level further down adds.
    pub(crate) fn and(&self, spec: &RouteWafSpec, at: &Path, cx: &mut Context) -> Self {
        let lowest = |a: Option<u32>, b: Option<u32>| a.into_iter().chain(b).min();
        let score = spec.score.unwrap_or_default();
        let weaker = spec.mode.zip(self.mode).is_some_and(|(own, above)| own < above);
        if weaker {
            cx.error(&at.key("mode"), "a level above is stricter")
                .help("say `relax = [\"waf\"]` here, and `may_relax = [\"waf\"]` above");
        }
        // A level that says how to look, and not how often, looks always.
        let above = self.sample.or(self.mode.map(|_| Percent::ALL));
        if spec.sample.zip(above).is_some_and(|(own, above)| own < above) {
            cx.error(&at.key("sample"), "a level above looks at more requests")
                .help("say `relax = [\"waf\"]` here, and `may_relax = [\"waf\"]` above");
        }
        let own = spec.exclude.iter().enumerate().map(|(index, one)| (one.clone(), at.key("exclude").index(index)));
        Self {
            profile: spec.profile.clone().map(|name| (name, at.key("profile"))).or(self.profile.clone()),
            mode: self.mode.max(spec.mode),
            paranoia: self.paranoia.max(spec.paranoia),
            detection_paranoia: self.detection_paranoia.max(spec.detection_paranoia),
            sample: spec.sample.or(self.sample),
            shadow: spec.shadow.clone().map(|shadow| (shadow, at.key("shadow"))).or(self.shadow.clone()),
            inbound: lowest(self.inbound, score.inbound),
            outbound: lowest(self.outbound, score.outbound),
            exclude: self.exclude.iter().cloned().chain(own).collect(),
        }
    }
}
