//! An origin that speaks HTTP/2 in clear: gRPC servers and the like, scripted by a test.

use bytes::Bytes;
use http::{HeaderMap, request::Parts};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::{net::TcpListener, task::JoinHandle};

/// A listening origin; stops when dropped.
pub(crate) struct H2Origin {
    pub addr: SocketAddr,
    /// Heads and bodies of the requests, in the order of their ends.
    pub seen: Arc<Mutex<Vec<(Parts, Vec<u8>)>>>,
    pub connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// What a request is answered.
pub(crate) enum H2Answer {
    Plain(&'static str),
    /// A gRPC message, and its status in the trailers.
    Grpc(Vec<u8>, u32),
    /// A large body.
    Large(Bytes),
    Never,
}

impl H2Origin {
    pub(crate) async fn start(answer: impl Fn(&Parts, &[u8]) -> H2Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (seen, connections): (Arc<Mutex<Vec<_>>>, Arc<AtomicUsize>) = Default::default();
        let (answer, log, count) = (Arc::new(answer), seen.clone(), connections.clone());
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                let (answer, log) = (answer.clone(), log.clone());
                open.spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    let mut streams = tokio::task::JoinSet::new();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let (answer, log) = (answer.clone(), log.clone());
                        streams.spawn(async move { serve(request, respond, &*answer, &log).await });
                    }
                });
            }
        });
        Self { addr, seen, connections, task }
    }
}

async fn serve(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    answer: &(dyn Fn(&Parts, &[u8]) -> H2Answer + Send + Sync),
    log: &Mutex<Vec<(Parts, Vec<u8>)>>,
) {
    let (parts, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    while let Some(Ok(chunk)) = incoming.data().await {
        let _ = incoming.flow_control().release_capacity(chunk.len());
        body.extend(chunk);
    }
    let answer = answer(&parts, &body);
    log.lock().unwrap().push((parts, body));
    let head = |kind: &str| http::Response::builder().header("content-type", kind).body(()).unwrap();
    match answer {
        H2Answer::Never => std::future::pending().await,
        H2Answer::Plain(text) => {
            if let Ok(mut stream) = respond.send_response(head("text/plain"), false) {
                let _ = stream.send_data(Bytes::from_static(text.as_bytes()), true);
            }
        }
        H2Answer::Large(body) => {
            if let Ok(mut stream) = respond.send_response(head("application/octet-stream"), false) {
                let _ = stream.send_data(body, true);
            }
        }
        H2Answer::Grpc(message, status) => {
            let Ok(mut stream) = respond.send_response(head("application/grpc"), false) else { return };
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            let _ = stream.send_data([&[0], &length[..], &message].concat().into(), false);
            let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.into())]);
            let _ = stream.send_trailers(trailers);
        }
    }
}

impl Drop for H2Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}
