//! Against authorities of our own on free ports.

use super::*;
use crate::{
    AuthzSpec,
    authz::message::{CheckRequest, CheckResponse, RpcStatus},
};
use hyper::{body::Frame, server::conn::http2, service::service_fn};
use portcullis_config::Path;
use prost::Message;
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

fn client(roots: rustls::RootCertStore) -> AuthzClient {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    AuthzClient::new(&config.with_root_certificates(roots).with_no_client_auth())
}

fn plain() -> AuthzClient {
    client(rustls::RootCertStore::empty())
}

fn authz(form: &str, url: &str, timeout: &str, mut spec: Value) -> Authz {
    spec[form] = url.into();
    spec["timeout"] = timeout.into();
    let spec: AuthzSpec = serde_json::from_value(spec).unwrap();
    spec.compile(&Path::root(), &mut portcullis_config::Context::default()).unwrap()
}

async fn ask(client: &AuthzClient, authz: &Authz, target: &str) -> String {
    let headers = HeaderMap::new();
    let facts = AuthzFacts {
        id: "req-1",
        method: "POST",
        scheme: "https",
        host: "shop.example.com",
        target,
        protocol: "HTTP/1.1",
        headers: &headers,
        source: "192.0.2.7:4711".parse().unwrap(),
        destination: "198.51.100.1:443".parse().unwrap(),
        principal: None,
        sni: None,
        body: b"hello",
        body_size: Some(5),
        time: Duration::from_secs(1_800_000_000),
    };
    match sendable(client.ask(authz, &facts)).await {
        AuthzVerdict::Allow(edits) => format!("allow with {}", edits.request.len()),
        AuthzVerdict::Deny(denial) => format!("{} {}", denial.status, String::from_utf8_lossy(&denial.body)),
        AuthzVerdict::Failed(failure) => failure.as_str().to_owned(),
    }
}

/// Engines await on many threads.
fn sendable<F: Future + Send>(future: F) -> F {
    future
}

/// Answers each request by what its path says, and counts connections.
async fn http_authority(mut stream: impl Duplex) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.contains("host: shop.example.com\r\n") && head.contains("content-length: 5\r\n"), "{head}");
        stream.read_exact(&mut [0; 5]).await.ok()?;
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let answer = match path.as_str() {
            "/check/allow" => "HTTP/1.1 200 OK\r\nX-User: u1\r\nContent-Length: 0\r\n\r\n",
            "/check/deny" => "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
            "/check/late" => "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nno",
            "/check/long" => "HTTP/1.1 403 Forbidden\r\nContent-Length: 9999999\r\n\r\n",
            "/check/broken" => "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "/check/cut" => "HTTP/1.1 403 Forb",
            "/check/other" => "SSH-2.0-x\r\n\r\n",
            _ => return std::future::pending().await,
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        match path.as_str() {
            "/check/late" => return std::future::pending().await,
            "/check/long" => stream.write_all(&[b'x'; 200_000]).await.ok()?,
            "/check/cut" | "/check/other" => return stream.shutdown().await.ok(),
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_http_authority_s_head_decides() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/check", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(http_authority(stream));
        }
    });
    let client = plain();
    let patient = authz("http", &url, "5s", json!({ "response_headers": ["x-user"], "body": "1KiB" }));
    for _ in 0..10 {
        assert_eq!(ask(&client, &patient, "/allow").await, "allow with 1");
        assert_eq!(ask(&client, &patient, "/deny").await, "403 no");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    let hasty = authz("http", &url, "1s", json!({}));
    for (authz, target, expected) in [
        (&hasty, "/late", "403 "),
        (&patient, "/long", "403 "),
        (&patient, "/broken", "403 "),
        (&patient, "/cut", "authz_error"),
        (&patient, "/other", "authz_error"),
        (&hasty, "/silent", "authz_timeout"),
        (&patient, "/a b", "authz_unaskable"),
    ] {
        assert_eq!(ask(&client, authz, target).await, expected, "{target}");
    }
}

