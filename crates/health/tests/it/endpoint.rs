//! Endpoints that answer as they are told, and probes of them.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use portcullis_config::{Context, Document, Path, Report};
use portcullis_health::{HealthCheck, HealthCheckSpec, Probe, ProbeKind};
use portcullis_names::EndpointAddress;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, ServerName},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use time::{Duration, OffsetDateTime};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// What an h2 endpoint answers.
#[derive(Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<Vec<(&'static str, &'static str)>>,
}

/// What an endpoint was asked, as text.
pub(crate) type Seen = Arc<Mutex<Vec<String>>>;

/// An authority, and the certificate that an endpoint shows now.
pub(crate) struct Identity {
    issuer: CertifiedIssuer<'static, KeyPair>,
    shown: Arc<Mutex<Option<Arc<CertifiedKey>>>>,
}

#[derive(Debug)]
struct Shown(Arc<Mutex<Option<Arc<CertifiedKey>>>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().unwrap().clone()
    }
}

impl Identity {
    /// For `name`, for so many days and an hour.
    pub(crate) fn new(name: &str, days: i64) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let identity = Self { issuer, shown: Arc::default() };
        identity.show(name, days);
        identity
    }

    pub(crate) fn show(&self, name: &str, days: i64) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - Duration::hours(1), now + Duration::days(days) + Duration::HOUR);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = portcullis_tls::provider().key_provider.load_private_key(key).unwrap();
        *self.shown.lock().unwrap() = Some(Arc::new(CertifiedKey::new(vec![cert.der().clone()], key)));
    }

    pub(crate) fn acceptor(&self, alpn: &[&str]) -> TlsAcceptor {
        let builder = ServerConfig::builder_with_provider(portcullis_tls::provider());
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = builder.with_cert_resolver(Arc::new(Shown(self.shown.clone())));
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config).into()
    }

    /// As the gateway makes it: for h1.
    pub(crate) fn kind(&self, name: &str) -> ProbeKind {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(portcullis_tls::provider());
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        ProbeKind::Tls { config: Arc::new(config), server_name: ServerName::try_from(name.to_owned()).unwrap() }
    }
}

/// Answers every HTTP/1 request with these bytes and closes.
pub(crate) async fn h1(answer: impl Into<Vec<u8>>, tls: Option<TlsAcceptor>) -> (SocketAddr, Seen) {
    let (listener, seen) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Seen::default());
    let (address, log, answer) = (listener.local_addr().unwrap(), seen.clone(), answer.into());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (log, answer, tls) = (log.clone(), answer.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => serve_h1(stream, &answer, &log).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            let name = stream.get_ref().1.server_name().map(str::to_owned);
                            log.lock().unwrap().push(format!("sni {}", name.unwrap_or_default()));
                            serve_h1(stream, &answer, &log).await;
                        }
                    }
                }
            });
        }
    });
    (address, seen)
}

async fn serve_h1(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8], seen: &Seen) {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    seen.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

/// Answers every h2 request like this.
pub(crate) async fn h2(
    reply: impl Fn(&Request<()>, &[u8]) -> Reply + Send + Sync + 'static,
    tls: Option<TlsAcceptor>,
) -> (SocketAddr, Seen) {
    let (listener, seen) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Seen::default());
    let (address, log, reply) = (listener.local_addr().unwrap(), seen.clone(), Arc::new(reply));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (log, reply, tls) = (log.clone(), reply.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => serve_h2(stream, &*reply, &log).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            serve_h2(stream, &*reply, &log).await;
                        }
                    }
                }
            });
        }
    });
    (address, seen)
}

async fn serve_h2(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    reply: &(dyn Fn(&Request<()>, &[u8]) -> Reply + Send + Sync),
    seen: &Seen,
) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (parts, mut body) = request.into_parts();
        let mut asked = Vec::new();
        if !body.is_end_stream() {
            // The connection has to be driven for the body to come; a probe's body is one frame.
            tokio::select! {
                data = body.data() => asked.extend(data.unwrap().unwrap()),
                _ = std::future::poll_fn(|cx| connection.poll_closed(cx)) => return,
            }
        }
        let request = Request::from_parts(parts, ());
        let fields = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        seen.lock().unwrap().push(format!(
            "{} {} {} {} {asked:?}",
            request.method(),
            request.uri(),
            fields("content-type").unwrap_or_default(),
            fields("te").unwrap_or_default(),
        ));
        let reply = reply(&request, &asked);
        let mut answer = Response::builder().status(reply.status);
        for (name, value) in &reply.headers {
            answer = answer.header(*name, *value);
        }
        let ends = reply.body.is_empty() && reply.trailers.is_none();
        let Ok(mut sending) = respond.send_response(answer.body(()).unwrap(), ends) else { continue };
        if !reply.body.is_empty() {
            let _ = sending.send_data(Bytes::from(reply.body), reply.trailers.is_none());
        }
        if let Some(trailers) = reply.trailers {
            let map: HeaderMap = trailers
                .into_iter()
                .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
                .collect();
            let _ = sending.send_trailers(map);
        }
    }
}

pub(crate) fn check(json: &str) -> HealthCheck {
    let spec: HealthCheckSpec = serde_json::from_str(json).unwrap();
    let mut cx = Context::new(Arc::new(Document::default()), Report::default());
    let check = spec.compile(&Path::root(), &mut cx);
    assert!(!cx.report().has_errors(), "{json}: {:?}", cx.report().lines());
    check
}

pub(crate) fn probe(address: SocketAddr, kind: ProbeKind, json: &str) -> Probe {
    Probe { address: EndpointAddress::Ip(address), kind, check: check(json) }
}
