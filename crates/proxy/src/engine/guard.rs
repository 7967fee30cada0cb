//! Drives the guards of a plan: asks each in turn and waits for those that ask somebody else.

use super::{app::App, fate, stream_watch, view::View};
use crate::{
    conn::ConnFacts,
    stage::{Exchange, Limited},
    unix_seconds,
};
use http::header;
use pingora::proxy::Session;
use portcullis_auth::{
    AuthRule, Authenticated, Authz, AuthzClient, AuthzDenial, AuthzFacts, AuthzVerdict, Decision, PasswordCheck,
};
use portcullis_limit::{Decision as LimitDecision, Key, RateLimit, Verdict};
use portcullis_policy::{Cleared, Cors, Guard, Plan, Reason, RequestView, write_limit_key};
use portcullis_store::OnFail;
use portcullis_tls::system_client;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// How a request came through the guards.
pub(super) enum Passed {
    Cleared(Cleared),
    /// It only asks what it may do, and may.
    Preflight,
    /// An external authority refuses it, in its own words.
    Denied(AuthzDenial),
}

impl App {
    /// Runs all guards; the first that refuses ends it.
    pub(super) async fn guard(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        plan: &Plan,
    ) -> Result<Passed, Reason> {
        let mut gate = plan.guards.gate(announced(session), exchange.body_limit)?;
        while let Some(guard) = gate.next_guard() {
            match guard {
                Guard::Ip(rules) => {
                    let denied = |refusal: portcullis_auth::IpRefusal| Reason::Denied {
                        label: refusal.as_str(),
                        status: refusal.status(),
                    };
                    rules.check(exchange.client_ip).map_err(denied)?;
                }
                Guard::RateLimit(limit) => self.rate_limit(limit, session, exchange).await?,
                Guard::Preflight => {
                    let view = View { header: session.req_header(), exchange };
                    if Cors::is_preflight(&view) {
                        let origin = RequestView::header(&view, "origin").unwrap_or_default();
                        let allowed = plan.cors.as_ref().is_some_and(|cors| cors.allows(origin));
                        return if allowed { Ok(Passed::Preflight) } else { Err(Reason::CorsOrigin) };
                    }
                }
                Guard::Auth(rule) => authenticate(rule, session, exchange).await?,
                Guard::Authz(authz) => {
                    if let Some(denial) = self.authorise(authz, session, exchange).await? {
                        return Ok(Passed::Denied(denial));
                    }
                }
                Guard::Concurrency(slots) => {
                    exchange.slots.push(slots.limit.try_acquire(Instant::now()).ok_or(Reason::ConcurrencyLimited)?);
                }
            }
        }
        gate.cleared().map(Passed::Cleared)
    }

    async fn rate_limit(
        &self,
        limit: &Arc<RateLimit>,
        session: &Session,
        exchange: &mut Exchange,
    ) -> Result<(), Reason> {
        let mut key = std::mem::take(&mut exchange.limit_key);
        write_limit_key(limit, &View { header: session.req_header(), exchange }, &mut key);
        let verdict = self.count(limit, &key, exchange).await;
        exchange.limit_key = key;
        let Some(verdict) = verdict? else { return Ok(()) };
        let decision = limit.decide(&verdict);
        if decision != LimitDecision::Shadow {
            exchange.limited.push(Limited { limit: limit.clone(), verdict });
        }
        match decision {
            LimitDecision::Refuse => Err(Reason::RateLimited),
            LimitDecision::Admit | LimitDecision::Shadow => Ok(()),
        }
    }

    /// Counts in the limit's store, or here. `None`: nobody counted, and that is to be let through.
    async fn count(&self, limit: &RateLimit, key: &Key, exchange: &Exchange) -> Result<Option<Verdict>, Reason> {
        let config = limit.store().and_then(|name| Some((name, exchange.snapshot.stores.get(name)?)));
        let Some((name, config)) = config else { return Ok(Some(limit.check(key, Instant::now()))) };
        let store = self.stores.get(name, config);
        match store.check(limit, key).await {
            Ok(verdict) => Ok(Some(verdict)),
            Err(error) => {
                self.edge.metrics.store_failed(name.as_str(), error.as_str());
                match store.on_fail() {
                    OnFail::Local => Ok(Some(limit.check(key, Instant::now()))),
                    OnFail::Allow => Ok(None),
                    OnFail::Deny => Err(Reason::LimitStoreDown),
                }
            }
        }
    }

