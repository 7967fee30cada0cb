//! The Workload API as an agent would speak it: a server of its own, with messages of its own.

#![allow(clippy::unwrap_used)]

use bytes::{BufMut, Bytes, BytesMut};
use portcullis_ca::{AuthorityLife, Folder, LeafLife, Overwrite};
use portcullis_enrol::{Clock, Follower, Pace, Progress};
use portcullis_mesh::{IdentitySource, OwnIdentity};
use prost::Message;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::{net::UnixListener, sync::mpsc};

#[derive(Clone, PartialEq, Message)]
struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509Svid>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    crl: Vec<Vec<u8>>,
    #[prost(map = "string, bytes", tag = "3")]
    federated_bundles: std::collections::HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct X509Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    hint: String,
}

/// What an agent does next.
enum Turn {
    Give(X509SvidResponse),
    /// Ends the stream with this gRPC status.
    End(&'static str),
}

const OWN: &str = "spiffe://corp/ns/acme/sa/cart";

fn authority() -> (tempfile::TempDir, Folder) {
    let folder = tempfile::tempdir().unwrap();
    let (ca, now) = (Folder::new(folder.path().join("ca")), OffsetDateTime::now_utc());
    ca.init(&"corp".parse().unwrap(), AuthorityLife::ROOT, Overwrite::Never, now).unwrap();
    ca.intermediate(&"acme".parse().unwrap(), AuthorityLife::INTERMEDIATE, Overwrite::Never, now).unwrap();
    (folder, ca)
}

fn svid(ca: &Folder, service: &str) -> X509Svid {
    let now = OffsetDateTime::now_utc();
    let (id, chain, key) = ca.issue_here(&"acme".parse().unwrap(), service, LeafLife::default(), now).unwrap();
    let ders = |pem: &str| {
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| der.unwrap().to_vec()).collect::<Vec<_>>().concat()
    };
    X509Svid {
        spiffe_id: id.to_string(),
        x509_svid: ders(&chain),
        x509_svid_key: PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap().secret_der().to_vec(),
        bundle: ders(&ca.trusted().unwrap().roots),
        hint: "internal".to_owned(),
    }
}

/// Serves one call after another; each must bear the header without which an agent refuses (§4.1).
async fn agent(listener: UnixListener, mut turns: mpsc::Receiver<Turn>) {
    while let Ok((stream, _)) = listener.accept().await {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let drive = tokio::spawn(async move { while connection.accept().await.is_some() {} });
        assert_eq!(request.uri().path(), "/SpiffeWorkloadAPI/FetchX509SVID");
        assert_eq!(request.headers()["workload.spiffe.io"], "true");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut body = respond.send_response(head, false).unwrap();
        loop {
            match turns.recv().await {
                Some(Turn::Give(message)) => {
                    let mut framed = BytesMut::new();
                    framed.put_u8(0);
                    framed.put_u32(message.encoded_len() as u32);
                    message.encode(&mut framed).unwrap();
                    // In two pieces, the first within the prefix.
                    let rest = framed.split_off(3);
                    body.send_data(framed.freeze(), false).unwrap();
                    body.send_data(rest.freeze(), false).unwrap();
                }
                Some(Turn::End(status)) => {
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static(status));
                    body.send_trailers(trailers).unwrap();
                    break;
                }
                None => {
                    body.send_data(Bytes::new(), true).unwrap();
                    return;
                }
            }
        }
        // The trailers are on their way when the client has closed.
        let _ = drive.await;
    }
}

