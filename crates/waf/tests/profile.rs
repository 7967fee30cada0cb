//! Profiles, exclusions, traces and costs, over a rule set small enough to be read here.
#![allow(clippy::unwrap_used)]

use portcullis_waf::{
    Audit, Cause, Connection, EngineMode, ExcludedRules, ExclusionSpec, Filtering, InMemory, Profile, ProfileError,
    ProfileSpec, Response, Source, TraceOutcome, Waf,
};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const RULES: &str = r#"
SecRuleEngine On
SecRequestBodyAccess On
SecAction "id:1,phase:1,pass,nolog,setvar:tx.blocking_paranoia_level=1,setvar:tx.inbound_anomaly_score_threshold=5"
SecRule &TX:detection_paranoia_level "@eq 0" "id:2,phase:1,pass,nolog,setvar:tx.detection_paranoia_level=%{tx.blocking_paranoia_level}"
SecRule ARGS|REQUEST_COOKIES "@rx (?i)union\s+select" \
    "id:100,phase:2,pass,t:none,t:lowercase,msg:'SQL',tag:'attack-sqli',severity:CRITICAL,logdata:'%{MATCHED_VAR}',setvar:tx.inbound_score=+5"
SecRule TX:DETECTION_PARANOIA_LEVEL "@lt 2" "id:110,phase:2,pass,nolog,skipAfter:END"
SecRule ARGS "@rx [';]" "id:120,phase:2,pass,t:none,msg:'Quote',tag:'attack-sqli',setvar:tx.inbound_score=+5"
SecMarker END
SecRule ARGS "@contains admin" "id:130,phase:2,pass,chain,msg:'Chain'"
    SecRule REQUEST_METHOD "@streq POST" "t:none"
SecRule TX:inbound_score "@ge %{tx.inbound_anomaly_score_threshold}" "id:900,phase:2,deny,status:403,msg:'Score %{tx.inbound_score}'"
"#;

fn waf() -> Waf {
    Waf::compile(&[Source::Text { name: "test".to_owned(), text: RULES.to_owned() }], &InMemory::new()).unwrap()
}

fn connection() -> Connection {
    Connection {
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        client_port: 1,
        server: IpAddr::V4(Ipv4Addr::LOCALHOST),
        server_port: 80,
        unique_id: "id".to_owned(),
        now: Duration::from_secs(1_000),
    }
}

fn get(waf: &Waf, profile: &Profile, uri: &str) -> Audit {
    let mut transaction = waf.transaction_with(connection(), profile);
    transaction.trace();
    transaction.request_line(b"GET", uri.as_bytes(), b"HTTP/1.1");
    transaction.request_headers_done();
    transaction.request_body_done();
    transaction.finish()
}

fn ids(audit: &Audit) -> Vec<u32> {
    audit.matches.iter().map(|matched| matched.id).collect()
}

#[track_caller]
fn check(spec: ProfileSpec, uri: &str, expected: &[u32]) -> Audit {
    let waf = waf();
    let audit = get(&waf, &waf.profile(&spec).unwrap(), uri);
    assert_eq!(ids(&audit), expected, "{uri}");
    audit
}

fn excluding(rules: ExcludedRules, target: Option<&str>, path: Option<&str>) -> ExclusionSpec {
    ExclusionSpec {
        rules,
        target: target.map(str::to_owned),
        path: path.map(str::to_owned),
        methods: Vec::new(),
        expires: None,
        reason: "a test".to_owned(),
    }
}

const ATTACK: &str = "/blog/post?comment=union+select";

#[test]
fn a_profile_without_wishes_changes_nothing() {
    let audit = check(ProfileSpec::default(), ATTACK, &[100, 900]);
    assert!(matches!(audit.intervention.unwrap().cause, Cause::Rule(900)));
}

#[test]
fn paranoia_and_thresholds_are_not_for_rules_to_change() {
    check(ProfileSpec::default(), "/?q=it's", &[]);
    check(ProfileSpec { paranoia: Some(2), ..ProfileSpec::default() }, "/?q=it's", &[120, 900]);
    check(ProfileSpec { inbound_threshold: Some(50), ..ProfileSpec::default() }, ATTACK, &[100]);
}

