//! Asks the parent's servers which keys of a zone it points to. Believes what it hears as far as a key is given up for it: who
//! forges this can only make a change go on that was under way, within what caches hold.

use crate::{Name, RecordType, record_type::CLASS_IN, server::Random, transfer_in::Heard};
use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// Whether all of them have this DS.
pub(super) async fn has_everywhere(servers: &[SocketAddr], apex: &Name, ds: &[u8]) -> bool {
    for server in servers {
        let has = timeout(PATIENCE, ask(*server, apex)).await.ok().flatten();
        if !has.is_some_and(|found| found.iter().any(|found| **found == *ds)) {
            return false;
        }
    }
    !servers.is_empty()
}

/// By TCP: nobody off the path can forge it.
async fn ask(server: SocketAddr, apex: &Name) -> Option<Vec<Box<[u8]>>> {
    let mut stream = TcpStream::connect(server).await.ok()?;
    let id = Random::new(RandomState::new().hash_one(apex.as_wire())).draw() as u16;
    let mut message = id.to_be_bytes().to_vec();
    message.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(apex.as_wire());
    message.extend(RecordType::DS.0.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    let framed = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
    stream.write_all(&framed).await.ok()?;
    let mut reply = vec![0; usize::from(stream.read_u16().await.ok()?)];
    stream.read_exact(&mut reply).await.ok()?;
    let heard = Heard::read(&reply).filter(|heard| heard.id == id && heard.rcode == 0)?;
    let own = heard.answers.into_iter().filter(|record| record.of_type == RecordType::DS && record.owner == *apex);
    Some(own.map(|record| record.rdata).collect())
}
