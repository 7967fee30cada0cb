//! `retry = { … }`: which failed tries are made again, elsewhere.

use portcullis_config::{Context, Path};
use portcullis_names::{Status, TimeRange, TimeSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, time::Duration};

/// When a request is tried again at another endpoint. The upstream's `retry_budget` bounds all of it.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetrySpec {
    /// Tries after the first (default 1, at most 5; 0 for none).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 5))]
    pub attempts: Option<u8>,
    /// Default: connect, refused_stream, reset, gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<Vec<RetryOn>>,
    /// Longest wait for one try's response head (default: the route's timeout).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<TimeSpan>,
    /// The wait before a retry, doubled from the first to the second, with full jitter (default 25ms..250ms). A connection that
    /// could not be made is tried elsewhere at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<TimeRange>,
    /// What may be sent twice (default safe). Requests that were not sent at all are retried whatever their method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<RetryMethods>,
}

/// What makes a try worth repeating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOn {
    /// No connection: nothing was sent.
    Connect,
    /// The endpoint says that it did not begin (RFC 9113 §8.7).
    RefusedStream,
    /// Closed, reset or garbled before the response head was whole.
    Reset,
    /// No response head within `per_try_timeout`.
    Timeout,
    /// 502, 503 and 504.
    Gateway,
    /// 500 to 599.
    Any5xx,
    Status(Status),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryMethods {
    /// GET, HEAD, OPTIONS, TRACE (RFC 9110 §9.2.1).
    #[default]
    Safe,
    /// PUT and DELETE too (RFC 9110 §9.2.2).
    Idempotent,
    /// POST and all others too: the operator knows that the origin can bear to hear them twice.
    All,
}

/// The settings with every value settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    pub attempts: u8,
    on: Vec<RetryOn>,
    pub per_try_timeout: Option<Duration>,
    backoff: (Duration, Duration),
    methods: RetryMethods,
}

/// How a try failed, as far as retrying goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    Connect,
    RefusedStream,
    Reset,
    Timeout,
    Status(u16),
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 1,
            on: vec![RetryOn::Connect, RetryOn::RefusedStream, RetryOn::Reset, RetryOn::Gateway],
            per_try_timeout: None,
            backoff: (Duration::from_millis(25), Duration::from_millis(250)),
            methods: RetryMethods::Safe,
        }
    }
}

impl RetrySpec {
    pub(crate) fn compile(&self, timeout: Duration, at: &Path, cx: &mut Context) -> Retry {
        let default = Retry::default();
        let per_try_timeout = self.per_try_timeout.map(TimeSpan::get);
        if per_try_timeout.is_some_and(|time| time.is_zero() || time > timeout) {
            cx.error(&at.key("per_try_timeout"), "one try takes more than no time and at most the route's `timeout`");
        }
        let times_out = self.on.as_ref().is_some_and(|on| on.contains(&RetryOn::Timeout));
        if times_out && per_try_timeout.is_none() {
            cx.error(
                &at.key("on"),
                "\"timeout\" needs `per_try_timeout`: the route's own timeout leaves no time for a retry",
            );
        }
        if self.attempts == Some(0) && (self.on.is_some() || self.backoff.is_some() || self.methods.is_some()) {
            cx.error(&at.key("attempts"), "with no retries the other keys have no effect");
        }
        Retry {
            attempts: self.attempts.unwrap_or(default.attempts),
            on: self.on.clone().unwrap_or(default.on),
            per_try_timeout,
            backoff: self.backoff.map_or(default.backoff, |range| (range.from(), range.to())),
            methods: self.methods.unwrap_or_default(),
        }
    }
}

impl Retry {
    /// Whether a try that failed so may be followed by another. `attempts` were made; the body can be sent again if `replayable`.
    pub fn allows(&self, failed: Failed, attempts: u32, method: &str, body: Body) -> bool {
        // What the endpoint never began cannot be done twice, whatever it is.
        let unsent = matches!(failed, Failed::Connect | Failed::RefusedStream);
        attempts <= u32::from(self.attempts)
            && self.is_listed(failed)
            && (unsent || self.methods.include(method))
            && body == Body::Replayable
    }

    /// The wait before a retry, given how many tries were made: exponential, with full jitter (`draw` from 0 to 1).
    pub fn wait(&self, failed: Failed, attempts: u32, draw: f64) -> Duration {
        if failed == Failed::Connect && attempts <= 1 {
            return Duration::ZERO;
        }
        let (from, to) = self.backoff;
        let most = from.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(to);
        most.mul_f64(draw)
    }

    fn is_listed(&self, failed: Failed) -> bool {
        self.on.iter().any(|on| match (on, failed) {
            (RetryOn::Connect, Failed::Connect)
            | (RetryOn::RefusedStream, Failed::RefusedStream)
            | (RetryOn::Reset, Failed::Reset)
            | (RetryOn::Timeout, Failed::Timeout)
            | (RetryOn::Gateway, Failed::Status(502..=504))
            | (RetryOn::Any5xx, Failed::Status(500..=599)) => true,
            (RetryOn::Status(status), Failed::Status(found)) => status.get() == found,
            _ => false,
        })
    }

    /// Whether an answer with this status is thrown away for a retry.
    pub fn wants(&self, status: u16) -> bool {
        self.is_listed(Failed::Status(status))
    }
}

/// Whether a request's body, if it has one, is held whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    Replayable,
    Gone,
}

