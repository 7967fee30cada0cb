//! A gateway, and where a case meets its own origin's end of the connection: by the path that it asked for.

use crate::support::{
    authority::Authority,
    client::{Io, tls, tls_config},
    gateway::Gateway,
    origin::{Seen, find, read_request},
};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// How a client comes: by which listener, and towards which origin (the host says).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Clear,
    TlsIn,
    TlsOut,
    TlsBoth,
}

pub(super) struct Lab {
    pub(super) gateway: Gateway,
    pub(super) config: String,
    ca: Authority,
    origins: [Origins; 2],
    count: AtomicU32,
}

/// The origin's end of one connection, which has read one request.
pub(super) struct Far {
    pub(super) seen: Seen,
    pub(super) io: Box<dyn Io>,
    /// What came behind the request.
    pub(super) ahead: Vec<u8>,
}

/// Both ends of an open tunnel.
pub(super) struct Pair {
    pub(super) near: Box<dyn Io>,
    pub(super) far: Box<dyn Io>,
    /// Its request's path.
    pub(super) path: String,
}

pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// The fields of a handshake (RFC 6455 §1.2) but for those of the upgrade.
pub(super) const SEC: &str = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
pub(super) const ASKED: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
pub(super) const GRANTED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

impl Lab {
    /// With further keys of the listeners, the upstreams and the routes.
    pub(super) async fn start(listener: &str, upstream: &str, route: &str) -> Self {
        let (ca, folder) = (Authority::new("ca"), tempfile::tempdir().unwrap());
        ca.leaf(&["a", "tls.test"]).write(folder.path(), "leaf");
        std::fs::write(folder.path().join("ca.pem"), &ca.certificate_pem).unwrap();
        let acceptor = ca.leaf(&["tls.test"]).acceptor(&[b"http/1.1"]);
        let origins = [Origins::start(None).await, Origins::start(Some(acceptor)).await];
        let [clear, tls] = origins.each_ref().map(|origins| origins.addr);
        let config = format!(
            "[certificate.leaf]\ncert = {{ file = \"leaf.crt\" }}\nkey = {{ file = \"leaf.key\" }}\n\
             [trust.ca]\nca = {{ file = \"ca.pem\" }}\n\
             [listener.http]\naddress = \"127.0.0.1:0\"\n{listener}\n\
             [listener.https]\naddress = \"127.0.0.1:0\"\nprotocol = \"https\"\n{listener}\n\
             [upstream.clear]\nendpoints = [\"{clear}\"]\n{upstream}\n\
             [upstream.tls]\nendpoints = [\"{tls}\"]\ntls = {{ sni = \"tls.test\", trust = \"ca\" }}\n{upstream}\n\
             [upstream.gone]\nendpoints = [\"127.0.0.1:1\"]\n\
             [route.clear]\nhosts = [\"a\"]\nupstream = \"clear\"\nretry = {{ attempts = 0 }}\n{route}\n\
             [route.clear.rule.here]\npath = \"/here\"\nrespond = {{ status = 204 }}\n\
             [route.clear.rule.closed]\npath = \"/closed\"\nip.allow = [\"192.0.2.1\"]\n\
             [route.tls]\nhosts = [\"tls.test\"]\nupstream = \"tls\"\n{route}\n\
             [route.gone]\nhosts = [\"gone\"]\nupstream = \"gone\"\n"
        );
        let gateway = Gateway::start_in(folder, &config).await;
        Self { gateway, config, ca, origins, count: AtomicU32::new(0) }
    }

    /// A path that nobody else asks for.
    pub(super) fn path(&self) -> String {
        format!("/{}", self.count.fetch_add(1, SeqCst))
    }

    pub(super) async fn connect(&self, way: Way) -> Box<dyn Io> {
        match way {
            Way::Clear | Way::TlsOut => {
                let stream = TcpStream::connect(self.gateway.addr("http")).await.unwrap();
                stream.set_nodelay(true).unwrap();
                Box::new(stream)
            }
            Way::TlsIn | Way::TlsBoth => {
                let config = tls_config(&self.ca.certificate_pem, &["http/1.1"]);
                Box::new(tls(self.gateway.addr("https"), "a", config).await.unwrap())
            }
        }
    }

    fn origins(&self, way: Way) -> &Origins {
        match way {
            Way::Clear | Way::TlsIn => &self.origins[0],
            Way::TlsOut | Way::TlsBoth => &self.origins[1],
        }
    }

