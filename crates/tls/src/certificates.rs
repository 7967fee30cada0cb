//! All `[certificate.X]` of a document, by name.

use crate::{Certificate, CertificateSpec};
use portcullis_config::{Context, Path};
use portcullis_names::{HostPattern, ObjectName};
use std::{collections::BTreeMap, sync::Arc};

/// One that is declared but could not be loaded keeps its name: the report has its problem, and nobody else need say that
/// it "is not defined".
#[derive(Debug, Clone, Default)]
pub struct Certificates(BTreeMap<ObjectName, Option<Arc<Certificate>>>);

impl Certificates {
    pub fn compile(specs: &BTreeMap<ObjectName, CertificateSpec>, cx: &mut Context) -> Self {
        let loaded = specs.iter().map(|(name, spec)| {
            let at = Path::root().key("certificate").key(name);
            (name.clone(), Certificate::load(name, spec, &at, cx).map(Arc::new))
        });
        Self(loaded.collect())
    }

    /// `None` for what is not declared and for what could not be loaded.
    pub fn get(&self, name: &str) -> Option<&Arc<Certificate>> {
        self.0.get(name)?.as_ref()
    }

    /// Like `get`; a name that is not declared is an error in the report.
    pub fn find(&self, name: &str, at: &Path, cx: &mut Context) -> Option<&Arc<Certificate>> {
        if !self.0.contains_key(name) {
            cx.undefined(at, "certificate", name, self.names());
        }
        self.get(name)
    }

    /// All that are declared.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(ObjectName::as_str)
    }

    /// All that are loaded.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.0.values().flatten()
    }

    /// Whether a listener with these certificates has none to show for `host`. `*` asks for none in particular, and with a
    /// certificate that could not be loaded nothing is known.
    pub fn uncovered(&self, names: &[String], host: &HostPattern) -> bool {
        let chosen: Option<Vec<_>> = names.iter().map(|name| self.get(name)).collect();
        *host != HostPattern::Any
            && chosen.is_some_and(|chosen| !chosen.iter().any(|certificate| certificate.covers(host)))
    }
}
