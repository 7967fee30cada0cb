//! Asks the parent's servers which keys of a zone it points to. Believes what it hears as far as a key is given up for it: who
//! forges this can only make a change go on that was under way, within what caches hold.

use super::{Algorithm, key_store::AwaitedDs};
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

/// Whether all of them have this DS, and none of the algorithm that is to be gone.
pub(super) async fn shows(servers: &[SocketAddr], apex: &Name, awaited: &AwaitedDs) -> bool {
    for server in servers {
        let has = timeout(PATIENCE, ask(*server, apex)).await.ok().flatten();
        if !has.is_some_and(|found| is_as_awaited(&found, awaited)) {
            return false;
        }
    }
    !servers.is_empty()
}

fn is_as_awaited(found: &[Box<[u8]>], awaited: &AwaitedDs) -> bool {
    let without = awaited.without.map(Algorithm::number);
    // RFC 4034 §5.1: the algorithm is the third octet.
    let is_gone = |ds: &[u8]| without.is_none_or(|number| ds.get(2) != Some(&number));
    found.iter().any(|ds| **ds == *awaited.ds) && found.iter().all(|ds| is_gone(ds))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ds_set_is_as_awaited_when_the_new_one_is_there_and_what_is_to_be_gone_is_gone() {
        let ds = |tag: u8, algorithm: u8| vec![0, tag, algorithm, 2, 7].into_boxed_slice();
        let of = |without| AwaitedDs { tag: 2, ds: ds(2, 15).to_vec(), without };
        let ecdsa = Some(Algorithm::EcdsaP256Sha256);
        for (found, without, expected) in [
            (vec![], None, false),
            (vec![ds(1, 13)], None, false),
            (vec![ds(1, 13), ds(2, 15)], None, true),
            (vec![ds(1, 13), ds(2, 15)], ecdsa, false),
            (vec![ds(1, 13)], ecdsa, false),
            (vec![], ecdsa, false),
            (vec![ds(3, 15)], ecdsa, false),
            (vec![ds(2, 15), ds(3, 15)], ecdsa, true),
        ] {
            assert_eq!(is_as_awaited(&found, &of(without)), expected, "{found:?} {without:?}");
        }
    }
}
