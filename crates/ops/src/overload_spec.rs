//! `process.overload = …` as the operator writes it.

use crate::{MemoryLimit, MemoryWatch, Overload, OverloadAction};
use portcullis_config::{Context, Path};
use portcullis_names::Percent;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, fmt};

/// When requests are turned away so that memory and CPU do not give out. Absent: memory at 95% of the limit of the control
/// group, if that has one, since going beyond it is death; nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverloadSpec {
    /// `"off"`
    Off,
    /// `{ memory = "85%", cpu = "90%", action = "shed" }`
    Watch(OverloadTable),
}

/// What is watched: no more than what is named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OverloadTable {
    /// From 10% to 99% of the limit of the control group (either version; its memory without inactive file cache), or
    /// without one, of the machine's memory (that of this process). Above it requests are shed, the more the closer it
    /// comes to 100%, until it is five points below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Percent>,
    /// From 10% to 99% of the CPU time that `process.threads` and the control group allow, over some seconds. Above it as
    /// many requests are shed as it takes to stay just below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Percent>,
    /// Default shed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<OverloadAction>,
}

/// Below this an idle process would shed; above, there is no room to shed in.
const THRESHOLD_MIN: Percent = Percent::from_whole(10);
const THRESHOLD_MAX: Percent = Percent::from_whole(99);
const EXPECTS: &str = "\"off\" or a table { memory, cpu, action }";

impl OverloadSpec {
    pub fn compile(&self, at: &Path, cx: &mut Context) -> Overload {
        match self {
            Self::Off => Overload::OFF,
            Self::Watch(table) => table.compile(at, cx),
        }
    }
}

impl OverloadTable {
    fn compile(&self, at: &Path, cx: &mut Context) -> Overload {
        for (key, threshold) in [("memory", self.memory), ("cpu", self.cpu)] {
            let Some(threshold) = threshold else { continue };
            if !(THRESHOLD_MIN..=THRESHOLD_MAX).contains(&threshold) {
                let message = format!(
                    "requests are shed above a share of {key} from {THRESHOLD_MIN} to {THRESHOLD_MAX}, not {threshold}"
                );
                cx.error(&at.key(key), message).help("leave the key out, or write overload = \"off\", to shed nothing");
            }
        }
        if self.memory.is_none() && self.cpu.is_none() {
            cx.error(at, "neither `memory` nor `cpu` is watched")
                .help("write overload = { memory = \"85%\", cpu = \"90%\" }, or overload = \"off\"");
        }
        let watch = |threshold| MemoryWatch { threshold, against: MemoryLimit::CgroupOrMachine };
        Overload { memory: self.memory.map(watch), cpu: self.cpu, action: self.action.unwrap_or_default() }
    }
}

impl<'de> Deserialize<'de> for OverloadSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = OverloadSpec;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTS)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<OverloadSpec, E> {
                if text == "off" {
                    return Ok(OverloadSpec::Off);
                }
                Err(E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<OverloadSpec, A::Error> {
                OverloadTable::deserialize(de::value::MapAccessDeserializer::new(map)).map(OverloadSpec::Watch)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for OverloadSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::Watch(table) => table.serialize(serializer),
        }
    }
}

impl JsonSchema for OverloadSpec {
    fn schema_name() -> Cow<'static, str> {
        "OverloadSpec".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let table = generator.subschema_for::<OverloadTable>();
        schemars::json_schema!({ "anyOf": [{ "type": "string", "enum": ["off"] }, table] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ProcessSpec;
    use portcullis_config::Document;
    use std::sync::Arc;

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Spec {
        #[serde(default)]
        process: ProcessSpec,
    }

    fn compile(document: &str) -> Result<Overload, String> {
        let (document, report) = Document::parse("edge.toml", document);
        let (spec, mut cx) = Arc::new(document).read::<Spec>(report, &[]);
        let at = Path::root().key("process").key("overload");
        let overload = spec.map(|spec| match spec.process.overload {
            Some(overload) => overload.compile(&at, &mut cx),
            None => Overload::default(),
        });
        let (report, _) = cx.finish();
        overload.filter(|_| !report.has_errors()).ok_or_else(|| report.lines().join("\n"))
    }

    fn watched(overload: &Overload) -> (Option<String>, Option<MemoryLimit>, Option<String>) {
        let memory = overload.memory;
        let text = |percent: Percent| percent.to_string();
        (memory.map(|memory| text(memory.threshold)), memory.map(|memory| memory.against), overload.cpu.map(text))
    }

    #[test]
    fn what_is_named_is_watched_and_no_more() {
        let (cgroup, either) = (Some(MemoryLimit::Cgroup), Some(MemoryLimit::CgroupOrMachine));
        for (document, memory, against, cpu) in [
            ("", Some("95%"), cgroup, None),
            ("[process]\noverload = \"off\"", None, None, None),
            ("[process]\noverload = { memory = \"85%\", cpu = \"90%\" }", Some("85%"), either, Some("90%")),
            ("[process]\noverload = { memory = \"10%\" }", Some("10%"), either, None),
            ("[process]\noverload = { cpu = \"99%\" }", None, None, Some("99%")),
        ] {
            let expected = (memory.map(str::to_owned), against, cpu.map(str::to_owned));
            assert_eq!(watched(&compile(document).unwrap()), expected, "{document}");
        }
    }

    #[test]
    fn the_action_arrives() {
        for (action, expected) in [
            ("", OverloadAction::Shed),
            (", action = \"shed\"", OverloadAction::Shed),
            (", action = \"shadow\"", OverloadAction::Shadow),
        ] {
            let overload = compile(&format!("[process]\noverload = {{ cpu = \"90%\"{action} }}")).unwrap();
            assert_eq!(overload.action, expected, "{action}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (value, part) in [
            ("{ memory = \"0%\" }", "from 10% to 99%, not 0%"),
            ("{ cpu = \"9.9%\" }", "share of cpu from 10% to 99%"),
            ("{ memory = \"100%\" }", "not 100%"),
            ("{ cpu = \"101%\" }", "more than 100%"),
            ("{ cpu = \"90\" }", "the `%` is missing"),
            ("{ memory = 85 }", "memory"),
            ("{}", "neither `memory` nor `cpu`"),
            ("{ action = \"shed\" }", "neither `memory` nor `cpu`"),
            ("{ cpu = \"90%\", action = \"drop\" }", "shadow"),
            ("{ memori = \"85%\", cpu = \"90%\" }", "memory"),
            ("\"on\"", "off"),
            ("true", "overload"),
        ] {
            let lines = compile(&format!("[process]\noverload = {value}")).unwrap_err();
            assert!(lines.contains(part), "{value} gave {lines}, without {part}");
        }
    }

    #[test]
    fn both_mistakes_of_a_table_are_found_at_once() {
        let lines = compile("[process]\noverload = { memory = \"0%\", cpu = \"100%\" }").unwrap_err();
        assert!(lines.contains("share of memory") && lines.contains("share of cpu"), "{lines}");
    }

    #[test]
    fn a_spec_is_written_as_it_was_read() {
        for value in [r#""off""#, r#"{"memory":"85%","cpu":"90%","action":"shadow"}"#] {
            let spec: OverloadSpec = serde_json::from_str(value).unwrap();
            assert_eq!(serde_json::to_string(&spec).unwrap(), value);
        }
    }
}
