//! The files of tests as they are written, in the forms of go-ftw 0 and 1.

use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::fmt;

#[derive(Deserialize)]
pub(super) struct Document {
    pub(super) rule_id: Option<u32>,
    #[serde(default)]
    pub(super) tests: Vec<DocumentTest>,
}

#[derive(Deserialize)]
pub(super) struct DocumentTest {
    pub(super) test_id: Option<u32>,
    pub(super) test_title: Option<String>,
    pub(super) stages: Vec<Staged>,
}

/// A stage, or one within `stage:`, as older files have it.
#[derive(Deserialize)]
pub(super) struct Staged {
    stage: Option<Stage>,
    #[serde(default)]
    input: Input,
    #[serde(default)]
    output: Output,
}

impl Staged {
    pub(super) fn stage(self) -> Stage {
        self.stage.unwrap_or(Stage { input: self.input, output: self.output })
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Stage {
    pub(super) input: Input,
    #[serde(default)]
    pub(super) output: Output,
}

/// What to send.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Input {
    pub(super) method: Option<String>,
    pub(super) uri: Option<String>,
    pub(super) version: Option<String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    pub(super) data: Option<String>,
    pub(super) encoded_request: Option<String>,
    pub(super) autocomplete_headers: Option<bool>,
    /// The older word, with the opposite meaning.
    pub(super) stop_magic: Option<bool>,
}

/// What to expect. A word that is not known could be the very expectation that matters.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Output {
    pub(super) status: Option<Statuses>,
    pub(super) log: Expected,
    pub(super) log_contains: Option<String>,
    pub(super) no_log_contains: Option<String>,
    #[serde(rename = "response_contains")]
    _response_contains: Option<IgnoredAny>,
    #[serde(rename = "expect_error")]
    _expect_error: Option<IgnoredAny>,
    #[serde(rename = "retry_once")]
    _retry_once: Option<IgnoredAny>,
    #[serde(rename = "isolated")]
    _isolated: Option<IgnoredAny>,
}

/// What the log must say.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Expected {
    pub(super) expect_ids: Vec<u32>,
    pub(super) no_expect_ids: Vec<u32>,
    pub(super) match_regex: Option<String>,
    pub(super) no_match_regex: Option<String>,
}

/// One status, or several that will do.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Statuses {
    One(u16),
    Several(Vec<u16>),
}

impl Statuses {
    pub(super) fn admits(&self, status: u16) -> bool {
        match self {
            Self::One(one) => *one == status,
            Self::Several(several) => several.contains(&status),
        }
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(one) => write!(f, "{one}"),
            Self::Several(several) => write!(f, "one of {several:?}"),
        }
    }
}
