//! h2 towards destinations: where client and destination both speak it, it is spoken all the way, with the trailers that gRPC lives by.

use crate::support::{
    authority::Authority,
    client::{h2, h2_get, tls_config},
    eventually,
    gateway::Gateway,
    outside::Outside,
};
use bytes::Bytes;
use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What an origin saw of one call: version and fields of its head, its octets, its trailers.
#[derive(Debug, Clone)]
struct Call {
    authorization: Option<String>,
    te: Option<String>,
    scheme: Option<String>,
    octets: usize,
    connection: usize,
}

type Calls = Arc<Mutex<Vec<Call>>>;

/// An origin of h2: says back what it is sent, and `grpc-status` at the end.
async fn origin(tls: Option<tokio_rustls::TlsAcceptor>) -> (SocketAddr, Calls) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, calls) = (listener.local_addr().unwrap(), Calls::default());
    let seen = calls.clone();
    tokio::spawn(async move {
        let mut connection = 0;
        while let Ok((stream, _)) = listener.accept().await {
            connection += 1;
            let (tls, seen) = (tls.clone(), seen.clone());
            tokio::spawn(async move {
                match tls {
                    None => answer(stream, seen, connection).await,
                    Some(acceptor) => {
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        answer(stream, seen, connection).await;
                    }
                }
            });
        }
    });
    (at, calls)
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, seen: Calls, connection: usize) {
    let Ok(mut server) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = server.accept().await {
        let seen = seen.clone();
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let field = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            let mut octets = Vec::new();
            while let Some(Ok(chunk)) = body.data().await {
                let _ = body.flow_control().release_capacity(chunk.len());
                octets.extend_from_slice(&chunk);
            }
            let call = Call {
                authorization: field("authorization"),
                te: field("te"),
                scheme: head.uri.scheme_str().map(str::to_owned),
                octets: octets.len(),
                connection,
            };
            seen.lock().unwrap().push(call);
            let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let Ok(mut out) = respond.send_response(head, false) else { return };
            let _ = out.send_data(Bytes::from(octets), false);
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("7"));
            let _ = out.send_trailers(trailers);
        });
    }
}

async fn start(outside: &Outside, origin: SocketAddr, keys: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let config = config(outside, folder.path(), origin, keys);
    Gateway::start_in(folder, &config).await
}

fn config(outside: &Outside, folder: &Path, origin: SocketAddr, keys: &str) -> String {
    let signer = Authority::new("inspection");
    std::fs::write(folder.join("signer.crt"), &signer.certificate_pem).unwrap();
    std::fs::write(folder.join("signer.key"), &signer.key_pem).unwrap();
    std::fs::write(folder.join("canary"), "s3cret-canary").unwrap();
    let egress = outside.config(folder).replace(
        "[egress]\n",
        "[egress]\ninspect = { certificate = { file = \"signer.crt\" }, key = { file = \"signer.key\" } }\n",
    );
    format!(
        "{egress}[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\n\
         [destination.api]\nhosts = [\"allowed.test\"]\nports = [{port}]\nprivate_addresses = [\"127.0.0.0/8\"]\n{keys}\n\
         [credential.key]\nheader = {{ name = \"authorization\", prefix = \"Bearer \", value = {{ file = \"canary\" }} }}\n\
         [access.all]\nfrom = [\"*\"]\nto = [\"destination:api\"]\naction = \"allow\"\n",
        port = origin.port(),
    )
}

async fn tunnel(gateway: &Gateway, target: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.addr("out")).await.unwrap();
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 39];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{target}");
    stream
}