    /// Sends a request for `path`, and gives both ends when the origin has read it.
    pub(super) async fn ask(&self, way: Way, path: &str, request: &[u8]) -> (Box<dyn Io>, Far) {
        self.ask_in(way, path, request, request.len()).await
    }

    /// The same, so many octets at a time.
    pub(super) async fn ask_in(&self, way: Way, path: &str, request: &[u8], size: usize) -> (Box<dyn Io>, Far) {
        let mut far = self.origins(way).expect(path);
        let mut near = self.connect(way).await;
        for piece in request.chunks(size) {
            say(&mut near, piece).await;
        }
        let far = timeout(PATIENCE, far.recv()).await.expect("the request reaches the origin in time").unwrap();
        (near, far)
    }

    /// The usual handshake, to its end.
    pub(super) async fn open(&self, way: Way) -> Pair {
        let path = self.path();
        let (mut near, mut far) = self.ask(way, &path, usual(way, &path, "").as_bytes()).await;
        say(&mut far.io, GRANTED.as_bytes()).await;
        let (head, behind) = head(&mut near).await;
        assert!(head.starts_with("HTTP/1.1 101 ") && behind.is_empty(), "{head}");
        Pair { near, far: far.io, path }
    }
}

/// A request for WebSocket, with more fields.
pub(super) fn usual(way: Way, path: &str, fields: &str) -> String {
    let host = match way {
        Way::Clear | Way::TlsIn => "a",
        Way::TlsOut | Way::TlsBoth => "tls.test",
    };
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{ASKED}{SEC}{fields}\r\n")
}

pub(super) async fn say(io: &mut Box<dyn Io>, octets: &[u8]) {
    io.write_all(octets).await.unwrap();
    io.flush().await.unwrap();
}

/// The next head, and what came behind it. An end before it is an empty head.
pub(super) async fn head(io: &mut Box<dyn Io>) -> (String, Vec<u8>) {
    let mut octets = Vec::new();
    loop {
        if let Some(at) = find(&octets, b"\r\n\r\n") {
            let behind = octets.split_off(at + 4);
            return (String::from_utf8(octets).unwrap(), behind);
        }
        let read = timeout(PATIENCE, io.read_buf(&mut octets)).await.expect("a head comes in time");
        if read.unwrap_or(0) == 0 {
            return (String::new(), octets);
        }
    }
}

/// All until the end, which must come. A reset is an end too.
pub(super) async fn rest(io: &mut Box<dyn Io>) -> Vec<u8> {
    let mut octets = Vec::new();
    let _ = timeout(PATIENCE, io.read_to_end(&mut octets)).await.expect("the connection ends in time");
    octets
}

/// What is said at one end arrives at the other, octet for octet.
pub(super) async fn carry(from: &mut Box<dyn Io>, to: &mut Box<dyn Io>, octets: &[u8]) {
    let mut arrived = vec![0; octets.len()];
    let (_, read) = tokio::join!(say(from, octets), timeout(PATIENCE, to.read_exact(&mut arrived)));
    read.expect("all arrives in time").unwrap();
    assert!(arrived == octets, "{} octets arrived changed", octets.len());
}

/// An origin that gives each connection, with the first request on it, to whoever expects that path.
struct Origins {
    addr: SocketAddr,
    expected: Arc<Mutex<HashMap<String, mpsc::UnboundedSender<Far>>>>,
}

impl Origins {
    async fn start(acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let expected: Arc<Mutex<HashMap<String, mpsc::UnboundedSender<Far>>>> = Arc::default();
        let known = expected.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let (known, acceptor) = (known.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let mut io: Box<dyn Io> = match acceptor {
                        None => Box::new(stream),
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => Box::new(stream),
                            Err(_) => return,
                        },
                    };
                    let mut ahead = Vec::new();
                    let Some(seen) = read_request(&mut io, &mut ahead).await else { return };
                    let path = seen.path().split('?').next().unwrap_or_default();
                    let waiting = known.lock().unwrap().get(path).cloned();
                    if let Some(waiting) = waiting {
                        let _ = waiting.send(Far { seen, io, ahead });
                    }
                });
            }
        });
        Self { addr, expected }
    }

    fn expect(&self, path: &str) -> mpsc::UnboundedReceiver<Far> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.expected.lock().unwrap().insert(path.to_owned(), sender);
        receiver
    }
}
