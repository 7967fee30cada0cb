//! A gateway, a gRPC service behind it in clear and over TLS, and a client of it. The path says what the service does.

use crate::support::{
    authority::Authority,
    client::{Io, h2, tls, tls_config},
    gateway::Gateway,
};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::SendRequest, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, request, response};
use std::{
    collections::HashMap,
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// How a call comes and goes on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    Clear,
    TlsIn,
    TlsOut,
    TlsBoth,
}

pub(super) struct Lab {
    pub(super) gateway: Gateway,
    pub(super) log: Arc<Log>,
    ca: Authority,
    count: AtomicU32,
}

/// What the service saw, by the `x-case` of each call.
#[derive(Default)]
pub(super) struct Log {
    heads: Mutex<HashMap<String, Vec<request::Parts>>>,
    resets: Mutex<HashMap<String, Option<Reason>>>,
    /// Whoever waits for a change looks again.
    news: Notify,
    pub(super) connections: AtomicUsize,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) head: response::Parts,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
}

pub(super) const PATIENCE: Duration = Duration::from_secs(15);

impl Lab {
    pub(super) async fn start(listener: &str, upstream: &str, route: &str) -> Self {
        let (ca, folder) = (Authority::new("ca"), tempfile::tempdir().unwrap());
        ca.leaf(&["clear.test", "tls.test"]).write(folder.path(), "leaf");
        std::fs::write(folder.path().join("ca.pem"), &ca.certificate_pem).unwrap();
        let log = Arc::new(Log::default());
        let clear = serve(None, log.clone()).await;
        let tls = serve(Some(ca.leaf(&["tls.test"]).acceptor(&[b"h2"])), log.clone()).await;
        let leaving = leaving(clear).await;
        let config = format!(
            "[certificate.leaf]\ncert = {{ file = \"leaf.crt\" }}\nkey = {{ file = \"leaf.key\" }}\n\
             [trust.ca]\nca = {{ file = \"ca.pem\" }}\n\
             [listener.http]\naddress = \"127.0.0.1:0\"\n{listener}\n\
             [listener.https]\naddress = \"127.0.0.1:0\"\nprotocol = \"https\"\n{listener}\n\
             [upstream.clear]\nendpoints = [\"{clear}\"]\nprotocol = \"h2c\"\n{upstream}\n\
             [upstream.tls]\nendpoints = [\"{tls}\"]\nprotocol = \"h2\"\ntls = {{ sni = \"tls.test\", trust = \"ca\" }}\n{upstream}\n\
             [upstream.leaving]\nendpoints = [\"{leaving}\"]\nprotocol = \"h2c\"\n\
             [upstream.gone]\nendpoints = [\"127.0.0.1:1\"]\nprotocol = \"h2c\"\n\
             [route.clear]\nhosts = [\"clear.test\"]\nupstream = \"clear\"\n{route}\n\
             [route.clear.rule.closed]\npath = \"/closed\"\nip.allow = [\"192.0.2.1\"]\n\
             [route.tls]\nhosts = [\"tls.test\"]\nupstream = \"tls\"\n{route}\n\
             [route.leaving]\nhosts = [\"leaving.test\"]\nupstream = \"leaving\"\n\
             [route.gone]\nhosts = [\"gone.test\"]\nupstream = \"gone\"\n\
             [route.few]\nhosts = [\"few.test\"]\n[route.few.rule.one]\npath = \"/s/Unary\"\nupstream = \"clear\"\n"
        );
        let gateway = Gateway::start_in(folder, &config).await;
        Self { gateway, log, ca, count: AtomicU32::new(0) }
    }

    /// A connection of a client.
    pub(super) async fn connect(&self, way: Way) -> SendRequest<Bytes> {
        match way {
            Way::Clear | Way::TlsOut => h2(TcpStream::connect(self.gateway.addr("http")).await.unwrap()).await,
            Way::TlsIn | Way::TlsBoth => {
                let config = tls_config(&self.ca.certificate_pem, &["h2"]);
                h2(tls(self.gateway.addr("https"), "clear.test", config).await.unwrap()).await
            }
        }
    }

