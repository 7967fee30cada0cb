//! A proxy between the gateway and the internet: chosen by configuration and by nothing else, and checked like any address.

use crate::support::{
    authority::Authority,
    client::{Client, Response, tls_config},
    eventually,
    gateway::{Gateway, run_in},
    outside::Outside,
};
use tokio::{io::AsyncReadExt, net::TcpStream};

/// bcrypt of "secret" at its lowest cost.
const HASH: &str = "$2b$04$9RyEVj5kgnbipdnFzEAWOu0Wx7g2seutzw5jdnlPRa3kOEqojL19S";

/// Somebody else's proxy: another gateway, which lets `to` be reached by a user with a password, or a certificate.
async fn parent(outside: &Outside, listener: &str, to: &str, from: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hash"), HASH).unwrap();
    outside.ca.leaf(&["parent.test"]).write(folder.path(), "parent");
    let config = format!(
        "{}[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\n{listener}\n\
         [consumer.ci]\nbasic = {{ username = \"ci\", password_hash = {{ file = \"hash\" }} }}\n\
         [destination.far]\nhosts = [{to}]\nports = [{}, {}]\nprotocol = \"opaque\"\nprivate_addresses = [\"127.0.0.0/8\"]\n\
         [access.all]\nfrom = [\"{from}\"]\nto = [\"destination:far\"]\naction = \"allow\"\n",
        outside.config(folder.path()),
        outside.tls.port(),
        outside.clear.addr.port(),
    );
    Gateway::start_in(folder, &config).await
}

fn config(outside: &Outside, folder: &std::path::Path, parent: &str) -> String {
    std::fs::write(folder.join("password"), "secret\n").unwrap();
    outside.ca.leaf(&["spiffe://corp/gateway"]).write(folder, "gateway");
    let egress = outside.config(folder).replace("[egress]\n", "[egress]\nvia = \"corp\"\n");
    format!(
        "{egress}[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\n\
         [destination.secure]\nhosts = [\"allowed.test\"]\nports = [{tls}]\nprivate_addresses = [\"127.0.0.0/8\"]\n\
         [destination.api]\nhosts = [\"api.test\"]\nports = [{tls}]\ntls = \"originate\"\ntrust = \"outside\"\n\
         private_addresses = [\"127.0.0.0/8\"]\n\
         [destination.plain]\nhosts = [\"plain.test\"]\nports = [{clear}]\nprotocol = \"http\"\n\
         private_addresses = [\"127.0.0.0/8\"]\n\
         [access.all]\nfrom = [\"*\"]\nto = [\"destination:secure\", \"destination:api\", \"destination:plain\"]\naction = \"allow\"\n\
         [egress.parent.corp]\nprivate_addresses = [\"127.0.0.0/8\"]\n{parent}\n",
        tls = outside.tls.port(),
        clear = outside.clear.addr.port(),
    )
}

async fn start(outside: &Outside, parent: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let config = config(outside, folder.path(), parent);
    Gateway::start_in(folder, &config).await
}

