//! Where the own identity comes from: `[workload] svid = { … }`.
//!
//! A source gives chain, key and roots whenever somebody looks; [`crate::OwnIdentity::offer`] decides what is taken.

use crate::SvidFiles;
use portcullis_config::{Context, Path};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `svid = { files = { … } }`: exactly one source.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum SvidSpec {
    /// Files that somebody else renews; looked at all the time.
    Files(SvidFilesSpec),
}

/// PEM files, relative to the configuration file.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct SvidFilesSpec {
    /// The certificate with its intermediates, the leaf first.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Every root that is believed: the old one and the new one while one follows the other.
    pub bundle: PathBuf,
}

/// Compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    Files(SvidFiles),
}

impl SvidSpec {
    pub fn compile(&self, at: &Path, cx: &mut Context) -> IdentitySource {
        match self {
            Self::Files(files) => {
                let at = at.key("files");
                let resolve = |key: &str, file: &PathBuf| cx.resolve(&at.key(key), file);
                IdentitySource::Files(SvidFiles {
                    chain: resolve("cert", &files.cert),
                    key: resolve("key", &files.key),
                    bundle: resolve("bundle", &files.bundle),
                })
            }
        }
    }
}
