//! A store behind TLS is verified.

use crate::server::{eventually, key, limit, store_config_of};
use portcullis_store::Store;
use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};
use tokio::runtime::Handle;

struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server on this port, or `None`, said loudly, where none with TLS is installed.
fn serve(directory: &Path, port: u16) -> Option<Kill> {
    let file = |name: &str| directory.join(name).display().to_string();
    let start = |program: &&str| {
        let mut command = Command::new(program);
        command.args(["--port", "0", "--tls-port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args([
            "--tls-cert-file",
            &file("cert"),
            "--tls-key-file",
            &file("key"),
            "--tls-ca-cert-file",
            &file("ca"),
        ]);
        command.args(["--tls-auth-clients", "no", "--dir", &file(".")]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
    };
    let mut child = ["valkey-server", "redis-server"].iter().find_map(start).map(Kill);
    let mut listens = false;
    if let Some(Kill(child)) = &mut child {
        eventually("the server listens or gives up", || {
            listens = TcpStream::connect(("127.0.0.1", port)).is_ok();
            listens || child.try_wait().unwrap().is_some()
        });
    }
    if !listens {
        eprintln!("NOT TESTED: no valkey-server or redis-server with TLS is installed here");
        return None;
    }
    child
}

/// An authority's certificate in `ca`, and one of 127.0.0.1 by it in `cert` and `key`.
fn certify(directory: &Path) {
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let ca = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let cert = server.signed_by(&key, &issuer).unwrap();
    for (name, pem) in [("ca", ca.pem()), ("cert", cert.pem()), ("key", key.serialize_pem())] {
        std::fs::write(directory.join(name), pem).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_behind_tls_is_used_only_if_its_certificate_is_right() {
    let directory = tempfile::tempdir().unwrap();
    certify(directory.path());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let Some(_server) = serve(directory.path(), port) else { return };
    let limit = limit(r#"{ rate = "1000000/s" }"#);
    for (tls, right) in [
        (r#"{ trust = "own" }"#, true),
        (r#"{ mode = "verify", trust = "own", sni = "127.0.0.1" }"#, true),
        (r#"{ mode = "insecure_skip_verify" }"#, true),
        (r#"{ trust = "own", sni = "elsewhere.example" }"#, false),
        (r#""off""#, false),
    ] {
        let ca = directory.path().join("ca").display().to_string();
        let document = format!(
            "trust.own.ca.file = \"{ca}\"\nstore.valkey = {{ nodes = [\"127.0.0.1:{port}\"], timeout = \"10s\", tls = {tls} }}"
        );
        let store = Store::start(store_config_of(&document).unwrap(), &Handle::current());
        assert_eq!(store.check(&limit, &key("a")).await.is_ok(), right, "{tls}");
    }
}
