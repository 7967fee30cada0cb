//! What a refused client is told: problem+json (RFC 9457) and the same in Proxy-Status (RFC 9209), because curl shows of a
//! refused CONNECT nothing but its status and, with `-v`, its fields.

use crate::{Decision, Reason};
use portcullis_names::ObjectName;
use serde_json::json;
use std::{fmt::Write, time::Duration};

/// One refusal, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    pub rule: Option<ObjectName>,
    pub destination: Option<ObjectName>,
    /// The rule's own `reason`.
    pub why: Option<String>,
    pub request_id: String,
    pub retry_after: Option<Duration>,
}

pub const PROBLEM_JSON: &str = "application/problem+json";

impl Refusal {
    /// For one that happened after the decision, or before any.
    pub fn new(reason: Reason, request_id: &str) -> Self {
        Self { reason, rule: None, destination: None, why: None, request_id: plain(request_id), retry_after: None }
    }

    /// With the grounds of a decision.
    pub fn of(decision: &Decision, reason: Reason, request_id: &str) -> Self {
        Self {
            rule: decision.rule.clone(),
            destination: decision.destination.as_ref().map(|destination| destination.name().clone()),
            why: decision.why.as_deref().map(str::to_owned),
            ..Self::new(reason, request_id)
        }
    }

    pub fn status(&self) -> u16 {
        self.reason.status()
    }

    /// The body; its media type is [`PROBLEM_JSON`].
    pub fn body(&self) -> String {
        let mut problem = json!({
            "type": "about:blank",
            "title": "refused by the egress gateway",
            "status": self.status(),
            "detail": self.reason.doc(),
            "reason": self.reason.as_str(),
            "request_id": self.request_id,
        });
        let mut add = |key: &str, value: Option<&str>| {
            if let (Some(value), Some(members)) = (value, problem.as_object_mut()) {
                members.insert(key.to_owned(), value.into());
            }
        };
        add("rule", self.rule.as_ref().map(ObjectName::as_str));
        add("destination", self.destination.as_ref().map(ObjectName::as_str));
        add("why", self.why.as_deref());
        format!("{problem}\n")
    }

    /// The value of Proxy-Status.
    pub fn proxy_status(&self) -> String {
        let mut details = format!("reason={} request_id={}", self.reason.as_str(), self.request_id);
        if let Some(rule) = &self.rule {
            let _ = write!(details, " rule={rule}");
        }
        // RFC 8941 §3.3.3: an sf-string needs only `"` and `\` escaped; neither is in what stands here.
        format!("portcullis; error={}; details=\"{details}\"", self.reason.proxy_error())
    }

    /// The value of Retry-After, in whole seconds.
    pub fn retry_after(&self) -> Option<u64> {
        self.retry_after.map(|after| after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0)))
    }
}

/// A request id may be the client's own: only what can stand in a field and a log line.
fn plain(text: &str) -> String {
    const SHOWN: usize = 64;
    text.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.:".contains(*c)).take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_the_same_in_body_and_field() {
        let refusal = Refusal {
            rule: Some("pay".parse().unwrap()),
            why: Some("PAY-\"1312\"\n".into()),
            ..Refusal::new(Reason::SniMismatch, "ab\"c\r\nX: y-1")
        };
        let body: serde_json::Value = serde_json::from_str(&refusal.body()).unwrap();
        assert_eq!(
            (body["status"].as_u64(), body["reason"].as_str(), body["rule"].as_str(), body["request_id"].as_str()),
            (Some(403), Some("sni_mismatch"), Some("pay"), Some("abcX:y-1"))
        );
        assert_eq!(body["why"], "PAY-\"1312\"\n");
        assert_eq!(
            refusal.proxy_status(),
            "portcullis; error=http_request_denied; details=\"reason=sni_mismatch request_id=abcX:y-1 rule=pay\""
        );
    }

    #[test]
    fn every_reason_can_be_told() {
        for reason in Reason::ALL {
            let refusal = Refusal::new(*reason, "r");
            assert!(refusal.proxy_status().bytes().all(|b| (0x20..0x7f).contains(&b)));
            assert!(serde_json::from_str::<serde_json::Value>(&refusal.body()).is_ok());
        }
        let later = Refusal { retry_after: Some(Duration::from_millis(1_500)), ..Refusal::new(Reason::Quota, "r") };
        assert_eq!(later.retry_after(), Some(2));
    }
}
