//! Drives one HTTP/2 connection: hands each stream to the engine as a task, says GOAWAY on drain, and ends a connection
//! that rests too long.

use super::{Conn, ConnFacts, EdgeIo, Fault, h2_watch::H2Watch};
use crate::egress::connect_h2;
use pingora::protocols::http::v2::server::{H2Accept, HttpSession, default_h2_options, handshake};
use portcullis_wire::{H2Abuse, H2Guard};
use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

/// Serves streams until the connection ends.
pub(crate) async fn serve(mut io: Box<EdgeIo>, conn: &Conn) {
    let plan = conn.plan();
    let facts = io.facts().clone();
    let digest = Arc::new(io.session_digest());
    let now = std::time::Instant::now();
    io.begin_h2(H2Watch::new(H2Guard::default(), now));

    let mut options = default_h2_options();
    options
        .max_concurrent_streams(plan.limits.streams)
        .max_header_list_size(u32::try_from(plan.limits.header_bytes).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    let handshake = timeout(plan.limits.header_timeout, handshake(io, Some(options)));
    let Ok(Ok(mut connection)) = handshake.await else {
        note_abuse(&facts);
        return;
    };

    let streams = Rc::new(Streams::default());
    let mut served = 0_u32;
    let mut goodbye: Option<Instant> = None;
    let mut malformed = 0_u32;
    loop {
        // Rest counts from the last stream's end; while streams are open they have their own timeouts.
        let rest = sleep_until(Instant::now() + plan.limits.idle_timeout);
        let accepted = tokio::select! {
            biased;
            accepted = HttpSession::from_h2_conn(&mut connection, digest.clone()) => accepted,
            () = conn.draining(), if goodbye.is_none() => {
                connection.graceful_shutdown();
                goodbye = Some(Instant::now() + conn.core.drain().exchanges);
                continue;
            }
            () = until(goodbye) => return,
            () = streams.ended() => continue,
            () = rest, if streams.is_empty() => {
                if goodbye.is_some() {
                    return;
                }
                connection.graceful_shutdown();
                goodbye = Some(Instant::now() + GOODBYE);
                continue;
            }
        };
        match accepted {
            Ok(Some(H2Accept::Session(session))) => {
                served += 1;
                if served >= plan.limits.requests && goodbye.is_none() {
                    connection.graceful_shutdown();
                    goodbye = Some(Instant::now() + conn.core.drain().exchanges);
                }
                let open = streams.open();
                let engine = conn.core.engine().clone();
                let plan = plan.clone();
                if connect_h2::is_for_us(&session, &plan, &facts) {
                    let (facts, core, drain) = (facts.clone(), conn.core.clone(), conn.drain.clone());
                    tokio::task::spawn_local(async move {
                        connect_h2::serve(session, &plan, facts, &core, drain).await;
                        drop(open);
                    });
                    continue;
                }
                tokio::task::spawn_local(async move {
                    engine.serve_h2(session, &plan).await;
                    drop(open);
                });
            }
            Ok(Some(H2Accept::Rejected)) => {
                malformed += 1;
                if malformed == MALFORMED_MAX {
                    facts.set_fault(Fault::H2Abuse(H2Abuse::MadeYouReset));
                    note_abuse(&facts);
                    // The codec says so and ends; a peer that takes nothing is not waited for.
                    connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                    goodbye = Some(Instant::now() + GOODBYE);
                }
            }
            Ok(None) => return,
            Err(error) => {
                if calmed(&error) {
                    // The codec was quicker than our guard: too many resets, the peer's or those it provoked.
                    facts.set_fault(Fault::H2Abuse(H2Abuse::RapidReset));
                }
                note_abuse(&facts);
                return;
            }
        }
    }
}

/// Envoy's edge guidance has 64 KiB a stream and 1 MiB a connection: what one client can make us hold.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
const SEND_BUFFER: usize = 64 << 10;
/// Streams refused as malformed before the whole connection is given up, as pingora's own loop counts.
const MALFORMED_MAX: u32 = 32;
/// How long a resting client has to notice GOAWAY before the socket closes.
const GOODBYE: Duration = Duration::from_secs(1);

/// Counts what our guard cut the connection for.
fn note_abuse(facts: &ConnFacts) {
    if let Some(Fault::H2Abuse(abuse)) = facts.fault() {
        facts.metrics.abuse(abuse.as_str());
        tracing::debug!(listener = %facts.listener.name, peer = ?facts.source, abuse = abuse.as_str(), "h2 connection cut");
    }
}

/// The codec ended the connection with ENHANCE_YOUR_CALM.
fn calmed(error: &pingora::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<h2::Error>();
    cause.is_some_and(|cause| cause.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The streams being served: lives on one core, so plain cells do.
#[derive(Default)]
struct Streams {
    open: Cell<usize>,
    last_ended: Notify,
}

struct OpenStream(Rc<Streams>);

impl Streams {
    fn open(self: &Rc<Self>) -> OpenStream {
        self.open.set(self.open.get() + 1);
        OpenStream(self.clone())
    }

    fn is_empty(&self) -> bool {
        self.open.get() == 0
    }

    /// The last open stream ended.
    async fn ended(&self) {
        self.last_ended.notified().await;
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let left = self.0.open.get().saturating_sub(1);
        self.0.open.set(left);
        if left == 0 {
            self.0.last_ended.notify_one();
        }
    }
}
