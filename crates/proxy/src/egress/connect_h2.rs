//! CONNECT over h2 (RFC 9113 §8.5): a stream is a tunnel.

use super::{
    Ended, FlowRecord, Octets, Pinned,
    connect::{self, Asked, Opened, ReadTunnel},
    inspect,
    tunnel::{Around, ClientEnd},
};
use crate::{
    conn::{self, ConnFacts, EdgeIo, Prefixed, Socket, Speaks, Transport},
    core::Core,
    egress::Refused,
    listen::{ListenerPlan, PlanProtocol},
};
use bytes::{Buf, Bytes, BytesMut};
use h2::SendStream;
use http::header;
use pingora::{http::ResponseHeader, protocols::http::v2::server::HttpSession};
use portcullis_egress::PROBLEM_JSON;
use std::{
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::watch,
};

/// Whether a stream is a tunnel through an explicit proxy. Anybody else answers CONNECT as any method that is not served.
pub(crate) fn is_for_us(session: &HttpSession, plan: &ListenerPlan, facts: &ConnFacts) -> bool {
    // Inside a tunnel there is no other.
    let outermost = facts.pinned().is_none();
    outermost && session.req_header().method == http::Method::CONNECT && matches!(plan.protocol, PlanProtocol::Proxy(_))
}

pub(crate) async fn serve(
    mut session: HttpSession,
    plan: &ListenerPlan,
    facts: Arc<ConnFacts>,
    core: &Rc<Core>,
    drain: watch::Receiver<bool>,
) {
    let mut record = FlowRecord::new("HTTP/2 CONNECT");
    let head = session.req_header();
    let authority = head.uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    record.target = connect::shown(&authority);
    let mut values = head.headers.get_all(header::PROXY_AUTHORIZATION).iter();
    // Which of two would be believed?
    let authorization = match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes().to_vec()),
        (None, _) | (Some(_), Some(_)) => None,
    };
    let asked = Asked { authority: &authority, authorization: authorization.as_deref() };
    let opened = match connect::open(plan, core, &facts, asked, &mut record).await {
        Ok(opened) => opened,
        Err((refused, challenges)) => {
            record.tell(core.edge(), &facts, Ended::Refused(refused.reason), None, Octets::default());
            // Who does not take the answer has given up.
            let _: pingora::Result<()> = refuse(&mut session, &refused, &record.request_id(), &challenges).await;
            return;
        }
    };
    let Some(stream) = established(session) else {
        return record.tell(core.edge(), &facts, Ended::Broken, None, Octets::default());
    };
    let around = Around { core, facts: &facts, drain, patience: plan.limits.header_timeout };
    match opened {
        Opened::Tunnel(tunnel) => tunnel.run(ClientEnd::Stream(stream), BytesMut::new(), around, record).await,
        Opened::Requests(tunnel) => look_inside(stream, tunnel, Inside::Clear, around, record).await,
        Opened::Inspected(tunnel) => look_inside(stream, tunnel, Inside::Tls, around, record).await,
    }
}

/// What a tunnel carries whose requests are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Clear,
    Tls,
}

/// Serves the requests inside a stream as a connection of their own.
async fn look_inside(
    mut stream: Stream,
    tunnel: ReadTunnel,
    inside: Inside,
    around: Around<'_>,
    record: Box<FlowRecord>,
) {
    let Around { core, facts, drain, patience } = around;
    // The HTTP engine wants a socket. The second copy is paid for by those who want their tunnels opened.
    let Ok((ours, mut theirs)) = UnixStream::pair() else {
        return record.tell(core.edge(), facts, Ended::Broken, None, Octets::default());
    };
    let transport = Transport::Clear(Prefixed::new(Bytes::new(), Socket::Unix(ours)));
    let carried = tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut theirs, CARRIED_BYTES, CARRIED_BYTES);
    let served = async {
        let (transport, speaks) = match inside {
            Inside::Clear => (transport, Speaks::ByPreface),
            Inside::Tls => match inspect::open(transport, BytesMut::new(), &tunnel.target, core, patience).await {
                Ok(opened) => opened,
                Err(ended) => return record.tell(core.edge(), facts, ended, None, Octets::default()),
            },
        };
        let inside = Arc::new(facts.inside());
        inside.pin(Pinned::Tunnel(tunnel));
        let io = Box::new(EdgeIo::new(transport, BytesMut::new(), inside, Box::new(())));
        // Boxed as what it is: this is a part of the same connection's future.
        let served: Pin<Box<dyn Future<Output = ()>>> =
            Box::pin(conn::serve(io, speaks, facts.listener.clone(), core.clone(), drain));
        served.await;
    };
    // Either end tells the other by closing.
    let _ = tokio::join!(carried, served);
}

const CARRIED_BYTES: usize = 16 << 10;

fn established(mut session: HttpSession) -> Option<Stream> {
    let response = ResponseHeader::build(200, Some(1)).ok()?;
    session.write_response_header(Box::new(response), false).ok()?;
    let writer = session.take_response_body_writer()?;
    Some(Stream { session, writer, rest: Bytes::new() })
}

async fn refuse(
    session: &mut HttpSession,
    refused: &Refused,
    request_id: &str,
    challenges: &[String],
) -> pingora::Result<()> {
    let told = refused.told(request_id);
    let body = told.body();
    let mut response = ResponseHeader::build(told.status(), Some(6))?;
    response.insert_header(header::CONTENT_TYPE, PROBLEM_JSON)?;
    response.insert_header(header::CONTENT_LENGTH, body.len())?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    response.insert_header("proxy-status", told.proxy_status())?;
    for challenge in challenges {
        response.append_header(header::PROXY_AUTHENTICATE, challenge.as_str())?;
    }
    if let Some(after) = told.retry_after() {
        response.insert_header(header::RETRY_AFTER, after)?;
    }
    session.write_response_header(Box::new(response), false)?;
    session.write_body(Bytes::from(body), true).await
}

/// A stream of h2 as bytes both ways.
struct Stream {
    session: HttpSession,
    writer: SendStream<Bytes>,
    /// Of the last frame, what was not taken yet.
    rest: Bytes,
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        while stream.rest.is_empty() {
            match ready!(stream.session.poll_read_body_bytes(cx)) {
                Some(Ok(frame)) => stream.rest = frame,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = stream.rest.len().min(buf.remaining());
        buf.put_slice(stream.rest.get(..taken).unwrap_or_default());
        stream.rest.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        if octets.is_empty() {
            return Poll::Ready(Ok(0));
        }
        stream.writer.reserve_capacity(octets.len());
        let mut room = stream.writer.capacity();
        while room == 0 {
            room = match ready!(stream.writer.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let sent = room.min(octets.len());
        let frame = Bytes::copy_from_slice(octets.get(..sent).unwrap_or_default());
        stream.writer.send_data(frame, false).map_err(io::Error::other)?;
        Poll::Ready(Ok(sent))
    }

    /// The codec sends by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = self.get_mut().writer.send_data(Bytes::new(), true);
        Poll::Ready(ended.map_err(io::Error::other))
    }
}
