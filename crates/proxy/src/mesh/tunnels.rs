//! Streams of octets that came in: decided about, dialled to the application, carried.

use super::{
    Lifetime, LiveMesh,
    carrier::{CONNECTION_WINDOW, FRAME, HELD_BACK, RESETS_MAX, STREAM_WINDOW, connect_reason},
    dialling::connect,
    h2_stream::{self, Caller, Ends},
    record::{Ended, TunnelRecord},
    revoke::no_longer,
};
use crate::{
    conn::{ConnFacts, Prefixed, Socket},
    core::Core,
};
use bytes::{Bytes, BytesMut};
use h2::{RecvStream, server::SendResponse};
use http::{Request as HttpRequest, Response, StatusCode};
use portcullis_egress::{Moved, Reason as Cut, TunnelEnd};
use portcullis_mesh::{Request, Verdict};
use portcullis_policy::Reason;
use std::{
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch};
use tokio_rustls::server::TlsStream;

/// Longest silence in a stream of octets.
pub(super) const IDLE: Duration = Duration::from_secs(3600);
/// The application is on this machine, or next to it.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// Streams on one carrier; a peer opens more carriers before it comes near.
const STREAMS: u32 = 1024;

/// A connection that is carried as it came.
pub(super) struct Clear {
    pub(super) stream: Socket,
    pub(super) front: BytesMut,
    /// The application, where it was asked already.
    pub(super) opened: Option<TcpStream>,
}

/// In clear text, or under the applications' own TLS.
pub(super) async fn carry_clear(
    clear: Clear,
    facts: &ConnFacts,
    live: &Arc<LiveMesh>,
    mut record: TunnelRecord,
    core: &Rc<Core>,
    drain: watch::Receiver<bool>,
) {
    let Clear { stream, front, opened } = clear;
    let Socket::Tcp(client) = stream else { return };
    let mut application = match admit(facts, live, &mut record, opened).await {
        Ok(application) => application,
        Err(ended) => return record.tell(core.edge(), facts, ended, (0, 0)),
    };
    let moved = Moved::default();
    if application.write_all(&front).await.is_err() {
        return record.tell(core.edge(), facts, Ended::Broken, (0, 0));
    }
    moved.up.fetch_add(front.len() as u64, Relaxed);
    drop(front);
    let state = live.state.clone();
    // Pinned here and lent: each future that takes another one whole holds it twice.
    let cut = pin!(cut(facts, core));
    let relayed = pin!(portcullis_egress::relay(client, application, &state.pipes, &moved, IDLE, cut));
    let ended = until_drained(relayed, core, drain).await;
    record.tell(core.edge(), facts, ended, (moved.up.load(Relaxed), moved.down.load(Relaxed)));
}

/// Streams of an h2 carrier, until it ends.
pub(super) async fn serve_carrier(
    tls: TlsStream<Prefixed>,
    facts: Arc<ConnFacts>,
    core: &Rc<Core>,
    mut drain: watch::Receiver<bool>,
) {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(HELD_BACK)
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(None)
        .max_concurrent_reset_streams(RESETS_MAX);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(tls).await else { return };
    let mut draining = false;
    let lifetime = facts.mesh().and_then(|mesh| mesh.lifetime);
    let mut leave = std::pin::pin!(async {
        match lifetime {
            None => std::future::pending().await,
            Some(lifetime) => lifetime.retires().await,
        }
    });
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            _ = drain.wait_for(|draining| *draining), if !draining => {
                draining = true;
                connection.graceful_shutdown();
                continue;
            }
            // Its streams are cut one by one when the certificates are over.
            () = &mut leave, if !draining => {
                draining = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, respond))) = accepted else { return };
        let (facts, core, drain) = (facts.clone(), core.clone(), drain.clone());
        tokio::task::spawn_local(async move { serve_stream(request, respond, &facts, &core, drain).await });
    }
}

