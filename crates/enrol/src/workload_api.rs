//! The SPIFFE Workload API (SPIFFE_Workload_API.md §5, X.509-SVID profile): a gRPC stream over a Unix socket, on which an agent sends
//! the identity, and each one that follows it.
//!
//! Spoken with the h2 and protobuf that are here anyway: one call and two messages do not need a gRPC stack. JWT-SVIDs and
//! federated bundles are left alone.

use crate::{EnrolError, follower::Teller, source::Source};
use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use portcullis_mesh::Svid;
use prost::Message;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};

/// `X509SVIDResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Identities {
    #[prost(message, repeated, tag = "1")]
    pub(crate) svids: Vec<Identity>,
    /// DER, one each.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(crate) crl: Vec<Vec<u8>>,
}

/// `X509SVID`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Identity {
    #[prost(string, tag = "1")]
    pub(crate) spiffe_id: String,
    /// DER certificates, one behind the other, the leaf first.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) x509_svid: Vec<u8>,
    /// PKCS #8, DER.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) x509_svid_key: Vec<u8>,
    /// DER certificates, one behind the other.
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) bundle: Vec<u8>,
}

const PATH: &str = "http://localhost/SpiffeWorkloadAPI/FetchX509SVID";
/// gRPC's own limit of old; an identity has a few KiB.
const MESSAGE_MAX_BYTES: usize = 4 << 20;
const CERTIFICATES_MAX: usize = 1_000;
/// For the connection and the first answer. After that the stream is silent until there is news.
const FIRST_ANSWER: std::time::Duration = std::time::Duration::from_secs(10);

/// By its socket.
pub(crate) struct WorkloadApi(pub(crate) PathBuf);

impl Source for WorkloadApi {
    async fn follow(self, teller: Teller) {
        let mut failures: u32 = 0;
        loop {
            let mut answered = false;
            let error = listen(&self.0, &teller, &mut answered).await;
            // A stream that has given something and ended is an agent that was restarted: asked again soon.
            failures = if answered { 1 } else { failures.saturating_add(1) };
            teller.tell(Err(error));
            sleep(teller.pace.pause(failures, fastrand::u64(..))).await;
        }
    }
}

/// Takes what the agent sends until the stream ends, which it does with a reason.
async fn listen(socket: &Path, teller: &Teller, answered: &mut bool) -> EnrolError {
    let whom = format!("unix:{}", socket.display());
    let broken = |why: &dyn std::fmt::Display| EnrolError::Protocol { whom: whom.clone(), why: why.to_string() };
    let opened = timeout(FIRST_ANSWER, open(socket, &whom)).await;
    let (mut body, _connection) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return error,
        Err(_) => return EnrolError::Timeout { whom, seconds: FIRST_ANSWER.as_secs() },
    };
    let mut octets = BytesMut::new();
    loop {
        let chunk = match body.data().await {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return broken(&error),
            None => {
                let trailers = body.trailers().await.ok().flatten().unwrap_or_default();
                let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
                let why = format!("the stream ended: status {} {}", text("grpc-status"), text("grpc-message"));
                return EnrolError::Refused { whom, why: why.trim_end().chars().take(300).collect() };
            }
        };
        let _ = body.flow_control().release_capacity(chunk.len());
        octets.extend_from_slice(&chunk);
        loop {
            match message(&mut octets) {
                Ok(None) => break,
                Ok(Some(message)) => {
                    *answered = true;
                    let svid = Identities::decode(message).map_err(|error| broken(&error));
                    teller.tell(svid.and_then(|identities| take(&identities, teller, &whom)));
                }
                Err(why) => return broken(&why),
            }
        }
    }
}

/// The connection's task ends with the second value.
async fn open(socket: &Path, whom: &str) -> Result<(h2::RecvStream, tokio::task::JoinSet<()>), EnrolError> {
    let broken = |why: &dyn std::fmt::Display| EnrolError::Protocol { whom: whom.to_owned(), why: why.to_string() };
    let stream =
        UnixStream::connect(socket).await.map_err(|source| EnrolError::Connect { whom: whom.to_owned(), source })?;
    let (sender, connection) = h2::client::handshake(stream).await.map_err(|error| broken(&error))?;
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move {
        let _ = connection.await;
    });
    let request = Request::builder()
        .method(Method::POST)
        .uri(PATH)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        // §4.1: so that nobody is made to ask by a forged request of a browser, say.
        .header("workload.spiffe.io", "true")
        .body(())
        .map_err(|error| broken(&error))?;
    let mut sender = sender.ready().await.map_err(|error| broken(&error))?;
    let (answer, mut body) = sender.send_request(request, false).map_err(|error| broken(&error))?;
    // An empty message in its frame: not compressed, no octets.
    body.send_data(Bytes::from_static(&[0; 5]), true).map_err(|error| broken(&error))?;
    let answer = answer.await.map_err(|error| broken(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(broken(&format!("status {}", answer.status())));
    }
    if let Some(status) = answer.headers().get("grpc-status").filter(|status| *status != "0") {
        let why = answer.headers().get("grpc-message").and_then(|why| why.to_str().ok()).unwrap_or_default();
        let why = format!("status {} {why}", status.to_str().unwrap_or_default());
        return Err(EnrolError::Refused { whom: whom.to_owned(), why: why.chars().take(300).collect() });
    }
    Ok((answer.into_body(), task))
}

