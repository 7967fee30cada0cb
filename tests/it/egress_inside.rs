//! Requests that the gateway sees on their way out go through the whole HTTP pipeline, whatever they came in: the WAF, the
//! documents of APIs and the search for personal data; in h2 as in HTTP/1, and inside streams of h2.

use crate::support::{
    authority::Authority,
    client::{Client, h2, h2_get, tls, tls_config},
    eventually,
    gateway::Gateway,
    outside::Outside,
};
use std::path::Path;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
};

const CARD: &str = "4111111111111111";

const DOCUMENT: &str = r#"{"openapi":"3.0.3","info":{"title":"t","version":"1"},"paths":{
"/v1/charges":{"post":{"responses":{"200":{"description":"ok"}}},"get":{"responses":{"200":{"description":"ok"}}}}}}"#;

/// A destination whose TLS the gateway opens by `mode`, and one that speaks http; both looked into by `keys`.
fn config(outside: &Outside, folder: &Path, mode: &str, keys: &str) -> String {
    let signer = Authority::new("inspection");
    std::fs::write(folder.join("signer.crt"), &signer.certificate_pem).unwrap();
    std::fs::write(folder.join("signer.key"), &signer.key_pem).unwrap();
    std::fs::write(folder.join("openapi.json"), DOCUMENT).unwrap();
    std::fs::write(folder.join("canary"), "s3cret-canary").unwrap();
    outside.ca.leaf(&["proxy.test"]).write(folder, "proxy");
    let egress = outside.config(folder).replace(
        "[egress]\n",
        "[egress]\ninspect = { certificate = { file = \"signer.crt\" }, key = { file = \"signer.key\" } }\n",
    );
    format!(
        "{egress}[telemetry]\naudit_log = {{ to = {{ file = \"audit.log\" }} }}\n\
         [listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\n\
         [listener.tls]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\ncertificates = [\"proxy\"]\n\
         [certificate.proxy]\ncert = {{ file = \"proxy.crt\" }}\nkey = {{ file = \"proxy.key\" }}\n\
         [listener.sni]\naddress = \"127.0.0.1:0\"\nprotocol = \"sni\"\ntarget_port = {tls}\n\
         [destination.api]\nhosts = [\"allowed.test\"]\nports = [{tls}]\ntls = \"{mode}\"\ntrust = \"outside\"\n\
         private_addresses = [\"127.0.0.0/8\"]\ncredential = \"key\"\n{keys}\n\
         [destination.plain]\nhosts = [\"plain.test\"]\nports = [{clear}]\nprotocol = \"http\"\n\
         private_addresses = [\"127.0.0.0/8\"]\n{keys}\n\
         [credential.key]\nheader = {{ name = \"authorization\", prefix = \"Bearer \", value = {{ file = \"canary\" }} }}\n\
         [waf.site]\nrules = [\"builtin\"]\n[api.doc]\nopenapi = \"openapi.json\"\n\
         validate = {{ request = \"block\", response = \"off\", unknown = \"block\" }}\n\
         [privacy.cover]\ndetect = [\"card\"]\naction = \"mask\"\n[privacy.keep]\ndetect = [\"card\"]\naction = \"block\"\n\
         [access.all]\nfrom = [\"*\"]\nto = [\"destination:api\", \"destination:plain\"]\naction = \"allow\"\n",
        tls = outside.tls.port(),
        clear = outside.clear.addr.port(),
    )
}

async fn start(outside: &Outside, mode: &str, keys: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let config = config(outside, folder.path(), mode, keys);
    Gateway::start_in(folder, &config).await
}

fn signer(gateway: &Gateway) -> String {
    std::fs::read_to_string(gateway.path().join("signer.crt")).unwrap()
}

/// A CONNECT that was answered with 200, over HTTP/1.
async fn tunnel(gateway: &Gateway, target: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.addr("out")).await.unwrap();
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 39];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{target}");
    stream
}

/// A CONNECT that was answered with 200, as a stream of h2.
async fn stream_of_h2(gateway: &Gateway, outside: &Outside, target: &str) -> DuplexStream {
    let config = tls_config(&outside.ca.certificate_pem, &["h2"]);
    let connection = tls(gateway.addr("tls"), "proxy.test", config).await.unwrap();
    let mut sender = h2(connection).await.ready().await.unwrap();
    let ask = http::Request::connect(target).body(()).unwrap();
    let (response, mut up) = sender.send_request(ask, false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200, "{target}");
    let mut down = response.into_body();
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (mut read, mut write) = tokio::io::split(theirs);
    tokio::spawn(async move {
        let mut buffer = vec![0; 8 << 10];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            if up.send_data(bytes::Bytes::copy_from_slice(&buffer[..count]), false).is_err() {
                return;
            }
        }
        let _ = up.send_data(bytes::Bytes::new(), true);
    });
    tokio::spawn(async move {
        let _sender = sender;
        while let Some(Ok(frame)) = down.data().await {
            let _ = down.flow_control().release_capacity(frame.len());
            if write.write_all(&frame).await.is_err() {
                return;
            }
        }
    });
    ours
}

