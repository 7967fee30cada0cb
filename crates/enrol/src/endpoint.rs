//! The authority's endpoint: HTTPS, on which a workload gets a certificate for a key that it has, and for its own name only.
//!
//! `POST /v1/identity` with a request (PEM) and either the certificate in use, for its renewal, or `Authorization: Bearer` and a
//! token, for the first one. `GET /v1/trust` gives roots and revocation lists, which are no secrets, to anybody.

use crate::{Clock, EnrolError, given::Answer};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_ca::{CaError, Folder, LeafLife, Namespace};
use portcullis_mesh::{Svid, SvidPem, SvidVerifier, svid_id};
use portcullis_names::SpiffeId;
use rustls::{ServerConfig, crypto::aws_lc_rs, sign::SingleCertAndKey};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// One authority's folder, served.
#[derive(Debug)]
pub struct Endpoint {
    folder: Folder,
    /// Signs the endpoint's own certificate.
    namespace: Namespace,
    /// Of what it gives.
    life: LeafLife,
    clock: Clock,
    own: Mutex<Option<Own>>,
}

/// The endpoint's own certificate: it is a workload of its mesh like any other.
#[derive(Debug, Clone)]
struct Own {
    id: SpiffeId,
    chain: String,
    key: String,
    rotate_at: SystemTime,
}

/// A refusal, or why nothing can be given.
struct Refused(StatusCode, String);

const CONNECTIONS_MAX: usize = 256;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const BODY_MAX_BYTES: usize = 32 << 10;

impl Endpoint {
    /// The service name that clients expect the endpoint to have.
    pub const SERVICE: &'static str = "authority";

    /// Fails when the folder cannot sign for `namespace`.
    pub fn new(folder: Folder, namespace: Namespace, life: LeafLife, clock: Clock) -> Result<Self, EnrolError> {
        let endpoint = Self { folder, namespace, life, clock, own: Mutex::default() };
        endpoint.tls()?;
        Ok(endpoint)
    }

    /// Until it is dropped.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let endpoint = self.clone();
                    tokio::spawn(async move {
                        let _permit = permit;
                        if timeout(CONNECTION_TIMEOUT, endpoint.connection(stream, peer)).await.is_err() {
                            tracing::debug!(%peer, "a client of the authority took too long");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the authority's endpoint cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let endpoint = self.clone();
        // It reads files: roots and lists are those of this moment.
        let tls = match tokio::task::spawn_blocking(move || endpoint.tls()).await {
            Ok(Ok((tls, domain))) => (tls, domain),
            Ok(Err(error)) => return tracing::error!(%error, "the authority cannot serve"),
            Err(_) => return,
        };
        let (config, domain) = tls;
        let accepted = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(Arc::new(config)).accept(stream)).await;
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::info!(%peer, %error, "a client of the authority was refused"),
            Err(_) => return,
        };
        // The verifier has judged it: who shows a certificate and gets here is somebody.
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let caller = leaf.and_then(|leaf| svid_id(leaf, &[domain]).ok());
        let service = service_fn(|request| {
            let (endpoint, caller) = (self.clone(), caller.clone());
            async move { Ok::<_, Infallible>(endpoint.answer(request, caller, peer).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        let _ = connection.await;
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        caller: Option<SpiffeId>,
        peer: SocketAddr,
    ) -> Response<Full<Bytes>> {
        let outcome = match (request.method(), request.uri().path()) {
            (&Method::POST, "/v1/identity") => self.identity(request, caller, peer).await,
            (&Method::GET, "/v1/trust") => self.blocking(|endpoint| Ok(endpoint.trust(String::new())?)).await,
            _ => Err(Refused(StatusCode::NOT_FOUND, "POST /v1/identity or GET /v1/trust".to_owned())),
        };
        let (status, kind, body) = match outcome.map(|answer| serde_json::to_vec(&answer)) {
            Ok(Ok(body)) => (StatusCode::OK, "application/json", body),
            Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string().into()),
            Err(Refused(status, why)) => {
                tracing::info!(%peer, status = status.as_u16(), why, "the authority refuses");
                (status, "text/plain", why.into())
            }
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        response
    }

    async fn identity(
        self: Arc<Self>,
        request: Request<Incoming>,
        caller: Option<SpiffeId>,
        peer: SocketAddr,
    ) -> Result<Answer, Refused> {
        let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer ")).map(|token| token.trim().to_owned());
        let body = Limited::new(request.into_body(), BODY_MAX_BYTES).collect().await;
        let body = body.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.to_string()))?.to_bytes();
        let text = String::from_utf8(body.to_vec())
            .map_err(|_| Refused(StatusCode::BAD_REQUEST, "the request is not PEM".to_owned()))?;
        self.blocking(move |endpoint| endpoint.sign(&text, caller, token.as_deref(), peer)).await
    }

    fn sign(
        &self,
        request: &str,
        caller: Option<SpiffeId>,
        token: Option<&str>,
        peer: SocketAddr,
    ) -> Result<Answer, Refused> {
        let now = self.clock.date();
        let request = portcullis_ca::Request::read(request)?;
        // The certificate in use speaks for its own name; a token for the one that it was made for.
        let (caller, spent) = match (caller, token) {
            (Some(caller), _) => (caller, None),
            (None, Some(token)) => {
                let redeemed = self.folder.redeem(token, now)?;
                (redeemed.id.clone(), Some(redeemed))
            }
            (None, None) => {
                let why = "show the certificate in use, or a token of `portcullis ca token`".to_owned();
                return Err(Refused(StatusCode::UNAUTHORIZED, why));
            }
        };
        let answer = self.trust(self.folder.sign(&request, &caller, self.life, now)?)?;
        let by = if let Some(spent) = spent {
            spent.keep_spent();
            "token"
        } else {
            "certificate"
        };
        tracing::info!(id = %caller, %peer, by, "the authority gave a certificate");
        Ok(answer)
    }

    fn trust(&self, chain: String) -> Result<Answer, CaError> {
        Ok(Answer::of(chain, self.folder.trusted()?))
    }

    /// Keys, signatures and files on a thread that may wait.
    async fn blocking(
        self: Arc<Self>,
        work: impl FnOnce(&Self) -> Result<Answer, Refused> + Send + 'static,
    ) -> Result<Answer, Refused> {
        let done = tokio::task::spawn_blocking(move || work(&self)).await;
        done.unwrap_or_else(|error| Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())))
    }