/// The next whole message (gRPC over HTTP2, Length-Prefixed-Message).
fn message(octets: &mut BytesMut) -> Result<Option<BytesMut>, String> {
    let Some((flag, length)) = octets.split_first_chunk::<5>().map(|([flag, length @ ..], _)| (*flag, *length)) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(length) as usize;
    if flag != 0 || length > MESSAGE_MAX_BYTES {
        return Err(format!("a message with flag {flag} of {length} octets"));
    }
    if octets.len() < 5 + length {
        return Ok(None);
    }
    octets.advance(5);
    Ok(Some(octets.split_to(length)))
}

/// The identity that is this workload's: an agent may give several.
fn take(identities: &Identities, teller: &Teller, whom: &str) -> Result<Svid, EnrolError> {
    let own = teller.own.id();
    let Some(found) = identities.svids.iter().find(|identity| identity.spiffe_id == own.as_str()) else {
        let given: Vec<_> = identities.svids.iter().take(5).map(|identity| identity.spiffe_id.as_str()).collect();
        let given = if given.is_empty() { "none".to_owned() } else { given.join(", ") };
        return Err(EnrolError::NotGiven { whom: whom.to_owned(), own: own.to_string(), given });
    };
    let wrong = |what: &str| EnrolError::Protocol { whom: whom.to_owned(), why: format!("the {what} cannot be read") };
    let chain = certificates(&found.x509_svid).ok_or_else(|| wrong("certificate"))?;
    let roots = certificates(&found.bundle).ok_or_else(|| wrong("bundle"))?;
    let key = PrivateKeyDer::try_from(found.x509_svid_key.clone()).map_err(|_| wrong("key"))?;
    let lists = identities.crl.iter().map(|list| CertificateRevocationListDer::from(list.clone())).collect();
    Ok(Svid::new(chain, key, roots, lists, own, teller.clock.now())?)
}

/// DER values one behind the other, cut at the lengths that they say of themselves (X.690 §8.1.3).
fn certificates(mut octets: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let mut found = Vec::new();
    while !octets.is_empty() {
        let (first, rest) = octets.split_at_checked(value_length(octets)?)?;
        found.push(CertificateDer::from(first.to_vec()));
        octets = rest;
        if found.len() > CERTIFICATES_MAX {
            return None;
        }
    }
    (!found.is_empty()).then_some(found)
}

/// Of the whole first value, which is a SEQUENCE.
fn value_length(octets: &[u8]) -> Option<usize> {
    let (head, rest) = octets.split_first_chunk::<2>()?;
    let [0x30, length] = *head else { return None };
    if length < 0x80 {
        return Some(2 + usize::from(length));
    }
    // A certificate of more than 16 MiB is none.
    let count = usize::from(length & 0x7f);
    let digits = rest.get(..count).filter(|digits| (1..=3).contains(&digits.len()))?;
    let length = digits.iter().fold(0_usize, |sum, digit| sum << 8 | usize::from(*digit));
    length.checked_add(2 + count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_from_the_stream_and_too_large_ones_refused() {
        let mut octets = BytesMut::from(&[0, 0, 0, 0, 2, 7, 8, 0, 0, 0][..]);
        assert_eq!(message(&mut octets).unwrap().unwrap().as_ref(), [7, 8]);
        assert_eq!(message(&mut octets), Ok(None));
        octets.extend_from_slice(&[0, 0]);
        assert_eq!(message(&mut octets).unwrap().unwrap().len(), 0);
        for bad in [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]] {
            assert!(message(&mut BytesMut::from(&bad[..])).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn certificates_are_cut_at_their_own_lengths() {
        let long = [&[0x30, 0x82, 0x01, 0x00][..], &[9; 256]].concat();
        for (octets, found) in [
            (&[0x30, 1, 5, 0x30, 0][..], Some(2)),
            (&long, Some(1)),
            (&long[..200], None),
            (&[0x30, 1], None),
            (&[0x31, 0], None),
            (&[0x30, 0x80], None),
            (&[0x30, 0x84, 0, 0, 0, 0], None),
            (&[0x30], None),
            (&[], None),
        ] {
            assert_eq!(certificates(octets).map(|all| all.len()), found, "{octets:x?}");
        }
    }
}
