//! `portcullis ca`, judged by openssl: what it makes is believed, what it should refuse is refused.

use crate::support::{gateway::run_in, have};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

async fn ca(folder: &Path, arguments: &str) -> (i32, String) {
    let arguments: Vec<_> = ["ca"].into_iter().chain(arguments.split(' ')).collect();
    run_in(folder, &arguments).await
}

async fn done(folder: &Path, arguments: &str) -> String {
    let (code, text) = ca(folder, arguments).await;
    assert_eq!(code, 0, "{arguments}: {text}");
    text
}

/// Exit code 2, and these words.
async fn refused(folder: &Path, arguments: &str, words: &str) {
    let (code, text) = ca(folder, arguments).await;
    assert!(code == 2 && text.contains(words), "{arguments}: {code} {text}");
}

async fn openssl(folder: &Path, arguments: &str) -> (bool, String) {
    let output = tokio::process::Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

const LEAF: &str = "ca/workloads/acme.lab/cart.crt";
const VERIFY: &str = "verify -x509_strict -CAfile ca/root.crt -untrusted ca/namespaces/acme.lab.crt";

async fn with_leaf() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    done(folder.path(), "init --trust-domain corp").await;
    done(folder.path(), "intermediate --namespace acme.lab").await;
    done(folder.path(), "issue --namespace acme.lab --service cart").await;
    folder
}

#[tokio::test]
async fn openssl_believes_a_workloads_certificate_and_finds_the_standards_rules_in_it() {
    if !have("openssl") {
        return;
    }
    let folder = with_leaf().await;
    let at = folder.path();
    for purpose in ["sslserver", "sslclient"] {
        let (good, text) = openssl(at, &format!("{VERIFY} -purpose {purpose} {LEAF}")).await;
        assert!(good, "{purpose}: {text}");
    }
    let (_, leaf) = openssl(at, &format!("x509 -noout -text -in {LEAF}")).await;
    for part in [
        "URI:spiffe://corp/ns/acme.lab/sa/cart",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "CA:FALSE",
        "NIST CURVE: P-256",
    ] {
        assert!(leaf.contains(part), "{part}\n{leaf}");
    }
    assert!(!leaf.contains("DNS:"), "{leaf}");
    let (_, intermediate) = openssl(at, "x509 -noout -text -in ca/namespaces/acme.lab.crt").await;
    for part in
        ["URI:spiffe://corp\n", "CA:TRUE, pathlen:0", "Name Constraints: critical", "Certificate Sign, CRL Sign"]
    {
        assert!(intermediate.contains(part), "{part}\n{intermediate}");
    }
    // A day: good in 23 hours and not in 25.
    assert!(openssl(at, &format!("x509 -noout -checkend 82800 -in {LEAF}")).await.0);
    assert!(!openssl(at, &format!("x509 -noout -checkend 90000 -in {LEAF}")).await.0);
    let shown = done(at, &format!("show {LEAF}")).await;
    assert!(shown.contains("spiffe://corp/ns/acme.lab/sa/cart") && shown.contains("believed under"), "{shown}");
    let all = done(at, "show").await;
    assert!(all.contains("trust domain corp") && all.contains("Portcullis authority of acme.lab"), "{all}");
}

#[tokio::test]
async fn keys_are_for_their_owner_and_are_not_overwritten_unless_told() {
    let folder = with_leaf().await;
    let at = folder.path();
    for (key, again) in [
        ("ca/root.key", "init --trust-domain corp"),
        ("ca/namespaces/acme.lab.key", "intermediate --namespace acme.lab"),
        ("ca/workloads/acme.lab/cart.key", "issue --namespace acme.lab --service cart"),
    ] {
        let key = at.join(key);
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let before = fs::read(&key).unwrap();
        refused(at, again, "is there already").await;
        assert_eq!(fs::read(&key).unwrap(), before);
        done(at, &format!("{again} --replace")).await;
        assert_ne!(fs::read(&key).unwrap(), before);
    }
    refused(at, "init --trust-domain other", "this authority is of corp").await;
    for (arguments, words) in [
        ("issue --namespace acme.lab --service pay --life 59m", "from 1h to 90d"),
        ("issue --namespace acme.lab --service pay --life 91d", "from 1h to 90d"),
        ("issue --namespace other --service pay", "is missing"),
        ("issue --namespace ../x --service pay", "`.` and `..` are not segments"),
        ("issue --namespace acme.lab --service a/b", "must be one segment"),
    ] {
        refused(at, arguments, words).await;
    }
}

