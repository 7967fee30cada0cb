//! Certificates by name, client identities, live swaps.

use crate::support::{
    authority::{Authority, Leaf},
    client::{Client, curl, h2, h2_get, tls, tls_config, tls_config_with},
    eventually,
    gateway::Gateway,
    have,
    origin::Origin,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

fn listener(extra: &str) -> String {
    format!("[listener.https]\naddress = \"127.0.0.1:0\"\nprotocol = \"https\"\n{extra}\n")
}

fn certificate(name: &str) -> String {
    format!("[certificate.{name}]\ncert = {{ file = \"{name}.crt\" }}\nkey = {{ file = \"{name}.key\" }}\n")
}

fn app(origin: &Origin) -> String {
    format!("[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n", origin.addr)
}

async fn served_names(gateway: &Gateway, ca: &str, sni: &str) -> String {
    let stream = tls(gateway.addr("https"), sni, tls_config(ca, &[])).await;
    match stream {
        Ok(_) => "verified".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn the_certificate_fits_the_name_and_h2_comes_by_alpn() {
    let (ca, origin, folder) = (Authority::new("ca"), Origin::echo().await, tempfile::tempdir().unwrap());
    ca.leaf(&["a.test"]).write(folder.path(), "a");
    ca.leaf(&["*.b.test"]).write(folder.path(), "b");
    let config = [certificate("a"), certificate("b"), listener("certificates = [\"a\", \"b\"]"), app(&origin)].concat();
    let gateway = Gateway::start_in(folder, &config).await;
    for (sni, verified) in
        [("a.test", true), ("x.b.test", true), ("b.test", false), ("x.y.b.test", false), ("other.test", false)]
    {
        let outcome = served_names(&gateway, &ca.certificate_pem, sni).await;
        assert_eq!(outcome == "verified", verified, "{sni}: {outcome}");
    }
    let stream =
        tls(gateway.addr("https"), "a.test", tls_config(&ca.certificate_pem, &["h2", "http/1.1"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(
        stream.get_ref().1.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())),
        Some("X25519MLKEM768".to_owned())
    );
    let (parts, body) = h2_get(&h2(stream).await, "https://a.test/h2").await.unwrap();
    assert_eq!(parts.status, 200);
    let body = String::from_utf8(body).unwrap().to_ascii_lowercase();
    assert!(
        body.starts_with("get /h2 http/1.1")
            && body.contains("host: a.test")
            && body.contains("x-forwarded-proto: https"),
        "{body}"
    );
    let wrong_alpn = tls(gateway.addr("https"), "a.test", tls_config(&ca.certificate_pem, &["spdy/3"])).await;
    assert!(wrong_alpn.unwrap_err().to_string().to_lowercase().contains("application"), "no_application_protocol");
}

#[tokio::test]
async fn old_versions_and_weak_suites_are_refused() {
    if !have("openssl") {
        return;
    }
    let (ca, origin, folder) = (Authority::new("ca"), Origin::fixed("ok").await, tempfile::tempdir().unwrap());
    ca.leaf(&["a.test"]).write(folder.path(), "a");
    let config = [certificate("a"), listener("tls = { min_version = \"1.3\" }"), app(&origin)].concat();
    let gateway = Gateway::start_in(folder, &config).await;
    let try_with = async |arguments: &[&str]| {
        let target = gateway.addr("https").to_string();
        let output = tokio::process::Command::new("openssl")
            .args(["s_client", "-connect", &target, "-servername", "a.test"])
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert!(try_with(&["-tls1_3"]).await.contains("TLSv1.3"));
    assert!(!try_with(&["-tls1_2"]).await.contains("Cipher is ECDHE"));
    assert!(gateway.metric("portcullis_tls_handshakes_failed_total", &["incompatible"]).await >= 1.0);
}

#[tokio::test]
async fn client_certificates_are_verified_named_routed_by_and_revoked() {
    let (ca, clients, origin, folder) =
        (Authority::new("ca"), Authority::new("clients"), Origin::echo().await, tempfile::tempdir().unwrap());
    ca.leaf(&["a.test"]).write(folder.path(), "a");
    let (good, other, revoked) = (
        clients.leaf(&["spiffe://corp/ns/pay/sa/x"]),
        clients.leaf(&["spiffe://other/y"]),
        clients.leaf(&["spiffe://corp/ns/pay/sa/bad"]),
    );
    let stranger = Authority::new("stranger").leaf(&["spiffe://corp/ns/pay/sa/x"]);
    std::fs::write(folder.path().join("clients.pem"), &clients.certificate_pem).unwrap();
    std::fs::write(folder.path().join("clients.crl"), clients.crl(&[revoked.serial])).unwrap();
    let config = |auth: &str| {
        [
            certificate("a"),
            "[trust.clients]\nca = { file = \"clients.pem\" }\ncrl = { file = \"clients.crl\" }\n".to_owned(),
            listener(&format!("tls = {{ client_auth = \"{auth}\", trust = \"clients\", san = [\"spiffe://corp/*\"] }}")),
            app(&origin),
            "[route.app.rule.pay]\npath = \"/pay\"\nmatch = { identity = [\"spiffe://corp/ns/pay/*\"] }\nrequest_headers = { set = { x-who = \"${identity}\" } }\n".to_owned(),
        ]
        .concat()
    };
    let mut gateway = Gateway::start_in(folder, &config("optional")).await;
    let get = async |gateway: &Gateway, leaf: Option<&crate::support::authority::Leaf>| {
        let config = match leaf {
            None => tls_config(&ca.certificate_pem, &[]),
            Some(leaf) => tls_config_with(&ca.certificate_pem, &leaf.certificate_pem, &leaf.key_pem, &[]),
        };
        let mut client = Client::tls(gateway.addr("https"), "a.test", config).await.ok()?;
        // In TLS 1.3 a refused certificate shows with the first read.
        let _ = client.try_send("GET /pay HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        client.try_response(false).await
    };
    assert!(
        get(&gateway, None).await.is_some_and(|response| response.status == 200 && !response.text().contains("x-who"))
    );
    let response = get(&gateway, Some(&good)).await.expect("a good certificate is served");
    assert!(response.text().contains("x-who: spiffe://corp/ns/pay/sa/x"), "{}", response.text());
    for (leaf, why) in [(&other, "wrong name"), (&revoked, "revoked"), (&stranger, "unknown authority")] {
        assert!(get(&gateway, Some(leaf)).await.is_none(), "{why}");
    }
    assert_eq!(gateway.reload(&config("required")).await.0, 200);
    assert!(get(&gateway, None).await.is_none());
    assert!(get(&gateway, Some(&good)).await.is_some());
    gateway.recorded("who it was", |record| record["identity"] == "spiffe://corp/ns/pay/sa/x").await;
}

#[tokio::test]
async fn a_certificate_is_swapped_under_a_stream_of_handshakes() {
    let (old, new, origin, folder) =
        (Authority::new("old"), Authority::new("new"), Origin::fixed("ok").await, tempfile::tempdir().unwrap());
    old.leaf(&["a.test"]).write(folder.path(), "a");
    let config = [certificate("a"), listener(""), app(&origin)].concat();
    let gateway = Arc::new(Gateway::start_in(folder, &config).await);
    let both = format!("{}{}", old.certificate_pem, new.certificate_pem);
    let stop = Arc::new(AtomicBool::new(false));
    let (done, addr) = (stop.clone(), gateway.addr("https"));
    let stream = tokio::spawn(async move {
        let (mut ok, mut failed) = (0, 0);
        while !done.load(SeqCst) {
            match tls(addr, "a.test", tls_config(&both, &[])).await {
                Ok(_) => ok += 1,
                Err(_) => failed += 1,
            }
        }
        (ok, failed)
    });
    new.leaf(&["a.test"]).write(gateway.path(), "a");
    crate::support::eventually("the new certificate is served", async || {
        (served_names(&gateway, &new.certificate_pem, "a.test").await == "verified").then_some(())
    })
    .await;
    stop.store(true, SeqCst);
    let (ok, failed) = stream.await.unwrap();
    assert!(ok > 5 && failed == 0, "{ok} good, {failed} failed");
}

#[tokio::test]
async fn sessions_resume_and_curl_is_content() {
    let (ca, origin, folder) = (Authority::new("ca"), Origin::fixed("secure").await, tempfile::tempdir().unwrap());
    ca.leaf(&["localhost", "127.0.0.1"]).write(folder.path(), "a");
    std::fs::write(folder.path().join("ca.pem"), &ca.certificate_pem).unwrap();
    let gateway = Gateway::start_in(folder, &[certificate("a"), listener(""), app(&origin)].concat()).await;
    let config = tls_config(&ca.certificate_pem, &[]);
    for expected in [false, true] {
        let mut client = Client::tls(gateway.addr("https"), "localhost", config.clone()).await.unwrap();
        assert_eq!(client.get("localhost", "/").await.status, 200);
        drop(client);
        let resumed = gateway.metric("portcullis_tls_handshakes_total", &["resumed=\"yes\""]).await > 0.0;
        assert_eq!(resumed, expected);
    }
    if have("curl") {
        let ca = gateway.path().join("ca.pem").display().to_string();
        let url = format!("https://localhost:{}/", gateway.addr("https").port());
        assert_eq!(curl(&["--cacert", &ca, "--http2", &url]).await, "secure");
        assert_eq!(curl(&["--cacert", &ca, "--http1.1", &url]).await, "secure");
    }
}

/// An OCSP response for `NAME.crt`, made by openssl: valid from now on for a minute.
pub(crate) async fn ocsp_response(ca: &Authority, leaf: &Leaf, folder: &std::path::Path, name: &str) -> Vec<u8> {
    std::fs::write(folder.join("ca.crt"), &ca.certificate_pem).unwrap();
    std::fs::write(folder.join("ca.key"), &ca.key_pem).unwrap();
    let index = format!("V\t491231235959Z\t\t{:016X}\tunknown\t/CN={name}\n", leaf.serial);
    std::fs::write(folder.join("index.txt"), index).unwrap();
    let certificate = format!("{name}.crt");
    let made = tokio::process::Command::new("openssl")
        .args(["ocsp", "-index", "index.txt", "-CA", "ca.crt", "-rsigner", "ca.crt", "-rkey", "ca.key", "-issuer"])
        .args(["ca.crt", "-cert", &certificate, "-nmin", "1", "-noverify", "-respout", "response.der"])
        .current_dir(folder)
        .output()
        .await
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::read(folder.join("response.der")).unwrap()
}

/// What openssl's client is stapled.
async fn stapled(gateway: &Gateway, name: &str) -> String {
    let address = gateway.addr("https").to_string();
    let output = tokio::process::Command::new("openssl")
        .args(["s_client", "-connect", &address, "-servername", name, "-status"])
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match (text.contains("Cert Status: good"), text.contains("OCSP response: no response sent")) {
        (true, false) => "good".to_owned(),
        (false, true) => "nothing".to_owned(),
        _ => panic!("{text}"),
    }
}

#[tokio::test]
async fn an_ocsp_response_is_stapled_until_it_is_due_and_renewed_from_its_file() {
    if !have("openssl") {
        return;
    }
    let (ca, origin, folder) = (Authority::new("ca"), Origin::fixed("ok").await, tempfile::tempdir().unwrap());
    let leaf = ca.leaf(&["a.test"]);
    leaf.write(folder.path(), "a");
    let fresh = ocsp_response(&ca, &leaf, folder.path(), "a").await;
    // The same with an earlier end: nobody but the client verifies the signature, and this one is only asked to show it.
    let mut times =
        fresh.windows(15).enumerate().filter(|(_, window)| window.ends_with(b"Z") && window.starts_with(b"20"));
    let (last, _) = times.next_back().expect("a nextUpdate");
    let soon = time::OffsetDateTime::now_utc() + time::Duration::seconds(3);
    let format = time::macros::format_description!("[year][month][day][hour][minute][second]Z");
    let mut dying = fresh.clone();
    dying[last..last + 15].copy_from_slice(soon.format(&format).unwrap().as_bytes());
    std::fs::write(folder.path().join("a.ocsp"), &dying).unwrap();
    let stapling = certificate("a") + "ocsp = { file = \"a.ocsp\" }\n";
    let config = [stapling, listener("certificates = [\"a\"]"), app(&origin)].concat();
    let gateway = Gateway::start_in(folder, &config).await;
    assert_eq!(stapled(&gateway, "a.test").await, "good");
    eventually("the stale response is left out", async || {
        (stapled(&gateway, "a.test").await == "nothing").then_some(())
    })
    .await;
    std::fs::write(gateway.path().join("a.ocsp"), &fresh).unwrap();
    eventually("the new file is stapled", async || (stapled(&gateway, "a.test").await == "good").then_some(())).await;
    let (code, text) = {
        std::fs::write(gateway.path().join("a.ocsp"), b"garbage").unwrap();
        gateway.command(&["check", "edge.toml"]).await
    };
    assert!(code == 1 && text.contains("the OCSP response cannot be stapled"), "{text}");
}
