//! What is for no service leaves by an egress gateway: CONNECT over TLS under our own identity, which the gateway's rules are
//! about.

use super::{
    dialling::connect,
    record::{Ended, TunnelRecord},
    tunnels::IDLE,
};
use crate::{
    conn::{Secured, Socket},
    egress::relay_any,
};
use bytes::BytesMut;
use portcullis_egress::{Moved, Reason as Cut, TunnelEnd};
use portcullis_health::TryOutcome;
use portcullis_names::EndpointAddress;
use portcullis_policy::Reason;
use portcullis_upstream::{Cluster, NotPicked, Tried, Wish};
use std::{
    future::pending,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// No answer to CONNECT is longer.
const HEAD_MAX: usize = 8 << 10;

pub(super) async fn open(
    cluster: &Arc<Cluster>,
    authority: &str,
    mark: Option<u32>,
    record: &mut TunnelRecord,
) -> Result<Secured, Ended> {
    let mut tried = Tried::default();
    let now = Instant::now();
    let pick = cluster.pick(Wish::plain(fastrand::u64(..), now), &mut tried).map_err(|refused| {
        Ended::Failed(match refused {
            NotPicked::NoEndpoint => Reason::NoEndpoint,
            NotPicked::Overflow => Reason::CircuitOpen,
        })
    })?;
    record.attempts = 1;
    let Some(EndpointAddress::Ip(address)) = cluster.endpoints.get(pick.index).map(|found| &found.address) else {
        return Err(Ended::Failed(Reason::Internal));
    };
    record.endpoint = Some(*address);
    let asked = tokio::time::timeout(cluster.connect_timeout * 2, ask(cluster, *address, authority, mark)).await;
    let outcome = asked.unwrap_or_else(|_| Err(Ended::Failed(Reason::ConnectTimeout)));
    let micros = u64::try_from(now.elapsed().as_micros()).unwrap_or(u64::MAX);
    let told = match &outcome {
        Err(Ended::Failed(_)) => TryOutcome::NotConnected,
        Ok(_) | Err(_) => TryOutcome::Answered { status: 200, micros },
    };
    cluster.record(&pick, told, Instant::now());
    outcome
}

async fn ask(
    cluster: &Cluster,
    address: std::net::SocketAddr,
    authority: &str,
    mark: Option<u32>,
) -> Result<Secured, Ended> {
    let tcp = connect(address, mark, cluster.connect_timeout).await;
    let tcp = tcp.map_err(|error| Ended::Failed(super::carrier::connect_reason(&error)))?;
    let mut opened = match &cluster.tls {
        None => Secured::Plain(Socket::Tcp(tcp)),
        Some(tls) => {
            let connector = tokio_rustls::TlsConnector::from(tls.config(b"http/1.1"));
            let secured = connector.connect(tls.server_name.clone(), Socket::Tcp(tcp)).await;
            Secured::Tls(Box::new(secured.map_err(|error| {
                tracing::debug!(%address, %error, "no TLS to the egress gateway");
                Ended::Failed(Reason::UpstreamTls)
            })?))
        }
    };
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let answered = async {
        opened.write_all(head.as_bytes()).await?;
        opened.flush().await?;
        read_head(&mut opened).await
    };
    match answered.await {
        Ok(200) => Ok(opened),
        Ok(403 | 407) => Err(Ended::Refused("refused_by_gateway")),
        Ok(_) => Err(Ended::Failed(Reason::ConnectFailed)),
        Err(_) => Err(Ended::Failed(Reason::UpstreamReset)),
    }
}

/// The status. Read octet by octet: what follows the head is the destination's.
async fn read_head(from: &mut Secured) -> io::Result<u16> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.push(from.read_u8().await?);
    }
    let text = std::str::from_utf8(&head).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    status.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

pub(super) async fn relay(client: TcpStream, front: BytesMut, mut opened: Secured, moved: &Moved) -> Ended {
    if opened.write_all(&front).await.is_err() || opened.flush().await.is_err() {
        return Ended::Broken;
    }
    moved.up.fetch_add(front.len() as u64, Relaxed);
    drop(front);
    match relay_any(client, opened, moved, IDLE, pending::<Cut>()).await {
        TunnelEnd::Finished => Ended::Finished,
        TunnelEnd::Broken(_) => Ended::Broken,
        TunnelEnd::Idle => Ended::Idle,
        TunnelEnd::Cut(_) => Ended::Drained,
    }
}