#[tokio::test]
async fn a_root_that_follows_another_leaves_the_old_certificates_believed() {
    let folder = with_leaf().await;
    let at = folder.path();
    done(at, "init --trust-domain corp --replace").await;
    assert!(done(at, &format!("show {LEAF}")).await.contains("believed under"));
    done(at, "intermediate --namespace acme.lab --replace").await;
    done(at, "issue --namespace acme.lab --service pay --into pay").await;
    assert!(done(at, "show pay/pay.crt").await.contains("believed under"));
    assert_eq!(fs::read_to_string(at.join("pay/bundle.crt")).unwrap().matches("BEGIN").count(), 2);
}

#[tokio::test]
async fn what_was_revoked_is_refused_by_openssl_and_by_show() {
    if !have("openssl") {
        return;
    }
    let folder = with_leaf().await;
    let at = folder.path();
    done(at, "issue --namespace acme.lab --service pay").await;
    let before = fs::read(at.join(LEAF)).unwrap();
    done(at, &format!("revoke {LEAF}")).await;
    let check = format!("{VERIFY} -crl_check -CRLfile ca/namespaces/acme.lab.crl");
    let (good, text) = openssl(at, &format!("{check} {LEAF}")).await;
    assert!(!good && text.contains("certificate revoked"), "{text}");
    let (good, text) = openssl(at, &format!("{check} ca/workloads/acme.lab/pay.crt")).await;
    assert!(good, "{text}");
    let (code, text) = ca(at, &format!("show {LEAF}")).await;
    assert!(code == 1 && text.contains("not believed") && text.contains("Revoked"), "{text}");
    // The whole namespace.
    done(at, "revoke ca/namespaces/acme.lab.crt").await;
    let (code, text) = ca(at, "show ca/workloads/acme.lab/pay.crt").await;
    assert!(code == 1 && text.contains("Revoked"), "{text}");
    assert_eq!(fs::read(at.join(LEAF)).unwrap(), before);
}

#[tokio::test]
async fn an_external_root_signs_a_request_and_only_a_good_chain_is_adopted() {
    if !have("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(
        at.join("good.ext"),
        "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n",
    )
    .unwrap();
    fs::write(at.join("leaf.ext"), "basicConstraints=critical,CA:FALSE\n").unwrap();
    fs::write(at.join("alien.ext"), "basicConstraints=critical,CA:TRUE\nsubjectAltName=URI:spiffe://alien\n").unwrap();
    for root in ["corporate", "stranger"] {
        let make = format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -addext keyUsage=critical,keyCertSign,cRLSign -subj /CN={root} -keyout {root}.key -out {root}.crt"
        );
        assert!(openssl(at, &make).await.0);
    }
    done(at, "csr --trust-domain corp --namespace acme.lab").await;
    let (good, text) = openssl(at, "req -verify -noout -text -in ca/namespaces/acme.lab.csr").await;
    assert!(good && text.contains("URI:spiffe://corp"), "{text}");
    for (root, extension) in
        [("corporate", "good"), ("corporate", "leaf"), ("corporate", "alien"), ("stranger", "good")]
    {
        let sign = format!(
            "x509 -req -in ca/namespaces/acme.lab.csr -CA {root}.crt -CAkey {root}.key -CAcreateserial -days 20 -extfile {extension}.ext -out {root}-{extension}.crt"
        );
        let (good, text) = openssl(at, &sign).await;
        assert!(good, "{text}");
    }
    for (chain, words) in [
        ("corporate-leaf.crt", "it is no authority's certificate"),
        ("corporate-alien.crt", "names the trust domain alien"),
        ("stranger-good.crt", "not one that peers would believe"),
        ("stranger.crt", "for another key"),
        ("stranger.key", "no certificate"),
    ] {
        refused(at, &format!("adopt --namespace acme.lab --chain {chain} --root corporate.crt"), words).await;
        assert!(!at.join("ca/root.crt").exists(), "{chain}");
    }
    done(at, "adopt --namespace acme.lab --chain corporate-good.crt --root corporate.crt").await;
    done(at, "issue --namespace acme.lab --service cart").await;
    let (good, text) = openssl(at, &format!("{VERIFY} -purpose sslclient {LEAF}")).await;
    assert!(good, "{text}");
    refused(at, "intermediate --namespace other", "root.key is missing").await;
}

