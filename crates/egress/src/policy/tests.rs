use super::*;
use crate::sample::{compile, noon, policy};
use std::time::Duration;

const SAMPLE: &str = r#"
[destination.stripe]
hosts = ["api.stripe.com", "*.hooks.stripe.com"]
tls   = "originate"
[destination.stripe-any]
hosts = ["**.stripe.com"]
[destination.db]
hosts    = ["db.partner.example"]
ports    = [5432, 5433]
protocol = "postgres"
[destination.lan]
hosts = ["192.0.2.0/24"]
ports = [80]
protocol = "http"
[destination.lan-printer]
hosts = ["192.0.2.7"]
ports = [80]
protocol = "http"
[destination.quiet]
hosts = ["quiet.example"]

[access.pay]
from   = ["spiffe://corp/ns/pay/*"]
to     = ["destination:stripe"]
match  = { methods = ["POST"], path = "/v1/charges" }
action = "allow"
reason = "PAY-1312"
[access.ops]
from   = ["user:ops"]
to     = ["destination:stripe-any", "destination:stripe", "destination:db", "destination:lan"]
action = "allow"
[access.temp]
from   = ["user:temp"]
to     = ["destination:db"]
action = "allow"
until  = "2026-12-01T00:00:00Z"
[access.late]
from   = ["user:late"]
to     = ["destination:db"]
action = "allow"
until  = "2026-11-21T00:00:01Z"
[access.no-admin]
from   = ["*"]
to     = ["destination:stripe"]
match  = { path = "/admin" }
action = "deny"
[access.no-evil]
from   = ["10.66.0.0/16"]
to     = ["*"]
action = "deny"
[access.learn]
from   = ["10.77.0.0/16"]
to     = ["*"]
action = "report"
[access.ranges]
from   = ["*"]
to     = ["10.96.0.0/12"]
action = "deny"
"#;

/// `user@address`, `spiffe://…` or an address.
fn caller(text: &str) -> Caller<'_> {
    let home = "10.0.0.1".parse().unwrap();
    match text.split_once('@') {
        _ if text.starts_with("spiffe://") => Caller { spiffe: Some(text), ..Caller::from_address(home) },
        Some((user, address)) => Caller { user: Some(user), ..Caller::from_address(address.parse().unwrap()) },
        None => Caller::from_address(text.parse().unwrap()),
    }
}

fn request(text: &str) -> Request<'_> {
    match text.split_once(' ') {
        Some((method, path)) => Request::Seen { method, path },
        None => Request::Unseen,
    }
}

/// `verdict rule destination`.
fn decide(policy: &EgressPolicy, who: &str, target: &str, what: &str, now: SystemTime) -> String {
    let target = Target::parse(target).unwrap();
    let facts = Facts { caller: caller(who), target: &target, request: request(what) };
    let decision = policy.decide(&facts, now);
    let explained = policy.explain(&facts, now).decision;
    assert_eq!((explained.verdict, &explained.rule), (decision.verdict, &decision.rule));
    let verdict = match decision.verdict {
        Verdict::Allow => "allow".to_owned(),
        Verdict::Report(reason) => format!("report:{}", reason.as_str()),
        Verdict::Deny(reason) => reason.as_str().to_owned(),
    };
    let name = |name: Option<&ObjectName>| name.map_or("-".to_owned(), ToString::to_string);
    let destination = decision.destination.as_ref().map(|destination| destination.name());
    format!("{verdict} {} {}", name(decision.rule.as_ref()), name(destination))
}

