//! What the way out says of itself: never a secret, whatever it is asked and however it is told to log; and never at a request's cost.

use crate::support::{
    authority::Authority,
    client::{Client, tls_config},
    eventually,
    gateway::Gateway,
    origin::{Origin, ok},
    outside::Outside,
};
use std::path::Path;

const CANARY: &str = "canary-0d94be71aa";
/// bcrypt of "secret" at its lowest cost.
const HASH: &str = "$2b$04$9RyEVj5kgnbipdnFzEAWOu0Wx7g2seutzw5jdnlPRa3kOEqojL19S";

fn config(outside: &Outside, folder: &Path, credential: &str, more: &str) -> String {
    std::fs::write(folder.join("canary"), format!("{CANARY}\n")).unwrap();
    format!(
        "{}[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\n\
         [destination.api]\nhosts = [\"allowed.test\", \"gone.test\"]\nports = [{}]\ntls = \"originate\"\ntrust = \"outside\"\n\
         credential = \"key\"\nprivate_addresses = [\"127.0.0.0/8\"]\nwaf = {{ mode = \"block\" }}\n\
         [waf.site]\nrules = [\"builtin\"]\n\
         [access.all]\nfrom = [\"*\"]\nto = [\"destination:api\"]\naction = \"allow\"\n\
         [access.rest]\nfrom = [\"*\"]\nto = [\"*\"]\naction = \"report\"\n[credential.key]\n{credential}\n{more}",
        outside.config(folder),
        outside.tls.port()
    )
}

async fn get(gateway: &Gateway, path: &str) -> (u16, String) {
    get_from(gateway, "allowed.test", path).await
}

