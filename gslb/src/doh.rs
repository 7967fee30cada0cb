//! The HTTP road: DNS over HTTPS (RFC 8484) at `/dns-query`, for connections that ALPN says are h2 or HTTP/1.1. Knows no other
//! resource and gives no page.

use crate::{
    answer::Transport,
    plan::TcpPlan,
    query::HEADER,
    server::Answered,
    tcp::{LAST_WORDS, Permit},
};
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    rt::Executor,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{cell::Cell, convert::Infallible, future::Future, net::SocketAddr, pin::pin, rc::Rc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep_until, timeout},
};

/// RFC 8484 §6.
const MESSAGE: &str = "application/dns-message";
const PATH: &str = "/dns-query";
/// RFC 8484 §6: what DNS can carry.
const MESSAGE_MAX: usize = 65_535;
const HEAD_MAX: usize = 16 * 1024;
/// A query needs no window: who asks more at once waits.
const STREAMS_MAX: u32 = 100;

/// Whether a connection of this ALPN protocol is HTTP.
pub(crate) fn is_http(alpn: Option<&[u8]>) -> bool {
    matches!(alpn, Some(b"h2" | b"http/1.1"))
}

/// One connection, until either side has had enough.
pub(crate) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    client: SocketAddr,
    permit: Permit,
    plan: TcpPlan,
) {
    let permit = Rc::new(permit);
    let busy = Rc::new(Cell::new(Busy { requests: 0, since: Instant::now() }));
    let service = service_fn(|request| {
        let (permit, busy) = (permit.clone(), busy.clone());
        async move {
            let _counted = Counted::begin(&busy);
            Ok::<_, Infallible>(respond(request, client, &permit, &plan).await)
        }
    });
    let mut builder = auto::Builder::new(OnThisThread);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(plan.idle).max_buf_size(HEAD_MAX).max_headers(64);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX).max_header_list_size(HEAD_MAX as u32);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut stop = permit.stop();
    loop {
        let idle_since = busy.get();
        tokio::select! {
            // What went wrong is the client's affair.
            _ = connection.as_mut() => return,
            _ = stop.changed() => break,
            () = sleep_until(idle_since.since + permit.idle(&plan)) => {
                let now = busy.get();
                if now.requests == 0 && now.since == idle_since.since {
                    break;
                }
                if now.requests > 0 {
                    busy.set(Busy { since: Instant::now(), ..now });
                }
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    timeout(plan.write.max(LAST_WORDS), connection).await.ok();
}

/// What a connection does.
#[derive(Debug, Clone, Copy)]
struct Busy {
    requests: u32,
    /// When that last changed.
    since: Instant,
}

/// Counts a request for as long as it is held, whatever becomes of it.
struct Counted(Rc<Cell<Busy>>);

impl Counted {
    fn begin(busy: &Rc<Cell<Busy>>) -> Self {
        busy.set(Busy { requests: busy.get().requests.saturating_add(1), since: Instant::now() });
        Self(busy.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(Busy { requests: self.0.get().requests.saturating_sub(1), since: Instant::now() });
    }
}

/// Connections of one thread keep their tasks there.
#[derive(Debug, Clone, Copy)]
struct OnThisThread;

impl<F: Future<Output = ()> + 'static> Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

async fn respond(
    request: Request<Incoming>,
    client: SocketAddr,
    permit: &Permit,
    plan: &TcpPlan,
) -> Response<Full<Bytes>> {
    let octets = match read(request, plan).await {
        Ok(octets) => octets,
        Err(status) => return refusal(status),
    };
    let mut reply = Vec::new();
    let mut service = permit.service();
    service.begin_batch();
    // RFC 8484 §4.2.1: an error of DNS is an answer of HTTP; what gets no reply at all is no message.
    if service.message(&octets, client, Transport::Https, &mut reply) == Answered::Silent {
        return refusal(StatusCode::BAD_REQUEST);
    }
    let mut response = Response::new(Full::from(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MESSAGE));
    // RFC 8484 §5.1: fresh no longer than the first record that ends.
    let fresh = HeaderValue::try_from(format!("max-age={}", least_ttl(&reply).unwrap_or(0)));
    fresh.map(|fresh| headers.insert(CACHE_CONTROL, fresh)).ok();
    *response.body_mut() = Full::from(reply);
    response
}

/// The message of a request.
async fn read(request: Request<Incoming>, plan: &TcpPlan) -> Result<Bytes, StatusCode> {
    if request.uri().path() != PATH {
        return Err(StatusCode::NOT_FOUND);
    }
    match *request.method() {
        Method::GET => {
            let mut parameters = request.uri().query().unwrap_or_default().split('&');
            let text = parameters.find_map(|one| one.strip_prefix("dns=")).ok_or(StatusCode::BAD_REQUEST)?;
            // RFC 8484 §6: without padding. Some send it all the same.
            let octets = BASE64URL_NOPAD.decode(text.trim_end_matches('=').as_bytes());
            octets.map(Bytes::from).map_err(|_| StatusCode::BAD_REQUEST)
        }
        Method::POST => {
            let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(MESSAGE) {
                return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
            }
            let body = Limited::new(request.into_body(), MESSAGE_MAX).collect();
            match timeout(plan.first_message, body).await {
                Ok(Ok(body)) => Ok(body.to_bytes()),
                Ok(Err(_)) => Err(StatusCode::PAYLOAD_TOO_LARGE),
                Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
            }
        }
        _ => Err(StatusCode::METHOD_NOT_ALLOWED),
    }
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(Bytes::new()));
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
    }
    response
}

/// Of the answer, or of the SOA that denies it. `None`: neither has a record.
fn least_ttl(reply: &[u8]) -> Option<u32> {
    let count = |at: usize| Some(u16::from_be_bytes([*reply.get(at)?, *reply.get(at + 1)?]));
    let (questions, answers, authorities) = (count(4)?, count(6)?, count(8)?);
    let mut at = HEADER;
    for _ in 0..questions {
        at = behind_name(reply, at)? + 4;
    }
    let records = if answers > 0 { answers } else { authorities };
    let mut least = None;
    for _ in 0..records {
        at = behind_name(reply, at)?;
        let fixed: &[u8; 10] = reply.get(at..)?.first_chunk()?;
        let [_, _, _, _, a, b, c, d, high, low] = *fixed;
        let ttl = u32::from_be_bytes([a, b, c, d]);
        least = Some(least.map_or(ttl, |least: u32| least.min(ttl)));
        at += 10 + usize::from(u16::from_be_bytes([high, low]));
    }
    least
}

/// RFC 1035 §4.1.4: a name ends at the root or at a pointer.
fn behind_name(reply: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *reply.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}
