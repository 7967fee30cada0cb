//! A folder of files and the compilation of what names them.

use crate::authority::{Authority, Issued};
use portcullis_config::{Context, Document, Level, Path, Report};
use portcullis_tls::{Alpn, Certificates, ListenerTlsSpec, ServerTls, Trusts, UpstreamTls, UpstreamTlsSpec};
use serde_json::{Map, Value, json};
use std::{fs::Permissions, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};
use tempfile::TempDir;

pub(crate) struct Workbench {
    folder: TempDir,
    certificates: Map<String, Value>,
    trusts: Map<String, Value>,
}

/// What a compilation said.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) errors: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// `tls` under a listener or an upstream.
pub(crate) fn here() -> Path {
    Path::root().key("listener").key("x").key("tls")
}

pub(crate) fn compile<T>(step: impl FnOnce(&mut Context) -> T) -> (T, Told) {
    let mut cx = Context::new(Arc::new(Document::default()), Report::default());
    let value = step(&mut cx);
    let mut told = Told::default();
    for problem in cx.report().problems() {
        let list = if problem.level == Level::Error { &mut told.errors } else { &mut told.warnings };
        list.push(problem.message.clone());
    }
    (value, told)
}

impl Workbench {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), certificates: Map::new(), trusts: Map::new() }
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        // A key that everybody can read has a warning of its own.
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// `[certificate.NAME]` of these two texts, with more keys if wanted.
    pub(crate) fn certificate_of(&mut self, name: &str, cert: &str, key: &str, more: Value) {
        let (cert, key) = (self.file(&format!("{name}.crt"), cert), self.file(&format!("{name}.key"), key));
        let mut spec = json!({ "cert": { "file": cert }, "key": { "file": key } });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.certificates.insert(name.to_owned(), spec);
    }

    pub(crate) fn certificate(&mut self, name: &str, issued: &Issued) {
        self.certificate_of(name, &issued.pem(), &issued.key_pem(), json!({}));
    }

    pub(crate) fn trust(&mut self, name: &str, authority: &Authority, crl: Option<String>) {
        let ca = self.file(&format!("{name}.ca"), authority.pem());
        let mut spec = json!({ "ca": { "file": ca } });
        if let Some(crl) = crl {
            spec["crl"] = json!({ "file": self.file(&format!("{name}.crl"), crl) });
        }
        self.trusts.insert(name.to_owned(), spec);
    }

    pub(crate) fn trust_of(&mut self, name: &str, spec: Value) {
        self.trusts.insert(name.to_owned(), spec);
    }

    pub(crate) fn load(&self) -> (Certificates, Trusts, Told) {
        let certificates = serde_json::from_value(Value::Object(self.certificates.clone())).unwrap();
        let trusts = serde_json::from_value(Value::Object(self.trusts.clone())).unwrap();
        let ((certificates, trusts), told) =
            compile(|cx| (Certificates::compile(&certificates, cx), Trusts::compile(&trusts, cx)));
        (certificates, trusts, told)
    }

    /// A listener with all certificates in the order of `names`.
    pub(crate) fn listener_after(
        &self,
        previous: Option<&ServerTls>,
        names: &[&str],
        tls: Value,
    ) -> (Option<ServerTls>, Told) {
        let (certificates, trusts, told) = self.load();
        assert!(told.errors.is_empty(), "{told:?}");
        let spec: ListenerTlsSpec = serde_json::from_value(tls).unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        compile(|cx| ServerTls::compile(&spec, &names, Alpn::Both, &certificates, &trusts, previous, &here(), cx))
    }

    pub(crate) fn listener(&self, names: &[&str], tls: Value) -> ServerTls {
        let (server, told) = self.listener_after(None, names, tls);
        assert!(told.errors.is_empty(), "{told:?}");
        server.unwrap()
    }

    pub(crate) fn upstream_told(&self, tls: Value) -> (Result<Option<UpstreamTls>, ()>, Told) {
        let (certificates, trusts, told) = self.load();
        assert!(told.errors.is_empty(), "{told:?}");
        let spec: UpstreamTlsSpec = serde_json::from_value(tls).unwrap();
        compile(|cx| UpstreamTls::compile(&spec, &certificates, &trusts, &here(), cx))
    }

    pub(crate) fn upstream(&self, tls: Value) -> UpstreamTls {
        let (upstream, told) = self.upstream_told(tls);
        assert!(told.errors.is_empty(), "{told:?}");
        upstream.unwrap().unwrap()
    }
}