async fn serve_stream(
    request: HttpRequest<RecvStream>,
    mut respond: SendResponse<Bytes>,
    facts: &ConnFacts,
    core: &Rc<Core>,
    drain: watch::Receiver<bool>,
) {
    let (Some(live), Some(mesh)) = (core.edge().snapshot().mesh.clone(), facts.mesh()) else { return };
    let mut record = TunnelRecord::new(mesh.direction, "tunnel", &live);
    record.source = mesh.source();
    record.identity = mesh.peer.as_ref().map(|peer| peer.as_str().to_owned());
    record.security = mesh.security;
    record.entry.clone_from(&mesh.entry);
    record.endpoint = mesh.target;
    if request.method() != http::Method::CONNECT {
        // Who answers is nobody's business any more.
        let _ = respond.send_response(status(StatusCode::METHOD_NOT_ALLOWED), true);
        return record.tell(core.edge(), facts, Ended::Refused("not_connect"), (0, 0));
    }
    // Where it leads is the connection's, whatever the authority says: a peer chooses no other port. Only of HBONE it is the
    // stream's: a port of the address that the peer came to, and of no other, about which rules decide as if it had been called.
    let inside;
    let (facts, mesh) = match (mesh.target, asked(&request, facts)) {
        (Some(_), _) => (facts, mesh),
        (None, Some(target)) => {
            let mut own = facts.inside();
            own.set_mesh(mesh.of_stream(target));
            inside = own;
            let Some(mesh) = inside.mesh() else { return };
            (&inside, mesh)
        }
        (None, None) => {
            let _ = respond.send_response(status(StatusCode::FORBIDDEN), true);
            return record.tell(core.edge(), facts, Ended::Refused("not_this_workload"), (0, 0));
        }
    };
    record.endpoint = mesh.target;
    let application = match admit(facts, &live, &mut record, None).await {
        Ok(application) => application,
        Err(ended) => {
            let code = match ended {
                Ended::Refused(_) => StatusCode::FORBIDDEN,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            let _ = respond.send_response(status(code), true);
            return record.tell(core.edge(), facts, ended, (0, 0));
        }
    };
    drop(live);
    let Ok(send) = respond.send_response(status(StatusCode::OK), false) else {
        return record.tell(core.edge(), facts, Ended::Broken, (0, 0));
    };
    let moved = Moved::default();
    let ends = Ends { send, recv: request.into_body() };
    let cut = pin!(cut(facts, core));
    let relayed = pin!(h2_stream::relay(application, ends, Caller::Stream, &moved, IDLE, cut));
    let drained = pin!(until_drained(relayed, core, drain));
    let ended = until_over(mesh.lifetime, drained).await;
    record.tell(core.edge(), facts, ended, (moved.up.load(Relaxed), moved.down.load(Relaxed)));
}

/// The address and port that a stream is for, if the address is the one that its connection came to.
fn asked(request: &HttpRequest<RecvStream>, facts: &ConnFacts) -> Option<SocketAddr> {
    let asked: SocketAddr = request.uri().authority()?.as_str().parse().ok()?;
    let here = facts.local?.ip().to_canonical();
    (asked.ip().to_canonical() == here && asked.port() != 0).then_some(asked)
}

fn status(code: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = code;
    response
}

/// Decides, and dials the application.
async fn admit(
    facts: &ConnFacts,
    live: &Arc<LiveMesh>,
    record: &mut TunnelRecord,
    opened: Option<TcpStream>,
) -> Result<TcpStream, Ended> {
    let Some(mesh) = facts.mesh() else { return Err(Ended::Failed(Reason::Internal)) };
    let decision = mesh.decide(live, Request::Unseen);
    record.verdict = decision.verdict.as_str();
    record.rule = decision.verdict.rule().cloned();
    record.would_refuse.clone_from(&decision.would_refuse);
    match &decision.verdict {
        Verdict::Allowed(_) | Verdict::Reported(_) => {}
        Verdict::Denied(_) => return Err(Ended::Refused(Reason::MeshDenied.as_str())),
        Verdict::Quarantined(_) => return Err(Ended::Refused(Reason::MeshQuarantined.as_str())),
    }
    let Some(target) = mesh.target else { return Err(Ended::Failed(Reason::Internal)) };
    record.attempts = 1;
    if let Some(opened) = opened {
        return Ok(opened);
    }
    connect(target, live.plan.mark, CONNECT).await.map_err(|error| Ended::Failed(connect_reason(&error)))
}

/// Resolves when a new policy would not let the stream in.
async fn cut(facts: &ConnFacts, core: &Rc<Core>) -> Cut {
    let Some(mesh) = facts.mesh() else { return Cut::PolicyChanged };
    let stays = |live: &LiveMesh| mesh.may_stay(live) && mesh.decide(live, Request::Unseen).verdict.lets_through();
    no_longer(core, &mesh.decided_by, stays).await;
    Cut::PolicyChanged
}

/// No longer than the certificates that the carrier was opened by.
pub(super) async fn until_over(lifetime: Option<Lifetime>, carried: impl Future<Output = Ended>) -> Ended {
    let Some(lifetime) = lifetime else { return carried.await };
    tokio::select! {
        biased;
        ended = carried => ended,
        () = lifetime.ends() => Ended::Refused("certificate_expired"),
    }
}

/// Streams may last; when the listener or the process ends, they have `process.stream_drain`.
pub(super) async fn until_drained(
    relayed: impl Future<Output = TunnelEnd>,
    core: &Rc<Core>,
    mut drain: watch::Receiver<bool>,
) -> Ended {
    let drained = async {
        let _ = drain.wait_for(|draining| *draining).await;
        tokio::time::sleep(core.drain().streams).await;
    };
    tokio::select! {
        end = relayed => match end {
            TunnelEnd::Finished => Ended::Finished,
            TunnelEnd::Broken(_) => Ended::Broken,
            TunnelEnd::Idle => Ended::Idle,
            TunnelEnd::Cut(_) => Ended::Refused("policy_changed"),
        },
        () = drained => Ended::Drained,
    }
}