#[tokio::test]
async fn the_endpoint_gives_curl_a_certificate_for_its_token_and_renews_it_for_its_certificate() {
    if !have("openssl") || !have("curl") {
        return;
    }
    let folder = with_leaf().await;
    let at = folder.path();
    let mut endpoint = tokio::process::Command::new(crate::support::gateway::binary())
        .args(["ca", "serve", "--namespace", "acme.lab", "--address", "127.0.0.1:0", "--life", "2h"])
        .current_dir(at)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    use tokio::io::AsyncBufReadExt;
    let mut lines = tokio::io::BufReader::new(endpoint.stdout.take().unwrap()).lines();
    let said = lines.next_line().await.unwrap().unwrap();
    let url = format!("https://{}/v1", said.rsplit(' ').next().unwrap());
    let token = done(at, "token --namespace acme.lab --service shop").await;
    let token = token.lines().find(|line| line.starts_with("pct_")).unwrap().to_owned();
    refused(at, "token --namespace other --service shop", "is missing").await;
    refused(at, "token --namespace acme.lab --service shop --life 31d", "from 1s to 30d").await;
    let request = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout shop.key -out shop.csr -subj / \
                   -addext subjectAltName=URI:spiffe://corp/ns/acme.lab/sa/";
    assert!(openssl(at, &format!("{request}shop")).await.0);
    let curl = async |arguments: &[&str]| {
        let output = tokio::process::Command::new("curl")
            // An SVID names no host: curl checks the chain, a sidecar the id.
            .args(["-sk", "-w", "\n%{http_code}", "--data-binary", "@shop.csr"])
            .args(arguments)
            .arg(format!("{url}/identity"))
            .current_dir(at)
            .output()
            .await
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let bearer = format!("authorization: Bearer {token}");
    assert!(curl(&[]).await.ends_with("\n401"));
    let answer = curl(&["-H", &bearer]).await;
    let (json, status) = answer.rsplit_once('\n').unwrap();
    assert_eq!(status, "200", "{answer}");
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    fs::write(at.join("shop.crt"), json["chain"].as_str().unwrap()).unwrap();
    fs::write(at.join("roots.crt"), json["roots"].as_str().unwrap()).unwrap();
    assert!(openssl(at, &format!("{VERIFY} shop.crt")).await.0);
    assert!(!openssl(at, "x509 -noout -checkend 7300 -in shop.crt").await.0, "two hours, as it was told");
    assert!(curl(&["-H", &bearer]).await.ends_with("\n401"), "once");
    let with_certificate = ["--cert", "shop.crt", "--key", "shop.key"];
    assert!(curl(&with_certificate).await.ends_with("\n200"));
    // The certificate in use speaks for its own name alone.
    assert!(openssl(at, &format!("{request}pay")).await.0);
    let other = curl(&["--cert", LEAF, "--key", "ca/workloads/acme.lab/cart.key"]).await;
    assert!(
        other.ends_with("\n403") && other.contains("the caller may have spiffe://corp/ns/acme.lab/sa/cart"),
        "{other}"
    );
}
