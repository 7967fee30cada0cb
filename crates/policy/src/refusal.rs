//! Why a request or connection ended other than by an answer of the origin: one enum, one table.

/// Who ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Client,
    Upstream,
    Gateway,
}

impl Side {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Gateway => "gateway",
        }
    }
}

macro_rules! reasons {
    ($($variant:ident = $label:literal, $status:literal, $side:ident, $doc:literal;)*) => {
        /// Why; its name is the metric label, the log field and the documentation key.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = $doc] $variant,)*
            /// The byte stream was refused by `wire`, which has a table of its own.
            Malformed { label: &'static str, status: u16 },
            /// Refused by a guard that has a table of reasons of its own: addresses, credentials, the external authority.
            Denied { label: &'static str, status: u16 },
            /// Trouble on purpose: `fault.abort`.
            Injected { status: u16 },
        }

        impl Reason {
            /// Every variant but those that carry their own.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                    Self::Malformed { label, .. } | Self::Denied { label, .. } => label,
                    Self::Injected { .. } => "fault_injected",
                }
            }

            /// The status that answers it, as far as an answer can still be given.
            pub const fn status(self) -> u16 {
                match self {
                    $(Self::$variant => $status,)*
                    Self::Malformed { status, .. } | Self::Denied { status, .. } | Self::Injected { status } => status,
                }
            }

            pub const fn side(self) -> Side {
                match self {
                    $(Self::$variant => Side::$side,)*
                    Self::Malformed { .. } => Side::Client,
                    Self::Denied { status, .. } if status < 500 => Side::Client,
                    Self::Denied { .. } | Self::Injected { .. } => Side::Gateway,
                }
            }

            /// One line for people.
            pub const fn doc(self) -> &'static str {
                match self {
                    $(Self::$variant => $doc,)*
                    Self::Malformed { .. } => "the message breaks HTTP's grammar or framing",
                    Self::Denied { .. } => "a check of who is asking was not passed",
                    Self::Injected { .. } => "the route's `fault` refuses a share of the requests",
                }
            }
        }
    };
}

reasons! {
    BadHost = "bad_host", 400, Client, "the request names no host that could be one";
    BadPath = "bad_path", 400, Client, "the path has no safe spelling";
    NoRoute = "no_route", 404, Client, "no rule of the host takes this request";
    UnknownHost = "unknown_host", 404, Client, "no route serves this host";
    Misdirected = "misdirected", 421, Client, "no route serves this host on a connection made for another (RFC 9110 §15.5.20)";
    RateLimited = "rate_limited", 429, Client, "the client asks more often than a rate limit allows";
    CorsOrigin = "cors_origin", 403, Client, "a page of this origin may not ask here (CORS)";
    MeshDenied = "mesh_denied", 403, Client, "no access rule of the workload lets this peer call this";
    MeshQuarantined = "mesh_quarantined", 403, Client, "the peer is in quarantine";
    BodyTooLarge = "body_too_large", 413, Client, "the request body is larger than the limit";
    HeaderTimeout = "header_timeout", 408, Client, "the request head did not come whole in time";
    BodyTimeout = "body_timeout", 408, Client, "the request body came too slowly";
    ClientGone = "client_gone", 499, Client, "the client closed before the answer was complete";
    ClientProtocol = "client_protocol", 400, Client, "the client broke the protocol in the middle of a message";
    H2Abuse = "h2_abuse", 400, Client, "the h2 connection was cut for abuse";
    Connect = "connect_not_allowed", 405, Client, "CONNECT is not served here";
    Overloaded = "overloaded", 503, Gateway, "the process is short of memory or CPU and sheds a share of the requests";
    ConcurrencyLimited = "concurrency_limited", 503, Gateway, "the rule has as many requests in progress as it may have";
    LimitStoreDown = "limit_store_down", 503, Gateway, "the store of a rate limit gives no answer, and its `on_fail` is deny";
    NoEndpoint = "no_endpoint", 503, Upstream, "the upstream has no endpoint that may be used";
    CircuitOpen = "circuit_open", 503, Upstream, "the upstream has all the requests that its circuit breaker allows";
    ConnectRefused = "connect_refused", 502, Upstream, "the endpoint refused the connection";
    ConnectTimeout = "connect_timeout", 504, Upstream, "the endpoint did not take the connection in time";
    ConnectFailed = "connect_failed", 502, Upstream, "the endpoint could not be connected to";
    UpstreamTls = "upstream_tls", 502, Upstream, "the TLS handshake with the endpoint failed";
    UpstreamTimeout = "upstream_timeout", 504, Upstream, "the endpoint did not answer in time";
    UpstreamReset = "upstream_reset", 502, Upstream, "the endpoint closed before its answer was complete";
    UpstreamProtocol = "upstream_protocol", 502, Upstream, "the endpoint's answer breaks HTTP's grammar or framing";
    Internal = "internal", 500, Gateway, "a fault of our own";
}

impl Reason {
    /// Whether the cause passes by itself and soon, so that the client may come back.
    pub const fn is_passing(self) -> bool {
        matches!(
            self,
            Self::Denied { status: 503, .. }
                | Self::NoEndpoint
                | Self::CircuitOpen
                | Self::Overloaded
                | Self::ConcurrencyLimited
                | Self::LimitStoreDown
        )
    }

    /// What the client is shown: the status's own words and nothing of the inside.
    pub const fn text(self) -> &'static str {
        match self.status() {
            400 => "Bad Request\n",
            401 => "Unauthorized\n",
            403 => "Forbidden\n",
            404 => "Not Found\n",
            405 => "Method Not Allowed\n",
            408 => "Request Timeout\n",
            413 => "Content Too Large\n",
            414 => "URI Too Long\n",
            415 => "Unsupported Media Type\n",
            417 => "Expectation Failed\n",
            421 => "Misdirected Request\n",
            429 => "Too Many Requests\n",
            431 => "Request Header Fields Too Large\n",
            502 => "Bad Gateway\n",
            503 => "Service Unavailable\n",
            504 => "Gateway Timeout\n",
            505 => "HTTP Version Not Supported\n",
            _ => "Internal Server Error\n",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own_and_a_status_that_fits_its_side() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(reason.side() == Side::Client, reason.status() < 500, "{reason:?}");
        }
    }
}
