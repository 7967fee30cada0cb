//! What a listener's TLS must do and must not, line by line and counted: offers, answers, certificates, sessions. Asked by openssl's
//! and rustls' clients; where neither makes an offer any more, by a hello written by hand. Does not look at the HTTP inside.

mod checks;
mod connections;
mod hellos;
mod lab;
mod sessions;
mod suites;

use crate::support::{cases::Cases, have, hello::ask, s_client::s_client};
use checks::{CHECKS, check};
use hellos::HELLOS;
use lab::Lab;
use sessions::{CLIENTS, SESSIONS, client_certificate, session};
use std::sync::Arc;
use suites::{FAMILIES, FORGOTTEN, other_numbers, refuses_each, refuses_numbers};

/// The peers were measured by so many.
const LINES: usize = 55;

#[tokio::test]
async fn every_line_of_tls_holds() {
    if !have("openssl") {
        return;
    }
    let lab = Arc::new(Lab::start().await);
    let mut cases = Cases::new("TLS");
    for (name, listener, arguments, told) in SERVED {
        let addr = lab.addr(listener);
        cases.case(*name, async move {
            let shown = s_client(addr, arguments).await;
            told.iter().for_each(|words| _ = shown.must_have(words));
        });
    }
    for (name, listener, arguments, alert) in REFUSED {
        let addr = lab.addr(listener);
        cases.case(*name, async move { s_client(addr, arguments).await.must_be_refused(*alert) });
    }
    for (family, belongs) in FAMILIES {
        cases.case(format!("suites: {family}, one by one"), refuses_each(lab.clone(), *belongs));
    }
    for (name, suites) in FORGOTTEN {
        cases.case(format!("suites: {name}, one by one"), refuses_numbers(lab.clone(), suites.to_vec()));
    }
    cases.case("suites: every other number of the registry's blocks", refuses_numbers(lab.clone(), other_numbers()));
    for (name, octets, wanted) in HELLOS {
        let addr = lab.addr("https");
        cases.case(*name, async move { wanted.holds(ask(addr, &octets()).await) });
    }
    for (name, listener, who, arguments, alert) in CLIENTS {
        cases.case(*name, client_certificate(lab.clone(), listener, who, arguments, *alert));
    }
    for (name, from, who, to, arguments, again) in SESSIONS {
        cases.case(*name, session(lab.clone(), name, (*from, *who), to, arguments, *again));
    }
    for (name, of, keys, words) in CHECKS {
        cases.case(*name, check(lab.clone(), name, of, keys, words));
    }
    connections::add(&lab, &mut cases);
    cases.all_pass(LINES).await;
}

const OK: &str = "HTTP/1.1 200";

