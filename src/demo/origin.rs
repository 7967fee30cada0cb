//! The demo's origins: two copies of a small shop, and an echo that speaks WebSocket's handshake.

use anyhow::Result;
use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, sync::Notify};

/// Starts the two origins on one free port of two loopback addresses, so that a name can lead to either. They live as long as
/// the runtime, or until they are asked to stop.
pub(crate) async fn start_both() -> Result<(SocketAddr, SocketAddr)> {
    let mut tries = 0;
    loop {
        let blue = TcpListener::bind("127.0.0.1:0").await?;
        tries += 1;
        match TcpListener::bind(("127.0.0.2", blue.local_addr()?.port())).await {
            // The port is somebody else's on the other address: the next one may be free on both.
            Err(_) if tries < PORT_TRIES => {}
            green => return Ok((start("blue", blue)?, start("green", green?)?)),
        }
    }
}

const PORT_TRIES: usize = 16;

/// Somebody whom the demo's applications call.
pub(crate) async fn start_outside() -> Result<SocketAddr> {
    start("outside", TcpListener::bind("127.0.0.1:0").await?)
}

fn start(name: &'static str, listener: TcpListener) -> Result<SocketAddr> {
    let address = listener.local_addr()?;
    let stop = Arc::new(Notify::new());
    let stopped = stop.clone();
    let router = Router::new()
        .route("/", get(move || async move { format!("Welcome to the shop, served by {name}.\n") }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/sse", get(events))
        .route(
            "/stop",
            post(move || async move {
                stop.notify_one();
                format!("{name} stops\n")
            }),
        )
        .fallback(any(move |request: Request| async move { echo(name, &request) }));
    tokio::spawn(async move {
        let serving = axum::serve(listener, router).with_graceful_shutdown(async move { stopped.notified().await });
        if let Err(error) = serving.await {
            tracing::error!(origin = name, %error, "demo origin ended");
        }
    });
    Ok(address)
}

/// Shows what arrives behind the gateway: most questions about a proxy are answered by looking.
fn echo(name: &str, request: &Request) -> Response {
    let mut text = format!("origin {name} saw\n{} {}\n", request.method(), request.uri());
    for (field, value) in request.headers() {
        text.push_str(&format!("{field}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain")], text).into_response()
}

async fn events() -> Response {
    let body = "event: tick\ndata: 1\n\nevent: tick\ndata: 2\n\n";
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}