    /// A request for a method of the service, with a name of its own in `x-case`.
    pub(super) fn request(&self, way: Way, method: &str) -> (Request<()>, String) {
        let case = self.count.fetch_add(1, SeqCst).to_string();
        let (scheme, host) = match way {
            Way::Clear => ("http", "clear.test"),
            Way::TlsIn => ("https", "clear.test"),
            Way::TlsOut => ("http", "tls.test"),
            Way::TlsBoth => ("https", "tls.test"),
        };
        let request = Request::post(format!("{scheme}://{host}/s/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-case", &case);
        (request.body(()).unwrap(), case)
    }

    /// One call on a connection of its own: all is sent at once, and all is read.
    pub(super) async fn call(
        &self,
        way: Way,
        method: &str,
        fields: &[(&str, &str)],
        octets: &[u8],
    ) -> (Reply, request::Parts) {
        let sender = self.connect(way).await;
        let (mut request, case) = self.request(way, method);
        add(request.headers_mut(), fields);
        let reply = exchange(&sender, request, octets).await.unwrap();
        (reply, self.log.head(&case).await)
    }
}

pub(super) fn add(headers: &mut HeaderMap, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
}

/// Sends a whole request and reads the whole answer.
pub(super) async fn exchange(
    sender: &SendRequest<Bytes>,
    request: Request<()>,
    octets: &[u8],
) -> Result<Reply, h2::Error> {
    let mut sender = sender.clone().ready().await?;
    let (response, mut send) = sender.send_request(request, octets.is_empty())?;
    if !octets.is_empty() {
        send.send_data(Bytes::copy_from_slice(octets), true)?;
    }
    let (head, mut body) = timeout(PATIENCE, response).await.expect("an answer begins in time")?.into_parts();
    let mut reply = Reply { head, body: Vec::new(), trailers: None };
    while let Some(chunk) = timeout(PATIENCE, body.data()).await.expect("the answer goes on in time") {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        reply.body.extend(chunk);
    }
    reply.trailers = body.trailers().await?;
    Ok(reply)
}

/// gRPC's prefix of a message: a flag for compression, and the length.
pub(super) fn message(flag: u8, content: &[u8]) -> Vec<u8> {
    [&[flag][..], &u32::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
}

pub(super) fn filled(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
}

impl Reply {
    /// Where a client looks: in the trailers, or in a head that is all there is.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.trailers.as_ref().unwrap_or(&self.head.headers).get(name).map(|value| value.to_str().unwrap())
    }

    pub(super) fn must_be_ok(&self) {
        assert_eq!((self.head.status.as_u16(), self.field("grpc-status")), (200, Some("0")), "{self:?}");
    }

    /// What a client of gRPC makes of it (grpc/doc/http-grpc-status-mapping.md).
    pub(super) fn status(&self) -> u32 {
        if let Some(status) = self.field("grpc-status") {
            return status.parse().unwrap();
        }
        match self.head.status.as_u16() {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502 | 503 | 504 => 14,
            _ => 2,
        }
    }
}

impl Log {
    /// The request's head, once the service has seen it.
    pub(super) async fn head(&self, case: &str) -> request::Parts {
        self.first(|| self.heads.lock().unwrap().get(case).and_then(|heads| heads.first().cloned())).await
    }

    pub(super) fn times(&self, case: &str) -> usize {
        self.heads.lock().unwrap().get(case).map_or(0, Vec::len)
    }

    /// Why the stream was reset from outside; `None`: its connection went.
    pub(super) async fn reset(&self, case: &str) -> Option<Reason> {
        self.first(|| self.resets.lock().unwrap().get(case).copied()).await
    }

