//! Opens the TLS inside a tunnel in its destination's place, so that its requests can be decided about one by one.

use super::{Ended, tunnel::HELLO_BYTES};
use crate::{
    conn::{Fronted, Speaks, Transport},
    core::Core,
};
use bytes::BytesMut;
use portcullis_egress::{FirstOctets, Reason, SNIFF_MAX, Target, compare_inspected, sniff};
use portcullis_wire::Parse;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsAcceptor;

/// access_denied (RFC 8446 §6.2), fatal.
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// What is inside and what it speaks, or how the tunnel ended. The hello's name is compared before anything is answered.
pub(crate) async fn open(
    mut transport: Transport,
    mut early: BytesMut,
    target: &Target,
    core: &Core,
    patience: Duration,
) -> Result<(Transport, Speaks), Ended> {
    let deadline = Instant::now() + patience;
    let first = loop {
        if let Parse::Complete { head, .. } = sniff(&early) {
            break head;
        }
        if early.len() > SNIFF_MAX {
            break FirstOctets::Unknown;
        }
        early.reserve(HELLO_BYTES);
        match timeout_at(deadline, transport.read_buf(&mut early)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return Err(Ended::Broken),
            Err(_) => break FirstOctets::Silence,
        }
    };
    if let Err(reason) = compare_inspected(target.host(), &first) {
        if matches!(first, FirstOctets::Tls(_) | FirstOctets::BrokenHello) {
            // Best effort: who is refused may be gone.
            let _ = transport.write_all(&ALERT).await;
            let _ = transport.shutdown().await;
        }
        return Err(Ended::Refused(reason));
    }
    let snapshot = core.edge().snapshot();
    let inspection = snapshot.egress.as_ref().and_then(|egress| egress.plan.inspection.as_ref());
    // A reload took it away in this moment.
    let Some(inspection) = inspection else { return Err(Ended::Refused(Reason::PolicyChanged)) };
    let acceptor = TlsAcceptor::from(inspection.config().clone());
    match timeout_at(deadline, acceptor.accept(Fronted::new(early.freeze(), transport))).await {
        Ok(Ok(tls)) => {
            let speaks = if tls.get_ref().1.alpn_protocol() == Some(b"h2") { Speaks::H2 } else { Speaks::H1 };
            Ok((Transport::Inspected(Box::new(tls)), speaks))
        }
        // Most often a client that does not trust the authority, or that knows its server's key.
        Ok(Err(error)) => {
            tracing::debug!(%target, %error, "an inspected client ended the handshake");
            Err(Ended::Broken)
        }
        Err(_) => Err(Ended::Broken),
    }
}
