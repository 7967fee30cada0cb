//! WebSocket passing through, case by case and counted: both ends are raw sockets, so that every octet can be compared. The gateway
//! judges the handshake and carries what follows; it reads no frames.

mod ends;
mod handshakes;
mod meeting;
mod messages;

use crate::support::{cases::Cases, client::h2, client::h2_get};
use meeting::Lab;
use std::sync::Arc;
use tokio::net::TcpStream;

/// The peers were measured by so many.
const CASES: usize = 52;

#[tokio::test]
async fn every_case_of_websocket_passes() {
    let lab = Arc::new(Lab::start("", "", "").await);
    let mut cases = Cases::new("WebSocket");
    handshakes::add(&lab, &mut cases);
    messages::add(&lab, &mut cases);
    ends::add(&lab, &mut cases);
    cases.case("h2: extended CONNECT is not announced, and refused", extended_connect(lab.clone()));
    cases.all_pass(CASES).await;
}

/// RFC 8441 §3: without SETTINGS_ENABLE_CONNECT_PROTOCOL clients fall back to HTTP/1.1. One that asks all the same loses its stream and
/// nothing else.
async fn extended_connect(lab: Arc<Lab>) {
    let sender = h2(TcpStream::connect(lab.gateway.addr("http")).await.unwrap()).await;
    // The settings are there once an answer is.
    assert_eq!(h2_get(&sender, "http://a/here").await.unwrap().0.status, 204);
    assert!(!sender.is_extended_connect_protocol_enabled());
    let mut ready = sender.clone().ready().await.unwrap();
    let mut request = http::Request::connect("http://a/chat").body(()).unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let (response, mut send) = ready.send_request(request, false).unwrap();
    let _ = send.send_data(bytes::Bytes::from_static(b"\x81\x00"), false);
    match response.await {
        Ok(response) => assert!(response.status().is_client_error() || response.status() == 501, "{response:?}"),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    assert_eq!(h2_get(&sender, "http://a/here").await.unwrap().0.status, 204, "the connection goes on");
}
