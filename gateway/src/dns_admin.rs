//! The admin interface of DNS: zones, sites and members, and what operators order over them.

use crate::{
    DnsQuestion, Gateway, Replay, ReplayedQuery,
    admin::{answer, refused},
    compile::{self, Refused},
    dns_orders::OrderRefused,
    dns_questions::delegation_of,
};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use portcullis_config::Document;
use portcullis_gslb::{Clocks, Forced, Order, OrderError, Ordered, Snapshot, Standing};
use portcullis_names::{ObjectName, TimeSpan};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{net::IpAddr, path::PathBuf, sync::Arc};

/// A gathered log of queries: `dns_questions::QUERIES_MAX` of them.
const REPLAY_OCTETS_MAX: usize = 64 << 20;
/// How long an order holds when nobody says: a forgotten one must not be the outage of another day.
const DEFAULT_SPAN_SECONDS: u64 = 4 * 3_600;

pub(crate) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/gslb", get(async |State(gateway)| answer(gateway, status).await))
        .route("/gslb/order", post(order))
        .route("/gslb/withdraw", post(withdraw))
        .route("/gslb/explain", post(explain))
        .route("/gslb/delegation", post(delegation))
        .route("/gslb/replay", post(replay).layer(DefaultBodyLimit::max(REPLAY_OCTETS_MAX)))
}

fn status(gateway: &Gateway) -> Response {
    let clocks = Clocks::read();
    let state = gateway.state();
    let Some(snapshot) = state.dns.snapshot() else { return no_dns() };
    let since = |seconds: u64| clocks.unix.saturating_sub(seconds);
    let members = snapshot.members(clocks).into_iter().map(|member| {
        let since = since(member.for_seconds);
        let mut member = json!(member);
        member["since"] = json!(since);
        member
    });
    Json(json!({
        "zones": snapshot.zones(clocks),
        "sites": snapshot.sites(clocks),
        "members": members.collect::<Vec<_>>(),
        "orders": state.dns.orders.all(clocks),
        "fleet": snapshot.fleet(clocks),
    }))
    .into_response()
}

fn no_dns() -> Response {
    problem(StatusCode::NOT_FOUND, "this process serves no DNS: no listener of protocol dns is configured")
}

fn problem(status: StatusCode, message: impl ToString) -> Response {
    (status, Json(json!({ "error": message.to_string() }))).into_response()
}

/// Which site or member is meant. Without a service: the site of this name in all of them (the big red button).
#[derive(Deserialize)]
struct Target {
    service: Option<ObjectName>,
    site: ObjectName,
    member: Option<IpAddr>,
}

impl Target {
    fn resolve(&self, snapshot: &Snapshot, clocks: Clocks) -> Vec<Ordered> {
        let target = |service| Ordered { service, site: self.site.clone(), member: self.member };
        match &self.service {
            Some(service) => vec![target(service.clone())],
            None => {
                let sites = snapshot.sites(clocks).into_iter().filter(|site| site.site == self.site);
                sites.map(|site| target(site.service)).collect()
            }
        }
    }
}

#[derive(Deserialize)]
struct OrderWish {
    target: Target,
    forced: Forced,
    author: String,
    reason: String,
    #[serde(rename = "for")]
    span: Option<TimeSpan>,
    /// Time until it begins.
    after: Option<TimeSpan>,
}

async fn order(State(gateway): State<Gateway>, Json(wish): Json<OrderWish>) -> Response {
    answer(gateway, move |gateway| {
        let clocks = Clocks::read();
        let mut state = gateway.state();
        let Some(snapshot) = state.dns.snapshot() else { return no_dns() };
        let from = clocks.unix.saturating_add(wish.after.map_or(0, |after| after.get().as_secs()));
        let until = from.saturating_add(wish.span.map_or(DEFAULT_SPAN_SECONDS, |span| span.get().as_secs()));
        let targets = wish.target.resolve(&snapshot, clocks);
        if targets.is_empty() {
            return problem(StatusCode::NOT_FOUND, format!("no service has a site \"{}\"", wish.target.site));
        }
        let mut orders = Vec::with_capacity(targets.len());
        for target in targets {
            let (author, reason) = (wish.author.clone(), wish.reason.clone());
            let (standing, stamp) = (Standing::Given, snapshot.stamp(clocks).unwrap_or_default());
            let order = Order { target, forced: wish.forced, author, reason, from, until, standing, stamp };
            if let Err(error) = state.dns.orders.order(&snapshot, order.clone(), clocks) {
                return refusal(&error);
            }
            orders.push(order);
        }
        Json(json!({ "orders": orders })).into_response()
    })
    .await
}

