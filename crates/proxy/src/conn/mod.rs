//! One client connection: its bytes, its facts, and the drivers that turn it into messages for an engine.

mod body_clock;
mod edge_io;
mod facts;
mod h1;
mod h2;
mod h2_watch;
mod large_piece;
mod linger;
mod refuse;
mod secured;
mod serve;
mod socket;
mod transport;
mod under_way;

pub(crate) use body_clock::BodyClock;
pub(crate) use edge_io::EdgeIo;
pub(crate) use facts::Fault;
pub use facts::{ConnFacts, TlsFacts};
pub(crate) use large_piece::large_piece;
pub(crate) use secured::Secured;
pub(crate) use serve::{Conn, Speaks, serve};
pub(crate) use socket::{Socket, canonical};
pub(crate) use transport::{Fronted, Prefixed, Transport};
pub(crate) use under_way::{UnderWay, of_stream, watch_memory};