    fn tls(&self) -> Result<(ServerConfig, portcullis_names::TrustDomain), EnrolError> {
        let (own, trusted) = (self.own()?, self.folder.trusted()?);
        let revoked = (!trusted.revoked.is_empty()).then_some(trusted.revoked.as_bytes());
        let pem =
            SvidPem { chain: own.chain.as_bytes(), key: own.key.as_bytes(), bundle: trusted.roots.as_bytes(), revoked };
        let svid = Svid::from_pem(pem, &own.id, self.clock.now())?;
        // A first certificate is asked for without one.
        let verifier = SvidVerifier::of(&svid).letting_in_nobodies();
        let config =
            ServerConfig::builder_with_details(Arc::new(aws_lc_rs::default_provider()), Arc::new(self.clock.clone()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|error| EnrolError::Protocol { whom: "the authority".to_owned(), why: error.to_string() })?
                .with_client_cert_verifier(Arc::new(verifier))
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(svid.key().as_ref().clone())));
        Ok((config, own.id.trust_domain()))
    }

    fn own(&self) -> Result<Own, EnrolError> {
        let mut held = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        if let Some(own) = held.as_ref().filter(|own| now < own.rotate_at) {
            return Ok(own.clone());
        }
        let made = self.folder.issue_here(&self.namespace, Self::SERVICE, LeafLife::default(), self.clock.date())?;
        let (id, chain, key) = made;
        let trusted = self.folder.trusted()?;
        let pem =
            SvidPem { chain: chain.as_bytes(), key: key.as_bytes(), bundle: trusted.roots.as_bytes(), revoked: None };
        // An hour at most: the intermediate may have been replaced by one under a new root.
        let rotate_at = Svid::from_pem(pem, &id, now)?.rotate_at(0).min(now + Duration::from_secs(3600));
        let own = Own { id, chain, key, rotate_at };
        *held = Some(own.clone());
        Ok(own)
    }
}

impl From<CaError> for Refused {
    fn from(error: CaError) -> Self {
        let status = match &error {
            CaError::Token(_) => StatusCode::UNAUTHORIZED,
            CaError::OtherId { .. } | CaError::OtherDomain { .. } => StatusCode::FORBIDDEN,
            CaError::Name(_) | CaError::Unreadable { .. } | CaError::Life { .. } => StatusCode::BAD_REQUEST,
            CaError::Exists(_)
            | CaError::File { .. }
            | CaError::Missing { .. }
            | CaError::OtherKey(_)
            | CaError::NotBelieved(_)
            | CaError::Outlived { .. }
            | CaError::Signing(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(status, error.to_string())
    }
}