#[derive(Deserialize)]
struct WithdrawWish {
    target: Target,
    author: String,
}

async fn withdraw(State(gateway): State<Gateway>, Json(wish): Json<WithdrawWish>) -> Response {
    answer(gateway, move |gateway| {
        let clocks = Clocks::read();
        let mut state = gateway.state();
        let Some(snapshot) = state.dns.snapshot() else { return no_dns() };
        let mut withdrawn = Vec::new();
        let mut last = OrderRefused::Absent;
        for target in wish.target.resolve(&snapshot, clocks) {
            match state.dns.orders.withdraw(&snapshot, &target, &wish.author, clocks) {
                Ok(()) => withdrawn.push(target),
                Err(error) => last = error,
            }
        }
        if withdrawn.is_empty() {
            return refusal(&last);
        }
        Json(json!({ "withdrawn": withdrawn })).into_response()
    })
    .await
}

fn refusal(error: &OrderRefused) -> Response {
    let status = match error {
        OrderRefused::Wrong(OrderError::Locked(_)) => StatusCode::CONFLICT,
        OrderRefused::Wrong(_) => StatusCode::BAD_REQUEST,
        OrderRefused::Successor => StatusCode::CONFLICT,
        OrderRefused::Absent => StatusCode::NOT_FOUND,
    };
    problem(status, error)
}

async fn explain(State(gateway): State<Gateway>, Json(question): Json<DnsQuestion>) -> Response {
    with_snapshot(gateway, move |snapshot| match question.explain(snapshot, Clocks::read()) {
        Ok(explanation) => Json(json!({ "explanation": explanation })).into_response(),
        Err(error) => problem(StatusCode::BAD_REQUEST, error),
    })
    .await
}

#[derive(Deserialize)]
struct DelegationWish {
    zone: String,
}

async fn delegation(State(gateway): State<Gateway>, Json(wish): Json<DelegationWish>) -> Response {
    with_snapshot(gateway, move |snapshot| match delegation_of(snapshot, &wish.zone) {
        Ok(delegation) => Json(json!({ "delegation": delegation })).into_response(),
        Err(error) => problem(StatusCode::NOT_FOUND, error),
    })
    .await
}

#[derive(Deserialize)]
struct ReplayWish {
    files: Vec<PathBuf>,
    queries: Vec<ReplayedQuery>,
}

async fn replay(State(gateway): State<Gateway>, Json(wish): Json<ReplayWish>) -> Response {
    answer(gateway, move |gateway| {
        let running = gateway.compiled();
        let Some(now) = running.dns.as_ref() else { return no_dns() };
        let (document, report) = Document::load(&wish.files);
        match compile::compile(document, report, Some(&running)) {
            Err(Refused { report, .. }) => refused(&report, &Value::Null),
            Ok(candidate) => match candidate.dns.as_ref() {
                None => problem(StatusCode::BAD_REQUEST, "the candidate serves no DNS"),
                Some(then) => {
                    let replay = Replay::run(&now.snapshot, &then.snapshot, &wish.queries, Clocks::read());
                    Json(json!({ "replay": replay })).into_response()
                }
            },
        }
    })
    .await
}

async fn with_snapshot(gateway: Gateway, work: impl FnOnce(&Arc<Snapshot>) -> Response + Send + 'static) -> Response {
    answer(gateway, move |gateway| {
        let snapshot = gateway.state().dns.snapshot();
        snapshot.as_ref().map_or_else(no_dns, work)
    })
    .await
}
