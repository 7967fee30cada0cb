//! Who is let in by a certificate, and which sessions are resumed where.

use super::{OK, lab::Lab};
use crate::support::s_client::{Told, s_client};
use std::sync::Arc;

const UNKNOWN_CA: u8 = 48;
/// Of a signature.
const DECRYPT_ERROR: u8 = 51;
const CERTIFICATE_EXPIRED: u8 = 45;
const CERTIFICATE_REVOKED: u8 = 44;
const UNSUPPORTED_CERTIFICATE: u8 = 43;
const ACCESS_DENIED: u8 = 49;
const CERTIFICATE_REQUIRED: u8 = 116;

/// Name, listener, the client's certificate (`-`: none), arguments, alert (`None`: served).
pub(super) const CLIENTS: &[(&str, &str, &str, &str, Option<u8>)] = &[
    ("client certificate: a good one", "mtls", "good", "-tls1_3", None),
    ("client certificate: a good one in 1.2", "mtls", "good", "-tls1_2", None),
    ("client certificate: a good one with RSA", "mtls", "good-rsa", "", None),
    ("client certificate: none", "mtls", "-", "-tls1_3", Some(CERTIFICATE_REQUIRED)),
    ("client certificate: none in 1.2", "mtls", "-", "-tls1_2", Some(CERTIFICATE_REQUIRED)),
    ("client certificate: of another authority", "mtls", "partner", "", Some(UNKNOWN_CA)),
    ("client certificate: of an authority of the same name", "mtls", "namesake", "", Some(DECRYPT_ERROR)),
    ("client certificate: expired", "mtls", "expired", "", Some(CERTIFICATE_EXPIRED)),
    ("client certificate: expired, in 1.2", "mtls", "expired", "-tls1_2", Some(CERTIFICATE_EXPIRED)),
    ("client certificate: not valid yet", "mtls", "early", "", Some(CERTIFICATE_EXPIRED)),
    ("client certificate: made for servers", "mtls", "server", "", Some(UNSUPPORTED_CERTIFICATE)),
    ("client certificate: revoked", "mtls", "revoked", "", Some(CERTIFICATE_REVOKED)),
    ("client certificate: a name that is let in", "named", "good", "", None),
    ("client certificate: a name that is not", "named", "other", "", Some(ACCESS_DENIED)),
    ("client certificate: a good one where it is optional", "optional", "good", "", None),
    ("client certificate: none where it is optional", "optional", "-", "", None),
    ("client certificate: a bad one where it is optional", "optional", "partner", "", Some(UNKNOWN_CA)),
];

pub(super) async fn client_certificate(
    lab: Arc<Lab>,
    listener: &'static str,
    who: &'static str,
    arguments: &'static str,
    alert: Option<u8>,
) {
    let told = s_client(lab.addr(listener), &format!("{arguments} {}", shown(&lab, who))).await;
    match alert {
        None => _ = told.must_be_served(),
        Some(alert) => told.must_be_refused(alert),
    }
}

fn shown(lab: &Lab, who: &str) -> String {
    match who {
        "-" => String::new(),
        who => format!("-cert {} -key {}", lab.path(&format!("{who}.crt")), lab.path(&format!("{who}.key"))),
    }
}

/// What becomes of a client that comes back with a session, and with no certificate.
#[derive(Debug, Clone, Copy)]
pub(super) enum Again {
    Resumed,
    Anew,
    Refused(u8),
}

/// Name, where and as whom the session is made, where it is shown, arguments, what becomes of it.
pub(super) const SESSIONS: &[(&str, &str, &str, &str, &str, Again)] = &[
    ("sessions: resumed by ticket in 1.3", "https", "-", "https", "-tls1_3", Again::Resumed),
    ("sessions: resumed by ticket in 1.2", "https", "-", "https", "-tls1_2", Again::Resumed),
    ("sessions: none is kept by its number", "https", "-", "https", "-tls1_2 -no_ticket", Again::Anew),
    ("sessions: not on another listener", "https", "-", "second", "-tls1_3", Again::Anew),
    ("sessions: not on another listener, in 1.2", "https", "-", "second", "-tls1_2", Again::Anew),
    ("sessions: none without tickets", "forgetful", "-", "forgetful", "-tls1_3", Again::Anew),
    ("sessions: none without tickets, in 1.2", "forgetful", "-", "forgetful", "-tls1_2", Again::Anew),
    ("sessions: of a client with a certificate", "mtls", "good", "mtls", "-tls1_3", Again::Resumed),
    ("sessions: of a client with a certificate, in 1.2", "mtls", "good", "mtls", "-tls1_2", Again::Resumed),
    (
        "mTLS isolation: from where nobody is asked",
        "https",
        "-",
        "mtls",
        "-tls1_3",
        Again::Refused(CERTIFICATE_REQUIRED),
    ),
    (
        "mTLS isolation: from where nobody is asked, in 1.2",
        "https",
        "-",
        "mtls",
        "-tls1_2",
        Again::Refused(CERTIFICATE_REQUIRED),
    ),
    (
        "mTLS isolation: from where it is optional",
        "optional",
        "-",
        "mtls",
        "-tls1_3",
        Again::Refused(CERTIFICATE_REQUIRED),
    ),
    (
        "mTLS isolation: from where it is optional, in 1.2",
        "optional",
        "-",
        "mtls",
        "-tls1_2",
        Again::Refused(CERTIFICATE_REQUIRED),
    ),
    (
        "mTLS isolation: from one authority to another",
        "mtls",
        "good",
        "partners",
        "-tls1_3",
        Again::Refused(CERTIFICATE_REQUIRED),
    ),
    (
        "mTLS isolation: from one authority to another, in 1.2",
        "mtls",
        "good",
        "partners",
        "-tls1_2",
        Again::Refused(CERTIFICATE_REQUIRED),
    ),
    (
        "mTLS isolation: from any name to chosen ones",
        "mtls",
        "other",
        "named",
        "-tls1_3",
        Again::Refused(CERTIFICATE_REQUIRED),
    ),
];

pub(super) async fn session(
    lab: Arc<Lab>,
    name: &'static str,
    (from, who): (&'static str, &'static str),
    to: &'static str,
    arguments: &'static str,
    again: Again,
) {
    let file = lab.path(&name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-"));
    let first = format!("{arguments} {} -sess_out {file}", shown(&lab, who));
    s_client(lab.addr(from), &first).await.must_be_served().must_have("New, TLSv1.");
    // A server of 1.3 that gives no ticket leaves nothing to come back with.
    let back = if std::fs::metadata(&file).is_ok() { format!("-sess_in {file}") } else { String::new() };
    let told: Told = s_client(lab.addr(to), &format!("{arguments} {back}")).await;
    match again {
        Again::Resumed => _ = told.must_have("Reused, TLSv1.").must_have(OK),
        Again::Anew => _ = told.must_have("New, TLSv1.").must_have(OK),
        Again::Refused(alert) => told.must_be_refused(alert),
    }
}