async fn inner_tls(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    ca: &str,
    alpn: &[&str],
) -> tokio_rustls::client::TlsStream<Box<dyn Both>> {
    let boxed: Box<dyn Both> = Box::new(stream);
    let connector = tokio_rustls::TlsConnector::from(tls_config(ca, alpn));
    connector.connect("allowed.test".try_into().unwrap(), boxed).await.unwrap()
}

trait Both: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Both for T {}

/// Clients of every way in on which requests are seen, with the host that they ask for.
async fn ways(gateway: &Gateway, outside: &Outside, mode: &str) -> Vec<(&'static str, Client, String)> {
    let api = format!("allowed.test:{}", outside.tls.port());
    let plain = format!("plain.test:{}", outside.clear.addr.port());
    let mut ways = vec![
        ("plain in a tunnel", Client::over(tunnel(gateway, &plain).await), plain.clone()),
        ("plain in a stream", Client::over(stream_of_h2(gateway, outside, &plain).await), plain.clone()),
    ];
    if mode == "originate" {
        ways.push(("originated", Client::over(tunnel(gateway, &api).await), api.clone()));
        ways.push(("originated in a stream", Client::over(stream_of_h2(gateway, outside, &api).await), api));
    } else {
        let ca = signer(gateway);
        let inside = inner_tls(tunnel(gateway, &api).await, &ca, &["http/1.1"]).await;
        ways.push(("inspected", Client::over(inside), api.clone()));
        let inside = inner_tls(stream_of_h2(gateway, outside, &api).await, &ca, &["http/1.1"]).await;
        ways.push(("inspected in a stream", Client::over(inside), api.clone()));
        let caught = tls(gateway.addr("sni"), "allowed.test", tls_config(&ca, &["http/1.1"])).await.unwrap();
        ways.push(("inspected by its SNI", Client::over(caught), "allowed.test".to_owned()));
    }
    ways
}

fn all_seen(outside: &Outside) -> usize {
    outside.requests().len() + outside.clear.requests().len()
}

#[tokio::test]
async fn attacks_are_stopped_on_every_way_on_which_requests_are_seen() {
    let outside = Outside::start(&["allowed.test", "plain.test"]).await;
    for mode in ["originate", "inspect"] {
        let gateway = start(&outside, mode, "waf = { mode = \"block\" }").await;
        for (way, mut client, host) in ways(&gateway, &outside, mode).await {
            let before = all_seen(&outside);
            let fine = client.get(&host, "/v1/charges?id=7").await;
            assert_eq!((fine.status, all_seen(&outside)), (200, before + 1), "{way}");
            let attack = client.get(&host, "/v1/charges?id=1%27%20UNION%20SELECT%20password%20FROM%20users--").await;
            assert_eq!((attack.status, all_seen(&outside)), (403, before + 1), "{way}");
            assert_eq!(attack.header("content-type"), Some("application/problem+json"), "{way}");
            assert!(
                attack.text().contains("\"reason\":\"waf") && attack.text().contains("\"rule\":\"all\""),
                "{way}: {}",
                attack.text()
            );
        }
        // A body as well, and what is only looked at passes.
        let mut client = Client::over(tunnel(&gateway, &format!("plain.test:{}", outside.clear.addr.port())).await);
        let body = "id=1' UNION SELECT password FROM users--";
        client
            .send(format!(
                "POST /v1/charges HTTP/1.1\r\nHost: plain.test:{}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                outside.clear.addr.port(),
                body.len()
            ))
            .await;
        assert_eq!(client.response().await.status, 403);
        let audit = std::fs::read_to_string(gateway.path().join("audit.log")).unwrap();
        assert!(
            audit.contains("\"route\":\"destination:plain\"") && audit.contains("\"route\":\"destination:api\""),
            "{audit}"
        );
        assert!(!audit.contains("s3cret-canary"), "the credential comes after whoever looks");
    }
    let gateway = start(&outside, "originate", "waf = { mode = \"detect\" }").await;
    let mut client = Client::over(tunnel(&gateway, &format!("plain.test:{}", outside.clear.addr.port())).await);
    assert_eq!(client.get("plain.test", "/?id=1%27%20UNION%20SELECT%20password%20FROM%20users--").await.status, 200);
}

