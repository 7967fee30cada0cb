//! Applications without secrets: they speak http to the gateway, which speaks https to the destination with its credential.

use crate::support::{
    authority::Authority,
    client::{Client, tls, tls_config},
    eventually,
    gateway::{Gateway, run_in},
    origin::{Origin, ok},
    outside::Outside,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CANARY: &str = "canary-7f3a9c51e2";

/// A gateway with one destination that is reached by TLS of the gateway's own, with the credential `key`.
async fn start(outside: &Outside, credential: &str, more: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let config = config(outside, &folder, credential, more);
    Gateway::start_in(folder, &config).await
}

fn config(outside: &Outside, folder: &TempDir, credential: &str, more: &str) -> String {
    std::fs::write(folder.path().join("canary"), format!("{CANARY}\n")).unwrap();
    outside.ca.leaf(&["spiffe://corp/gateway"]).write(folder.path(), "gateway");
    let (secure, clear) = (outside.tls.port(), outside.clear.addr.port());
    format!(
        "{}[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\n\
         [destination.api]\nhosts = [\"allowed.test\"]\nports = [{secure}]\ntls = \"originate\"\ntrust = \"outside\"\n\
         credential = \"key\"\nprivate_addresses = [\"127.0.0.0/8\"]\n\
         [destination.other]\nhosts = [\"other.test\"]\nports = [{clear}, 80]\nprotocol = \"http\"\n\
         private_addresses = [\"127.0.0.0/8\"]\n\
         [access.all]\nfrom = [\"127.0.0.0/8\"]\nto = [\"destination:api\", \"destination:other\"]\naction = \"allow\"\n\
         [credential.key]\n{credential}\n{more}",
        outside.config(folder.path())
    )
}

async fn get(gateway: &Gateway, url: &str, fields: &str) -> crate::support::client::Response {
    let host = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let mut client = Client::connect(gateway.addr("out")).await;
    client.send(format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
    client.response().await
}

#[tokio::test]
async fn the_destination_gets_our_key_in_place_of_what_the_application_sent() {
    let outside = Outside::start(&["allowed.test", "other.test"]).await;
    let header = "header = { name = \"authorization\", prefix = \"Bearer \", value = { file = \"canary\" } }\n\
                  methods = [\"GET\"]\npaths = [\"/v1\"]\nstrip = [\"x-own\"]";
    let gateway = start(&outside, header, "").await;
    let answer = get(&gateway, "http://allowed.test/v1/charges", "Authorization: Bearer mine\r\nX-Own: 1\r\n").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "secretly GET /v1/charges HTTP/1.1"));
    let seen = outside.requests().pop().unwrap();
    assert_eq!(seen.all("authorization"), [format!("Bearer {CANARY}")]);
    assert_eq!((seen.header("x-own"), seen.header("host")), (None, Some("allowed.test")));
    // Out of its scope nothing is added, nor taken.
    let answer = get(&gateway, "http://allowed.test/v2", "Authorization: Bearer mine\r\n").await;
    assert_eq!(answer.status, 200);
    assert_eq!(outside.requests().pop().unwrap().all("authorization"), ["Bearer mine"]);
    // Nor to where a redirect leads: that is another flow.
    let away = get(&gateway, "http://allowed.test/away", "").await;
    assert_eq!((away.status, away.header("location")), (302, Some("http://other.test/there")));
    let other = format!("http://other.test:{}/there", outside.clear.addr.port());
    assert_eq!(get(&gateway, &other, "").await.status, 200);
    assert_eq!(outside.clear.last().header("authorization"), None);
    // TLS inside would hide the requests: the application speaks http.
    let mut client = Client::connect(gateway.addr("out")).await;
    client.send(format!("CONNECT allowed.test:{} HTTP/1.1\r\n\r\n", outside.tls.port())).await;
    assert_eq!(client.try_response(true).await.unwrap().status, 200);
    let inside = client.get("allowed.test", "/v1/inside").await;
    assert_eq!(inside.text(), "secretly GET /v1/inside HTTP/1.1");
    assert_eq!(outside.requests().pop().unwrap().all("authorization"), [format!("Bearer {CANARY}")]);
}