/// One call as gRPC makes it: octets back, and the status in the trailers.
async fn call(sender: &h2::client::SendRequest<Bytes>, target: &str, octets: usize) -> (Vec<u8>, String) {
    let request = http::Request::post(format!("https://{target}/svc/Method"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut out) = sender.clone().ready().await.unwrap().send_request(request, false).unwrap();
    out.send_data(Bytes::from(vec![7; octets]), true).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    assert_eq!(head.status, 200);
    let mut got = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        let _ = body.flow_control().release_capacity(chunk.len());
        got.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await.unwrap().unwrap_or_default();
    (got, trailers.get("grpc-status").map_or("none", |status| status.to_str().unwrap()).to_owned())
}

#[tokio::test]
async fn grpc_reaches_its_destination_as_h2_with_trailers_and_the_credential() {
    let outside = Outside::start(&["allowed.test"]).await;
    for mode in ["inspect", "originate", "passthrough"] {
        let tls = (mode != "passthrough").then(|| outside.ca.leaf(&["allowed.test"]).acceptor(&[b"h2", b"http/1.1"]));
        let (at, calls) = origin(tls).await;
        let keys = match mode {
            "passthrough" => "protocol = \"http\"\ncredential = \"key\"".to_owned(),
            mode => format!("tls = \"{mode}\"\ntrust = \"outside\"\ncredential = \"key\""),
        };
        let gateway = start(&outside, at, &keys).await;
        let target = format!("allowed.test:{}", at.port());
        let stream = tunnel(&gateway, &target).await;
        let sender = if mode == "inspect" {
            let ca = std::fs::read_to_string(gateway.path().join("signer.crt")).unwrap();
            let connector = tokio_rustls::TlsConnector::from(tls_config(&ca, &["h2"]));
            h2(connector.connect("allowed.test".try_into().unwrap(), stream).await.unwrap()).await
        } else {
            h2(stream).await
        };
        for octets in [5, 40_000, 5] {
            let (got, status) = call(&sender, &target, octets).await;
            assert_eq!((got.len(), status.as_str()), (octets, "7"), "{mode}");
        }
        let calls = calls.lock().unwrap().clone();
        assert_eq!(calls.iter().map(|call| call.octets).collect::<Vec<_>>(), [5, 40_000, 5], "{mode}");
        for call in calls {
            assert_eq!(call.te.as_deref(), Some("trailers"), "{mode}");
            let scheme = if mode == "passthrough" { "http" } else { "https" };
            assert_eq!(call.scheme.as_deref(), Some(scheme), "{mode}: as its connection is");
            assert_eq!(call.authorization.as_deref(), Some("Bearer s3cret-canary"), "{mode}");
            assert_eq!(call.connection, 1, "{mode}: one connection carries all calls");
        }
    }
}

#[tokio::test]
async fn a_destination_that_chooses_http_1_is_served_by_that_and_not_asked_again() {
    let outside = Outside::start(&["allowed.test"]).await;
    // It offers http/1.1 and nothing else; and, by OpenSSL's habit, nothing at all is no refusal either.
    let gateway = start(&outside, outside.tls, "tls = \"inspect\"\ntrust = \"outside\"").await;
    let target = format!("allowed.test:{}", outside.tls.port());
    let ca = std::fs::read_to_string(gateway.path().join("signer.crt")).unwrap();
    let connector = tokio_rustls::TlsConnector::from(tls_config(&ca, &["h2"]));
    let stream = connector.connect("allowed.test".try_into().unwrap(), tunnel(&gateway, &target).await).await.unwrap();
    let sender = h2(stream).await.ready().await.unwrap();
    for _ in 0..3 {
        let (head, body) = h2_get(&sender, &format!("https://{target}/x")).await.unwrap();
        assert_eq!(head.status, 200, "{}", String::from_utf8_lossy(&body));
    }
    let seen = outside.requests();
    assert!(seen.len() == 3 && seen.iter().all(|seen| seen.line() == "GET /x HTTP/1.1"), "{seen:?}");
    let of_requests = || gateway.records().into_iter().filter(|record| record["path"] == "/x").collect::<Vec<_>>();
    let records = eventually("all three", async || Some(of_requests()).filter(|all| all.len() == 3)).await;
    assert!(records.iter().all(|record| record["attempts"] == 1), "{records:?}");
}

#[tokio::test]
async fn a_client_of_http_1_is_no_reason_for_h2() {
    let outside = Outside::start(&["allowed.test"]).await;
    let gateway = start(&outside, outside.tls, "tls = \"inspect\"\ntrust = \"outside\"").await;
    let target = format!("allowed.test:{}", outside.tls.port());
    let ca = std::fs::read_to_string(gateway.path().join("signer.crt")).unwrap();
    let connector = tokio_rustls::TlsConnector::from(tls_config(&ca, &["http/1.1"]));
    let stream = connector.connect("allowed.test".try_into().unwrap(), tunnel(&gateway, &target).await).await.unwrap();
    let mut client = crate::support::client::Client::over(stream);
    assert_eq!(client.get(&target, "/x").await.status, 200);
    assert_eq!(outside.requests()[0].line(), "GET /x HTTP/1.1");
}

/// A connection of h2 inside a tunnel that the gateway reads.
async fn inside(gateway: &Gateway, target: &str) -> h2::client::SendRequest<Bytes> {
    let ca = std::fs::read_to_string(gateway.path().join("signer.crt")).unwrap();
    let connector = tokio_rustls::TlsConnector::from(tls_config(&ca, &["h2"]));
    h2(connector.connect("allowed.test".try_into().unwrap(), tunnel(gateway, target).await).await.unwrap()).await
}

#[tokio::test]
async fn connections_that_requests_share_have_places_and_give_them_up_at_rest() {
    let outside = Outside::start(&["allowed.test"]).await;
    let (at, calls) = origin(Some(outside.ca.leaf(&["allowed.test"]).acceptor(&[b"h2"]))).await;
    let keys = "tls = \"inspect\"\ntrust = \"outside\"\ncircuit_breaker = { connections = 1 }";
    let gateway = start(&outside, at, keys).await;
    let target = format!("allowed.test:{}", at.port());
    // Each tunnel is a connection of its own, so that the kernel gives some to either core.
    for _ in 0..24 {
        assert_eq!(call(&inside(&gateway, &target).await, &target, 3).await.1, "7");
    }
    let used: std::collections::BTreeSet<_> = calls.lock().unwrap().iter().map(|call| call.connection).collect();
    assert!(used.len() > 1, "either core had one, at the other's cost");
    // A call that goes on: its connection is in use.
    let busy = inside(&gateway, &target).await;
    let request = http::Request::post(format!("https://{target}/svc/Method")).body(()).unwrap();
    let (response, mut body) = busy.clone().ready().await.unwrap().send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(b"begun"), false).unwrap();
    let other = eventually("the other core has no place for one", async || {
        let other = inside(&gateway, &target).await;
        let (head, body) = h2_get(&other, &format!("https://{target}/x")).await.unwrap();
        let open = String::from_utf8_lossy(&body).contains("circuit_open");
        assert!(head.status == 200 || (head.status == 503 && open), "{head:?}");
        (head.status == 503).then_some(other)
    })
    .await;
    body.send_data(Bytes::from_static(b" and ended"), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    eventually("its place is free", async || {
        (h2_get(&other, &format!("https://{target}/x")).await.unwrap().0.status == 200).then_some(())
    })
    .await;
}
