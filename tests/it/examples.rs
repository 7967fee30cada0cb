//! Every file under conf/ is a configuration that passes the check, with certificates made for the occasion.

use crate::{
    mmdb,
    support::{
        authority::Authority,
        dns::run,
        gateway::{Gateway, run_in},
        have,
    },
};
use std::path::Path;

#[tokio::test]
async fn all_of_conf_passes_the_check() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let folder = tempfile::tempdir().unwrap();
    copy(&source, folder.path());
    let certificates = folder.path().join("certs");
    std::fs::create_dir_all(&certificates).unwrap();
    let ca = Authority::new("ca");
    ca.leaf(&["localhost", "127.0.0.1", "shop.example.com", "*.example.com", "api.example.com"])
        .write(&certificates, "localhost");
    ca.leaf(&["spiffe://example/gateway"]).write(&certificates, "gateway");
    std::fs::write(certificates.join("ca.crt"), &ca.certificate_pem).unwrap();
    let signer = Authority::new("inspection");
    std::fs::write(certificates.join("inspection.crt"), &signer.certificate_pem).unwrap();
    std::fs::write(certificates.join("inspection.key"), &signer.key_pem).unwrap();
    std::fs::write(certificates.join("ca.crl"), ca.crl(&[])).unwrap();
    std::fs::write(certificates.join("xfr.key"), "bm90IGEgc2VjcmV0LCBmb3IgdGhlIGNoZWNrIG9ubHk=").unwrap();
    for (name, secret) in
        [("cookie", "00112233445566778899aabbccddeeff"), ("cookie-before", "ffeeddccbbaa99887766554433221100")]
    {
        std::fs::write(certificates.join(format!("{name}.key")), secret).unwrap();
    }
    std::fs::write(certificates.join("zone.key"), Authority::new("zone").key_pem).unwrap();
    std::fs::create_dir(folder.path().join("geo")).unwrap();
    let countries = mmdb::database(vec![("192.0.2.0/24", mmdb::country("DE"))]);
    std::fs::write(folder.path().join("geo/country.mmdb"), countries).unwrap();
    // A mesh's examples are used in their own folder, with the program's own authority.
    let mesh = folder.path().join("mesh");
    for words in [
        "ca init --trust-domain corp",
        "ca intermediate --namespace acme.lab",
        "ca issue --namespace acme.lab --service api",
        "ca issue --namespace acme.lab --service cart",
        "ca issue --namespace acme.lab --service web --into svid",
        "ca issue --namespace acme.lab --service gone",
        "ca revoke ca/workloads/acme.lab/gone.crt",
    ] {
        let (code, out) = run_in(&mesh, &words.split(' ').collect::<Vec<_>>()).await;
        assert_eq!(code, 0, "{words}\n{out}");
    }
    std::fs::copy(mesh.join("ca/namespaces/acme.lab.crl"), mesh.join("svid/revoked.crl")).unwrap();
    let mut checked = 0;
    for folder in [folder.path(), &mesh] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let (code, out) = run_in(folder, &["check", &name]).await;
                assert!(code == 0 && !out.contains("no identity yet"), "{name}\n{out}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 8, "{checked} examples");
    every_secret_can_come_from_a_command(folder.path()).await;
}

/// The same again, each secret printed by a program: whatever kind it is of, it is the same secret.
async fn every_secret_can_come_from_a_command(folder: &Path) {
    let mut printed = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let (text, secrets) = from_commands(&std::fs::read_to_string(&path).unwrap());
        if secrets > 0 {
            std::fs::write(&path, &text).unwrap();
            let (code, out) = run_in(folder, &["check", path.to_str().unwrap()]).await;
            assert_eq!(code, 0, "{text}\n{out}");
            printed += secrets;
        }
    }
    assert!(printed >= 20, "{printed} secrets");
}

/// `{ file = … }` becomes `{ command = … }` where it stands for a secret, and how often it did.
fn from_commands(text: &str) -> (String, usize) {
    let secret = ["key", "secret", "also", "password", "password_hash", "sha256", "value", "client_secret"];
    let secret = [&secret[..], &["secret_access_key", "session_token"]].concat();
    let mut parts = text.split("{ file = \"");
    let (mut out, mut count) = (parts.next().unwrap_or_default().to_owned(), 0);
    for part in parts {
        let name = out.trim_end_matches([' ', '=', '[']).rsplit([' ', '\n', '{', ',']).next().unwrap_or_default();
        if secret.contains(&name) {
            let (file, rest) = part.split_once('"').unwrap();
            out += &format!("{{ command = [\"/bin/cat\", \"{file}\"]{rest}");
            count += 1;
        } else {
            out += &format!("{{ file = \"{part}");
        }
    }
    (out, count)
}

/// The example as a reader would try it, on ports that are free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_of_dns_runs_and_answers() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let folder = tempfile::tempdir().unwrap();
    copy(&source, folder.path());
    for name in ["certs", "run"] {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    Authority::new("ca").leaf(&["localhost", "127.0.0.1"]).write(&folder.path().join("certs"), "localhost");
    std::fs::write(folder.path().join("certs/xfr.key"), "bm90IGEgc2VjcmV0LCBmb3IgdGhlIGNoZWNrIG9ubHk=").unwrap();
    let text = std::fs::read_to_string(folder.path().join("gslb.toml")).unwrap();
    let text = text.replace("\"127.0.0.1:5300\"", "\"127.0.0.1:0\"").replace("\"127.0.0.1:8853\"", "\"127.0.0.1:0\"");
    let gateway = Gateway::start_in(folder, &text).await;
    if !have("dig") {
        return;
    }
    let port = gateway.addr("dns").port().to_string();
    for (name, of_type, subnet, expected) in [
        ("www.example.net", "A", "10.1.0.0/24", "192.0.2.80"),
        // Nobody serves there: which one is answered depends on which check ended last.
        ("shop.gslb.example.com", "A", "10.2.0.0/24", "127.0.0."),
        ("shop.gslb.example.com", "A", "10.1.0.0/24", "127.0.0."),
        ("shop.gslb.example.com", "HTTPS", "10.2.0.0/24", "ipv4hint=127.0.0."),
        ("www.gslb.example.com", "A", "10.2.0.0/24", "shop.gslb.example.com."),
        ("media.gslb.example.com", "A", "10.1.0.0/24", "192.0.2.10"),
        ("media.gslb.example.com", "A", "10.2.0.0/24", "198.51.100.10"),
        ("cache.gslb.example.com", "A", "10.2.0.0/24", "192.0.2.2"),
        ("pay.gslb.example.com", "A", "10.2.0.0/24", ".30"),
        ("api.gslb.example.com", "A", "10.2.0.0/24", "127.0.0."),
    ] {
        let subnet = format!("+subnet={subnet}");
        let out = run("dig", &["@127.0.0.1", "-p", &port, "+short", &subnet, name, of_type]);
        assert!(out.contains(expected), "{name} {of_type} {subnet}: {out}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
