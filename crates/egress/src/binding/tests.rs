use super::*;
use crate::{
    Caller, EgressPolicy, Facts, Request,
    sample::{noon, policy},
};

const SAMPLE: &str = r#"
[destination.strict]
hosts = ["api.example.com", "192.0.2.0/24"]
[destination.outer]
hosts = ["outer.example.com"]
ech   = "outer_listed"
[destination.hidden]
hosts = ["hidden.example.com"]
ech   = "allow"
[destination.soft]
hosts = ["soft.example.com"]
bind  = "report"
[destination.off]
hosts = ["off.example.com"]
bind  = "off"
[destination.web]
hosts    = ["web.example.com"]
protocol = "http"
ports    = [80, 8080]
[destination.origin]
hosts = ["origin.example.com"]
tls   = "originate"
[destination.git]
hosts    = ["git.example.com"]
protocol = "ssh"
[destination.db]
hosts    = ["db.example.com"]
protocol = "postgres"
[destination.raw]
hosts    = ["raw.example.com"]
protocol = "opaque"
ports    = [9]
[access.all]
from   = ["*"]
to     = ["destination:strict", "destination:outer", "destination:hidden", "destination:soft", "destination:off",
          "destination:web", "destination:origin", "destination:git", "destination:db", "destination:raw"]
action = "allow"
[access.learn]
from   = ["*"]
to     = ["*"]
action = "report"
"#;

fn permit(policy: &EgressPolicy, target: &Target) -> Permit {
    let caller = Caller::from_address("10.0.0.1".parse().unwrap());
    policy.decide(&Facts { caller, target, request: Request::Unseen }, noon()).permit().unwrap()
}

fn resolved(host: &str) -> Resolved {
    Resolved::new(Host::parse(host).unwrap(), ["8.8.8.8".parse().unwrap()].into())
}

fn hello(sni: &str, ech: Ech) -> FirstOctets {
    FirstOctets::Tls(Hello { sni: (!sni.is_empty()).then(|| sni.to_owned()), ech })
}

fn outcome(target: &str, first: &FirstOctets) -> String {
    let target = Target::parse(target).unwrap();
    let host = target.host().to_string();
    match bind(permit(&policy(SAMPLE), &target), first, &resolved(&host)) {
        Binding::Bound(_) => "bound".to_owned(),
        Binding::Reported(_, reason) => format!("report:{}", reason.as_str()),
        Binding::Refused(reason) => reason.as_str().to_owned(),
    }
}

#[test]
fn every_odd_beginning_has_its_decision() {
    use Ech::{Absent, Present};
    const API: &str = "api.example.com:443";
    for (target, first, expected) in [
        (API, hello("api.example.com", Absent), "bound"),
        (API, hello("other.example.com", Absent), "sni_mismatch"),
        (API, hello("example.com", Absent), "sni_mismatch"),
        (API, hello("api.example.com.evil.test", Absent), "sni_mismatch"),
        (API, hello("", Absent), "sni_missing"),
        (API, hello("8.8.8.8", Absent), "sni_address"),
        (API, hello("2130706433", Absent), "sni_address"),
        (API, hello("0x7f.1", Absent), "sni_address"),
        (API, hello("api.example.com", Present), "ech"),
        (API, FirstOctets::BrokenHello, "hello_malformed"),
        (API, FirstOctets::Http, "protocol_mismatch"),
        (API, FirstOctets::Ssh, "protocol_mismatch"),
        (API, FirstOctets::Unknown, "protocol_mismatch"),
        (API, FirstOctets::Silence, "silent"),
        ("192.0.2.7:443", hello("", Absent), "bound"),
        ("192.0.2.7:443", hello("api.example.com", Absent), "sni_mismatch"),
        ("192.0.2.7:443", hello("192.0.2.7", Absent), "sni_address"),
        ("outer.example.com:443", hello("outer.example.com", Present), "bound"),
        ("outer.example.com:443", hello("cdn.example", Present), "ech"),
        ("outer.example.com:443", hello("", Present), "ech"),
        ("outer.example.com:443", hello("cdn.example", Absent), "sni_mismatch"),
        ("hidden.example.com:443", hello("cdn.example", Present), "bound"),
        ("hidden.example.com:443", hello("cdn.example", Absent), "sni_mismatch"),
        ("soft.example.com:443", hello("cdn.example", Absent), "report:sni_mismatch"),
        ("soft.example.com:443", FirstOctets::Http, "report:protocol_mismatch"),
        ("soft.example.com:443", hello("soft.example.com", Absent), "bound"),
        ("off.example.com:443", hello("cdn.example", Present), "bound"),
        ("web.example.com:80", FirstOctets::Http, "bound"),
        ("web.example.com:80", hello("web.example.com", Absent), "protocol_mismatch"),
        ("origin.example.com:443", FirstOctets::Http, "bound"),
        ("origin.example.com:80", FirstOctets::Http, "bound"),
        ("origin.example.com:443", hello("origin.example.com", Absent), "protocol_mismatch"),
        ("git.example.com:22", FirstOctets::Ssh, "bound"),
        ("git.example.com:22", FirstOctets::Http, "protocol_mismatch"),
        ("git.example.com:22", FirstOctets::Silence, "silent"),
        ("db.example.com:5432", FirstOctets::Postgres, "bound"),
        ("db.example.com:5432", FirstOctets::Unknown, "protocol_mismatch"),
        ("raw.example.com:9", FirstOctets::Silence, "bound"),
        ("raw.example.com:9", FirstOctets::Unknown, "bound"),
        ("unlisted.example:443", hello("other.example", Absent), "bound"),
    ] {
        assert_eq!(outcome(target, &first), expected, "{target} {first:?}");
    }
}

#[test]
fn only_the_name_that_we_resolved_is_bound_in_any_mode() {
    let policy = policy(SAMPLE);
    for target in ["api.example.com:443", "off.example.com:443", "raw.example.com:9", "unlisted.example:1"] {
        let target = Target::parse(target).unwrap();
        let first = FirstOctets::Unknown;
        let binding = bind(permit(&policy, &target), &first, &resolved("evil.example"));
        assert!(matches!(binding, Binding::Refused(Reason::NotResolved)), "{target}");
    }
}

#[test]
fn each_request_names_the_host_that_its_connection_is_for() {
    let policy = policy(SAMPLE);
    let verdict = |target: &str, first: FirstOctets, authority: &str| {
        let target = Target::parse(target).unwrap();
        match bind(permit(&policy, &target), &first, &resolved(&target.host().to_string())) {
            Binding::Bound(bound) => bound.check_host(authority),
            other => panic!("{other:?}"),
        }
    };
    let (same, refuse) = (HostVerdict::Same, HostVerdict::Refuse(Reason::HostMismatch));
    for (authority, expected) in [
        ("web.example.com:8080", same),
        ("WEB.example.com.:8080", same),
        ("web.example.com", same),
        ("web.example.com:", same),
        ("web.example.com:80", refuse),
        ("other.example.com:8080", refuse),
        ("api.example.com", refuse),
        ("user@web.example.com", refuse),
        ("", refuse),
        ("8.8.8.8", refuse),
    ] {
        assert_eq!(verdict("web.example.com:8080", FirstOctets::Http, authority), expected, "{authority}");
    }
    let soft = verdict("soft.example.com:443", hello("soft.example.com", Ech::Absent), "evil.example");
    assert_eq!(soft, HostVerdict::Report(Reason::HostMismatch));
    assert_eq!(verdict("off.example.com:443", FirstOctets::Http, "evil.example"), same);
}