#[tokio::test]
async fn a_secret_is_seen_by_the_destination_and_by_nobody_else() {
    let outside = Outside::start(&["allowed.test", "other.test"]).await;
    let header = "header = { name = \"x-key\", value = { file = \"canary\" } }";
    let mut gateway = start(&outside, header, "[telemetry]\naccess_log = { format = \"json\" }\n").await;
    assert_eq!(get(&gateway, "http://allowed.test/a", "X-Key: mine\r\n").await.status, 200);
    assert_eq!(outside.requests().pop().unwrap().all("x-key"), [CANARY]);
    let mut told = Vec::new();
    told.push(get(&gateway, "http://nowhere.test/", "").await.head);
    for path in ["/status", "/config", "/listeners", "/egress/learned"] {
        told.push(gateway.admin("GET", path, "").await.1.to_string());
    }
    told.push(gateway.metrics().await);
    for arguments in [
        &["check", "edge.toml"][..],
        &["show", "--effective", "edge.toml"],
        &["egress", "explain", "https://allowed.test/a", "--config", "edge.toml"],
        &["egress", "explain", "https://allowed.test/a", "--admin", "admin.sock", "--format", "json"],
    ] {
        let (code, out) = gateway.command(arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {out}");
        told.push(out);
    }
    // A secret that cannot be a field is refused without being shown, and the old one goes on.
    std::fs::write(gateway.path().join("canary"), format!("{CANARY}\nsecond line")).unwrap();
    let (status, report) = gateway.admin("POST", "/reload", "").await;
    assert_eq!(status, 422, "{report}");
    told.push(report.to_string());
    // A destination that is gone.
    outside.point("allowed.test", &["127.0.0.9"]);
    told.push(get(&gateway, "http://allowed.test/b", "").await.text());
    std::fs::write(gateway.path().join("canary"), "rotated-key\n").unwrap();
    outside.point("allowed.test", &["127.0.0.1"]);
    assert_eq!(gateway.admin("POST", "/reload", "").await.0, 200);
    assert_eq!(get(&gateway, "http://allowed.test/c", "").await.status, 200);
    assert_eq!(outside.requests().pop().unwrap().all("x-key"), ["rotated-key"]);
    gateway.refresh_listeners().await;
    told.push(gateway.log());
    for text in told {
        assert!(!text.contains(CANARY) && !text.contains("rotated-key"), "{text}");
    }
}

#[tokio::test]
async fn a_secret_can_be_in_the_environment() {
    let outside = Outside::start(&["allowed.test"]).await;
    let folder = tempfile::tempdir().unwrap();
    let value = "header = { name = \"x-key\", value = { env = \"PARTNER_KEY\" } }";
    let config = config(&outside, &folder, value, "");
    let mut gateway = Gateway::start_with(folder, &config, &[("PARTNER_KEY", CANARY)]).await;
    assert_eq!(get(&gateway, "http://allowed.test/", "").await.status, 200);
    assert_eq!(outside.requests().pop().unwrap().all("x-key"), [CANARY]);
    let (status, report) = gateway.reload(&config.replace("PARTNER_KEY", "PARTNER_KEY_OLD")).await;
    assert_eq!(status, 422);
    let text = report["text"].as_str().unwrap();
    assert!(text.contains("environment variable PARTNER_KEY_OLD is not set") && text.contains('^'), "{text}");
    assert_eq!(get(&gateway, "http://allowed.test/", "").await.status, 200);
    assert_eq!(outside.requests().pop().unwrap().all("x-key"), [CANARY]);
    let told = [gateway.log(), gateway.admin("GET", "/config", "").await.1.to_string(), text.to_owned()];
    assert!(told.iter().all(|text| !text.contains(CANARY)), "{told:?}");
}

#[tokio::test]
async fn what_a_command_prints_is_the_secret_until_a_reload_asks_again() {
    let outside = Outside::start(&["allowed.test"]).await;
    // In the folder of the configuration, wherever this process is; the variable is the gateway's own.
    let script = "test \"$VAULT\" = open && test -z \"$NOTIFY_SOCKET\" && . ./answer\n";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("print-key"), script).unwrap();
    let value = "header = { name = \"x-key\", value = { command = [\"/bin/sh\", \"print-key\"] } }";
    let config = config(&outside, &folder, value, "");
    std::fs::write(folder.path().join("answer"), format!("echo first-{CANARY}\n")).unwrap();
    let env = [("VAULT", "open"), ("NOTIFY_SOCKET", "/nonexistent"), ("PORTCULLIS_LOG", "trace")];
    let gateway = Gateway::start_with(folder, &config, &env).await;
    let sent = async || {
        assert_eq!(get(&gateway, "http://allowed.test/", "").await.status, 200);
        outside.requests().pop().unwrap().all("x-key").join(",")
    };
    assert_eq!(sent().await, format!("first-{CANARY}"));
    let mut told = Vec::new();
    for (answer, why) in [
        (format!("echo x-{CANARY}; echo {CANARY} >&2; exit 3"), "ended with exit status: 3"),
        (format!("echo {CANARY}; echo {CANARY} >&2; exec sleep 600"), "did not end within 5s"),
        (format!("exec yes {CANARY}"), "printed more than 64 KiB"),
        ("echo".to_owned(), "printed nothing"),
        (format!("echo {CANARY}; echo {CANARY}"), "is no field value"),
    ] {
        std::fs::write(gateway.path().join("answer"), answer).unwrap();
        let asked = gateway.admin("POST", "/reload", "");
        // While it is waited for, requests are served, and with the key that was.
        let (sent, (status, report)) = tokio::join!(sent(), asked);
        assert_eq!((status, sent), (422, format!("first-{CANARY}")), "{report}");
        let text = report["text"].as_str().unwrap();
        assert!(text.contains(why) && text.contains("value = { command") && text.contains('^'), "{text}");
        let (code, checked) = gateway.command(&["check", "edge.toml"]).await;
        assert!(code == 1 && !checked.contains("VAULT"), "{checked}");
        told.extend([report.to_string(), checked]);
    }
    assert_eq!(sent().await, format!("first-{CANARY}"));
    std::fs::write(gateway.path().join("answer"), format!("echo second-{CANARY}\n")).unwrap();
    // It is not watched: what it says by now counts from the next reload on.
    assert_eq!(sent().await, format!("first-{CANARY}"));
    assert_eq!(gateway.admin("POST", "/reload", "").await.0, 200);
    assert_eq!(sent().await, format!("second-{CANARY}"));
    told.push(gateway.admin("GET", "/config", "").await.1.to_string());
    told.push(gateway.admin("GET", "/status", "").await.1.to_string());
    told.push(gateway.command(&["show", "--effective", "edge.toml"]).await.1);
    told.push(gateway.metrics().await);
    told.push(gateway.log());
    for text in told {
        assert!(!text.contains(CANARY), "{text}");
    }
}

