//! The admin interface: what the CLI and an operator's scripts ask over the admin socket.

use crate::{EgressQuestion, Gateway, Question, compile, dns_admin, explain, explain_egress, mesh};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use portcullis_config::{Diff, Document, Report};
use portcullis_health::Override;
use portcullis_proxy::LiveMesh;
use portcullis_rollout::Command;
use portcullis_sidecar::{Application, Registered};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;

pub(crate) fn router(gateway: Gateway) -> Router {
    Router::new()
        .route("/health", get(|| async { Json(json!({ "alive": true })) }))
        .route("/ready", get(ready))
        .route("/status", get(async |State(gateway)| answer(gateway, |gateway| Json(gateway.status())).await))
        .route("/listeners", get(|gateway| part(gateway, "listeners")))
        .route("/upstreams", get(|gateway| part(gateway, "upstreams")))
        .route("/objectives", get(|gateway| part(gateway, "objectives")))
        .route("/rollouts", get(|gateway| part(gateway, "rollouts")))
        .route("/privacy", get(async |State(gateway)| answer(gateway, leaks).await))
        .route("/rollout", post(rollout))
        .route("/config", get(config))
        .route("/metrics", get(async |State(gateway)| answer(gateway, Gateway::metrics).await))
        .route("/reload", post(reload))
        .route("/diff", post(diff))
        .route("/explain", post(explain_request))
        .route("/egress/explain", post(explain_egress_flow))
        .route("/egress/learned", get(learned))
        .route("/applications", post(application))
        .route("/quit", post(quit))
        .route("/mesh", get(async |State(gateway)| answer(gateway, |gateway| sidecar(gateway, mesh::status)).await))
        .route(
            "/mesh/graph",
            get(async |State(gateway)| answer(gateway, |gateway| sidecar(gateway, mesh::graph)).await),
        )
        .route("/force/endpoint", post(force_endpoint))
        .route("/drain/listener", post(drain_listener))
        .merge(dns_admin::routes())
        .with_state(gateway)
}

/// Answers on a thread that may wait: for the gateway's lock, for files, for a compilation. The runtime has two threads of
/// its own, and probes and discovery need them.
pub(crate) async fn answer<R: IntoResponse>(
    gateway: Gateway,
    work: impl FnOnce(&Gateway) -> R + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(move || work(&gateway).into_response()).await {
        Ok(response) => response,
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": error.to_string() }))).into_response(),
    }
}

fn leaks(gateway: &Gateway) -> Json<Value> {
    Json(json!({ "leaks": gateway.leaks() }))
}

async fn ready(State(gateway): State<Gateway>) -> Response {
    answer(gateway, |gateway| {
        let reason = gateway.unready();
        let status = if reason.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        (status, Json(json!({ "ready": reason.is_none(), "reason": reason })))
    })
    .await
}

async fn part(State(gateway): State<Gateway>, name: &'static str) -> Response {
    answer(gateway, move |gateway| {
        let mut status = gateway.status();
        Json(json!({ name: status[name].take() }))
    })
    .await
}

async fn config(State(gateway): State<Gateway>) -> Response {
    answer(gateway, |gateway| Json(gateway.compiled().document.to_json())).await
}

async fn reload(State(gateway): State<Gateway>) -> Response {
    answer(gateway, |gateway| {
        let outcome = gateway.reload("admin");
        let generation = &gateway.status()["generation"];
        match outcome {
            Ok(diff) => Json(json!({ "outcome": "published", "generation": generation, "changes": diff.changes }))
                .into_response(),
            Err(report) => refused(&report, generation),
        }
    })
    .await
}