async fn get_from(gateway: &Gateway, host: &str, path: &str) -> (u16, String) {
    let mut client = Client::connect(gateway.addr("out")).await;
    client.send(format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    let answer = client.response().await;
    (answer.status, answer.text())
}

/// Everything that holds a secret besides the destination's credential: a parent with a password, an authority that looks into
/// TLS, callers with passwords; and everything that could tell of it.
fn secrets_all_over(outside: &Outside, folder: &Path, parent: &Origin, collector: &Origin) -> String {
    std::fs::write(folder.join("hash"), HASH).unwrap();
    let signer = Authority::new("inspection");
    std::fs::write(folder.join("signer.crt"), signer.certificate_pem).unwrap();
    std::fs::write(folder.join("signer.key"), signer.key_pem).unwrap();
    std::fs::write(folder.join("sign.key"), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    outside.ca.leaf(&["spiffe://corp/gateway"]).write(folder, "gateway");
    outside.point("parent.test", &["127.0.0.1"]);
    format!(
        "[telemetry]\naudit_log = {{ to = {{ file = \"audit.log\" }} }}\n\
         tracing = {{ otlp = \"http://{}\", sample = \"100%\" }}\n\
         [certificate.gateway]\ncert = {{ file = \"gateway.crt\" }}\nkey = {{ file = \"gateway.key\" }}\n\
         [listener.people]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\nauth = {{ basic = {{ realm = \"out\" }} }}\n\
         [consumer.ci]\nbasic = {{ username = \"ci\", password_hash = {{ file = \"hash\" }} }}\n\
         [egress.parent.corp]\nurl = \"http://parent.test:{}\"\nasks = \"name\"\nprivate_addresses = [\"127.0.0.0/8\"]\n\
         basic = {{ user = \"gw\", password = {{ file = \"canary\" }} }}\n\
         [destination.far]\nhosts = [\"far.test\", \"further.test\"]\nports = [{clear}]\nprotocol = \"http\"\nvia = \"corp\"\n\
         private_addresses = [\"127.0.0.0/8\"]\n\
         [destination.looked]\nhosts = [\"looked.test\"]\nports = [{tls}]\ntls = \"inspect\"\ntrust = \"outside\"\n\
         credential = \"key\"\nprivate_addresses = [\"127.0.0.0/8\"]\n\
         [access.others]\nfrom = [\"*\"]\nto = [\"destination:far\", \"destination:looked\"]\naction = \"allow\"\n",
        collector.addr,
        parent.addr.port(),
        clear = outside.clear.addr.port(),
        tls = outside.tls.port(),
    )
}

/// Uses every secret there is, with and without success. What came back is something that the gateway said.
async fn use_all(gateway: &Gateway, outside: &Outside, parent: &Origin) -> Vec<String> {
    let mut told = Vec::new();
    assert_eq!(get(gateway, "/a").await.0, 200);
    told.push(get(gateway, "/?id=1%27%20UNION%20SELECT%20password%20FROM%20users--").await.1);
    let gone = get_from(gateway, "gone.test", "/").await;
    assert_eq!(gone.0, 502);
    told.push(gone.1);
    let clear = outside.clear.addr.port();
    for (name, status) in [("far.test", 200), ("further.test", 502)] {
        let answer = get_from(gateway, &format!("{name}:{clear}"), "/").await;
        assert_eq!(answer.0, status, "{name}: {}", answer.1);
        told.push(answer.1);
    }
    let asked = parent.requests();
    assert!(!asked.is_empty() && asked.iter().any(|seen| seen.head.contains(&basic("gw", CANARY))), "{asked:?}");
    for (password, status) in [(CANARY, 407), ("secret", 200)] {
        let mut client = Client::connect(gateway.addr("people")).await;
        let field = format!("Proxy-Authorization: Basic {}", basic("ci", password));
        client.send(format!("GET http://allowed.test/b HTTP/1.1\r\nHost: allowed.test\r\n{field}\r\n\r\n")).await;
        let answer = client.response().await;
        assert_eq!(answer.status, status);
        told.extend([answer.head.clone(), answer.text()]);
    }
    let mut client = Client::connect(gateway.addr("out")).await;
    client.send(format!("CONNECT looked.test:{} HTTP/1.1\r\n\r\n", outside.tls.port())).await;
    assert_eq!(client.try_response(true).await.unwrap().status, 200);
    let signer = std::fs::read_to_string(gateway.path().join("signer.crt")).unwrap();
    let connector = tokio_rustls::TlsConnector::from(tls_config(&signer, &[]));
    let inner = connector.connect("looked.test".try_into().unwrap(), client.stream).await.unwrap();
    let answer = Client::over(inner).get("looked.test", "/inside").await;
    assert_eq!(answer.status, 200);
    told.push(answer.head);
    told
}

/// Everything that can be asked of a gateway, by an operator and by a program.
async fn ask_all(gateway: &Gateway, outside: &Outside) -> Vec<String> {
    let mut told = Vec::new();
    for path in ["/status", "/config", "/listeners", "/upstreams", "/privacy", "/egress/learned"] {
        told.push(gateway.admin("GET", path, "").await.1.to_string());
    }
    let edge = std::fs::read_to_string(gateway.path().join("edge.toml")).unwrap();
    std::fs::write(gateway.path().join("same.toml"), edge.replace("from = [\"*\"]", "from = [\"10.0.0.0/8\"]"))
        .unwrap();
    std::fs::write(gateway.path().join("worse.toml"), edge.replace("{ file = \"canary\" }", &format!("\"{CANARY}\"")))
        .unwrap();
    for (path, body, status) in [
        ("/explain", r#"{"method":"GET","url":"http://allowed.test/a","from":"127.0.0.1"}"#, None),
        ("/egress/explain", r#"{"method":"GET","url":"https://allowed.test/a","from":["127.0.0.1"]}"#, Some(200)),
        ("/diff", r#"{"files":["same.toml"]}"#, Some(200)),
        ("/diff", r#"{"files":["worse.toml"]}"#, None),
        ("/reload", "", Some(200)),
    ] {
        let answer = gateway.admin("POST", path, body).await;
        assert!(status.is_none_or(|status| answer.0 == status), "{path} {body}: {answer:?}");
        told.push(answer.1.to_string());
    }
    told.push(gateway.metrics().await);
    let proxy = gateway.addr("out").to_string();
    let outside_port = outside.clear.addr.to_string();
    for arguments in [
        &["check", "edge.toml"][..],
        &["check", "worse.toml"],
        &["show", "--effective", "edge.toml"],
        &["egress", "explain", "https://allowed.test/a", "--config", "edge.toml"],
        &["egress", "explain", "https://allowed.test/a", "--admin", "admin.sock", "--format", "json"],
        &["egress", "learn", "--admin", "admin.sock"],
        &["egress", "doctor", "--proxy", &proxy, "--outside", &outside_port],
    ] {
        told.push(gateway.command(arguments).await.1);
    }
    told
}

/// What nobody may say, as it is and as it goes over the wire: passwords, keys line by line, and what was made with them.
fn secrets(folder: &Path, outside: &Outside, tokens: &Origin) -> Vec<String> {
    let mut secrets = vec![CANARY.to_owned()];
    for (user, password) in [("app", CANARY), ("gw", CANARY), ("ci", CANARY), ("ci", "secret")] {
        secrets.push(basic(user, password));
    }
    for key in ["gateway.key", "signer.key", "sign.key"] {
        let pem = std::fs::read_to_string(folder.join(key)).unwrap();
        secrets.extend(pem.lines().filter(|line| !line.starts_with('-') && line.len() > 20).map(str::to_owned));
    }
    for seen in outside.requests() {
        let signature = seen.header("authorization").and_then(|value| value.split_once("Signature="));
        secrets.extend(signature.map(|(_, signature)| signature.to_owned()));
    }
    for seen in tokens.requests() {
        let form = String::from_utf8(seen.body).unwrap();
        secrets.extend(form.split('&').filter_map(|pair| pair.strip_prefix("assertion=")).map(str::to_owned));
    }
    secrets
}

fn basic(user: &str, password: &str) -> String {
    data_encoding::BASE64.encode(format!("{user}:{password}").as_bytes())
}

#[tokio::test]
async fn no_kind_of_secret_is_in_any_output_even_when_everything_is_logged() {
    let fetched = "token_url = \"http://TOKENS/token\", private_addresses = [\"127.0.0.0/8\"]";
    let oauth = format!("oauth2 = {{ {fetched}, client_id = \"app\", client_secret = {{ file = \"canary\" }} }}");
    let signed = format!(
        "signed_jwt = {{ {fetched}, issuer = \"gw\", key = {{ file = \"sign.key\" }}, algorithm = \"ES256\" }}"
    );
    let aws = "aws_sigv4 = { access_key_id = \"AKID\", secret_access_key = { file = \"canary\" }, \
               session_token = { file = \"canary\" }, region = \"eu-west-1\", service = \"sqs\" }";
    // The number is of what it made that nobody else may see: signatures, and assertions.
    tokio::join!(
        is_kept("header = { name = \"x-key\", prefix = \"Key \", value = { file = \"canary\" } }", 0),
        is_kept("header = { name = \"x-key\", value = { command = [\"/bin/cat\", \"canary\"] } }", 0),
        is_kept("basic = { user = \"app\", password = { file = \"canary\" } }", 0),
        is_kept("client_certificate = \"gateway\"", 0),
        is_kept(aws, 3),
        is_kept(&oauth, 0),
        is_kept(&signed, 1),
    );
}

async fn is_kept(credential: &str, made: usize) {
    let outside = Outside::start(&["allowed.test", "looked.test", "far.test", "further.test"]).await;
    outside.point("gone.test", &["127.0.0.9"]);
    let tokens = Origin::start(|_| {
        ok(&format!("{{\"access_token\":\"token-{CANARY}\",\"token_type\":\"Bearer\",\"expires_in\":3600}}"))
    })
    .await;
    let collector = Origin::start(|_| ok("{}")).await;
    let parent = Origin::start(|seen| match seen.line() {
        line if line.contains("further.test") => {
            b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n".to_vec()
        }
        line if line.starts_with("CONNECT ") => b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        _ => ok("far"),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let more = secrets_all_over(&outside, folder.path(), &parent, &collector);
    let inspect = "[egress]\ninspect = { certificate = { file = \"signer.crt\" }, key = { file = \"signer.key\" } }\n";
    let credential = credential.replace("TOKENS", &tokens.addr.to_string());
    let config = config(&outside, folder.path(), &credential, &more).replace("[egress]\n", inspect);
    let gateway = Gateway::start_with(folder, &config, &[("PORTCULLIS_LOG", "trace")]).await;
    let mut told = use_all(&gateway, &outside, &parent).await;
    told.extend(ask_all(&gateway, &outside).await);
    let spans = eventually("spans of requests that went out", async || {
        let spans = collector.requests();
        let spans: Vec<_> = spans.into_iter().map(|seen| String::from_utf8(seen.body).unwrap()).collect();
        spans.concat().contains("looked.test").then_some(spans)
    });
    told.extend(spans.await);
    told.push(std::fs::read_to_string(gateway.path().join("audit.log")).unwrap());
    told.push(gateway.log());
    let secrets = secrets(gateway.path(), &outside, &tokens);
    // The canary, four names with passwords, three keys of some lines each.
    assert!(secrets.len() >= 1 + 4 + 3 * 2 + made, "{credential}: {}", secrets.len());
    for text in told {
        let seen = secrets.iter().find(|secret| text.contains(*secret));
        assert!(seen.is_none(), "{credential}: {} is in {text}", seen.unwrap());
    }
}

#[tokio::test]
async fn a_full_disk_costs_lines_and_no_request_that_goes_out() {
    let outside = Outside::start(&["allowed.test"]).await;
    let folder = tempfile::tempdir().unwrap();
    let credential = "header = { name = \"x-key\", value = { file = \"canary\" } }";
    let full =
        "[telemetry]\naccess_log = { to = { file = \"/dev/full\" } }\naudit_log = { to = { file = \"/dev/full\" } }\n";
    let config = config(&outside, folder.path(), credential, full);
    let gateway = Gateway::start_in(folder, &config).await;
    for number in 0..20 {
        assert_eq!(get(&gateway, &format!("/{number}")).await.0, 200);
        assert_eq!(get(&gateway, "/?id=1%27%20UNION%20SELECT%20password%20FROM%20users--").await.0, 403);
    }
    gateway.counts("portcullis_access_log_dropped_total", &[], 60.0).await;
}
