//! Asks the authority's endpoint: for the first certificate with a token, then with the one in use.

use crate::{
    EnrolError,
    follower::Teller,
    given::{Answer, Given},
    source::Source,
};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portcullis_mesh::{AuthoritySource, Svid, SvidError, SvidVerifier};
use rustls::{
    ClientConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, pem::PemObject},
    sign::SingleCertAndKey,
};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

struct AuthorityClient(AuthoritySource);

/// Certificate and key, once there are any.
#[derive(Default)]
struct Held {
    given: Option<Given>,
    rotate_at: Option<SystemTime>,
    trust_at: Option<SystemTime>,
    failures: u32,
}

const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_MAX_BYTES: usize = 8 << 20;
const TOKEN_MAX_BYTES: u64 = 4096;

impl Source for AuthoritySource {
    async fn follow(self, teller: Teller) {
        let client = AuthorityClient(self);
        let mut held = Held::default();
        if let Some(given) = Given::read(&client.0.keep)
            && let Ok(svid) = given.svid(teller.own.id(), teller.clock.now())
        {
            held.took(given, &svid);
            teller.tell(Ok(svid));
        }
        loop {
            let now = teller.clock.now();
            let due = held.rotate_at.is_none_or(|at| now >= at);
            let outcome = if due {
                client.renew(&mut held, &teller).await
            } else if held.trust_at.is_none_or(|at| now >= at) {
                client.refresh(&mut held, &teller).await
            } else {
                sleep(held.pause(now, teller.pace.look)).await;
                continue;
            };
            match outcome {
                Ok(()) => {
                    held.failures = 0;
                    held.trust_at = Some(now + teller.pace.trust);
                }
                Err(error) => {
                    held.failures = held.failures.saturating_add(1);
                    teller.tell(Err(error));
                    sleep(teller.pace.pause(held.failures, fastrand::u64(..))).await;
                }
            }
        }
    }
}

impl Held {
    fn took(&mut self, given: Given, svid: &Svid) {
        // Between 50 % and 70 % of its life: drawn once, so that it does not move.
        self.rotate_at = Some(svid.rotate_at(fastrand::u64(..)));
        self.given = Some(given);
    }

    fn pause(&self, now: SystemTime, look: Duration) -> Duration {
        let next = self.rotate_at.into_iter().chain(self.trust_at).min();
        next.and_then(|next| next.duration_since(now).ok()).unwrap_or(look).min(look)
    }
}

impl AuthorityClient {
    /// A new key and its certificate. Nothing of the old is dropped before all of the new is good.
    async fn renew(&self, held: &mut Held, teller: &Teller) -> Result<(), EnrolError> {
        let own = teller.own.id().clone();
        let (key, request) = portcullis_ca::ask_for(&own)?;
        let answer = self.exchange(held, teller, Method::POST, "/v1/identity", request).await?;
        let given = Given { key, answer };
        let svid = given.svid(&own, teller.clock.now())?;
        self.keep(&given).await?;
        held.took(given, &svid);
        teller.tell(Ok(svid));
        Ok(())
    }

    /// Roots and revocation lists as they are now: long before the certificate is due they may have changed.
    async fn refresh(&self, held: &mut Held, teller: &Teller) -> Result<(), EnrolError> {
        let fresh = self.exchange(held, teller, Method::GET, "/v1/trust", String::new()).await?;
        let Some(given) = &held.given else { return Ok(()) };
        let answer = Answer { chain: given.answer.chain.clone(), ..fresh };
        if answer == given.answer {
            teller.well();
            return Ok(());
        }
        let given = Given { key: given.key.clone(), answer };
        let svid = given.svid(teller.own.id(), teller.clock.now())?;
        self.keep(&given).await?;
        held.given = Some(given);
        teller.tell(Ok(svid));
        Ok(())
    }

    async fn keep(&self, given: &Given) -> Result<(), EnrolError> {
        let (given, path) = (given.clone(), self.0.keep.clone());
        let kept = tokio::task::spawn_blocking(move || given.keep(&path)).await;
        kept.unwrap_or(Err(EnrolError::NothingToShow))
    }