#[test]
fn who_reaches_what_is_what_the_rules_say() {
    let policy = policy(SAMPLE);
    const PAY: &str = "spiffe://corp/ns/pay/sa/api";
    const OPS: &str = "ops@10.0.0.1";
    for (who, target, what, expected) in [
        (PAY, "api.stripe.com:443", "POST /v1/charges", "allow pay stripe"),
        (PAY, "api.stripe.com:80", "POST /v1/charges/7", "allow pay stripe"),
        (PAY, "x.hooks.stripe.com:443", "POST /v1/charges", "allow pay stripe"),
        (PAY, "x.y.hooks.stripe.com:443", "POST /v1/charges", "identity - stripe-any"),
        (PAY, "api.stripe.com:443", "GET /v1/charges", "request_not_allowed pay stripe"),
        (PAY, "api.stripe.com:443", "POST /v1/refunds", "request_not_allowed pay stripe"),
        (PAY, "api.stripe.com:443", "POST /v1/charges/../refunds", "request_not_allowed pay stripe"),
        (PAY, "api.stripe.com:443", "connect", "request_unseen no-admin stripe"),
        (PAY, "api.stripe.com:8443", "POST /v1/charges", "port - -"),
        (PAY, "api.stripe.com.evil.example:443", "POST /v1/charges", "no_destination - -"),
        (PAY, "evil-api.stripe.com:443", "connect", "identity - stripe-any"),
        (PAY, "stripe.com:443", "connect", "no_destination - -"),
        ("spiffe://corp/ns/payroll/sa/api", "api.stripe.com:443", "POST /v1/charges", "identity - stripe"),
        ("10.0.0.1", "api.stripe.com:443", "POST /v1/charges", "identity - stripe"),
        // Deny beats allow, in every spelling of the path.
        (OPS, "api.stripe.com:443", "GET /admin", "denied_by_rule no-admin stripe"),
        (OPS, "api.stripe.com:443", "GET /x/..//%61dmin/y", "denied_by_rule no-admin stripe"),
        (OPS, "api.stripe.com:443", "GET /%zz", "request_unseen no-admin stripe"),
        (OPS, "api.stripe.com:443", "GET /v1", "allow ops stripe"),
        (OPS, "files.stripe.com:443", "connect", "allow ops stripe-any"),
        (OPS, "files.stripe.com:80", "connect", "port - -"),
        ("ops@10.66.1.1", "files.stripe.com:443", "connect", "denied_by_rule no-evil stripe-any"),
        ("ops@10.66.1.1", "unheard.example:443", "connect", "denied_by_rule no-evil -"),
        (OPS, "db.partner.example:5433", "connect", "allow ops db"),
        // The most specific destination that allows.
        (OPS, "192.0.2.7:80", "GET /", "allow ops lan"),
        (OPS, "192.0.2.8:80", "GET /", "allow ops lan"),
        (OPS, "[::ffff:192.0.2.8]:80", "GET /", "allow ops lan"),
        (OPS, "192.0.3.8:80", "GET /", "no_destination - -"),
        // Nothing allows it for anybody.
        (OPS, "quiet.example:443", "connect", "identity - quiet"),
        // Report.
        ("10.77.0.1", "quiet.example:443", "connect", "report:identity learn quiet"),
        ("10.77.0.1", "unheard.example:9", "connect", "report:no_destination learn -"),
        ("ops@10.77.0.1", "files.stripe.com:443", "connect", "allow ops stripe-any"),
        ("10.77.0.1", "api.stripe.com:443", "GET /admin", "denied_by_rule no-admin stripe"),
        // Grants with an end.
        ("temp@10.0.0.1", "db.partner.example:5432", "connect", "allow temp db"),
        ("late@10.0.0.1", "db.partner.example:5432", "connect", "allow late db"),
    ] {
        assert_eq!(decide(&policy, who, target, what, noon()), expected, "{who} {target} {what}");
    }
    let later = noon() + Duration::from_secs(1);
    assert_eq!(decide(&policy, "late@10.0.0.1", "db.partner.example:5432", "x", later), "expired late db");
    assert!(policy.denied_addresses().contains("10.100.0.1".parse().unwrap()));
}

#[test]
fn the_longest_grant_counts_and_its_end_is_told() {
    let text = SAMPLE.to_owned()
        + "[access.temp2]\nfrom=[\"user:temp\"]\nto=[\"destination:db\"]\naction=\"allow\"\nuntil=\"2027-01-01T00:00:00Z\"\n";
    let target = Target::parse("db.partner.example:5432").unwrap();
    let ask = |policy: &EgressPolicy, who: &str| {
        policy.decide(&Facts { caller: caller(who), target: &target, request: Request::Unseen }, noon())
    };
    let one = ask(&policy(SAMPLE), "temp@10.0.0.1").grant_end.unwrap();
    let two = ask(&policy(&text), "temp@10.0.0.1");
    assert_eq!(one, noon() + Duration::from_secs(10 * 86_400));
    assert_eq!(two.rule.as_ref().unwrap().as_str(), "temp2");
    assert!(two.grant_end.unwrap() > one);
    assert_eq!(ask(&policy(&text), "ops@10.0.0.1").grant_end, None);
}

#[test]
fn decisions_are_counted_by_rule_and_over_reloads() {
    let first = policy(SAMPLE);
    let target = Target::parse("unheard.example:9").unwrap();
    let facts = Facts { caller: caller("10.77.0.1"), target: &target, request: Request::Unseen };
    for _ in 0..3 {
        first.count(&first.decide(&facts, noon()));
    }
    let mut second = policy(SAMPLE);
    second.carry_over(&first);
    second.count(&second.decide(&facts, noon()));
    let counts: BTreeMap<_, _> = second.counts().map(|(name, counts)| (name.to_string(), counts)).collect();
    assert_eq!(counts["learn"], RuleCounts { applied: 4, would_deny: 4 });
    assert_eq!(counts["ops"], RuleCounts::default());
}