#[tokio::test]
async fn personal_data_is_covered_or_kept_in_on_its_way_out() {
    let outside = Outside::start(&["allowed.test", "plain.test"]).await;
    for mode in ["originate", "inspect"] {
        for (profile, status) in [("cover", 200), ("keep", 403)] {
            let gateway = start(&outside, mode, &format!("privacy = \"{profile}\"")).await;
            for (way, mut client, host) in ways(&gateway, &outside, mode).await {
                let before = all_seen(&outside);
                let body = format!("{{\"card\":\"{CARD}\"}}");
                client
                    .send(format!(
                        "POST /v1/charges HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    ))
                    .await;
                let answer = client.response().await;
                assert_eq!(answer.status, status, "{way} {profile}");
                if status == 403 {
                    assert!(answer.text().contains("\"reason\":"), "{way}");
                    continue;
                }
                assert_eq!(all_seen(&outside), before + 1, "{way}");
                let seen =
                    if host.starts_with("plain") { outside.clear.last() } else { outside.requests().pop().unwrap() };
                let sent = String::from_utf8_lossy(&seen.body).into_owned();
                assert!(!sent.contains(CARD) && sent.ends_with("1111\"}"), "{way}: {sent}");
            }
        }
    }
    assert!(!outside.requests().iter().any(|seen| String::from_utf8_lossy(&seen.body).contains(CARD)));
}

#[tokio::test]
async fn requests_that_the_document_of_the_api_does_not_know_stay_in() {
    let outside = Outside::start(&["allowed.test", "plain.test"]).await;
    for mode in ["originate", "inspect"] {
        let gateway = start(&outside, mode, "api = \"doc\"").await;
        for (way, mut client, host) in ways(&gateway, &outside, mode).await {
            let before = all_seen(&outside);
            assert_eq!(client.get(&host, "/v1/charges").await.status, 200, "{way}");
            let unknown = client.get(&host, "/v1/admin").await;
            assert!(unknown.status == 404 && unknown.text().contains("\"reason\":"), "{way}: {unknown:?}");
            client.send(format!("DELETE /v1/charges HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            let refused = client.response().await;
            assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, POST")), "{way}");
            assert_eq!(all_seen(&outside), before + 1, "{way}");
        }
    }
}

#[tokio::test]
async fn h2_inside_tls_that_was_opened_is_decided_stream_by_stream() {
    let outside = Outside::start(&["allowed.test", "plain.test", "other.test"]).await;
    let rule = "[access.keep]\nfrom = [\"*\"]\nto = [\"destination:api\"]\naction = \"deny\"\nmatch = { path = \"/private\" }\n";
    let folder = tempfile::tempdir().unwrap();
    let config = [config(&outside, folder.path(), "inspect", "waf = { mode = \"block\" }").as_str(), rule].concat();
    let gateway = Gateway::start_in(folder, &config).await;
    let (ca, api) = (signer(&gateway), format!("allowed.test:{}", outside.tls.port()));
    let by_tunnel = inner_tls(tunnel(&gateway, &api).await, &ca, &["h2"]).await;
    let by_stream = inner_tls(stream_of_h2(&gateway, &outside, &api).await, &ca, &["h2"]).await;
    for (way, stream) in [("tunnel", by_tunnel), ("stream", by_stream)] {
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "{way}");
        let sender = h2(stream).await.ready().await.unwrap();
        for (host, path, status) in [
            (api.as_str(), "/v1/charges", 200),
            ("allowed.test", "/v1/charges", 200),
            (&api, "/private/x", 403),
            // One connection is no licence for another name (RFC 9113 §9.1.1).
            ("other.test", "/v1/charges", 403),
            (&api, "/?id=1%27%20UNION%20SELECT%20password%20FROM%20users--", 403),
        ] {
            let (head, body) = h2_get(&sender, &format!("https://{host}{path}")).await.unwrap();
            assert_eq!(head.status, status, "{way} {host}{path}: {}", String::from_utf8_lossy(&body));
        }
        // A tunnel within the tunnel is none.
        let ask = http::Request::connect("plain.test:80").body(()).unwrap();
        let (response, _) = sender.ready().await.unwrap().send_request(ask, true).unwrap();
        assert!(response.await.is_ok_and(|response| response.status() != 200), "{way}");
    }
    let seen = outside.requests();
    assert!(seen.len() == 4 && seen.iter().all(|seen| seen.line() == "GET /v1/charges HTTP/1.1"), "{seen:?}");
    assert!(seen.iter().all(|seen| seen.all("authorization") == ["Bearer s3cret-canary"]));
    let caught = tls(gateway.addr("sni"), "allowed.test", tls_config(&ca, &["h2"])).await.unwrap();
    let sender = h2(caught).await.ready().await.unwrap();
    assert_eq!(h2_get(&sender, "https://allowed.test/v1/charges").await.unwrap().0.status, 200);
    eventually("its record", async || {
        gateway.records().into_iter().find(|record| record["protocol"] == "HTTP/2" && record["destination"] == "api")
    })
    .await;
}
