//! Rules as TOML, calls as one line each.

use super::*;
use crate::{authorise_rule::Request, sample::problems};

const RULES: &str = r#"
[cart-may-pay]
from = ["service:cart"]
to = ["service:payments"]
match = { methods = ["POST"], path = "/charge" }
action = "allow"
[bank]
from = ["namespace:bank", "spiffe://corp/ns/audit/*"]
to = ["service:payments.acme.lab"]
match = { ports = [8080] }
action = "allow"
[admins]
from = ["*"]
to = ["*"]
match = { path = "/admin", claims = { groups = "admins" } }
action = "allow"
[no-refunds]
from = ["*"]
to = ["service:payments"]
match = { path = "/charge/refund" }
action = "deny"
[vulnerable]
from = ["*"]
to = ["*"]
attributes = { cvss = ">=9" }
action = "quarantine"
[old]
from = ["service:cart"]
to = ["*"]
attributes = { version = "v1*" }
action = "deny"
report = true
[trial]
from = ["service:trial"]
to = ["service:payments"]
action = "report"
[other]
from = ["*"]
to = ["service:stock"]
action = "allow"
"#;

fn compile(text: &str) -> (Authorisation, Vec<String>) {
    let own = GlobalName::parse("payments.acme.lab").unwrap();
    problems(text, |specs, at, cx| Authorisation::compile(&own, specs, at, cx))
}

/// `caller` is `NAMESPACE/SERVICE` or `-` for clear text; `attributes` is `KEY=VALUE`; `call` is `METHOD PATH` or `-`.
fn decide(rules: &Authorisation, caller: &str, attributes: &str, call: &str, mode: Mode) -> Decision {
    let split = caller.split_once('/');
    let id = split.map(|(namespace, service)| format!("spiffe://corp/ns/{namespace}/sa/{service}").parse().unwrap());
    let namespace = split.map(|(namespace, _)| namespace);
    let attributes = attributes.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    let attributes: Attributes = attributes.into_iter().collect();
    let claims = serde_json::json!({ "groups": ["staff", "admins"] });
    let claims = claims.as_object().filter(|_| call.ends_with('!'));
    let request = match call.trim_end_matches('!').split_once(' ') {
        Some((method, path)) => Request::Seen { method, path, claims },
        None => Request::Unseen,
    };
    let relation =
        if namespace.is_some_and(|namespace| namespace != "acme.lab") { Relation::Other } else { Relation::Same };
    let peer = Peer { id: id.as_ref(), namespace, attributes: &attributes };
    rules.decide(&peer, Call { port: 8080, request }, mode, relation)
}

#[test]
fn calls_are_judged_by_who_what_and_how() {
    let (rules, found) = compile(RULES);
    assert!(found.is_empty(), "{found:?}");
    for (caller, attributes, call, expected) in [
        ("acme.lab/cart", "", "POST /charge", "allowed cart-may-pay"),
        ("acme.lab/cart", "", "POST /charge/7?x=1", "allowed cart-may-pay"),
        ("acme.lab/cart", "", "POST /%63harge", "allowed cart-may-pay"),
        ("acme.lab/cart", "", "GET /charge", "denied"),
        ("acme.lab/cart", "", "POST /charges", "denied"),
        ("acme.lab/cart", "", "POST /charge/../admin", "denied"),
        ("other/cart", "", "POST /charge", "denied"),
        ("acme.lab/web", "", "POST /charge", "denied"),
        ("-", "", "POST /charge", "denied"),
        ("bank/x", "", "GET /", "allowed bank"),
        ("audit/y", "", "GET /", "allowed bank"),
        ("acme.lab/web", "", "GET /admin!", "allowed admins"),
        ("acme.lab/web", "", "GET /admin", "denied"),
        // Deny beats allow, in whatever spelling.
        ("acme.lab/cart", "", "POST /charge/refund", "denied no-refunds"),
        ("bank/x", "", "GET /charge/x/%2e%2e/refund/1", "denied no-refunds"),
        // What cannot be seen may be what is denied.
        ("bank/x", "", "-", "denied no-refunds"),
        ("bank/x", "", "GET /charge%zz", "denied no-refunds"),
        // Attributes.
        ("acme.lab/cart", "cvss=9.8", "POST /charge", "quarantined vulnerable"),
        ("acme.lab/cart", "cvss=8.9", "POST /charge", "allowed cart-may-pay"),
        ("acme.lab/cart", "cvss=high", "POST /charge", "allowed cart-may-pay"),
        ("acme.lab/trial", "", "GET /", "reported trial"),
    ] {
        let decision = decide(&rules, caller, attributes, call, Mode::Strict);
        let rule = match &decision.verdict {
            Verdict::Allowed(rule) | Verdict::Quarantined(rule) => Some(rule),
            Verdict::Reported(rule) | Verdict::Denied(rule) => rule.as_ref(),
        };
        let found = rule.map_or_else(String::new, |rule| format!(" {rule}"));
        assert_eq!(
            format!("{}{found}", decision.verdict.as_str()),
            expected,
            "{caller} {attributes} {call}\n{decision}"
        );
    }
}

