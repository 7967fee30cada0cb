//! Layer 4: bytes to an upstream, by listener or by the name in a ClientHello.

mod copy;
mod route;

pub(crate) use copy::{serve_tcp, serve_tls};
pub use route::{SniRoutes, TcpRoute, TcpRouteSpec, TlsRouteSpec};