async fn get(gateway: &Gateway, url: &str) -> Response {
    let host = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let mut client = Client::connect(gateway.addr("out")).await;
    // What a client says of parents is not listened to.
    let field = "X-Upstream-Https-Proxy: http://127.0.0.1:1";
    client.send(format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n{field}\r\n\r\n")).await;
    client.response().await
}

async fn through_a_tunnel(gateway: &Gateway, outside: &Outside) -> Result<String, Response> {
    let mut stream = TcpStream::connect(gateway.addr("out")).await.unwrap();
    let head = format!(
        "CONNECT allowed.test:{} HTTP/1.1\r\nX-Upstream-Https-Proxy: http://127.0.0.1:1\r\n\r\n",
        outside.tls.port()
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.peek(&mut status).await.unwrap();
    if !status.ends_with(b"200") {
        return Err(Client::over(stream).response().await);
    }
    let mut answer = [0; 39];
    stream.read_exact(&mut answer).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(tls_config(&outside.ca.certificate_pem, &[]));
    let inner = connector.connect("allowed.test".try_into().unwrap(), stream).await.unwrap();
    Ok(Client::over(inner).get("allowed.test", "/inside").await.text())
}

const NAMES: [&str; 4] = ["allowed.test", "api.test", "plain.test", "parent.test"];

#[tokio::test]
async fn everything_goes_through_the_parent_and_to_the_address_that_was_checked() {
    let outside = Outside::start(&NAMES).await;
    let tls = "certificates = [\"parent\"]\ntls = { client_auth = \"optional\", trust = \"outside\" }\n\
               [certificate.parent]\ncert = { file = \"parent.crt\" }\nkey = { file = \"parent.key\" }";
    for (listener, from, scheme, keys) in [
        ("auth = { basic = {} }", "user:ci", "http", "basic = { user = \"ci\", password = { file = \"password\" } }"),
        (
            tls,
            "spiffe://corp/gateway",
            "https",
            "trust = \"outside\"\ncertificate = \"gateway\"\n\
             [certificate.gateway]\ncert = { file = \"gateway.crt\" }\nkey = { file = \"gateway.key\" }",
        ),
    ] {
        let up = parent(&outside, listener, "\"127.0.0.1/32\"", from).await;
        let url = format!("url = \"{scheme}://parent.test:{}\"\n{keys}", up.addr("out").port());
        let gateway = start(&outside, &url).await;
        assert_eq!(through_a_tunnel(&gateway, &outside).await.unwrap(), "secretly GET /inside HTTP/1.1", "{scheme}");
        for _ in 0..2 {
            assert_eq!(get(&gateway, "http://api.test/v1").await.text(), "secretly GET /v1 HTTP/1.1", "{scheme}");
        }
        let plain = format!("http://plain.test:{}/p", outside.clear.addr.port());
        assert_eq!(get(&gateway, &plain).await.status, 200);
        assert_eq!(outside.clear.last().header("proxy-authorization"), None);
        // The second request took the connection of the first: three tunnels in all, asked for by address.
        let records = eventually("the parent's records", async || {
            drop(Client::connect(gateway.addr("out")).await);
            Some(up.records()).filter(|records| !records.is_empty())
        })
        .await;
        assert!(records.iter().all(|record| record["host"].as_str().unwrap().starts_with("127.0.0.1:")), "{records:?}");
        up.counts(
            "portcullis_egress_flows_total",
            &["far", "tunnel", "allowed"],
            f64::from(u8::try_from(records.len()).unwrap()),
        )
        .await;
    }
}

#[tokio::test]
async fn a_parent_that_is_trusted_to_resolve_is_asked_for_the_name() {
    let outside = Outside::start(&NAMES).await;
    let up = parent(&outside, "", "\"far-away.test\", \"allowed.test\", \"api.test\"", "127.0.0.0/8").await;
    let url = format!("url = \"http://127.0.0.1:{}\"\nasks = \"name\"", up.addr("out").port());
    let gateway = start(&outside, &url).await;
    assert_eq!(through_a_tunnel(&gateway, &outside).await.unwrap(), "secretly GET /inside HTTP/1.1");
    assert_eq!(get(&gateway, "http://api.test/v1").await.text(), "secretly GET /v1 HTTP/1.1");
    let record = eventually("the parent's record", async || {
        up.records().into_iter().find(|record| record["host"] == format!("allowed.test:{}", outside.tls.port()))
    })
    .await;
    assert_eq!(record["status"], 200);
}

#[tokio::test]
async fn a_parent_that_refuses_or_is_not_there_is_told_apart() {
    let outside = Outside::start(&NAMES).await;
    let up = parent(&outside, "auth = { basic = {} }", "\"127.0.0.1/32\"", "user:ci").await;
    let port = up.addr("out").port();
    let plain = format!("http://plain.test:{}/p", outside.clear.addr.port());
    for (keys, status, reason) in [
        (format!("url = \"http://127.0.0.1:{port}\""), 502, "parent_refused"),
        ("url = \"http://127.0.0.1:1\"".to_owned(), 502, "parent_failed"),
        (format!("url = \"https://127.0.0.1:{port}\"\nconnect_timeout = \"2s\""), 502, "parent_failed"),
        ("url = \"http://nowhere.test:1\"".to_owned(), 502, "parent_failed"),
    ] {
        let gateway = start(&outside, &keys).await;
        let refused = through_a_tunnel(&gateway, &outside).await.unwrap_err();
        assert_eq!(refused.status, status, "{keys}");
        assert!(refused.text().contains(&format!("\"reason\":\"{reason}\"")), "{keys}: {}", refused.text());
        assert_eq!(get(&gateway, &plain).await.status, 502, "{keys}");
        // Nothing goes around it.
        assert!(outside.requests().is_empty() && outside.clear.requests().is_empty());
    }
    // Its address is checked as any other, and itself is no parent.
    let folder = tempfile::tempdir().unwrap();
    let keys = format!("url = \"http://127.0.0.1:{port}\"");
    let config =
        config(&outside, folder.path(), &keys).replace("corp]\nprivate_addresses = [\"127.0.0.0/8\"]", "corp]");
    let mut gateway = Gateway::start_in(folder, &config).await;
    let refused = through_a_tunnel(&gateway, &outside).await.unwrap_err();
    assert!(refused.text().contains("\"reason\":\"private_address\""), "{}", refused.text());
    let own = format!("url = \"http://127.0.0.1:{}\"", gateway.addr("out").port());
    let circle = self::config(&outside, gateway.path(), &own);
    assert_eq!(gateway.reload(&circle).await.0, 200);
    let refused = through_a_tunnel(&gateway, &outside).await.unwrap_err();
    assert!(refused.text().contains("\"reason\":\"own_address\""), "{}", refused.text());
}

#[tokio::test]
async fn a_destination_may_go_its_own_way() {
    let outside = Outside::start(&NAMES).await;
    let folder = tempfile::tempdir().unwrap();
    let config = config(&outside, folder.path(), "url = \"http://127.0.0.1:1\"");
    let direct = config.replace("hosts = [\"allowed.test\"]", "hosts = [\"allowed.test\"]\nvia = \"direct\"");
    let named = direct
        .replace("via = \"corp\"\n", "")
        .replace("hosts = [\"api.test\"]", "hosts = [\"api.test\"]\nvia = \"corp\"");
    let mut gateway = Gateway::start_in(folder, &direct).await;
    assert_eq!(through_a_tunnel(&gateway, &outside).await.unwrap(), "secretly GET /inside HTTP/1.1");
    let plain = format!("http://plain.test:{}/p", outside.clear.addr.port());
    assert_eq!(get(&gateway, &plain).await.status, 502);
    assert_eq!(gateway.reload(&named).await.0, 200);
    assert_eq!(get(&gateway, &plain).await.status, 200, "nobody says that it goes through a parent");
    assert_eq!(get(&gateway, "http://api.test/").await.status, 502);
}

#[tokio::test]
async fn mistakes_about_parents_are_found_by_check() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.crt"), &Authority::new("x").certificate_pem).unwrap();
    for (egress, message) in [
        ("via = \"corp\"", "parent \"corp\" is not defined"),
        ("[egress.parent.direct]\nurl = \"http://x.test:1\"", "means that there is no parent"),
        ("[egress.parent.corp]\nurl = \"http://x.test:1/y\"", "a proxy has no path"),
        ("[egress.parent.corp]\nurl = \"https://x.test:1\"\ntrust = \"y\"", "trust \"y\" is not defined"),
        ("[egress.parent.corp]\nurl = \"https://x.test:1\"\ncertificate = \"y\"", "certificate \"y\" is not defined"),
    ] {
        let config = format!(
            "schema = \"1\"\n[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\n\
             [trust.t]\nca = {{ file = \"ca.crt\" }}\n[egress]\n{egress}\n"
        );
        std::fs::write(folder.path().join("a.toml"), config).unwrap();
        let (code, out) = run_in(folder.path(), &["check", "a.toml"]).await;
        assert!(code == 1 && out.contains(message), "{egress}: {out}");
    }
}
