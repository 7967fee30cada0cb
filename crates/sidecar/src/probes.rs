//! Answers health probes in the application's place, by asking it on loopback.

use crate::ProbeSpec;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_names::CidrSet;
use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::AbortHandle,
    time::timeout,
};

/// What probes are answered, compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct Probes {
    pub address: SocketAddr,
    pub(crate) from: CidrSet,
    pub(crate) allow: Vec<ProbeSpec>,
}

/// A running server of probes; it ends with this.
#[derive(Debug)]
pub struct ProbeServer {
    probes: Arc<Probes>,
    bound: SocketAddr,
    task: AbortHandle,
    /// The same socket once more, for the server that follows on it.
    socket: std::net::TcpListener,
}

/// A server that could start: its socket is open, and nobody is answered yet.
#[derive(Debug)]
pub struct PreparedProbes {
    probes: Probes,
    bound: SocketAddr,
    listener: TcpListener,
    socket: std::net::TcpListener,
}

const CONNECTIONS_MAX: usize = 64;
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The application's time; a kubelet's own default is a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A kubelet reads no more.
const BODY_MAX_BYTES: usize = 10 << 10;

impl ProbeServer {
    /// Opens the socket, or takes that of the server that runs on the address. Nothing changes before it is started. Needs a
    /// tokio runtime.
    pub fn prepare(probes: Probes, running: Option<&Self>) -> io::Result<PreparedProbes> {
        let socket = match running.filter(|running| running.probes.address == probes.address) {
            Some(running) => running.socket.try_clone()?,
            None => std::net::TcpListener::bind(probes.address)?,
        };
        socket.set_nonblocking(true)?;
        let (bound, listener) = (socket.local_addr()?, TcpListener::from_std(socket.try_clone()?)?);
        Ok(PreparedProbes { probes, bound, listener, socket })
    }

    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    pub fn bound(&self) -> SocketAddr {
        self.bound
    }
}

impl PreparedProbes {
    pub fn start(self) -> ProbeServer {
        let Self { probes, bound, listener, socket } = self;
        let probes = Arc::new(probes);
        let task = tokio::spawn(serve(listener, probes.clone())).abort_handle();
        ProbeServer { probes, bound, task, socket }
    }
}

impl Drop for ProbeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, probes: Arc<Probes>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Before a byte is read. Who is not named is refused: a security check.
        if !probes.from.contains(peer.ip().to_canonical()) {
            tracing::debug!(%peer, "a probe from an address that may not probe");
            continue;
        }
        let probes = probes.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(|request| {
                let probes = probes.clone();
                async move { Ok::<_, Infallible>(probes.answer(&request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            let _ = timeout(CONNECTION_TIMEOUT, connection).await;
        });
    }
}

impl Probes {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let Some(probe) = self.find(request.method(), target) else {
            return say(StatusCode::NOT_FOUND, "no such probe is allowed\n");
        };
        match timeout(ANSWER_TIMEOUT, ask(probe)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => say(StatusCode::SERVICE_UNAVAILABLE, &format!("the application: {error}\n")),
            Err(_) => say(StatusCode::GATEWAY_TIMEOUT, "the application: no answer in time\n"),
        }
    }

    /// Compared whole: nothing is normalised, so nothing can be got past it.
    fn find(&self, method: &Method, target: &str) -> Option<&ProbeSpec> {
        if method != Method::GET {
            return None;
        }
        self.allow
            .iter()
            .find(|probe| target == format!("/{}{}", probe.port, probe.path.as_deref().unwrap_or_default()))
    }
}

/// Nothing of what the probe sent but its path goes on: the application cannot take it for somebody.
async fn ask(probe: &ProbeSpec) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), probe.port.get());
    let stream = TcpStream::connect(address).await?;
    let Some(path) = &probe.path else { return Ok(say(StatusCode::OK, "open\n")) };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::USER_AGENT, "portcullis-probe")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BODY_MAX_BYTES).collect().await.map(|body| body.to_bytes());
        let mut response = Response::new(Full::new(body.unwrap_or_default()));
        *response.status_mut() = status;
        Ok(response)
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}

fn say(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ProbesSpec;
    use portcullis_config::{Context, Path};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: SocketAddr, method: &str, target: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request =
            format!("{method} {target} HTTP/1.1\r\nhost: x\r\nauthorization: secret\r\nconnection: close\r\n\r\n");
        // Who may not probe is closed on, perhaps before all is written.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    /// Answers each request with its own head.
    async fn application() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut head = vec![0; 4096];
                    let read = stream.read(&mut head).await.unwrap_or(0);
                    let body = &head[..read];
                    let answer = format!("HTTP/1.1 202 Accepted\r\ncontent-length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all(&[answer.as_bytes(), body].concat()).await;
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn only_named_probes_from_named_addresses_reach_the_application_and_nothing_of_theirs_but_the_path() {
        let port = application().await.port();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let compile = |from: &str| {
            let text = format!(
                "address = \"127.0.0.1:0\"\nfrom = [\"{from}\"]\nallow = [{{ port = {port}, path = \"/healthz?deep=1\" }}, {{ port = {port} }}, {{ port = {closed} }}]"
            );
            let spec: ProbesSpec = toml::from_str(&text).unwrap();
            spec.compile(&Path::root(), &mut Context::default()).unwrap()
        };
        let server = ProbeServer::prepare(compile("127.0.0.0/8"), None).unwrap().start();
        let bound = server.bound();
        let good = get(bound, "GET", &format!("/{port}/healthz?deep=1")).await;
        assert!(good.starts_with("HTTP/1.1 202") && good.contains("GET /healthz?deep=1 HTTP/1.1"), "{good}");
        assert!(!good.contains("secret"), "{good}");
        for (method, target, status) in [
            ("GET", format!("/{port}"), "200"),
            ("GET", format!("/{closed}"), "503"),
            ("GET", format!("/{port}/healthz"), "404"),
            ("GET", format!("/{port}/healthz?deep=1&x"), "404"),
            ("GET", format!("/{port}/../healthz?deep=1"), "404"),
            ("GET", format!("/{port}/%68ealthz?deep=1"), "404"),
            ("GET", "/1/healthz".to_owned(), "404"),
            ("POST", format!("/{port}/healthz?deep=1"), "404"),
        ] {
            let answer = get(bound, method, &target).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {target}: {answer}");
        }
        // Another follows on the same socket; while it is prepared, nothing changes.
        let next = ProbeServer::prepare(compile("192.0.2.0/24"), Some(&server)).unwrap();
        assert!(get(bound, "GET", &format!("/{port}/healthz?deep=1")).await.starts_with("HTTP/1.1 202"));
        let elsewhere = next.start();
        drop(server);
        assert_eq!(elsewhere.bound(), bound);
        assert_eq!(get(bound, "GET", &format!("/{port}/healthz?deep=1")).await, "");
    }

    #[test]
    fn mistakes_are_found_together() {
        let text = "address = \"unix:x\"\nfrom = []\nallow = [{ port = 1, path = \"healthz\" }, { port = 1, path = \"/a b\" }]";
        let spec: ProbesSpec = toml::from_str(text).unwrap();
        let mut cx = Context::default();
        assert!(spec.compile(&Path::root(), &mut cx).is_none());
        assert_eq!(cx.finish().0.problems().len(), 3);
    }
}