    /// Asks the external authority. `Some`: it refuses.
    async fn authorise(
        &self,
        authz: &Authz,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<Option<AuthzDenial>, Reason> {
        let body = match authz.body_max() {
            None => Vec::new(),
            Some(max) => read_body(session, max, &exchange.facts).await?,
        };
        let client = self.authorities.get_or_init(|| AuthzClient::new(&system_client()));
        let header = session.req_header();
        let target = match header.uri.query() {
            Some(query) => format!("{}?{query}", exchange.path),
            None => exchange.path.clone(),
        };
        let nowhere = SocketAddr::from((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
        let view = View { header, exchange };
        let identity = view.identity();
        let facts = AuthzFacts {
            id: &exchange.request_id,
            method: header.method.as_str(),
            scheme: view.scheme().as_str(),
            host: &exchange.host,
            target: &target,
            protocol: if header.version == http::Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
            headers: &header.headers,
            source: SocketAddr::new(exchange.client_ip, exchange.facts.source.map_or(0, |source| source.port())),
            destination: exchange.facts.local.unwrap_or(nowhere),
            principal: identity.and_then(|identity| identity.name()),
            sni: exchange.facts.tls.as_ref().and_then(|tls| tls.sni.as_deref()),
            body: &body,
            body_size: announced(session),
            time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        };
        let edits = match client.ask(authz, &facts).await {
            AuthzVerdict::Allow(edits) => edits,
            AuthzVerdict::Deny(denial) => return Ok(Some(denial)),
            AuthzVerdict::Failed(failure) => {
                tracing::warn!(authority = %authz.url(), %failure, "an external authority gave no verdict");
                authz
                    .on_failure(failure)
                    .map_err(|failure| Reason::Denied { label: failure.as_str(), status: failure.status() })?
            }
        };
        exchange.authz.push(edits);
        Ok(None)
    }
}

fn announced(session: &Session) -> Option<u64> {
    session.req_header().headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Finds out who asks; waits for keys or a password's slow check where it must.
async fn authenticate(rule: &AuthRule, session: &Session, exchange: &mut Exchange) -> Result<(), Reason> {
    let decide = |exchange: &Exchange| rule.begin(&View { header: session.req_header(), exchange }, unix_seconds());
    let mut decision = decide(exchange);
    if let Decision::Keys(identity, _) = &decision {
        if let Some(keys) = exchange.snapshot.keys.get(identity.name()) {
            keys.refreshed().await;
        }
        decision = decide(exchange);
    }
    let outcome = match decision {
        Decision::Done(outcome) => outcome,
        Decision::Keys(_, refusal) => Err(refusal),
        Decision::Password(check) => check_password(check).await?,
    };
    match outcome {
        Ok(inner) => {
            exchange.who = std::mem::take(&mut exchange.who).and(inner);
            Ok(())
        }
        Err(refusal) => {
            exchange.challenges = rule.challenges(refusal);
            Err(Reason::Denied { label: refusal.as_str(), status: refusal.status() })
        }
    }
}

type Checked = Result<Authenticated, portcullis_auth::AuthRefusal>;

/// On a thread of its own: it takes milliseconds by design, and this one serves others.
async fn check_password(check: PasswordCheck) -> Result<Checked, Reason> {
    // A check that died decides nothing; fails closed.
    tokio::task::spawn_blocking(move || check.finish(unix_seconds())).await.map_err(|_| Reason::Internal)
}

/// Reads the whole body, and holds it for the upstream: what the retry buffer holds is sent from there. `max` is never above
/// its size (64 KiB).
async fn read_body(session: &mut Session, max: usize, facts: &ConnFacts) -> Result<Vec<u8>, Reason> {
    let mut body = Vec::new();
    if announced(session).is_some_and(|length| length > max as u64) {
        return Err(Reason::BodyTooLarge);
    }
    if session.is_body_done() {
        return Ok(body);
    }
    session.enable_retry_buffering();
    if session.req_header().headers.get(header::EXPECT).is_some() {
        session.write_continue_response().await.map_err(|error| fate::reason(&error, facts))?;
    }
    while let Some(chunk) = session.read_request_body().await.map_err(|error| fate::reason(&error, facts))? {
        stream_watch::progress(chunk.len());
        if body.len() + chunk.len() > max {
            return Err(Reason::BodyTooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
