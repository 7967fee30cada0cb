//! Tokens in hand: fetched once for all who need one, renewed at four fifths of their time, kept over reloads.

use super::{
    Secret, TokenError, TokenSource,
    token::{Token, TokenForm, parse_answer},
};
use crate::{AddressPolicy, DialLimits, FirstWord, Host, Resolver, dial, flights::Flights};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portcullis_auth::{HttpUrl, Transport};
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// How token endpoints are reached: by the same checks as any destination.
#[derive(Debug, Clone)]
pub struct TokenClient {
    pub resolver: Arc<Resolver>,
    pub addresses: Arc<AddressPolicy>,
    /// Whom to trust.
    pub tls: Arc<ClientConfig>,
}

/// The tokens of all sources. Made once; survives reloads, because a source that stays the same keeps its fingerprint.
#[derive(Debug, Default)]
pub struct Tokens {
    held: Mutex<HashMap<[u8; 32], Held>>,
    flights: Flights<[u8; 32], Result<Secret, TokenError>>,
}

#[derive(Debug)]
struct Held {
    outcome: Result<Secret, TokenError>,
    /// From then on who asks renews it, while others go on with the old.
    renew: Instant,
    until: Instant,
}

enum Look {
    Use(Result<Secret, TokenError>),
    /// Still good, and this caller is the one to renew it.
    Renew(Secret),
    Fetch,
}

const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_MAX_BYTES: usize = 64 << 10;
/// After a failure nobody asks for so long: an endpoint in trouble is not helped by a crowd.
const FAILURE_PAUSE: Duration = Duration::from_secs(2);
/// Sources that went away are forgotten when there are so many.
const SOURCES_MAX: usize = 10_000;

impl Tokens {
    /// A token that is good now. `id`: a random draw for the assertion.
    pub async fn bearer(
        &self,
        source: &TokenSource,
        client: &TokenClient,
        now: Instant,
        wall: SystemTime,
        id: u128,
    ) -> Result<Secret, TokenError> {
        let fetch = async {
            let fetched = client.fetch(source, now, wall, id).await;
            self.keep(source, fetched, now)
        };
        match self.look(source, now) {
            Look::Use(outcome) => outcome,
            Look::Renew(old) => match self.flights.join(&source.fingerprint, fetch).await {
                Ok(new) => Ok(new),
                Err(_) => Ok(old),
            },
            Look::Fetch => self.flights.join(&source.fingerprint, fetch).await,
        }
    }

    fn look(&self, source: &TokenSource, now: Instant) -> Look {
        let mut held = self.lock();
        let Some(held) = held.get_mut(&source.fingerprint).filter(|held| now < held.until) else {
            return Look::Fetch;
        };
        match &held.outcome {
            Ok(token) if now >= held.renew => {
                held.renew = now.checked_add(FETCH_TIMEOUT).unwrap_or(held.until);
                Look::Renew(token.clone())
            }
            outcome => Look::Use(outcome.clone()),
        }
    }

    fn keep(
        &self,
        source: &TokenSource,
        fetched: Result<Token, TokenError>,
        now: Instant,
    ) -> Result<Secret, TokenError> {
        let mut tokens = self.lock();
        if tokens.len() >= SOURCES_MAX {
            tokens.retain(|_, held| now < held.until);
        }
        let after = |span: Duration| now.checked_add(span).unwrap_or(now);
        let (outcome, renew, until) = match fetched {
            Ok(token) => (Ok(token.value), after(token.lasts * 4 / 5), after(token.lasts)),
            Err(error) => {
                // A renewal that failed must not take the old token away.
                if tokens.get(&source.fingerprint).is_some_and(|held| held.outcome.is_ok() && now < held.until) {
                    return Err(error);
                }
                (Err(error), after(FAILURE_PAUSE), after(FAILURE_PAUSE))
            }
        };
        tokens.insert(source.fingerprint, Held { outcome: outcome.clone(), renew, until });
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenClient {
    async fn fetch(&self, source: &TokenSource, now: Instant, wall: SystemTime, id: u128) -> Result<Token, TokenError> {
        let form = source.form(wall, id)?;
        let work = async {
            let url = &source.url;
            let host = match url.host().parse() {
                Ok(address) => Host::Address(address),
                Err(_) => Host::parse_bare(url.host()).map_err(TokenError::Unreachable)?,
            };
            let resolved = self.resolver.resolve(&host, now).await.map_err(TokenError::Unreachable)?;
            let checked = resolved.checked(&self.addresses, url.port(), &source.private);
            let checked = checked.map_err(|refusal| TokenError::Unreachable(refusal.reason()))?;
            let dialled =
                dial(&checked, &DialLimits::default(), FirstWord::Ready).await.map_err(TokenError::Unreachable)?;
            match url.transport() {
                Transport::Clear => ask(dialled.stream, url, form).await,
                Transport::Tls => {
                    let name = ServerName::try_from(url.host().to_owned()).map_err(|_| TokenError::Tls)?;
                    let mut tls = (*self.tls).clone();
                    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
                    let connector = TlsConnector::from(Arc::new(tls));
                    ask(connector.connect(name, dialled.stream).await.map_err(|_| TokenError::Tls)?, url, form).await
                }
            }
        };
        tokio::time::timeout(FETCH_TIMEOUT, work).await.unwrap_or(Err(TokenError::Protocol))
    }
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    url: &HttpUrl,
    form: TokenForm,
) -> Result<Token, TokenError> {
    let broken = || TokenError::Protocol;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| broken())?;
    let exchange = async {
        let mut request = http::Request::post(url.target())
            .header("host", url.authority())
            .header("accept", "application/json")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("connection", "close");
        if let Some(authorization) = &form.authorization {
            let mut value = http::HeaderValue::from_bytes(authorization.expose()).map_err(|_| broken())?;
            value.set_sensitive(true);
            request = request.header("authorization", value);
        }
        let body = Full::new(Bytes::copy_from_slice(form.body.expose()));
        let answer = sender.send_request(request.body(body).map_err(|_| broken())?).await.map_err(|_| broken())?;
        // A redirect would take the secret to a place that nobody wrote down.
        if answer.status() != http::StatusCode::OK {
            return Err(TokenError::Status(answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), ANSWER_MAX_BYTES).collect().await.map_err(|_| broken())?;
        parse_answer(&body.to_bytes())
    };
    // Polled here rather than spawned, so that dropping the fetch drops the connection.
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}