    async fn exchange(
        &self,
        held: &Held,
        teller: &Teller,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Answer, EnrolError> {
        let current = teller.own.current().filter(|svid| svid.is_valid(teller.clock.now()));
        let token = match (&current, method == Method::POST) {
            (None, true) => Some(self.token().await?),
            (Some(_), _) | (None, false) => None,
        };
        let tls = self.tls(held, teller, current.as_deref())?;
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.0.address);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| self.broken(&error))?;
        let late = |_| EnrolError::Timeout { whom: self.0.address.clone(), seconds: TIMEOUT.as_secs() };
        timeout(TIMEOUT, self.send(tls, request)).await.map_err(late)?
    }

    /// What is believed of the endpoint: the identity's own roots, else those of the file.
    fn tls(&self, held: &Held, teller: &Teller, current: Option<&Svid>) -> Result<ClientConfig, EnrolError> {
        let verifier = match (current, &held.given) {
            (Some(svid), _) => SvidVerifier::of(svid),
            (None, _) => {
                let roots = pems::<CertificateDer<'static>>(&self.0.roots)?;
                SvidVerifier::new(
                    &roots,
                    &Vec::<CertificateRevocationListDer<'static>>::new(),
                    teller.own.id().trust_domain(),
                )?
            }
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_details(provider, Arc::new(teller.clock.clone()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| self.broken(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier.expecting(vec![self.0.server.clone()])));
        let mut config = match current {
            Some(svid) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(svid.key().as_ref().clone())))
            }
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = false;
        Ok(config)
    }

    async fn send(&self, tls: ClientConfig, request: Request<Full<Bytes>>) -> Result<Answer, EnrolError> {
        let whom = || self.0.address.clone();
        let stream =
            TcpStream::connect(&self.0.address).await.map_err(|source| EnrolError::Connect { whom: whom(), source })?;
        // SVIDs name no host; a name must be said all the same.
        let name = ServerName::try_from("authority.invalid").map_err(|error| self.broken(&error))?;
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(name, stream)
            .await
            .map_err(|source| EnrolError::Tls { whom: whom(), source })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_MAX_BYTES).collect().await;
            let body = body.map_err(|error| self.broken(error.as_ref()))?.to_bytes();
            if status != StatusCode::OK {
                let why = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
                return Err(EnrolError::Refused { whom: whom(), why });
            }
            serde_json::from_slice(&body).map_err(|error| self.broken(&error))
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            _ = connection => exchange.await,
        }
    }

    async fn token(&self) -> Result<String, EnrolError> {
        let path = self.0.token.as_ref().ok_or(EnrolError::NothingToShow)?;
        let failed = |source| EnrolError::File { path: path.clone(), source };
        if tokio::fs::metadata(path).await.map_err(failed)?.len() > TOKEN_MAX_BYTES {
            return Err(failed(std::io::Error::other("larger than 4 KiB: that is no token")));
        }
        Ok(tokio::fs::read_to_string(path).await.map_err(failed)?.trim().to_owned())
    }

    /// With its causes: in TLS 1.3 the refusal of a certificate arrives after the handshake, as an error of reading.
    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> EnrolError {
        let causes = std::iter::successors(Some(error), |error| error.source()).take(5);
        let why: Vec<_> = causes.map(ToString::to_string).collect();
        EnrolError::Protocol { whom: self.0.address.clone(), why: why.join(": ") }
    }
}

/// All of one kind in a PEM file.
fn pems<T: PemObject>(path: &Path) -> Result<Vec<T>, EnrolError> {
    let failed = |source| EnrolError::File { path: path.to_owned(), source };
    let pem = std::fs::read(path).map_err(failed)?;
    let all: Result<Vec<_>, _> = T::pem_slice_iter(&pem).collect();
    Ok(all.map_err(|_| SvidError::NotPem { what: "bundle of roots" })?)
}
