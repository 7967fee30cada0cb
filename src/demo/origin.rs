//! The demo's origins: two copies of a small shop, and an echo that speaks WebSocket's handshake.

use anyhow::Result;
use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Starts an origin on a free loopback port; it lives as long as the runtime.
pub(crate) async fn start(name: &'static str) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/", get(move || async move { format!("Welcome to the shop, served by {name}.\n") }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/sse", get(events))
        .fallback(any(move |request: Request| async move { echo(name, &request) }));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
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
