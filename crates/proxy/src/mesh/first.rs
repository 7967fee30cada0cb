//! A connection's first octets: read until they say what is spoken, or until the client has been silent for too long.

use crate::conn::Socket;
use bytes::BytesMut;
use portcullis_mesh::{Hello, PEEK_MAX, Protocol, Step, detect, hello};
use tokio::{
    io::AsyncReadExt,
    time::{Instant, timeout_at},
};

/// What came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    Is(Protocol),
    /// Nothing: the server may be the one to speak.
    Silence,
    Gone,
}

/// How long is waited: for the first octet, and for all that it takes to tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) first: Instant,
    pub(super) whole: Instant,
}

pub(super) async fn first(stream: &mut Socket, front: &mut BytesMut, patience: Patience) -> First {
    loop {
        if let Step::Is(protocol) = detect(front) {
            return First::Is(protocol);
        }
        if front.len() >= PEEK_MAX {
            return First::Is(Protocol::Opaque);
        }
        let until = if front.is_empty() { patience.first } else { patience.whole };
        match timeout_at(until, stream.read_buf(front)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return First::Gone,
            Err(_) if front.is_empty() => return First::Silence,
            Err(_) => return First::Is(Protocol::Opaque),
        }
    }
}

/// Whose TLS it is, once it is known to be TLS.
pub(super) async fn whose(stream: &mut Socket, front: &mut BytesMut, deadline: Instant) -> Hello {
    loop {
        match hello(front) {
            Hello::NeedsMore => {}
            known => return known,
        }
        match timeout_at(deadline, stream.read_buf(front)).await {
            Ok(Ok(1..)) => {}
            Ok(_) | Err(_) => return Hello::App,
        }
    }
}

/// The host that an h1 request is for, as far as its head is there.
pub(super) fn host(front: &[u8]) -> Option<String> {
    let head = std::str::from_utf8(front).ok()?;
    let line =
        head.lines().skip(1).find(|line| line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case("host:")))?;
    let authority = line.get(5..)?.trim();
    portcullis_names::normalise_host(authority)
}