#[test]
fn modes_decide_who_acts() {
    let audit =
        check(ProfileSpec { mode: Some(EngineMode::DetectionOnly), ..ProfileSpec::default() }, ATTACK, &[100, 900]);
    assert_eq!(audit.intervention, None);
    check(ProfileSpec { mode: Some(EngineMode::Off), ..ProfileSpec::default() }, ATTACK, &[]);
}

#[test]
fn exclusions_are_as_narrow_as_they_say() {
    let one = |exclusion: ExclusionSpec| ProfileSpec { exclusions: vec![exclusion], ..ProfileSpec::default() };
    let sql = || ExcludedRules::Ids("100".to_owned());
    check(one(excluding(sql(), None, None)), ATTACK, &[]);
    let audit = check(one(excluding(sql(), Some("ARGS:comment"), Some("/blog/*"))), ATTACK, &[]);
    assert_eq!(audit.exclusions, [0]);
    check(one(excluding(sql(), Some("ARGS:comment"), Some("/shop/*"))), ATTACK, &[100, 900]);
    check(one(excluding(sql(), Some("ARGS:other"), None)), ATTACK, &[100, 900]);
    check(one(excluding(ExcludedRules::Tag("attack-sqli".to_owned()), None, None)), ATTACK, &[]);
    check(one(ExclusionSpec { methods: vec!["POST".to_owned()], ..excluding(sql(), None, None) }), ATTACK, &[100, 900]);
    let until = |seconds| ExclusionSpec { expires: Some(Duration::from_secs(seconds)), ..excluding(sql(), None, None) };
    check(one(until(1_001)), ATTACK, &[]);
    check(one(until(1_000)), ATTACK, &[100, 900]);
}

#[test]
fn what_is_wrong_with_a_profile_is_said_at_once() {
    let spec = ProfileSpec {
        paranoia: Some(7),
        exclusions: vec![
            excluding(ExcludedRules::Ids("12345".to_owned()), None, None),
            excluding(ExcludedRules::Ids("100".to_owned()), Some("ARGZ"), None),
            ExclusionSpec { reason: " ".to_owned(), ..excluding(ExcludedRules::Ids("100".to_owned()), None, None) },
        ],
        ..ProfileSpec::default()
    };
    let errors = waf().profile(&spec).unwrap_err();
    let texts: Vec<String> = errors.iter().map(ProfileError::to_string).collect();
    assert_eq!(
        texts,
        [
            "paranoia level 7 is not one of 1 to 4",
            "exclusion 0: no rule is meant by \"12345\"",
            "exclusion 1: variable \"ARGZ\" is not known",
            "exclusion 2: says no reason; write down why the rules do not apply",
        ]
    );
}

#[test]
fn a_trace_tells_what_became_of_every_rule() {
    let audit = check(ProfileSpec::default(), "/?q=admin", &[]);
    let outcome = |id: u32| audit.trace.iter().find(|rule| rule.rule == id).map(|rule| rule.outcome);
    assert_eq!(outcome(100), Some(TraceOutcome::RuledOut));
    assert_eq!(outcome(110), Some(TraceOutcome::Matched));
    assert_eq!(outcome(120), None);
    let near: Vec<u32> = audit.near_misses().map(|rule| rule.rule).collect();
    assert_eq!(near, [130]);
    let chain = audit.near_misses().next().unwrap();
    let tests: Vec<_> =
        chain.tests.iter().map(|test| (test.link, test.variable.as_str(), test.value.as_str(), test.matched)).collect();
    assert_eq!(tests, [(0, "ARGS:q", "admin", true), (1, "REQUEST_METHOD", "GET", false)]);
}

#[test]
fn a_report_is_one_line_of_json() {
    let mut audit = check(ProfileSpec::default(), ATTACK, &[100, 900]);
    (audit.work, audit.trace) = (0, Vec::new());
    assert_eq!(
        serde_json::to_string(&audit).unwrap(),
        r#"{"matches":[{"id":100,"phase":"request_body","message":"SQL","severity":"critical","tags":["attack-sqli"],"version":null,"place":"test:6","score":5,"findings":[{"variable":"ARGS:comment","excerpt":"union select","data":"union select"}]},{"id":900,"phase":"request_body","message":"Score 5","severity":null,"tags":[],"version":null,"place":"test:13","score":0,"findings":[{"variable":"TX:inbound_score","excerpt":"5","data":""}]}],"scores":{"inbound_anomaly_score_threshold":5,"inbound_score":5},"cut":[],"exclusions":[],"work":0,"intervention":{"response":{"deny":{"status":403}},"cause":{"rule":900},"phase":"request_body"},"relevant":false}"#
    );
}

