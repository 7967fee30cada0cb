//! `rate_limit = …` of a rule: a name, a table, or a list of them.

use crate::{RateLimit, RateLimitSpec};
use portcullis_config::{Context, Path};
use portcullis_names::ObjectName;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Instant,
};

/// Asked in this order; the first that refuses ends it, and what those before it counted stays counted.
#[derive(Debug, Clone, Default)]
pub struct RateLimitRefs(Vec<RateLimitRef>);

/// One of them.
#[derive(Debug, Clone)]
pub enum RateLimitRef {
    /// A `[rate_limit.X]`: all rules that name it count together.
    Named(ObjectName),
    /// A limit of this rule alone.
    Own(RateLimitSpec),
}

/// What a limit may refer to, and what it may go on from.
#[derive(Debug, Clone, Copy)]
pub struct Known<'k> {
    pub limits: &'k BTreeMap<ObjectName, Arc<RateLimit>>,
    pub stores: &'k BTreeSet<ObjectName>,
    /// All limits of the snapshot before a reload, by [`RateLimit::name`].
    pub previous: &'k BTreeMap<String, Arc<RateLimit>>,
}

/// Each costs every request; more than this is no policy that a person can follow.
const LIMITS_MAX: usize = 8;
const EXPECTS: &str = "the name of a [rate_limit.X], a table { rate, burst, key, cost, algorithm, mode, keys, store }, or a list of 1 to 8 of them";

impl RateLimitRefs {
    pub fn iter(&self) -> impl Iterator<Item = &RateLimitRef> {
        self.0.iter()
    }

    /// `owner` (`"shop/api"`) names the limits that have no name: the first as it is, the others with their number.
    pub fn compile(
        &self,
        owner: &str,
        known: &Known<'_>,
        now: Instant,
        at: &Path,
        cx: &mut Context,
    ) -> Vec<Arc<RateLimit>> {
        let mut compiled = Vec::with_capacity(self.0.len());
        for (index, one) in self.0.iter().enumerate() {
            let here = if cx.document().has(&at.index(index)) { at.index(index) } else { at.clone() };
            match one {
                RateLimitRef::Named(name) => match known.limits.get(name) {
                    Some(limit) => compiled.push(limit.clone()),
                    None => {
                        cx.undefined(&here, "rate_limit", name.as_str(), known.limits.keys().map(ObjectName::as_str))
                    }
                },
                RateLimitRef::Own(spec) => {
                    let name = if index == 0 { Cow::from(owner) } else { format!("{owner}.{}", index + 1).into() };
                    compiled.extend(spec.compile(&name, known, now, &here, cx).map(Arc::new));
                }
            }
        }
        compiled
    }
}

impl<'de> Deserialize<'de> for RateLimitRefs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = RateLimitRefs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTS)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RateLimitRefs, E> {
                Ok(RateLimitRefs(vec![OneVisitor.visit_str(text)?]))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<RateLimitRefs, A::Error> {
                Ok(RateLimitRefs(vec![OneVisitor.visit_map(map)?]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<RateLimitRefs, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = list.next_element()? {
                    if all.len() == LIMITS_MAX {
                        return Err(de::Error::custom(format!("a rule has at most {LIMITS_MAX} rate limits")));
                    }
                    all.push(one);
                }
                if all.is_empty() {
                    return Err(de::Error::custom("an empty list limits nothing; leave `rate_limit` out"));
                }
                Ok(RateLimitRefs(all))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

struct OneVisitor;

impl<'de> de::Visitor<'de> for OneVisitor {
    type Value = RateLimitRef;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTS)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<RateLimitRef, E> {
        text.parse().map(RateLimitRef::Named).map_err(E::custom)
    }
    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<RateLimitRef, A::Error> {
        RateLimitSpec::deserialize(de::value::MapAccessDeserializer::new(map)).map(RateLimitRef::Own)
    }
}

impl<'de> Deserialize<'de> for RateLimitRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneVisitor)
    }
}

impl Serialize for RateLimitRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Named(name) => name.serialize(serializer),
            Self::Own(spec) => spec.serialize(serializer),
        }
    }
}

/// As it is shortest written.
impl Serialize for RateLimitRefs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl JsonSchema for RateLimitRefs {
    fn schema_name() -> Cow<'static, str> {
        "RateLimitRefs".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let name = generator.subschema_for::<ObjectName>();
        let table = generator.subschema_for::<RateLimitSpec>();
        let items = schemars::json_schema!({ "anyOf": [name.clone(), table.clone()] });
        let list = schemars::json_schema!({ "type": "array", "items": items, "minItems": 1, "maxItems": LIMITS_MAX });
        schemars::json_schema!({ "anyOf": [name, table, list] })
    }
}