#[tokio::test]
async fn an_agent_gives_an_identity_its_successors_and_a_new_one_after_it_was_away() {
    let (folder, ca) = authority();
    let socket = folder.path().join("agent.sock");
    let (turn, turns) = mpsc::channel(4);
    tokio::spawn(agent(UnixListener::bind(&socket).unwrap(), turns));
    let own = Arc::new(OwnIdentity::new(OWN.parse().unwrap()));
    let pace = Pace { retry: Duration::from_millis(5), ..Pace::default() };
    let follower = Follower::start(IdentitySource::WorkloadApi(socket), own.clone(), Clock::system(), pace);
    let mut changes = follower.changes();
    let mut until = async |what: &str, good: &dyn Fn(&Progress) -> bool| {
        let seen = tokio::time::timeout(Duration::from_secs(20), changes.wait_for(|progress| good(progress))).await;
        seen.unwrap_or_else(|_| panic!("{what}: {:?}", follower.progress())).unwrap().clone()
    };
    let give = |svids: Vec<X509Svid>| X509SvidResponse { svids, ..X509SvidResponse::default() };
    // Several identities: the own one is taken.
    turn.send(Turn::Give(give(vec![svid(&ca, "other"), svid(&ca, "cart")]))).await.unwrap();
    until("the first", &|progress| progress.taken == 1).await;
    assert_eq!(own.current().unwrap().id().as_str(), OWN);
    // Its successor on the same stream, with a revocation list.
    let other = folder.path().join("other.crt");
    let made =
        ca.issue_here(&"acme".parse().unwrap(), "other", LeafLife::default(), OffsetDateTime::now_utc()).unwrap();
    std::fs::write(&other, made.1).unwrap();
    ca.revoke(&other, OffsetDateTime::now_utc()).unwrap();
    let pem = ca.trusted().unwrap().revoked;
    let list = rustls::pki_types::CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
    let with_list = X509SvidResponse { crl: vec![list.as_ref().to_vec()], ..give(vec![svid(&ca, "cart")]) };
    turn.send(Turn::Give(with_list)).await.unwrap();
    until("the second", &|progress| progress.taken == 2).await;
    let second = own.current().unwrap();
    assert_eq!(second.revoked().len(), 1);
    // Only somebody else's: told, and the last one stays.
    turn.send(Turn::Give(give(vec![svid(&ca, "other")]))).await.unwrap();
    let told = until("not given", &|progress| progress.trouble.is_some()).await.trouble.unwrap();
    assert!(told.contains("gives no identity spiffe://corp/ns/acme/sa/cart") && told.contains("sa/other"), "{told}");
    assert_eq!(own.current().unwrap().key().cert, second.key().cert);
    // The agent ends the stream, as one that is restarted does; it is asked anew.
    turn.send(Turn::End("7")).await.unwrap();
    until("ended", &|progress| progress.trouble.as_ref().is_some_and(|why| why.contains("status 7"))).await;
    turn.send(Turn::Give(give(vec![svid(&ca, "cart")]))).await.unwrap();
    until("the third", &|progress| progress.taken == 3 && progress.trouble.is_none()).await;
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_told_and_waited_for() {
    let (folder, ca) = authority();
    let socket = folder.path().join("agent.sock");
    let own = Arc::new(OwnIdentity::new(OWN.parse().unwrap()));
    let pace = Pace { retry: Duration::from_millis(5), retry_most: Duration::from_millis(20), ..Pace::default() };
    let follower = Follower::start(IdentitySource::WorkloadApi(socket.clone()), own.clone(), Clock::system(), pace);
    follower.settled(Duration::from_secs(20)).await;
    assert!(follower.progress().trouble.unwrap().contains("no connection"));
    let (turn, turns) = mpsc::channel(1);
    tokio::spawn(agent(UnixListener::bind(&socket).unwrap(), turns));
    let first = X509SvidResponse { svids: vec![svid(&ca, "cart")], ..X509SvidResponse::default() };
    turn.send(Turn::Give(first)).await.unwrap();
    let mut changes = follower.changes();
    let seen = tokio::time::timeout(Duration::from_secs(20), changes.wait_for(|progress| progress.taken == 1)).await;
    assert!(seen.is_ok(), "{:?}", follower.progress());
}