pub(crate) fn refused(report: &Report, generation: &Value) -> Response {
    let body = json!({
        "outcome": "refused",
        "generation": generation,
        "report": report.to_json(),
        "text": report.render(portcullis_config::Colour::Plain),
    });
    (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
}

#[derive(Deserialize)]
struct Files {
    files: Vec<PathBuf>,
}

async fn diff(State(gateway): State<Gateway>, Json(files): Json<Files>) -> Response {
    answer(gateway, move |gateway| {
        let running = gateway.compiled();
        let (document, report) = Document::load(&files.files);
        let candidate = document.to_json();
        match compile::compile(document, report, Some(&running)) {
            Ok(_) => {
                let diff = Diff::between(&running.document.to_json(), &candidate);
                Json(json!({ "changes": diff.changes, "text": diff.to_string() })).into_response()
            }
            Err(why) => refused(&why.report, &Value::Null),
        }
    })
    .await
}

async fn explain_request(State(gateway): State<Gateway>, Json(question): Json<Question>) -> Response {
    answer(gateway, move |gateway| match explain(&gateway.compiled(), &question) {
        Ok(explanation) => Json(json!({ "text": explanation.to_string(), "explanation": explanation })).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response(),
    })
    .await
}

async fn explain_egress_flow(State(gateway): State<Gateway>, Json(question): Json<EgressQuestion>) -> Response {
    answer(gateway, move |gateway| match explain_egress(&gateway.compiled(), &question) {
        Ok(explained) => Json(explained).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response(),
    })
    .await
}

async fn learned(State(gateway): State<Gateway>) -> Response {
    answer(gateway, |gateway| match gateway.learned() {
        Some((text, overflowed)) => Json(json!({ "text": text, "overflowed": overflowed })).into_response(),
        None => {
            let error = "the running configuration has no way out: nothing can have been learnt";
            (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
        }
    })
    .await
}

/// A process tells that it is about to become the application of this sidecar.
async fn application(State(gateway): State<Gateway>, Json(application): Json<Application>) -> Response {
    if gateway.sidecar().is_none() {
        return answer(gateway, |gateway| sidecar(gateway, mesh::status)).await;
    }
    let applications = gateway.state().around.applications.clone();
    let refused = |status: StatusCode, error: &str| (status, Json(json!({ "error": error }))).into_response();
    match applications.register(application) {
        Registered::Watched => Json(json!({ "watched": application.pid })).into_response(),
        Registered::NotSeen => {
            let error = "there is no such process here: it has ended, or runs in another namespace of processes";
            refused(StatusCode::NOT_FOUND, error)
        }
        Registered::TooMany => refused(StatusCode::TOO_MANY_REQUESTS, "too many applications are watched"),
    }
}

async fn quit(State(gateway): State<Gateway>) -> Response {
    gateway.quit();
    Json(json!({ "quits": true })).into_response()
}

fn sidecar(gateway: &Gateway, tell: fn(&LiveMesh) -> Value) -> Response {
    match gateway.sidecar() {
        Some(live) => Json(tell(&live)).into_response(),
        None => {
            let error = "the running configuration has no [workload]: this is no sidecar";
            (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
        }
    }
}

#[derive(Deserialize)]
struct ForceEndpoint {
    upstream: String,
    address: String,
    state: ForcedState,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum ForcedState {
    /// What probes and answers say.
    Auto,
    Drained,
    Up,
    Down,
}

async fn force_endpoint(State(gateway): State<Gateway>, Json(wish): Json<ForceEndpoint>) -> Response {
    let forced = match wish.state {
        ForcedState::Auto => None,
        ForcedState::Drained => Some(Override::Drained),
        ForcedState::Up => Some(Override::Up),
        ForcedState::Down => Some(Override::Down),
    };
    answer(gateway, move |gateway| {
        if gateway.force_endpoint(&wish.upstream, &wish.address, forced) {
            Json(json!({ "forced": forced })).into_response()
        } else {
            let error = format!("upstream \"{}\" has no endpoint {}", wish.upstream, wish.address);
            (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
        }
    })
    .await
}

#[derive(Deserialize)]
struct RolloutWish {
    rollout: String,
    command: RolloutCommand,
    why: Option<String>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum RolloutCommand {
    Pause,
    Resume,
    Promote,
    Abort,
}

async fn rollout(State(gateway): State<Gateway>, Json(wish): Json<RolloutWish>) -> Response {
    let command = match wish.command {
        RolloutCommand::Pause => Command::Pause,
        RolloutCommand::Resume => Command::Resume,
        RolloutCommand::Promote => Command::Promote,
        RolloutCommand::Abort => Command::Abort,
    };
    answer(gateway, move |gateway| match gateway.rollout(&wish.rollout, command, wish.why.as_deref()) {
        Some(Ok(status)) => {
            let warning = gateway.releases_forget().map(|why| format!("this holds until a restart only: {why}"));
            Json(json!({ "rollout": status, "warning": warning })).into_response()
        }
        Some(Err(refused)) => (StatusCode::CONFLICT, Json(json!({ "error": refused.to_string() }))).into_response(),
        None => {
            let error = format!("there is no rollout \"{}\"", wish.rollout);
            (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
        }
    })
    .await
}

#[derive(Deserialize)]
struct DrainListener {
    name: String,
}

async fn drain_listener(State(gateway): State<Gateway>, Json(wish): Json<DrainListener>) -> Response {
    answer(gateway, move |gateway| {
        if gateway.drain_listener(&wish.name) {
            Json(json!({ "drained": true })).into_response()
        } else {
            (StatusCode::NOT_FOUND, Json(json!({ "error": format!("no listener \"{}\"", wish.name) }))).into_response()
        }
    })
    .await
}