/// A body that fails or never ends where that is said.
struct Frames(std::vec::IntoIter<Result<Frame<Bytes>, End>>);

enum End {
    Broken,
    Never,
}

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = io::Error;
    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.0.next() {
            Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(Err(End::Broken)) => Poll::Ready(Some(Err(io::ErrorKind::Other.into()))),
            Some(Err(End::Never)) => {
                self.0 = vec![Err(End::Never)].into_iter();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }
}

async fn grpc_answer(request: Request<Incoming>) -> Result<Response<Frames>, Infallible> {
    assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
    assert_eq!(
        (&request.headers()["content-type"], &request.headers()["te"]),
        (&"application/grpc".parse().unwrap(), &"trailers".parse().unwrap())
    );
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let asked = CheckRequest::decode(&body[5..]).unwrap().attributes.unwrap().request.unwrap().http.unwrap();
    let message = |code: i32| {
        let message = CheckResponse { status: Some(RpcStatus { code }), http_response: None }.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        Ok(Frame::data(Bytes::from([&[0][..], &length, &message].concat())))
    };
    let trailers = |status: &str| {
        Ok(Frame::trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())])))
    };
    let frames = match asked.path.as_str() {
        "/allow" => vec![message(0), trailers("0")],
        "/deny" => vec![message(7), trailers("0")],
        "/fails" => vec![message(0), trailers("14")],
        "/no-trailers" => vec![message(0)],
        "/broken" => vec![message(0), Err(End::Broken)],
        "/late" => vec![message(0), Err(End::Never)],
        "/long" => vec![Ok(Frame::data(Bytes::from(vec![0; 70_000]))), trailers("0")],
        _ => return std::future::pending().await,
    };
    Ok(Response::new(Frames(frames.into_iter())))
}

#[tokio::test]
async fn a_grpc_authority_s_whole_answer_decides() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let server = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(grpc_answer)));
        }
    });
    let client = plain();
    let patient = authz("grpc", &url, "5s", json!({ "body": "1KiB" }));
    let hasty = authz("grpc", &url, "1s", json!({}));
    for (authz, target, expected) in [
        (&patient, "/allow", "allow with 0"),
        (&patient, "/deny", "403 "),
        (&patient, "/fails", "authz_error"),
        (&patient, "/no-trailers", "authz_malformed"),
        (&patient, "/broken", "authz_error"),
        (&patient, "/long", "authz_malformed"),
        (&hasty, "/late", "authz_timeout"),
        (&hasty, "/silent", "authz_timeout"),
        (&patient, "/allow", "allow with 0"),
    ] {
        assert_eq!(ask(&client, authz, target).await, expected, "{target}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn nobody_listening_is_an_outage() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for form in ["http", "grpc"] {
        let authz = authz(form, &format!("http://{free}"), "5s", json!({}));
        assert_eq!(ask(&plain(), &authz, "/allow").await, "authz_unreachable", "{form}");
    }
}

#[tokio::test]
async fn a_connection_to_nobody_is_ended_by_the_kernel() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = connect_to("127.0.0.1", listener.local_addr().unwrap().port()).await.unwrap();
    assert_eq!(socket2::SockRef::from(&stream).tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED_MAX));
}

#[tokio::test]
async fn an_authority_s_certificate_is_verified() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let der = certified.cert.der().clone();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut server = server.with_no_client_auth().with_single_cert(vec![der.clone()], key.into()).unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                let server = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(grpc_answer)));
            } else {
                tokio::spawn(http_authority(stream));
            }
        }
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der).unwrap();
    for (form, path) in [("http", "/check"), ("grpc", "")] {
        let authz = authz(form, &format!("https://localhost:{port}{path}"), "5s", json!({ "body": "1KiB" }));
        assert_eq!(ask(&plain(), &authz, "/allow").await, "authz_unreachable", "{form}");
        assert_eq!(ask(&client(roots.clone()), &authz, "/allow").await, "allow with 0", "{form}");
    }
}