/// Name, listener, arguments, and what openssl's client must tell.
const SERVED: &[(&str, &str, &str, &[&str])] = &[
    ("version: 1.2", "https", "-tls1_2", &["New, TLSv1.2", OK]),
    ("version: 1.3", "https", "-tls1_3", &["New, TLSv1.3", OK]),
    ("version: 1.3 is preferred", "https", "", &["New, TLSv1.3", OK]),
    ("version: a client that goes up to 1.2", "https", "-max_protocol TLSv1.2", &["New, TLSv1.2", OK]),
    ("version: min_version 1.3 serves 1.3", "modern", "", &["New, TLSv1.3", OK]),
    (
        "suite: ECDSA, AES-128-GCM",
        "https",
        "-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256",
        &["is ECDHE-ECDSA-AES128-GCM-SHA256", OK],
    ),
    (
        "suite: ECDSA, AES-256-GCM",
        "https",
        "-tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384",
        &["is ECDHE-ECDSA-AES256-GCM-SHA384", OK],
    ),
    (
        "suite: ECDSA, ChaCha20",
        "https",
        "-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305",
        &["is ECDHE-ECDSA-CHACHA20-POLY1305", OK],
    ),
    (
        "suite: RSA, AES-128-GCM",
        "https",
        "-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256",
        &["is ECDHE-RSA-AES128-GCM-SHA256", OK],
    ),
    (
        "suite: RSA, AES-256-GCM",
        "https",
        "-tls1_2 -cipher ECDHE-RSA-AES256-GCM-SHA384",
        &["is ECDHE-RSA-AES256-GCM-SHA384", OK],
    ),
    (
        "suite: RSA, ChaCha20",
        "https",
        "-tls1_2 -cipher ECDHE-RSA-CHACHA20-POLY1305",
        &["is ECDHE-RSA-CHACHA20-POLY1305", OK],
    ),
    ("suite: 1.3, AES-128-GCM", "https", "-ciphersuites TLS_AES_128_GCM_SHA256", &["is TLS_AES_128_GCM_SHA256", OK]),
    ("suite: 1.3, AES-256-GCM", "https", "-ciphersuites TLS_AES_256_GCM_SHA384", &["is TLS_AES_256_GCM_SHA384", OK]),
    (
        "suite: 1.3, ChaCha20",
        "https",
        "-ciphersuites TLS_CHACHA20_POLY1305_SHA256",
        &["is TLS_CHACHA20_POLY1305_SHA256", OK],
    ),
    (
        "suite: a modern one is found among a hundred old ones",
        "https",
        "-tls1_2 -cipher ALL:@SECLEVEL=0",
        &["Cipher is ECDHE-ECDSA-", OK],
    ),
    ("suite: `ciphers` leaves the chosen one", "chosen", "-tls1_2", &["is ECDHE-ECDSA-AES128-GCM-SHA256", OK]),
    ("suite: `ciphers` of 1.2 serves a client of both", "chosen", "", &["New, TLSv1.2", OK]),
    ("group: X25519 in 1.3", "https", "-tls1_3 -groups X25519", &["Temp Key: X25519", OK]),
    ("group: P-256 in 1.3", "https", "-tls1_3 -groups P-256", &["Temp Key: ECDH, prime256v1", OK]),
    ("group: P-384 in 1.3", "https", "-tls1_3 -groups P-384", &["Temp Key: ECDH, secp384r1", OK]),
    // In 1.2 a client's groups are also the curves that it takes in a certificate (RFC 8422 §5.1.1): these two get the RSA one.
    ("group: X25519 in 1.2", "https", "-tls1_2 -groups X25519", &["Temp Key: X25519", OK]),
    ("group: P-256 in 1.2", "https", "-tls1_2 -groups P-256", &["Temp Key: ECDH, prime256v1", OK]),
    ("group: P-384 in 1.2", "https", "-tls1_2 -groups P-384", &["Temp Key: ECDH, secp384r1", OK]),
    (
        "group: a retry when the first share does not fit",
        "https",
        "-tls1_3 -groups P-521:P-256",
        &["Temp Key: ECDH, prime256v1", OK],
    ),
    (
        "signature: ECDSA with SHA-256",
        "https",
        "-sigalgs ECDSA+SHA256",
        &["signing digest: SHA256", "signature type: ECDSA", OK],
    ),
    (
        "signature: RSA-PSS with SHA-256 in 1.3",
        "https",
        "-sigalgs RSA-PSS+SHA256",
        &["signing digest: SHA256", "signature type: RSA-PSS", OK],
    ),
    (
        "signature: RSA-PSS with SHA-512",
        "https",
        "-sigalgs RSA-PSS+SHA512",
        &["signing digest: SHA512", "signature type: RSA-PSS", OK],
    ),
    (
        "signature: RSA PKCS#1 with SHA-256 in 1.2",
        "https",
        "-tls1_2 -sigalgs RSA+SHA256",
        &["signing digest: SHA256", "signature type: RSA\n", OK],
    ),
    ("ALPN: h2", "https", "-alpn h2", &["ALPN protocol: h2\n"]),
    ("ALPN: http/1.1", "https", "-alpn http/1.1", &["ALPN protocol: http/1.1\n", OK]),
    ("ALPN: h2 before http/1.1", "https", "-alpn h2,http/1.1", &["ALPN protocol: h2\n"]),
    ("ALPN: h2 behind http/1.1 is still chosen", "https", "-alpn http/1.1,h2", &["ALPN protocol: h2\n"]),
    (
        "ALPN: what is unknown is passed over",
        "https",
        "-alpn spdy/3,grease,http/1.1",
        &["ALPN protocol: http/1.1\n", OK],
    ),
    ("ALPN: in 1.2 too", "https", "-tls1_2 -alpn h2,http/1.1", &["ALPN protocol: h2\n"]),
    ("ALPN: none is http/1.1", "https", "", &["No ALPN negotiated", OK]),
    ("ALPN: a listener of h1 alone", "h1", "-alpn h2,http/1.1", &["ALPN protocol: http/1.1\n", OK]),
    ("SNI: an exact name", "https", "-servername a.test", &["subject=CN = a.test\n", OK]),
    ("SNI: a wildcard's name", "https", "-servername x.wild.test", &["subject=CN = *.wild.test\n", OK]),
    ("SNI: two labels below a wildcard", "https", "-servername x.y.wild.test", &["subject=CN = a.test\n", OK]),
    ("SNI: a wildcard's parent", "https", "-servername wild.test", &["subject=CN = a.test\n", OK]),
    (
        "SNI: a name nobody serves gets the first certificate",
        "https",
        "-servername nobody.test",
        &["subject=CN = a.test\n", OK],
    ),
    ("SNI: none", "https", "-noservername", &["subject=CN = a.test\n", OK]),
    ("SNI: in upper case", "https", "-servername X.WILD.TEST", &["subject=CN = *.wild.test\n", OK]),
    ("SNI: an address is no name", "https", "-servername 127.0.0.1", &["subject=CN = a.test\n", OK]),
    ("extensions: secure renegotiation is announced", "https", "-tls1_2", &["Secure Renegotiation IS supported", OK]),
    ("extensions: extended master secret", "https", "-tls1_2", &["Extended master secret: yes", OK]),
    ("extensions: no compression", "https", "-tls1_2 -comp", &["Compression: NONE", OK]),
    ("extensions: a stapled OCSP response", "https", "-status -servername stapled.test", &["Cert Status: good", OK]),
    ("extensions: nothing is stapled that is not there", "https", "-status", &["OCSP response: no response sent", OK]),
    (
        "certificates: not asked for where they are not wanted",
        "https",
        "-tls1_2",
        &["No client certificate CA names sent", OK],
    ),
    (
        "certificates: the authorities are named where they are",
        "optional",
        "-tls1_2",
        &["Acceptable client certificate CA names", "CN = clients", OK],
    ),
];

