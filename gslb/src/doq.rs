//! DNS over QUIC (RFC 9250): a stream a query, on the certificates of DNS over TLS. What a connection costs is bounded like a
//! stream's of TCP; without 0-RTT, so that nothing that is replayed is answered twice.

use crate::{
    answer::Transport,
    edns::{self, Wants},
    plan::TcpPlan,
    query::{EdnsPart, KeySpace, Query},
    server::{Answered, TlsSwitch, Updated},
    tcp::{LAST_WORDS, Permit, Shared, UPDATE_MAX},
    udp::plain,
};
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, RecvStream, SendStream, ServerConfig, TransportConfig,
    VarInt, crypto::rustls::QuicServerConfig,
};
use std::{io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};
use tokio::{sync::oneshot, time::timeout};

/// RFC 9250 §8.1.1: the only protocol here.
const ALPN: &[u8] = b"doq";
/// RFC 9250 §8.4.
const NO_ERROR: VarInt = VarInt::from_u32(0);
const INTERNAL_ERROR: VarInt = VarInt::from_u32(1);
const PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
const EXCESSIVE_LOAD: VarInt = VarInt::from_u32(4);
/// Queries of one connection at a time.
const STREAMS_MAX: u32 = 100;
/// A message with its length before it.
const MESSAGE_MAX: usize = 65_535 + 2;
/// Of connections that are being set up; each has proved its address by then, or may send three times what came.
const INCOMING_MAX: usize = 256;

/// Serves one socket until told to stop. Must run where tasks of one thread may be spawned.
pub(crate) async fn run(socket: std::net::UdpSocket, tls: TlsSwitch, shared: Rc<Shared>) {
    let mut config = tls.load();
    let made = server_config(&config, &shared.plan()).and_then(|made| {
        socket.set_nonblocking(true).map_err(|error| error.to_string())?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let made = Endpoint::new(EndpointConfig::default(), Some(made), socket, runtime);
        made.map_err(|error: io::Error| error.to_string())
    });
    let endpoint = match made {
        Ok(endpoint) => endpoint,
        // Availability: DNS over TLS is served all the same.
        Err(error) => return tracing::warn!(error, "no DNS over QUIC on this listener"),
    };
    let mut stop = shared.stop();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            _ = stop.changed() => break,
        };
        let Some(incoming) = incoming else { return };
        let now = tls.load();
        if !Arc::ptr_eq(&now, &config) {
            match server_config(&now, &shared.plan()) {
                Ok(made) => endpoint.set_server_config(Some(made)),
                Err(error) => tracing::warn!(error, "DNS over QUIC goes on with the certificates before"),
            }
            config = now;
        }
        admit(incoming, &shared);
    }
    tokio::time::sleep(LAST_WORDS).await;
    endpoint.close(NO_ERROR, &[]);
    // What was closed is told to the clients.
    timeout(Duration::from_secs(1), endpoint.wait_idle()).await.ok();
}

/// Of the listener's own: its certificates, its versions as far as QUIC has them.
fn server_config(tls: &rustls::ServerConfig, plan: &TcpPlan) -> Result<ServerConfig, String> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // RFC 9250 §4.5: what may be replayed must not be a change; here nothing may.
    tls.max_early_data_size = 0;
    let crypto = QuicServerConfig::try_from(Arc::new(tls)).map_err(|error| error.to_string())?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.max_incoming(INCOMING_MAX);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(0u32.into())
        .stream_receive_window(VarInt::from_u32(MESSAGE_MAX as u32 * 2))
        .receive_window(VarInt::from_u32(1 << 20))
        .send_window(1 << 20)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(IdleTimeout::try_from(plan.idle).ok());
    config.transport_config(Arc::new(transport));
    Ok(config)
}

fn admit(incoming: Incoming, shared: &Rc<Shared>) {
    let (client, plan) = (incoming.remote_address(), shared.plan());
    // An address that was not proved may be anybody's: under pressure it is asked to come again with a token (RFC 9000 §8.1.2).
    if shared.is_pressed(&plan) && !incoming.remote_address_validated() && incoming.may_retry() {
        incoming.retry().ok();
        return;
    }
    let Some(permit) = Permit::take(shared, plain(client.ip()), &plan) else {
        shared.refused();
        return incoming.refuse();
    };
    tokio::task::spawn_local(async move {
        let Ok(connecting) = incoming.accept() else { return };
        if let Ok(Ok(connection)) = timeout(plan.first_message, connecting).await {
            serve(connection, client, Rc::new(permit), plan).await;
        }
    });
}

