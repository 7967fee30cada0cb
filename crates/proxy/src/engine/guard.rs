//! Drives the guards of a plan: asks each in turn and waits for those that ask somebody else.

use super::{app::App, view::View};
use crate::stage::{Exchange, Limited};
use http::header;
use pingora::http::RequestHeader;
use portcullis_limit::{Decision, Key, RateLimit, Verdict};
use portcullis_policy::{Cleared, Cors, Guard, Plan, Reason, RequestView, write_limit_key};
use portcullis_store::OnFail;
use std::{sync::Arc, time::Instant};

/// How a request came through the guards.
pub(super) enum Passed {
    Cleared(Cleared),
    /// It only asks what it may do, and may.
    Preflight,
}

impl App {
    /// Runs all guards; the first that refuses ends it.
    pub(super) async fn guard(
        &self,
        header: &RequestHeader,
        exchange: &mut Exchange,
        plan: &Plan,
    ) -> Result<Passed, Reason> {
        let announced =
            header.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let mut gate = plan.guards.gate(announced, exchange.body_limit)?;
        while let Some(guard) = gate.next_guard() {
            match guard {
                Guard::RateLimit(limit) => self.rate_limit(limit, header, exchange).await?,
                Guard::Preflight => {
                    let view = View { header, exchange };
                    if Cors::is_preflight(&view) {
                        let origin = view.header("origin").unwrap_or_default();
                        let allowed = plan.cors.as_ref().is_some_and(|cors| cors.allows(origin));
                        return if allowed { Ok(Passed::Preflight) } else { Err(Reason::CorsOrigin) };
                    }
                }
                Guard::Concurrency(slots) => {
                    exchange.slots.push(slots.limit.try_acquire().ok_or(Reason::ConcurrencyLimited)?);
                }
            }
        }
        gate.cleared().map(Passed::Cleared)
    }

    async fn rate_limit(
        &self,
        limit: &Arc<RateLimit>,
        header: &RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<(), Reason> {
        let mut key = std::mem::take(&mut exchange.limit_key);
        write_limit_key(limit, &View { header, exchange }, &mut key);
        let verdict = self.count(limit, &key, exchange).await;
        exchange.limit_key = key;
        let Some(verdict) = verdict? else { return Ok(()) };
        let decision = limit.decide(&verdict);
        if decision != Decision::Shadow {
            exchange.limited.push(Limited { limit: limit.clone(), verdict });
        }
        match decision {
            Decision::Refuse => Err(Reason::RateLimited),
            Decision::Admit | Decision::Shadow => Ok(()),
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
}