impl RetryMethods {
    fn include(self, method: &str) -> bool {
        let safe = matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE");
        match self {
            Self::Safe => safe,
            Self::Idempotent => safe || matches!(method, "PUT" | "DELETE"),
            Self::All => true,
        }
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, on) in self.on.iter().enumerate() {
            write!(f, "{}{on}", if index == 0 { "" } else { ", " })?;
        }
        f.write_str(match self.methods {
            RetryMethods::Safe => " (safe methods)",
            RetryMethods::Idempotent => " (idempotent methods)",
            RetryMethods::All => " (all methods)",
        })
    }
}

const WORDS: [(&str, RetryOn); 6] = [
    ("connect", RetryOn::Connect),
    ("refused_stream", RetryOn::RefusedStream),
    ("reset", RetryOn::Reset),
    ("timeout", RetryOn::Timeout),
    ("gateway", RetryOn::Gateway),
    ("5xx", RetryOn::Any5xx),
];

impl fmt::Display for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, WORDS.iter().find(|(_, on)| on == self)) {
            (Self::Status(status), _) => write!(f, "{}", status.get()),
            (_, Some((word, _))) => f.write_str(word),
            (_, None) => Ok(()),
        }
    }
}

impl Serialize for RetryOn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RetryOn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if let Some((_, on)) = WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*on);
        }
        let status: u16 = text.parse().map_err(|_| de::Error::custom(format!("`{text}` is no cause of a retry")))?;
        Status::new(status)
            .filter(|_| status >= 400)
            .map(Self::Status)
            .ok_or_else(|| de::Error::custom(format!("`{text}` is no status of a failure (400 to 599)")))
    }
}

impl JsonSchema for RetryOn {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RetryOn".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let words = WORDS.iter().map(|(word, _)| (*word).to_owned());
        let all: Vec<String> = words.chain((400..600).map(|status| status.to_string())).collect();
        schemars::json_schema!({ "type": "string", "enum": all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(json: &str) -> Retry {
        let mut cx = Context::default();
        let retry =
            serde_json::from_str::<RetrySpec>(json).unwrap().compile(Duration::from_secs(60), &Path::root(), &mut cx);
        assert!(!cx.report().has_errors(), "{:?}", cx.report().lines());
        retry
    }

    #[test]
    fn what_may_be_tried_again() {
        use Failed::*;
        let all = r#"{"attempts":2,"on":["connect","refused_stream","reset","timeout","503"],"per_try_timeout":"1s","methods":"all"}"#;
        for (json, failed, attempts, method, body, expected) in [
            ("{}", Connect, 1, "POST", Body::Replayable, true),
            ("{}", Connect, 2, "POST", Body::Replayable, false),
            ("{}", Connect, 1, "POST", Body::Gone, false),
            ("{}", RefusedStream, 1, "POST", Body::Replayable, true),
            ("{}", Reset, 1, "GET", Body::Replayable, true),
            ("{}", Reset, 1, "POST", Body::Replayable, false),
            ("{}", Reset, 1, "PUT", Body::Replayable, false),
            ("{}", Timeout, 1, "GET", Body::Replayable, false),
            ("{}", Status(503), 1, "GET", Body::Replayable, true),
            ("{}", Status(503), 1, "POST", Body::Replayable, false),
            ("{}", Status(500), 1, "GET", Body::Replayable, false),
            (r#"{"attempts":0}"#, Connect, 1, "GET", Body::Replayable, false),
            (r#"{"methods":"idempotent"}"#, Reset, 1, "PUT", Body::Replayable, true),
            (r#"{"methods":"idempotent"}"#, Reset, 1, "POST", Body::Replayable, false),
            (all, Reset, 2, "POST", Body::Replayable, true),
            (all, Reset, 3, "POST", Body::Replayable, false),
            (all, Timeout, 1, "PATCH", Body::Replayable, true),
            (all, Status(503), 1, "GET", Body::Replayable, true),
            (all, Status(502), 1, "GET", Body::Replayable, false),
            (r#"{"on":["gateway"]}"#, Status(502), 1, "GET", Body::Replayable, true),
            (r#"{"on":["gateway"]}"#, Status(500), 1, "GET", Body::Replayable, false),
            (r#"{"on":["5xx"]}"#, Status(500), 1, "HEAD", Body::Replayable, true),
            (r#"{"on":["5xx"]}"#, Connect, 1, "GET", Body::Replayable, false),
        ] {
            assert_eq!(retry(json).allows(failed, attempts, method, body), expected, "{json} {failed:?} {method}");
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_a_refused_connection_waits_not() {
        let retry = retry(r#"{"backoff":"10ms..35ms"}"#);
        for (failed, attempts, draw, millis) in [
            (Failed::Connect, 1, 1.0, 0),
            (Failed::Connect, 2, 1.0, 20),
            (Failed::Reset, 1, 1.0, 10),
            (Failed::Reset, 1, 0.5, 5),
            (Failed::Reset, 2, 1.0, 20),
            (Failed::Reset, 3, 1.0, 35),
            (Failed::Reset, 5, 1.0, 35),
        ] {
            assert_eq!(retry.wait(failed, attempts, draw).as_millis(), millis, "{failed:?} {attempts}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        for json in [
            r#"{"on":["timeout"]}"#,
            r#"{"per_try_timeout":"61s"}"#,
            r#"{"per_try_timeout":"0s"}"#,
            r#"{"attempts":0,"on":["503"]}"#,
        ] {
            let mut cx = Context::default();
            let spec: RetrySpec = serde_json::from_str(json).unwrap();
            spec.compile(Duration::from_secs(60), &Path::root(), &mut cx);
            assert!(cx.report().has_errors(), "{json}");
        }
        for json in [r#"{"on":["200"]}"#, r#"{"on":["conect"]}"#, r#"{"backoff":"2s..1s"}"#, r#"{"methods":"post"}"#] {
            assert!(serde_json::from_str::<RetrySpec>(json).is_err(), "{json}");
        }
    }
}