const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Name, listener, arguments, alert.
const REFUSED: &[(&str, &str, &str, u8)] = &[
    // Their hellos, as openssl makes them, have no signature algorithms; rustls misses those first.
    ("version: 1.0 is refused", "https", "-tls1 -cipher ALL:@SECLEVEL=0", HANDSHAKE_FAILURE),
    ("version: 1.1 is refused", "https", "-tls1_1 -cipher ALL:@SECLEVEL=0", HANDSHAKE_FAILURE),
    ("version: min_version 1.3 refuses 1.2", "modern", "-tls1_2", PROTOCOL_VERSION),
    ("suite: `ciphers` leaves no other", "chosen", "-tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384", HANDSHAKE_FAILURE),
    ("suite: `ciphers` of 1.2 leaves none of 1.3", "chosen", "-tls1_3", PROTOCOL_VERSION),
    (
        "suite: RSA is not signed for by an ECDSA certificate",
        "modern",
        "-tls1_3 -sigalgs RSA-PSS+SHA256",
        HANDSHAKE_FAILURE,
    ),
    ("group: P-521 alone in 1.3", "https", "-tls1_3 -groups P-521", HANDSHAKE_FAILURE),
    ("group: P-521 alone in 1.2", "https", "-tls1_2 -groups P-521", HANDSHAKE_FAILURE),
    ("group: X448 alone", "https", "-tls1_3 -groups X448", HANDSHAKE_FAILURE),
    ("group: a finite field alone", "https", "-tls1_3 -groups ffdhe2048", HANDSHAKE_FAILURE),
    ("group: Brainpool alone", "https", "-tls1_2 -groups brainpoolP256r1", HANDSHAKE_FAILURE),
    (
        "signature: ECDSA with SHA-1",
        "https",
        "-tls1_2 -sigalgs ECDSA+SHA1 -cipher DEFAULT:@SECLEVEL=0",
        HANDSHAKE_FAILURE,
    ),
    ("signature: RSA with SHA-1", "https", "-tls1_2 -sigalgs RSA+SHA1 -cipher DEFAULT:@SECLEVEL=0", HANDSHAKE_FAILURE),
    (
        "signature: RSA with SHA-224",
        "https",
        "-tls1_2 -sigalgs RSA+SHA224 -cipher DEFAULT:@SECLEVEL=0",
        HANDSHAKE_FAILURE,
    ),
    ("ALPN: a mismatch is told", "https", "-alpn spdy/3", NO_APPLICATION_PROTOCOL),
    ("ALPN: a mismatch is told in 1.2", "https", "-tls1_2 -alpn spdy/3", NO_APPLICATION_PROTOCOL),
    ("ALPN: h2 where it is not spoken", "h1", "-alpn h2", NO_APPLICATION_PROTOCOL),
    ("ALPN: the names are compared by case", "https", "-alpn H2", NO_APPLICATION_PROTOCOL),
];