#[tokio::test]
async fn only_the_authority_of_the_destination_is_believed() {
    let outside = Outside::start(&["other.test"]).await;
    outside.point("allowed.test", &["127.0.0.1"]);
    let header = "header = { name = \"x-key\", value = { file = \"canary\" } }";
    let gateway = start(&outside, header, "").await;
    let answer = get(&gateway, "http://allowed.test/", "").await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("\"reason\":\"upstream_tls\""), "{}", answer.text());
    assert!(answer.header("proxy-status").unwrap().contains("error=tls_certificate_error"), "{answer:?}");
    assert!(outside.requests().is_empty());
}

#[tokio::test]
async fn without_trust_the_system_s_authorities_are_believed_and_no_others() {
    let outside = Outside::start(&["allowed.test"]).await;
    let other = Authority::new("other");
    for (roots, status) in [(&outside.ca, 200), (&other, 502)] {
        let folder = tempfile::tempdir().unwrap();
        let header = "header = { name = \"x-key\", value = { file = \"canary\" } }";
        let config = config(&outside, &folder, header, "").replace("trust = \"outside\"\n", "");
        let system = folder.path().join("system.crt");
        std::fs::write(&system, &roots.certificate_pem).unwrap();
        let env = [("SSL_CERT_FILE", system.to_str().unwrap()), ("SSL_CERT_DIR", "/nonexistent")];
        let gateway = Gateway::start_with(folder, &config, &env).await;
        let answer = get(&gateway, "http://allowed.test/", "").await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.text().contains("\"reason\":\"upstream_tls\""), status == 502);
    }
    assert_eq!(outside.requests().len(), 1, "nothing was asked of whom nobody knows");
}

