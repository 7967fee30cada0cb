//! Drives one HTTP/1 connection: reads each head itself, strictly and under a deadline, then lets an engine serve the one
//! message; nothing of an idle connection but this future and its socket stays in memory.

use super::{BodyClock, Conn, EdgeIo, Speaks, refuse};
use crate::{
    egress::{connect, socks},
    listen::{ListenerPlan, PlanProtocol},
};
use portcullis_wire::{
    BodyLimits, BodyScanner, Cursor, Head, HeadLimits, Parse, Refusal, parse_head,
    proxy_request::{self, ConnectHead, ProxyRequest},
};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Serves requests until either side ends the connection.
pub(crate) async fn serve(mut io: Box<EdgeIo>, conn: &Conn) {
    let mut served = 0_u32;
    // Until the first octets of the connection, or of the tunnel in it, have told.
    let mut speaks = conn.speaks;
    loop {
        let plan = conn.plan();
        let head = match next_head(&mut io, &plan, conn, served, speaks).await {
            Next::Head(head) => head,
            Next::H2 => return Box::pin(super::h2::serve(io, conn)).await,
            Next::Tunnel(wish) => match enter(io, conn, wish).await {
                Some((reusable, Speaks::H2)) => return Box::pin(super::h2::serve(reusable, conn)).await,
                Some((reusable, inside @ (Speaks::H1 | Speaks::ByPreface))) => {
                    (io, speaks) = (reusable, inside);
                    served += 1;
                    if served >= plan.limits.requests {
                        return io.close().await;
                    }
                    continue;
                }
                None => return,
            },
            Next::NotAllowed => return Box::pin(refuse::not_allowed(io, conn)).await,
            Next::Refused(refusal) => return Box::pin(refuse::malformed(io, conn, refusal)).await,
            Next::TimedOut => return Box::pin(refuse::timed_out(io, conn)).await,
            Next::Gone => return,
            Next::Idle => return io.close().await,
        };
        served += 1;
        speaks = Speaks::H1;
        let body = BodyScanner::new(head.framing, BodyLimits::default());
        io.begin_message(head.len, head.framing, body, BodyClock::new(plan.limits.min_rate));
        let last = conn.is_draining() || served >= plan.limits.requests;
        let engine = conn.core.engine();
        let reusable = if plan.goes_out() {
            // Boxed: what watches over it is no part of an idle connection's future.
            Box::pin(engine.serve_h1_out(io, &plan, last)).await
        } else {
            engine.serve_h1(io, &plan, last).await
        };
        match reusable {
            Some(reusable) => io = reusable,
            None => return,
        }
        io.end_message();
        // One hop through the scheduler: a client that pipelines does not starve its neighbours on this core.
        tokio::task::yield_now().await;
    }
}

/// Opens a tunnel. Gives the connection back where requests follow: after a refusal, or inside.
async fn enter(io: Box<EdgeIo>, conn: &Conn, wish: Wish) -> Option<(Box<EdgeIo>, Speaks)> {
    match wish {
        Wish::Connect(head, len) => Box::pin(connect::serve(io, conn, *head, len)).await,
        Wish::Socks => Box::pin(socks::serve(io, conn)).await,
    }
}

/// What came next on the connection.
enum Next {
    Head(Accepted),
    H2,
    /// A tunnel through an explicit proxy.
    Tunnel(Wish),
    /// CONNECT: a reverse proxy is nobody's tunnel.
    NotAllowed,
    Refused(Refusal),
    /// The head did not come whole in time.
    TimedOut,
    /// The client closed, or the socket failed, between messages.
    Gone,
    /// Nothing came for too long, or we are draining.
    Idle,
}

/// How a tunnel is asked for.
enum Wish {
    /// With the length of the head.
    Connect(Box<ConnectHead>, usize),
    Socks,
}

/// What the driver keeps of a head that `wire` accepted.
struct Accepted {
    len: usize,
    framing: portcullis_wire::Framing,
}

