//! What the authority's endpoint gives, and the file in which it outlives the process.

use crate::EnrolError;
use portcullis_ca::{Overwrite, SECRET, Trusted, write_file};
use portcullis_mesh::{Svid, SvidPem};
use portcullis_names::SpiffeId;
use serde::{Deserialize, Serialize};
use std::{path::Path, time::SystemTime};

/// The answer to a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Answer {
    /// The leaf first; empty when only roots and lists were asked for.
    #[serde(default)]
    pub(crate) chain: String,
    pub(crate) roots: String,
    #[serde(default)]
    pub(crate) revoked: String,
}

/// An answer with the key that it belongs to: one file, so that it is whole or not there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Given {
    pub(crate) key: String,
    pub(crate) answer: Answer,
}

const FILE_MAX_BYTES: u64 = 8 << 20;

impl Answer {
    pub(crate) fn of(chain: String, trusted: Trusted) -> Self {
        Self { chain, roots: trusted.roots, revoked: trusted.revoked }
    }
}

impl Given {
    pub(crate) fn svid(&self, own: &SpiffeId, now: SystemTime) -> Result<Svid, EnrolError> {
        let revoked = (!self.answer.revoked.is_empty()).then_some(self.answer.revoked.as_bytes());
        let (chain, bundle) = (self.answer.chain.as_bytes(), self.answer.roots.as_bytes());
        Ok(Svid::from_pem(SvidPem { chain, key: self.key.as_bytes(), bundle, revoked }, own, now)?)
    }

    /// What an earlier process kept; `None` when there is none that can be read: the authority is asked then.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        if std::fs::metadata(path).ok()?.len() > FILE_MAX_BYTES {
            return None;
        }
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    pub(crate) fn keep(&self, path: &Path) -> Result<(), EnrolError> {
        let failed = |source: serde_json::Error| EnrolError::File { path: path.to_owned(), source: source.into() };
        Ok(write_file(path, &serde_json::to_string(self).map_err(failed)?, SECRET, Overwrite::Replace)?)
    }
}