#[tokio::test]
async fn a_destination_that_says_nothing_is_given_up() {
    let outside = Outside::start(&["allowed.test"]).await;
    let silent = Origin::raw(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "{}[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\n\
         [destination.silent]\nhosts = [\"allowed.test\"]\nports = [{}]\nprotocol = \"http\"\ntimeout = \"200ms\"\n\
         connect_timeout = \"2s\"\nprivate_addresses = [\"127.0.0.0/8\"]\n\
         [access.all]\nfrom = [\"*\"]\nto = [\"destination:silent\"]\naction = \"allow\"\n",
        outside.config(folder.path()),
        silent.addr.port()
    );
    let gateway = Gateway::start_in(folder, &config).await;
    let answer = get(&gateway, &format!("http://allowed.test:{}/", silent.addr.port()), "").await;
    assert_eq!(answer.status, 504);
    assert!(answer.header("proxy-status").unwrap().contains("error=http_response_timeout"), "{answer:?}");
    gateway.write(&config.replace("timeout = \"200ms\"", "timeout = \"0s\"").replace("\"2s\"", "\"0s\""));
    let (code, out) = gateway.command(&["check", "edge.toml"]).await;
    assert!(code == 1 && out.matches("no time at all").count() == 2, "{out}");
}

#[tokio::test]
async fn a_destination_that_takes_no_connection_is_given_up_in_its_own_time() {
    let outside = Outside::start(&["allowed.test"]).await;
    // A queue of one, filled: the kernel drops what else knocks.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let knock = || std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(300));
    let mut held = Vec::new();
    while let Ok(stream) = knock() {
        held.push(stream);
    }
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "{}[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\n\
         [destination.full]\nhosts = [\"allowed.test\"]\nports = [{}]\nprotocol = \"opaque\"\nconnect_timeout = \"200ms\"\n\
         private_addresses = [\"127.0.0.0/8\"]\n\
         [access.all]\nfrom = [\"*\"]\nto = [\"destination:full\"]\naction = \"allow\"\n",
        outside.config(folder.path()),
        address.port()
    );
    let gateway = Gateway::start_in(folder, &config).await;
    let began = std::time::Instant::now();
    let mut client = Client::connect(gateway.addr("out")).await;
    client.send(format!("CONNECT allowed.test:{} HTTP/1.1\r\n\r\n", address.port())).await;
    let refused = client.response().await;
    assert_eq!(refused.status, 504);
    assert!(refused.text().contains("\"reason\":\"connect_timeout\""), "{}", refused.text());
    assert!(
        began.elapsed() < std::time::Duration::from_millis(2_500),
        "{:?}: the default is three seconds",
        began.elapsed()
    );
}