/// After the drain began an idle connection may still bring one request that was already on its way.
const DRAIN_GRACE: Duration = Duration::from_millis(300);
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn next_head(io: &mut EdgeIo, plan: &ListenerPlan, conn: &Conn, served: u32, speaks: Speaks) -> Next {
    if io.ahead().is_empty() {
        match first_bytes(io, plan, conn, served).await {
            Some(0) => return Next::Gone,
            Some(_) => {}
            None => return Next::Idle,
        }
    }
    let deadline = Instant::now() + plan.limits.header_timeout;
    let limits = HeadLimits { bytes: plan.limits.header_bytes, headers: plan.limits.headers, ..HeadLimits::default() };
    let mut cursor = Cursor::default();
    loop {
        if speaks == Speaks::ByPreface && plan.speaks_h2() {
            match prior_knowledge(io.ahead()) {
                Preface::Whole => return Next::H2,
                Preface::Begun => match timeout_at(deadline, io.fill()).await {
                    Ok(Ok(1..)) => continue,
                    Ok(_) => return Next::Gone,
                    Err(_) => return Next::TimedOut,
                },
                Preface::No => {}
            }
        }
        let reads = Reads::of(plan, io);
        if served == 0 && reads == Reads::Proxied && io.ahead().first() == Some(&socks::FIRST_OCTET) {
            return Next::Tunnel(Wish::Socks);
        }
        match read_head(io.ahead(), reads, &limits, &mut cursor) {
            Ok(Parse::Complete { head: Begun::Connect(head), len }) => return Next::Tunnel(Wish::Connect(head, len)),
            Ok(Parse::Complete { head: Begun::Request(head), len }) => {
                if head.method(io.ahead()) == "CONNECT" {
                    return Next::NotAllowed;
                }
                let len = match io.ahead().get(..len).and_then(|whole| head.respelt(whole)) {
                    Some(spelt) => io.replace_head(len, &spelt),
                    None => len,
                };
                return Next::Head(accepted(&head, len));
            }
            Ok(Parse::Incomplete) => match timeout_at(deadline, io.fill()).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return Next::Gone,
                Err(_) => return Next::TimedOut,
            },
            Err(refusal) => return Next::Refused(refusal),
        }
    }
}

/// Which heads a connection may bring.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// Those of a server; also inside a tunnel that the gateway reads.
    Served,
    /// Those of an explicit proxy: CONNECT, or a target in absolute form.
    Proxied,
}

impl Reads {
    fn of(plan: &ListenerPlan, io: &EdgeIo) -> Self {
        match &plan.protocol {
            PlanProtocol::Proxy(_) if io.facts().pinned().is_none() => Self::Proxied,
            PlanProtocol::Proxy(_)
            | PlanProtocol::Http
            | PlanProtocol::Https(_)
            | PlanProtocol::Tcp(_)
            | PlanProtocol::Tls(_)
            | PlanProtocol::Intercept(_)
            | PlanProtocol::Mesh(_) => Self::Served,
        }
    }
}

enum Begun {
    Request(Box<Head>),
    Connect(Box<ConnectHead>),
}

fn read_head(buf: &[u8], reads: Reads, limits: &HeadLimits, cursor: &mut Cursor) -> Result<Parse<Begun>, Refusal> {
    let read = match reads {
        Reads::Served => match parse_head(buf, limits, cursor)? {
            Parse::Complete { head, len } => Parse::Complete { head: ProxyRequest::Absolute(head), len },
            Parse::Incomplete => Parse::Incomplete,
        },
        Reads::Proxied => proxy_request::parse(buf, limits, cursor)?,
    };
    Ok(match read {
        Parse::Incomplete => Parse::Incomplete,
        Parse::Complete { head: ProxyRequest::Absolute(head), len } => {
            Parse::Complete { head: Begun::Request(Box::new(head)), len }
        }
        Parse::Complete { head: ProxyRequest::Connect(head), len } => {
            Parse::Complete { head: Begun::Connect(Box::new(head)), len }
        }
    })
}

fn accepted(head: &Head, len: usize) -> Accepted {
    Accepted { len, framing: head.framing() }
}

/// Waits for a request to begin. `None`: none came in time.
async fn first_bytes(io: &mut EdgeIo, plan: &ListenerPlan, conn: &Conn, served: u32) -> Option<usize> {
    // A fresh connection owes a request at once; a kept one may rest (RFC 9112 §9.5).
    let patience = if served == 0 { plan.limits.header_timeout } else { plan.limits.idle_timeout };
    tokio::select! {
        biased;
        filled = tokio::time::timeout(patience, io.fill()) => return filled.ok().map(|read| read.unwrap_or(0)),
        () = conn.draining() => {}
    }
    tokio::time::timeout(DRAIN_GRACE, io.fill()).await.ok().map(|read| read.unwrap_or(0))
}

enum Preface {
    Whole,
    Begun,
    No,
}

/// RFC 9113 §3.3: h2 over clear text begins with its preface. A stricter h1 parser would refuse `PRI` anyway.
fn prior_knowledge(ahead: &[u8]) -> Preface {
    if ahead.starts_with(H2_PREFACE) {
        Preface::Whole
    } else if !ahead.is_empty() && H2_PREFACE.starts_with(ahead) {
        Preface::Begun
    } else {
        Preface::No
    }
}