#[test]
fn costs_name_what_keeps_a_rule_from_running() {
    let costs = waf().lint();
    let of = |id: u32| costs.iter().find(|cost| cost.id == id).unwrap();
    assert_eq!(of(100).filtering, Filtering::Literals { count: 1, shortest: 6 });
    assert_eq!(of(120).filtering, Filtering::Bytes { count: 2 });
    assert_eq!(of(1).filtering, Filtering::None);
    assert!(of(1).advice.is_empty());
}

#[test]
fn a_redirect_and_a_limit_are_answers_too() {
    let text = "SecRuleEngine On\nSecRequestBodyAccess On\nSecRequestBodyLimit 10\nSecRequestBodyNoFilesLimit 10\n\
                SecRule ARGS:go \"@streq away\" \"id:1,phase:1,redirect:'https://a.example/%{ARGS.go}',nolog\"";
    let waf =
        Waf::compile(&[Source::Text { name: "test".to_owned(), text: text.to_owned() }], &InMemory::new()).unwrap();
    let mut transaction = waf.transaction(connection());
    transaction.request_line(b"GET", b"/?go=away", b"HTTP/1.1");
    let redirect = transaction.request_headers_done().unwrap();
    assert_eq!(redirect.response, Response::Redirect { status: 302, location: "https://a.example/away".to_owned() });
    let mut transaction = waf.transaction(connection());
    transaction.request_line(b"POST", b"/", b"HTTP/1.1");
    assert_eq!(transaction.request_headers_done(), None);
    let refused = transaction.request_body_chunk(b"more than ten bytes").unwrap();
    assert_eq!(refused.response, Response::Deny { status: 413 });
}

#[test]
fn a_transaction_can_hold_its_share_of_the_rules() {
    let waf = std::sync::Arc::new(waf());
    let profile =
        std::sync::Arc::new(waf.profile(&ProfileSpec { paranoia: Some(2), ..ProfileSpec::default() }).unwrap());
    let mut transaction = waf.begin(connection(), Some(profile));
    drop(waf);
    let handled = std::thread::spawn(move || {
        transaction.request_line(b"GET", b"/?q=it's", b"HTTP/1.1");
        transaction.request_headers_done();
        transaction.request_body_done();
        ids(&transaction.finish())
    });
    assert_eq!(handled.join().unwrap(), [120, 900]);
}

/// Names and browsers' headers are remembered from request to request: what is in them is told each time, of every set of
/// rules its own, and under each profile.
#[test]
fn what_recurs_is_told_every_time() {
    let rules = |id: u32, word: &str| {
        let text = format!(
            "SecRuleEngine On\nSecRule REQUEST_HEADERS|ARGS_NAMES \"@rx (?i){word}\" \
             \"id:{id},phase:1,deny,status:403,t:none,t:urlDecodeUni,msg:'x'\""
        );
        Waf::compile(&[Source::Text { name: "test".to_owned(), text }], &InMemory::new()).unwrap()
    };
    let sets = [(rules(1, "sqlmap"), 1), (rules(2, "curl"), 2)];
    let agents = [("sqlmap/1", Some(1)), ("Mozilla", None), ("curl%2f8", Some(2)), ("", None)];
    let names = [("a", None), ("curl_x", Some(2)), ("%73qlmap", Some(1))];
    for _ in 0..20 {
        for ((waf, own), (agent, wanted)) in sets.iter().flat_map(|set| agents.iter().map(move |agent| (set, agent))) {
            for (name, named) in names {
                let mut transaction = waf.transaction(connection());
                transaction.request_line(b"GET", format!("/?{name}=1").as_bytes(), b"HTTP/1.1");
                transaction.request_header(b"User-Agent", agent.as_bytes());
                let refused = transaction.request_headers_done().is_some();
                assert_eq!(refused, [*wanted, named].contains(&Some(*own)), "{agent} {name}");
            }
        }
    }
}