#[tokio::test]
async fn what_is_inspected_is_decided_request_by_request() {
    let outside = Outside::start(&["allowed.test", "other.test"]).await;
    let (folder, signer) = (tempfile::tempdir().unwrap(), Authority::new("inspection"));
    std::fs::write(folder.path().join("signer.crt"), &signer.certificate_pem).unwrap();
    std::fs::write(folder.path().join("signer.key"), &signer.key_pem).unwrap();
    let header = "header = { name = \"authorization\", prefix = \"Bearer \", value = { file = \"canary\" } }";
    let rules = format!(
        "[listener.sni]\naddress = \"127.0.0.1:0\"\nprotocol = \"sni\"\ntarget_port = {}\n\
         [access.keep]\nfrom = [\"*\"]\nto = [\"destination:api\"]\naction = \"deny\"\nmatch = {{ path = \"/private\" }}\n",
        outside.tls.port()
    );
    let signs = "[egress]\ninspect = { certificate = { file = \"signer.crt\" }, key = { file = \"signer.key\" } }\n";
    let config = config(&outside, &folder, header, &rules).replace("\"originate\"", "\"inspect\"");
    let config = config.replace("[egress]\n", signs);
    let gateway = Gateway::start_in(folder, &config).await;
    let trusting = |ca: &str| tls_config(ca, &["http/1.1"]);
    let tunnel = async || {
        let mut stream = tokio::net::TcpStream::connect(gateway.addr("out")).await.unwrap();
        stream
            .write_all(format!("CONNECT allowed.test:{} HTTP/1.1\r\n\r\n", outside.tls.port()).as_bytes())
            .await
            .unwrap();
        let mut answer = [0; 39];
        stream.read_exact(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
        stream
    };
    let open = async |name: &str, ca: &str| {
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        tokio_rustls::TlsConnector::from(trusting(ca)).connect(name, tunnel().await).await
    };
    let inside = open("allowed.test", &signer.certificate_pem).await.unwrap();
    let by_sni = tls(gateway.addr("sni"), "allowed.test", trusting(&signer.certificate_pem)).await.unwrap();
    for (mut client, path) in [(Client::over(inside), "/v1/connect"), (Client::over(by_sni), "/v1/sni")] {
        let answer = client.get("allowed.test", path).await;
        assert_eq!(answer.text(), format!("secretly GET {path} HTTP/1.1"));
        assert_eq!(outside.requests().pop().unwrap().all("authorization"), [format!("Bearer {CANARY}")]);
        let refused = client.get("allowed.test", "/private/x").await;
        assert!(refused.status == 403 && refused.text().contains("denied_by_rule"), "{refused:?}");
        // Domain fronting ends here.
        let fronted = client.get("other.test", path).await;
        assert!(fronted.status == 403 && fronted.text().contains("host_mismatch"), "{fronted:?}");
    }
    let error = open("other.test", &signer.certificate_pem).await.unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    assert!(open("allowed.test", &outside.ca.certificate_pem).await.is_err(), "our own authority signs, no other");
    let seen = eventually("the inside of the tunnel is in the log", async || {
        gateway.records().into_iter().find(|record| record["path"] == "/v1/connect")
    })
    .await;
    assert_eq!((&seen["rule"], &seen["destination"]), (&"all".into(), &"api".into()));
    for (change, message) in [
        (("signer.key", "gateway.key"), "the key is not the certificate's"),
        (("signer.crt", "gateway.crt"), "is not that of an authority"),
        (("inspect = {", "#"), "nothing says who signs"),
    ] {
        gateway.write(&config.replace(change.0, change.1));
        let (code, out) = gateway.command(&["check", "edge.toml"]).await;
        assert!(code == 1 && out.contains(message), "{change:?}: {out}");
    }
}

#[tokio::test]
async fn tokens_are_fetched_once_and_kept() {
    let outside = Outside::start(&["allowed.test", "other.test"]).await;
    let tokens =
        Origin::start(|_| ok("{\"access_token\":\"token-1\",\"token_type\":\"Bearer\",\"expires_in\":3600}")).await;
    let oauth2 = format!(
        "oauth2 = {{ token_url = \"http://{}/token\", client_id = \"app\", client_secret = {{ file = \"canary\" }}, \
         scopes = [\"read\"], private_addresses = [\"127.0.0.0/8\"] }}",
        tokens.addr
    );
    let gateway = start(&outside, &oauth2, "").await;
    for number in 0..3 {
        assert_eq!(get(&gateway, &format!("http://allowed.test/{number}"), "").await.status, 200);
        assert_eq!(outside.requests().pop().unwrap().all("authorization"), ["Bearer token-1"]);
    }
    assert_eq!(tokens.requests().len(), 1);
    assert!(String::from_utf8_lossy(&tokens.last().body).contains("grant_type=client_credentials"));
    drop(tokens);
    // What cannot be had is refused, not left out.
    let unreachable = oauth2.replace("app", "another");
    let gateway = start(&outside, &unreachable, "").await;
    let answer = get(&gateway, "http://allowed.test/", "").await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("\"reason\":\"credential\""), "{}", answer.text());
}