async fn serve(connection: Connection, client: SocketAddr, permit: Rc<Permit>, plan: TcpPlan) {
    loop {
        // Ends with the connection, or when it has been idle for too long.
        let Ok((send, receive)) = connection.accept_bi().await else { return };
        let (connection, permit) = (connection.clone(), permit.clone());
        tokio::task::spawn_local(async move {
            if let Err(code) = exchange(send, receive, client, &permit, &plan).await {
                connection.close(code, &[]);
            }
        });
    }
}

/// One query and its replies. An error ends the connection.
async fn exchange(
    mut send: SendStream,
    mut receive: RecvStream,
    client: SocketAddr,
    permit: &Permit,
    plan: &TcpPlan,
) -> Result<(), VarInt> {
    // RFC 9250 §4.2: the client ends its side behind the query.
    let octets = match timeout(plan.first_message, receive.read_to_end(MESSAGE_MAX)).await {
        Ok(Ok(octets)) => octets,
        Ok(Err(quinn::ReadToEndError::TooLong)) => return Err(PROTOCOL_ERROR),
        Ok(Err(quinn::ReadToEndError::Read(_))) => return Ok(()),
        Err(_) => return Err(EXCESSIVE_LOAD),
    };
    let message = whole(&octets).ok_or(PROTOCOL_ERROR)?;
    let mut out = Vec::new();
    match replies(message, client, permit, &mut out) {
        Reply::Now => {}
        Reply::Later(later) => match timeout(UPDATE_MAX, later).await {
            Ok(Ok(reply)) => framed(&reply, &mut out),
            _ => return send.reset(INTERNAL_ERROR).map_err(|_| INTERNAL_ERROR),
        },
    }
    if out.is_empty() {
        // RFC 9250 §4.3.3: a stream without a reply is ended by a reset, not by its end.
        send.reset(INTERNAL_ERROR).ok();
        return Ok(());
    }
    for part in out.chunks(MESSAGE_MAX) {
        if !matches!(timeout(plan.write, send.write_all(part)).await, Ok(Ok(()))) {
            return Ok(());
        }
    }
    send.finish().ok();
    Ok(())
}

enum Reply {
    Now,
    Later(oneshot::Receiver<Vec<u8>>),
}

fn replies(message: &[u8], client: SocketAddr, permit: &Permit, out: &mut Vec<u8>) -> Reply {
    let mut service = permit.service();
    service.begin_batch();
    let mut reply = Vec::new();
    let (sender, later) = oneshot::channel();
    match service
        .update(message, client, Transport::Quic, &mut reply, || Some(Box::new(move |reply| _ = sender.send(reply))))
    {
        Some(Updated::Later) => return Reply::Later(later),
        Some(Updated::Answered) => framed(&reply, out),
        None => match service.transfer(message, client, Transport::Quic) {
            Some(messages) => messages.iter().for_each(|message| framed(message, out)),
            None => {
                if service.message(message, client, Transport::Quic, &mut reply) == Answered::Reply {
                    framed(&reply, out);
                }
            }
        },
    }
    Reply::Now
}

/// RFC 9250 §4.2: one message with its length before it, and nothing else; §4.2.1: its id is 0; §5.5.2: no keepalive.
fn whole(octets: &[u8]) -> Option<&[u8]> {
    let (length, message) = octets.split_first_chunk()?;
    let fits = message.len() == usize::from(u16::from_be_bytes(*length)) && message.starts_with(&[0, 0]);
    let keeps = |edns: &edns::Edns<'_>| edns.wants.has(Wants::KEEPALIVE);
    let is_wrong = Query::read(message, &mut KeySpace::default())
        .is_ok_and(|query| matches!(&query.edns, EdnsPart::Present(edns) if edns.version == 0 && keeps(edns)));
    (fits && !is_wrong).then_some(message)
}

fn framed(message: &[u8], out: &mut Vec<u8>) {
    // A reply is at most 65,535 octets by its limit.
    out.extend((message.len() as u16).to_be_bytes());
    out.extend_from_slice(message);
}
