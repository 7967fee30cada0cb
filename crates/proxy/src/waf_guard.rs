//! What looks at the requests of a rule: a compiled rule set, and what the rule wants of it.
//!
//! How a request's head is told to the WAF stands here once: the engine shows it what passes, `portcullis waf explain` what never did.

use http::{header, request::Parts};
use portcullis_names::Percent;
use portcullis_waf::{Audit, Connection, Intervention, Profile, ProfileError, ProfileSpec, Transaction, Waf};
use std::{fmt, sync::Arc};

/// Shared by all rules that want the same.
pub struct WafGuard {
    /// Of the rule set, for metrics and audit lines.
    pub name: String,
    pub waf: Arc<Waf>,
    pub profile: Arc<Profile>,
    /// What the profile was compiled from.
    pub wanted: ProfileSpec,
    /// Octets of a request body that are held and shown; what comes after them passes unseen.
    pub body_limit: usize,
    /// The share of requests that is looked at.
    pub sample: Percent,
    /// Sees a share of them as well, and decides nothing.
    pub shadow: Option<(Arc<WafGuard>, Percent)>,
}

impl WafGuard {
    /// Compiles what a rule wants of a rule set.
    pub fn new(name: String, waf: Arc<Waf>, wanted: ProfileSpec, body_limit: usize) -> Result<Self, Vec<ProfileError>> {
        let profile = Arc::new(waf.profile(&wanted)?);
        Ok(Self { name, waf, profile, wanted, body_limit, sample: Percent::ALL, shadow: None })
    }

    /// The same, but for what `change` changes.
    pub fn with(&self, change: impl FnOnce(&mut ProfileSpec)) -> Result<Self, Vec<ProfileError>> {
        let mut wanted = self.wanted.clone();
        change(&mut wanted);
        Self::new(self.name.clone(), self.waf.clone(), wanted, self.body_limit)
    }

    pub(crate) fn begin(&self, connection: Connection) -> Transaction<'static> {
        self.waf.begin(connection, Some(self.profile.clone()))
    }

    /// What would be said about a request that never came, with the trace of every rule.
    pub fn judge(&self, connection: Connection, head: &Parts, target: &[u8], body: &[u8]) -> Audit {
        let mut transaction = self.begin(connection);
        transaction.trace();
        self.show_all(transaction, head, target, body)
    }

    /// The same in brief. Without the prefilter, which for one request takes longer to build than to do without.
    pub fn objects(&self, connection: Connection, head: &Parts, target: &[u8], body: &[u8]) -> bool {
        let mut transaction = self.begin(connection);
        transaction.run_plainly();
        self.show_all(transaction, head, target, body).objects()
    }

    fn show_all(&self, mut transaction: Transaction<'_>, head: &Parts, target: &[u8], body: &[u8]) -> Audit {
        let mut refused = show_head(&mut transaction, head, target).is_some();
        let mut shown = 0;
        for chunk in body.chunks(CHUNK) {
            // As the engine does: beyond the limit nothing more is shown.
            if refused || shown > self.body_limit {
                break;
            }
            shown += chunk.len();
            refused = transaction.request_body_chunk(chunk).is_some();
        }
        if !refused {
            transaction.request_body_done();
        }
        transaction.finish()
    }
}

/// Bodies come off sockets in pieces of about this size.
const CHUNK: usize = 64 << 10;

/// Tells a transaction the head of a request: phase 1. `target` is what the client wrote, in origin form.
pub(crate) fn show_head(transaction: &mut Transaction<'_>, head: &Parts, target: &[u8]) -> Option<Intervention> {
    let protocol: &[u8] = match head.version {
        http::Version::HTTP_2 => b"HTTP/2.0",
        http::Version::HTTP_10 => b"HTTP/1.0",
        _ => b"HTTP/1.1",
    };
    transaction.request_line(head.method.as_str().as_bytes(), target, protocol);
    // h2 has no Host field when it has an authority; rules know only the former.
    if let (false, Some(authority)) = (head.headers.contains_key(header::HOST), head.uri.authority()) {
        transaction.request_header(b"host", authority.as_str().as_bytes());
    }
    for (name, value) in &head.headers {
        transaction.request_header(name.as_str().as_bytes(), value.as_bytes());
    }
    transaction.request_headers_done()
}

impl fmt::Debug for WafGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WafGuard").field("name", &self.name).finish_non_exhaustive()
    }
}