    async fn first<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let found = async {
            loop {
                let news = self.news.notified();
                if let Some(found) = look() {
                    return found;
                }
                news.await;
            }
        };
        timeout(PATIENCE, found).await.expect("the service sees it in time")
    }
}

async fn serve(acceptor: Option<TlsAcceptor>, log: Arc<Log>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            log.connections.fetch_add(1, SeqCst);
            let (acceptor, log) = (acceptor.clone(), log.clone());
            tokio::spawn(async move {
                let io: Box<dyn Io> = match acceptor {
                    None => Box::new(stream),
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => Box::new(stream),
                        Err(_) => return,
                    },
                };
                connection(io, log).await;
            });
        }
    });
    addr
}

/// On its first connection it says, of the first stream, that it goes and has not looked at any (RFC 9113 §6.8); the others lead to the
/// service.
async fn leaving(service: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
            first.write_all(&settings).await.unwrap();
            let mut octets = vec![0; PREFACE];
            first.read_exact(&mut octets).await.unwrap();
            loop {
                let mut head = [0; 9];
                first.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                octets.resize(length as usize, 0);
                first.read_exact(&mut octets).await.unwrap();
                if head[3] == HEADERS {
                    break;
                }
            }
            let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            first.write_all(&goaway).await.unwrap();
            let _ = first.read_to_end(&mut octets).await;
        });
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut far = TcpStream::connect(service).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    addr
}

/// Octets that a client begins with (RFC 9113 §3.4).
const PREFACE: usize = 24;
const HEADERS: u8 = 1;

async fn connection(io: Box<dyn Io>, log: Arc<Log>) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(8 << 20).max_concurrent_streams(500);
    let Ok(mut connection) = builder.handshake(io).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        match request.uri().path() {
            "/s/GoAway" => connection.graceful_shutdown(),
            // The connection ends in the middle of whatever there is.
            "/s/Crash" => return connection.abrupt_shutdown(Reason::INTERNAL_ERROR),
            "/s/Drop" => return,
            _ => {}
        }
        let log = log.clone();
        tokio::spawn(async move {
            // What fails here is seen by the client, or is what the client did.
            let _ = method(request, respond, &log).await;
        });
    }
}

fn head(kind: &HeaderValue) -> Response<()> {
    Response::builder().header("content-type", kind).body(()).unwrap()
}

fn status(fields: &HeaderMap) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let given = |name: &str| fields.get(name).cloned();
    trailers.insert("grpc-status", given("x-status").unwrap_or(HeaderValue::from_static("0")));
    for (from, to) in
        [("x-message", "grpc-message"), ("x-details", "grpc-status-details-bin"), ("x-trailing", "x-trailing-bin")]
    {
        if let Some(value) = given(from) {
            trailers.insert(to, value);
        }
    }
    trailers
}