#[tokio::test]
async fn passwords_signatures_and_certificates_are_credentials_too() {
    let outside = Outside::start(&["allowed.test", "other.test"]).await;
    let basic = "basic = { user = \"app\", password = { file = \"canary\" } }";
    let gateway = start(&outside, basic, "").await;
    assert_eq!(get(&gateway, "http://allowed.test/", "").await.status, 200);
    // base64 of `app:canary-7f3a9c51e2`.
    assert_eq!(outside.requests().pop().unwrap().all("authorization"), ["Basic YXBwOmNhbmFyeS03ZjNhOWM1MWUy"]);
    let aws = "aws_sigv4 = { access_key_id = \"AKID\", secret_access_key = { file = \"canary\" }, region = \"eu-west-1\", service = \"s3\" }";
    let gateway = start(&outside, aws, "").await;
    assert_eq!(get(&gateway, "http://allowed.test/bucket/key", "").await.status, 200);
    let seen = outside.requests().pop().unwrap();
    let authorization = seen.header("authorization").unwrap();
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKID/"), "{authorization}");
    let certificate = "client_certificate = \"gateway\"";
    let table = "[certificate.gateway]\ncert = { file = \"gateway.crt\" }\nkey = { file = \"gateway.key\" }\n";
    let gateway = start(&outside, certificate, table).await;
    assert_eq!(get(&gateway, "http://allowed.test/x", "").await.text(), "certified GET /x HTTP/1.1");
}

