//! Why a flow was refused, let through on report, or let through: one enum, one table.
//!
//! A refusal is a value, not an error; what the client is shown of it is made in [`crate::refusal`].

use std::fmt;

macro_rules! reasons {
    ($($variant:ident = $label:literal, $status:literal, $proxy_status:literal, $doc:literal;)*) => {
        /// Its name is the metric label, the log field, the `reason` of a refusal's body and the documentation key.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $(#[doc = $doc] $variant,)* }

        impl Reason {
            /// Every variant, for metrics and documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// The status that answers it, as far as an answer can still be given.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The error type of RFC 9209 §2.3 that says it best.
            pub const fn proxy_error(self) -> &'static str {
                match self { $(Self::$variant => $proxy_status,)* }
            }

            /// One line for people.
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }
        }
    };
}

reasons! {
    BadTarget = "bad_target", 400, "http_request_error", "the target is not `host:port` in its one plain spelling";
    NumericHost = "numeric_host", 400, "http_request_error", "the host is an address in a spelling that readers take in different ways";
    ProxyAuthRequired = "proxy_auth_required", 407, "http_request_denied", "the listener wants a user name and password";
    NoDestination = "no_destination", 403, "http_request_denied", "no destination has this host";
    Port = "port", 403, "http_request_denied", "the host is known, but not with this port";
    Identity = "identity", 403, "http_request_denied", "no access rule lets this caller reach the destination";
    RequestNotAllowed = "request_not_allowed", 403, "http_request_denied", "the caller may reach the destination, but not with this method and path";
    RequestUnseen = "request_unseen", 403, "http_request_denied", "the rule is about methods or paths, and the request is inside a tunnel";
    DeniedByRule = "denied_by_rule", 403, "http_request_denied", "an access rule denies it";
    Expired = "expired", 403, "http_request_denied", "the grant's time is over";
    ProtocolMismatch = "protocol_mismatch", 403, "http_request_denied", "the first octets are not of the destination's protocol";
    Silent = "silent", 403, "http_request_denied", "the client said nothing where its protocol speaks first";
    HelloMalformed = "hello_malformed", 403, "http_request_denied", "the TLS ClientHello is malformed, too large, or of SSL 2";
    SniMissing = "sni_missing", 403, "http_request_denied", "the TLS ClientHello names no server";
    SniAddress = "sni_address", 403, "http_request_denied", "the TLS ClientHello names an address (RFC 6066 §3 forbids it)";
    SniMismatch = "sni_mismatch", 403, "http_request_denied", "the TLS ClientHello names another server than the tunnel was asked for";
    Ech = "ech", 403, "http_request_denied", "the TLS ClientHello hides its server's name (ECH)";
    HostMismatch = "host_mismatch", 403, "http_request_denied", "the Host field names another server than the connection is for";
    NotResolved = "not_resolved", 403, "http_request_denied", "the address was not resolved by this gateway for this name";
    PrivateAddress = "private_address", 403, "destination_ip_prohibited", "the address is not one of the public internet, and the destination does not name it";
    OwnAddress = "own_address", 403, "destination_ip_prohibited", "the address is one of this gateway";
    DeniedAddress = "denied_address", 403, "destination_ip_prohibited", "the address is in a range that an access rule denies";
    NameUnknown = "name_unknown", 502, "dns_error", "the name does not exist or has no address";
    ResolveFailed = "resolve_failed", 502, "dns_error", "the name servers gave no usable answer";
    ResolveTimeout = "resolve_timeout", 504, "dns_timeout", "the name servers did not answer in time";
    ConnectRefused = "connect_refused", 502, "connection_refused", "the destination refused the connection";
    ConnectTimeout = "connect_timeout", 504, "connection_timeout", "the destination did not take the connection in time";
    ConnectFailed = "connect_failed", 502, "destination_ip_unroutable", "the destination could not be connected to";
    CircuitOpen = "circuit_open", 503, "connection_limit_reached", "the destination has all the requests and connections that it is given at a time";
    ParentFailed = "parent_failed", 502, "destination_unavailable", "the proxy that leads to the destination could not be reached";
    ParentRefused = "parent_refused", 502, "destination_unavailable", "the proxy that leads to the destination does not let us through";
    Credential = "credential", 502, "proxy_internal_error", "the credential for the destination could not be had";
    UnsignedPayload = "unsigned_payload", 413, "http_request_denied", "the credential signs bodies of a known length up to 64 KiB, and the destination takes no others";
    RateLimited = "rate_limited", 429, "http_request_denied", "the caller asks more often than the destination's rate limit allows";
    Quota = "quota", 429, "http_request_denied", "the caller has used up its budget for the destination";
    Tunnels = "tunnels", 429, "http_request_denied", "the caller has as many tunnels to the destination as it may have";
    PolicyChanged = "policy_changed", 403, "connection_terminated", "a new configuration no longer allows the tunnel";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.doc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_label_of_its_own_and_a_status_of_a_refusal() {
        let mut labels: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!((400..600).contains(&reason.status()), "{reason:?}");
            assert!(reason.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{reason:?}");
        }
    }
}
