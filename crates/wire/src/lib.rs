//! Readers of bytes that strangers send: HTTP/1 heads and bodies, h2 frames, the PROXY protocol, ClientHellos.
//!
//! Everything here is sans-io: bytes in, a decision out, `Incomplete` when there are too few. No sockets, no clocks, no
//! knowledge of routes or configuration. Strict before friendly: what two readers could read in two ways is refused.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod body;
pub mod client_hello;
pub mod encrypted_hello;
mod fields;
mod h2_guard;
mod head;
mod host;
pub mod proxy_protocol;
pub mod proxy_request;
mod refusal;
mod respelt;
mod response;
pub mod socks5;

pub use body::{Advance, BodyLimits, BodyScanner, Framing};
pub use h2_guard::{H2Abuse, H2Guard, OutboundFrames, goaway_frame};
pub use head::{Cursor, Head, HeadLimits, Parse, parse_head};
pub use refusal::Refusal;
pub use response::{RequestKind, ResponseFraming, ResponseHead, ResponseLimits, parse_response_head};