/// Another implementation, from the text of the specification: whether a signature is right, and for which body.
const VERIFIES: &str = r#"
import hashlib, hmac, json, sys
seen = json.load(sys.stdin)
fields = {name.lower(): value for name, value in seen["fields"]}
scheme, rest = fields["authorization"].split(" ", 1)
parts = dict(part.split("=", 1) for part in rest.split(", "))
key_id, day, region, service, end = parts["Credential"].split("/")
body = bytes.fromhex(seen["body"])
payload = fields.get("x-amz-content-sha256", hashlib.sha256(body).hexdigest())
path, _, query = seen["target"].partition("?")
names = parts["SignedHeaders"].split(";")
canonical = chr(10).join([seen["method"], path, query, *(f"{name}:{fields[name]}" for name in names), "", parts["SignedHeaders"], payload])
scope = "/".join([day, region, service, end])
text = chr(10).join([scheme, fields["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()])
key = ("AWS4" + sys.argv[1]).encode()
for part in (day, region, service, end):
    key = hmac.new(key, part.encode(), hashlib.sha256).digest()
right = hmac.new(key, text.encode(), hashlib.sha256).hexdigest() == parts["Signature"]
hashed = "unsigned" if payload == "UNSIGNED-PAYLOAD" else "hashed" if payload == hashlib.sha256(body).hexdigest() else "other"
print("right" if right else "wrong", hashed)
"#;

/// Amazon's own implementation, where it is installed: the signature that it would have made.
const BOTOCORE: &str = r#"
import json, sys
try:
    from botocore.auth import S3SigV4Auth, SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
except ImportError:
    sys.exit("absent")
seen = json.load(sys.stdin)
fields = {name.lower(): value for name, value in seen["fields"]}
parts = dict(part.split("=", 1) for part in fields["authorization"].split(" ", 1)[1].split(", "))
key_id, day, region, service, end = parts["Credential"].split("/")
signed = {name: fields[name] for name in parts["SignedHeaders"].split(";")}
request = AWSRequest(seen["method"], "https://" + fields["host"] + seen["target"], signed, bytes.fromhex(seen["body"]))
request.context["timestamp"] = fields["x-amz-date"]
kind = S3SigV4Auth if service == "s3" else SigV4Auth
auth = kind(Credentials(key_id, sys.argv[1]), service, region)
text = auth.string_to_sign(request, auth.canonical_request(request))
print("right" if auth.signature(text, request) == parts["Signature"] else "wrong: " + auth.canonical_request(request))
"#;

/// What both implementations say of a request's signature.
async fn verified(seen: &crate::support::origin::Seen) -> String {
    let fields: Vec<(&str, &str)> = seen.head.lines().skip(1).filter_map(|line| line.split_once(": ")).collect();
    let mut words = seen.line().split(' ');
    let body: String = seen.body.iter().map(|octet| format!("{octet:02x}")).collect();
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let told = serde_json::json!({ "fields": fields, "method": method, "target": target, "body": body });
    let amazon = judged(BOTOCORE, &told).await;
    if amazon == "absent" {
        eprintln!("NOT CHECKED: python's `botocore` is not installed");
    } else {
        assert_eq!(amazon, "right", "{}", seen.head);
    }
    judged(VERIFIES, &told).await
}

/// What a script says of a request.
async fn judged(script: &str, told: &serde_json::Value) -> String {
    let mut python = tokio::process::Command::new("python3")
        .args(["-c", script, CANARY])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // One that ends at once does not read it.
    let _ = python.stdin.take().unwrap().write_all(told.to_string().as_bytes()).await;
    let output = python.wait_with_output().await.unwrap();
    let words = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&words).trim().to_owned()
}

#[tokio::test]
async fn bodies_are_a_part_of_what_is_signed_as_far_as_they_can_be_held() {
    if !crate::support::have("python3") {
        return;
    }
    let outside = Outside::start(&["allowed.test", "other.test"]).await;
    let small = "x".repeat(60_000);
    let large = "y".repeat(70_000);
    let aws = |service: &str, more: &str| {
        format!(
            "aws_sigv4 = {{ access_key_id = \"AKID\", secret_access_key = {{ file = \"canary\" }}, region = \"eu-west-1\", \
             service = \"{service}\"{more} }}"
        )
    };
    for (service, more, large_is) in [
        ("s3", "", Some("right unsigned")),
        ("s3", ", unsigned_payload = false", None),
        ("execute-api", "", None),
        ("execute-api", ", unsigned_payload = true", Some("right unsigned")),
    ] {
        let gateway = start(&outside, &aws(service, more), "").await;
        let head = "POST http://allowed.test/bucket/key?a=1 HTTP/1.1\r\nHost: allowed.test\r\nX-Amz-Date: mine\r\n";
        for (body, expects) in [("", ""), ("hello", ""), ("hello", "Expect: 100-continue\r\n"), (&small, "")] {
            let mut client = Client::connect(gateway.addr("out")).await;
            client.send(format!("{head}{expects}Content-Length: {}\r\n\r\n", body.len())).await;
            if !expects.is_empty() {
                assert_eq!(client.try_response(true).await.unwrap().status, 100);
            }
            client.send(body).await;
            assert_eq!(client.response().await.status, 200, "{service}{more} {}", body.len());
            let seen = outside.requests().pop().unwrap();
            assert_eq!(seen.body, body.as_bytes());
            assert_eq!(verified(&seen).await, "right hashed", "{service}{more} {}: {}", body.len(), seen.head);
        }
        for framing in [
            format!("Content-Length: {}\r\n\r\n{large}", large.len()),
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(),
        ] {
            let mut client = Client::connect(gateway.addr("out")).await;
            // Who is refused by the head may find the door closed while the body is on its way.
            let _ = client.try_send(format!("{head}{framing}")).await;
            let answer = client.response().await;
            match large_is {
                Some(expected) => {
                    assert_eq!(answer.status, 200, "{service}{more}");
                    assert_eq!(verified(&outside.requests().pop().unwrap()).await, expected, "{service}{more}");
                }
                None => {
                    assert_eq!(answer.status, 413, "{service}{more}");
                    assert!(answer.text().contains("\"reason\":\"unsigned_payload\""), "{}", answer.text());
                }
            }
        }
    }
}

#[tokio::test]
async fn explain_says_what_would_happen_and_why() {
    let outside = Outside::start(&["allowed.test"]).await;
    let header = "header = { name = \"x-key\", value = { file = \"canary\" } }";
    let rules = "[access.pay]\nfrom = [\"spiffe://corp/ns/pay/*\"]\nto = [\"destination:api\"]\naction = \"allow\"\n\
                 until = \"2100-01-01T00:00:00Z\"\nreason = \"PAY-1312\"\n\
                 [access.never]\nfrom = [\"user:intern\"]\nto = [\"*\"]\naction = \"deny\"\n";
    let gateway = start(&outside, header, rules).await;
    for (arguments, expected) in [
        (
            &["https://allowed.test:PORT/a", "--from", "spiffe://corp/ns/pay/sa/a", "--from", "10.0.0.1"][..],
            "allowed [access.pay] (PAY-1312)",
        ),
        (&["http://allowed.test/a", "--from", "127.0.0.1"], "credential key is added"),
        (&["https://allowed.test:PORT/a", "--from", "10.0.0.1"], "denied: no access rule lets this caller"),
        (&["https://allowed.test:PORT/a", "--from", "user:intern"], "denied: an access rule denies it [access.never]"),
        (&["https://nowhere.test/"], "denied: no destination has this host"),
    ] {
        let arguments: Vec<String> =
            arguments.iter().map(|text| text.replace("PORT", &outside.tls.port().to_string())).collect();
        for place in [["--admin", "admin.sock"], ["--config", "edge.toml"]] {
            let all: Vec<&str> =
                ["egress", "explain"].into_iter().chain(arguments.iter().map(String::as_str)).chain(place).collect();
            let (code, out) = gateway.command(&all).await;
            assert!(code == 0 && out.contains(expected), "{all:?}: {out}");
        }
    }
    let (code, out) = run_in(gateway.path(), &["egress", "explain", "ftp://x/", "--config", "edge.toml"]).await;
    assert!(code == 2 && out.contains("is not an http or https URL"), "{out}");
}

#[tokio::test]
async fn doctor_tells_open_ways_from_closed_ones() {
    let outside = Outside::start(&["allowed.test"]).await;
    let gateway = start(&outside, "header = { name = \"x-key\", value = { file = \"canary\" } }", "").await;
    let proxy = gateway.addr("out").to_string();
    let open = outside.clear.addr.to_string();
    let (code, out) = gateway.command(&["egress", "doctor", "--proxy", &proxy, "--outside", &open]).await;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains(&format!("OPEN     it takes connections  tcp {open} without the gateway")), "{out}");
    // Every way around has its line: with the right to become somebody else, that one is open here as well.
    let ip = outside.clear.addr.ip();
    for way in [
        format!("udp {open} (QUIC)"),
        format!("udp {ip}:53 (DNS)"),
        format!("tcp {ip}:53 (DNS)"),
        format!("icmp {ip} (echo"),
        format!("tcp {open} as user 1337"),
    ] {
        assert!(out.lines().any(|line| line.contains(&way)), "{way}: {out}");
    }
    let spoofed = out.lines().find(|line| line.contains("as user 1337")).unwrap();
    assert!(
        spoofed.starts_with("OPEN ") || spoofed.contains("may become that user") || spoofed.contains("no connection"),
        "{spoofed}"
    );
    let ping = out.lines().find(|line| line.contains("icmp")).unwrap();
    assert!(ping.starts_with("OPEN     it answers") || ping.contains("no socket for it"), "{ping}");
    for line in ["the gateway, to a host without a rule", "the gateway, to cloud metadata", "the gateway, to itself"] {
        let found = out.lines().find(|found| found.ends_with(line)).unwrap();
        assert!(found.starts_with("closed   HTTP/1.1 403 refused: "), "{found}");
    }
    let closed = eventually("a port that nobody has", async || {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.ok()?;
        Some(listener.local_addr().ok()?.to_string())
    })
    .await;
    let (_, out) = gateway.command(&["egress", "doctor", "--proxy", &proxy, "--outside", &closed]).await;
    let line = out.lines().find(|line| line.contains(&format!("tcp {closed} without"))).unwrap();
    assert!(line.starts_with("closed"), "{out}");
}