#[test]
fn an_explanation_names_every_rule_that_was_looked_at() {
    let policy = policy(SAMPLE);
    let target = Target::parse("api.stripe.com:443").unwrap();
    let facts = Facts {
        caller: caller("spiffe://corp/ns/pay/sa/api"),
        target: &target,
        request: Request::Seen { method: "POST", path: "/v1/refunds" },
    };
    let text = policy.explain(&facts, noon()).to_string();
    for part in [
        "api.stripe.com:443: denied",
        "[access.pay] (PAY-1312)",
        "[access.no-admin] deny: is about other requests",
        "[access.no-evil] deny: is for other callers",
        "[access.pay] allow: is about other requests",
        "destination stripe",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn ten_thousand_hosts_are_as_quick_as_ten() {
    let mut text = String::new();
    for n in 0..10_000 {
        text += &format!("[destination.d{n}]\nhosts=[\"h{n}.example.com\",\"**.w{n}.example.net\"]\n");
        text += &format!("[access.a{n}]\nfrom=[\"user:u{n}\"]\nto=[\"destination:d{n}\"]\naction=\"allow\"\n");
    }
    let mut document: crate::sample::Document = toml::from_str(&text).unwrap();
    let access = std::mem::take(&mut document.access);
    let mut cx = Context::default();
    let policy = EgressPolicy::compile(&document.destination, &access, &[], noon(), &mut cx);
    assert_eq!(decide(&policy, "u77@10.0.0.1", "h77.example.com:443", "x", noon()), "allow a77 d77");
    assert_eq!(decide(&policy, "u78@10.0.0.1", "h77.example.com:443", "x", noon()), "identity - d77");
    assert_eq!(decide(&policy, "u9@10.0.0.1", "a.b.w9.example.net:443", "x", noon()), "allow a9 d9");
}

#[test]
fn every_mistake_is_found_in_one_run() {
    let (_, problems) = compile(
        r#"
[destination.a]
hosts = ["https://x", "*.com", "10.0.0.1/8"]
credential = "nope"
[destination.b]
hosts = ["same.example"]
tls = "originate"
protocol = "ssh"
ports = []
[destination.c]
hosts = ["same.example"]
ports = [1, 1]
ech = "allow"
tls = "originate"
[destination.d]
hosts = ["same.example"]
ports = [1]
protocol = "opaque"
[destination.e]
hosts = []
protocol = "opaque"
budget = { per = "0s", requests = 5 }
[destination.f]
hosts = ["f.example"]
budget = { per = "1d" }
rate_limit = { rate = "99999999999/s" }
[access.one]
from = ["service:x", "spiffe://"]
to = ["destination:nowhere", "*", "10.0.0.0/8", "x"]
action = "allow"
until = "tomorrow"
match = {}
[access.two]
from = []
to = []
action = "deny"
match = { methods = [], path = "charge" }
[access.three]
from = ["*"]
to = ["destination:d"]
action = "allow"
match = { path = "/a/../b" }
[access.four]
from = ["*"]
to = ["destination:f"]
action = "allow"
until = "2020-01-01T00:00:00Z"
"#,
    );
    for expected in [
        "destination.a.hosts[0]: `https://x` is not a host",
        "destination.a.hosts[1]: `*.com` would take hosts of strangers",
        "destination.a.hosts[2]: `10.0.0.1/8` is not a host",
        "destination.a.credential: credential \"nope\" is not defined",
        "destination.a.credential: the gateway does not see the requests",
        "destination.b.tls: the gateway would speak TLS to the destination",
        "destination.b.ports: ports are numbers",
        "destination.c.ech: `ech` is about TLS that passes through",
        "destination.d.hosts: same.example with port 1 belongs to destination \"c\"",
        "destination.e.hosts: a destination without hosts",
        "destination.e.ports: an opaque protocol has no port",
        "destination.e.budget.per: a budget's time is from 1s",
        "destination.f.budget: nothing is limited",
        "destination.f.rate_limit.rate: the count of the rate",
        "access.one.from[0]: `service:x` is nobody",
        "access.one.from[1]: `spiffe://` is nobody",
        "access.one.to[0]: destination \"nowhere\" is not defined",
        "access.one.to[1]: everywhere cannot be allowed",
        "access.one.to[2]: an address range is denied to everybody",
        "access.one.to[3]: `x` is nowhere",
        "access.one.until: `tomorrow` is not a moment",
        "access.one.match: nothing is matched",
        "access.two.from: an empty list is nobody",
        "access.two.to: an empty list is nowhere",
        "access.two.match.methods: an empty list takes no request",
        "access.two.match.path: `charge` is not a path prefix",
        "access.three.match.path: `/a/../b` is not a path prefix",
        "access.three.to[0]: `match` needs requests",
        "access.four.until: the rule's time is over",
    ] {
        assert!(problems.iter().any(|problem| problem.starts_with(expected)), "{expected} in {problems:#?}");
    }
}