#[test]
fn a_rule_about_ports_is_about_no_other() {
    let (rules, _) = compile("[a]\nfrom = [\"*\"]\nto = [\"*\"]\nmatch = { ports = [8080] }\naction = \"allow\"");
    let peer = Peer { id: None, namespace: None, attributes: &Attributes::new() };
    for (port, through) in [(8080, true), (9090, false)] {
        let call = Call { port, request: Request::Unseen };
        assert_eq!(rules.decide(&peer, call, Mode::Strict, Relation::Same).verdict.lets_through(), through, "{port}");
    }
}

#[test]
fn a_deny_rule_that_reports_lets_through_and_says_so() {
    let (rules, _) = compile(RULES);
    let decision = decide(&rules, "acme.lab/cart", "version=v1.2", "POST /charge", Mode::Strict);
    assert!(decision.verdict.lets_through());
    assert_eq!(decision.would_refuse, ["old".parse().unwrap()]);
    let text = decision.to_string();
    for line in [
        "allowed by access rule \"cart-may-pay\"",
        "\"old\" would refuse it, and only reports",
        "\"bank\": is about other peers",
        "\"vulnerable\": is about peers with other attributes",
        "\"no-refunds\": is about other calls",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("\"other\""), "{text}");
}

#[test]
fn without_a_rule_the_mode_decides_and_namespaces_stay_apart() {
    let (rules, _) = compile("");
    for (mode, caller, through) in [
        (Mode::Strict, "acme.lab/cart", false),
        (Mode::Strict, "-", false),
        (Mode::Permissive, "acme.lab/cart", true),
        (Mode::Permissive, "-", true),
        (Mode::Permissive, "bank/x", false),
        (Mode::Off, "-", true),
        (Mode::Off, "bank/x", false),
    ] {
        let decision = decide(&rules, caller, "", "-", mode);
        let expected = if through { Verdict::Reported(None) } else { Verdict::Denied(None) };
        assert_eq!(decision.verdict, expected, "{mode:?} {caller}");
        assert!(decision.to_string().contains("no access rule allows it"));
        assert!(Authorisation::default_in_words(mode).starts_with(mode.as_str()));
    }
}

#[test]
fn mistakes_in_rules_are_found_together_also_in_those_of_other_services() {
    let (_, found) = compile(
        r#"
[a]
from = ["cart", "namespace:A", "spiffe://"]
to = ["payments"]
action = "allow"
[b]
from = []
to = ["service:stock"]
match = { path = "/a/../b" }
attributes = { cvss = ">=x", version = "a*b" }
action = "quarantine"
"#,
    );
    assert_eq!(found.len(), 9, "{found:#?}");
}
