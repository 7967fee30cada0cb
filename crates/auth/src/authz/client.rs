//! Puts questions to external authorities: HTTP/1.1 or h2, with or without TLS, over connections that are kept. Bounded in
//! time by each authority's own timeout, in memory by [`Authz::answer_max`]. What is asked and what an answer means is
//! said next door; whether a request passes without an answer is the caller's, by [`Authz::on_failure`].

use super::{Authz, AuthzFacts, AuthzFailure, AuthzProtocol, AuthzVerdict};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri, uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;

/// Connections to authorities. Cheap to clone; one for all of a process, over reloads too.
#[derive(Debug, Clone)]
pub struct AuthzClient {
    http: Client<Connector, Full<Bytes>>,
    grpc: Client<Connector, Full<Bytes>>,
}

/// An attempt that outlives the request that began it ends then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_MAX: usize = 32;
/// All questions by gRPC share a connection. When its other end is gone without a word, the kernel ends it after so long without
/// an acknowledgement. Not by pings of h2: many gRPC servers close a connection that pings oftener than
/// every five minutes.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(3);
const HEAD_MAX_BYTES: u32 = 64 << 10;

impl AuthzClient {
    /// `tls` says whom to trust.
    pub fn new(tls: &ClientConfig) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new());
        builder.pool_idle_timeout(IDLE_TIMEOUT).pool_max_idle_per_host(IDLE_MAX);
        builder.http1_max_buf_size(usize::try_from(HEAD_MAX_BYTES).unwrap_or(usize::MAX));
        let http = builder.build(Connector::new(tls, b"http/1.1"));
        builder.http2_only(true).http2_max_header_list_size(HEAD_MAX_BYTES);
        let grpc = builder.build(Connector::new(tls, b"h2"));
        Self { http, grpc }
    }

    /// Asks, and waits for the answer no longer than the authority's timeout.
    pub async fn ask(&self, authz: &Authz, facts: &AuthzFacts<'_>) -> AuthzVerdict {
        let deadline = Instant::now() + authz.timeout();
        let asked = async {
            let question = absolute(authz, authz.question(facts)?)?;
            match authz.protocol() {
                AuthzProtocol::Http => ask_http(&self.http, authz, question, deadline).await,
                AuthzProtocol::Grpc => ask_grpc(&self.grpc, authz, question, deadline).await,
            }
        };
        asked.await.unwrap_or_else(AuthzVerdict::Failed)
    }
}

type Question = Request<Full<Bytes>>;

async fn ask_http(
    client: &Client<Connector, Full<Bytes>>,
    authz: &Authz,
    question: Question,
    deadline: Instant,
) -> Result<AuthzVerdict, AuthzFailure> {
    let (head, body) = send(client, question, deadline).await?.into_parts();
    // The head has decided; a body that is late, long or cut off must not make a failure of a denial.
    let body = timeout_at(deadline, Limited::new(body, Authz::answer_max()).collect()).await;
    let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    Ok(authz.verdict(head.status.as_u16(), &head.headers, &body, None))
}

async fn ask_grpc(
    client: &Client<Connector, Full<Bytes>>,
    authz: &Authz,
    question: Question,
    deadline: Instant,
) -> Result<AuthzVerdict, AuthzFailure> {
    let (head, body) = send(client, question, deadline).await?.into_parts();
    let body = timeout_at(deadline, Limited::new(body, Authz::answer_max()).collect()).await;
    let body = body
        .map_err(|_| AuthzFailure::Timeout)?
        .map_err(|error| if error.is::<LengthLimitError>() { AuthzFailure::Malformed } else { AuthzFailure::Error })?;
    let trailers: Option<HeaderMap> = body.trailers().cloned();
    Ok(authz.verdict(head.status.as_u16(), &head.headers, &body.to_bytes(), trailers.as_ref()))
}

async fn send(
    client: &Client<Connector, Full<Bytes>>,
    question: Question,
    deadline: Instant,
) -> Result<Response<Incoming>, AuthzFailure> {
    let answer = timeout_at(deadline, client.request(question)).await.map_err(|_| AuthzFailure::Timeout)?;
    answer.map_err(|error| if error.is_connect() { AuthzFailure::Unreachable } else { AuthzFailure::Error })
}

/// The client finds the authority by the URI; Host stays the one that the question names.
fn absolute(authz: &Authz, question: Request<Bytes>) -> Result<Question, AuthzFailure> {
    let mut question = question.map(Full::new);
    let place: Uri = authz.url().to_string().parse().map_err(|_| AuthzFailure::Unaskable)?;
    let mut parts: uri::Parts = place.into_parts();
    parts.path_and_query = question.uri().path_and_query().cloned();
    *question.uri_mut() = Uri::from_parts(parts).map_err(|_| AuthzFailure::Unaskable)?;
    Ok(question)
}

/// Opens connections.
#[derive(Clone)]
struct Connector {
    tls: Arc<ClientConfig>,
}

impl Connector {
    fn new(tls: &ClientConfig, protocol: &[u8]) -> Self {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![protocol.to_vec()];
        Self { tls: Arc::new(tls) }
    }

    async fn open(self, uri: Uri) -> io::Result<TokioIo<Wire>> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidInput);
        let host = uri.host().ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let clear = uri.scheme() == Some(&uri::Scheme::HTTP);
        let port = uri.port_u16().unwrap_or(if clear { 80 } else { 443 });
        let stream = connect_to(&host, port).await?;
        if clear {
            return Ok(TokioIo::new(Wire(Box::new(stream))));
        }
        let name = ServerName::try_from(host).map_err(|_| wrong())?;
        let stream = TlsConnector::from(self.tls).connect(name, stream).await?;
        Ok(TokioIo::new(Wire(Box::new(stream))))
    }
}

async fn connect_to(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    Ok(stream)
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Wire>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { timeout(CONNECT_TIMEOUT, connector.open(uri)).await? })
    }
}

/// A connection, with TLS or without.
struct Wire(Box<dyn Duplex>);

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl connect::Connection for Wire {
    fn connected(&self) -> connect::Connected {
        connect::Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, from)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