async fn method(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, log: &Log) -> Result<(), h2::Error> {
    let (parts, mut body) = request.into_parts();
    let fields = parts.headers.clone();
    let case = fields.get("x-case").map_or(String::new(), |case| case.to_str().unwrap().to_owned());
    let times = {
        let mut heads = log.heads.lock().unwrap();
        let of_case = heads.entry(case.clone()).or_default();
        of_case.push(parts.clone());
        of_case.len()
    };
    log.news.notify_waiters();
    let kind = fields["content-type"].clone();
    match parts.uri.path().rsplit('/').next().unwrap() {
        // Echoes what it was sent when that is whole.
        "Unary" | "GoAway" => {
            let octets = whole(&mut body).await?;
            let mut answer = head(&kind);
            for (name, value) in fields.iter().filter(|(name, _)| name.as_str().starts_with("x-initial")) {
                answer.headers_mut().append(name, value.clone());
            }
            let mut send = respond.send_response(answer, false)?;
            if !octets.is_empty() {
                send.send_data(octets.into(), false)?;
            }
            send.send_trailers(status(&fields))
        }
        // Echoes each piece as it comes.
        "Bidi" => {
            let mut send = respond.send_response(head(&kind), false)?;
            while let Some(chunk) = body.data().await {
                let chunk = chunk?;
                body.flow_control().release_capacity(chunk.len())?;
                send.send_data(chunk, false)?;
            }
            send.send_trailers(status(&fields))
        }
        // `x-count` messages of `x-size` octets.
        "Down" => {
            let number = |name: &str| fields[name].to_str().unwrap().parse::<usize>().unwrap();
            whole(&mut body).await?;
            let mut send = respond.send_response(head(&kind), false)?;
            let one = Bytes::from(message(0, &filled(number("x-size"))));
            for _ in 0..number("x-count") {
                paced(&mut send, one.clone()).await?;
            }
            send.send_trailers(status(&fields))
        }
        // One message that says how many octets came.
        "Up" => {
            let octets = whole(&mut body).await?;
            let mut send = respond.send_response(head(&kind), false)?;
            send.send_data(message(0, octets.len().to_string().as_bytes()).into(), false)?;
            send.send_trailers(status(&fields))
        }
        // Trailers only: a head that is all there is.
        "Only" => {
            let mut answer = head(&kind);
            answer.headers_mut().extend(status(&fields));
            respond.send_response(answer, true).map(drop)
        }
        // Ends the call while the client is still sending.
        "Early" => {
            let mut send = respond.send_response(head(&kind), false)?;
            send.send_data(message(0, b"enough").into(), false)?;
            send.send_trailers(status(&fields))?;
            let _ = whole(&mut body).await;
            Ok(())
        }
        // Waits for the caller to give up: `x-head`: after a head and a message.
        "Never" => {
            let reason = match fields.contains_key("x-head") {
                false => poll_fn(|cx| respond.poll_reset(cx)).await,
                true => {
                    let mut send = respond.send_response(head(&kind), false)?;
                    send.send_data(message(0, b"first").into(), false)?;
                    poll_fn(|cx| send.poll_reset(cx)).await
                }
            };
            log.resets.lock().unwrap().insert(case, reason.ok());
            log.news.notify_waiters();
            Ok(())
        }
        // Resets its stream, `x-head`: after a head and a message.
        "Reset" => {
            if fields.contains_key("x-head") {
                let mut send = respond.send_response(head(&kind), false)?;
                paced(&mut send, message(0, b"first").into()).await?;
                // The caller says when it has read that much.
                whole(&mut body).await?;
                send.send_reset(Reason::INTERNAL_ERROR);
            } else {
                respond.send_reset(Reason::INTERNAL_ERROR);
            }
            Ok(())
        }
        // Does not begin the first time (RFC 9113 §8.7).
        "Refuse" if times == 1 => {
            respond.send_reset(Reason::REFUSED_STREAM);
            Ok(())
        }
        "Refuse" => {
            let octets = whole(&mut body).await?;
            let mut send = respond.send_response(head(&kind), false)?;
            send.send_data(octets.into(), false)?;
            send.send_trailers(status(&fields))
        }
        _ => {
            let mut answer = head(&kind);
            answer.headers_mut().insert("grpc-status", HeaderValue::from_static("12"));
            respond.send_response(answer, true).map(drop)
        }
    }
}

async fn whole(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut octets = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        octets.extend(chunk);
    }
    Ok(octets)
}

/// Sends when the reader has room.
pub(super) async fn paced(send: &mut SendStream<Bytes>, mut octets: Bytes) -> Result<(), h2::Error> {
    while !octets.is_empty() {
        send.reserve_capacity(octets.len());
        let Some(room) = poll_fn(|cx| send.poll_capacity(cx)).await else { return Ok(()) };
        let part = octets.split_to(room?.min(octets.len()));
        send.send_data(part, false)?;
    }
    Ok(())
}
