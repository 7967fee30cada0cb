//! `portcullis check`: every mistake in one run, each in its place.

use crate::support::{authority::Authority, gateway::run_in};
use std::path::Path;
use time::Duration;

/// Twenty-odd mistakes, each on the line that its marker names.
const SEEDED: &str = r#"schema = "1"
[proces]                                                     # 1 unknown key `proces`
[listener.https]
address = "127.0.0.1:8443"
protocol = "htps"                                            # 2 `htps` is not one of
[listener.http]
adress = ":80"                                               # 3 unknown key `adress`
[listener.udp]
address = ":53"
protocol = "udp"                                             # 4 `udp` is not supported by this version
[upstream.shop]
endpoints = ["10.0.0.1:80", { address = "10.0.0.2:80", wieght = 3 }]  # 5 unknown key `wieght`
connect_timeout = 250                                        # 6 expected a duration with a unit
read_timeout = "5 parsecs"                                   # 7 unknown unit
[upstream.names]
endpoints = ["app.internal:80"]                              # 8 host names are not supported
[upstream.proto]
endpoints = ["10.0.0.1:80"]
protocol = "h9"                                              # 9 `h9` is not one of
discover = { consul = "shop" }                               # 10 `consul` is not supported by this version
[upstream."bad name"]                                        # 11 is not a name
endpoints = ["10.0.0.1:80"]
[certificate.a]
cert = "a.crt"                                               # 12 expected a table
key = "hunter2"                                              # 13 a secret is never written here
[route.a]
hosts = ["shop.*.com"]                                       # 14 stands only for the whole first label
upstream = 5                                                 # 15 expected a string
cache = { ttl = "1s" }                                      # 16 `cache` is not supported by this version
[route.b]
upstream = "shop"
match = { methods = ["get"] }                                # 17 is not an HTTP method
respond = { status = 99 }                                    # 18 expected a number from 200 to 599
[route.c.rule.x]
path = { exakt = "/x" }                                      # 19 unknown key `exakt`
hedge = { after = "p95" }                                    # 20 `hedge` is not supported by this version
[telemetry]
access_log = { to = "stdot" }                                # 21 `stdot` is not one of
"#;

#[tokio::test]
async fn twenty_seeded_mistakes_are_all_reported_on_their_lines() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edge.toml"), SEEDED).unwrap();
    let (code, text) = run_in(folder.path(), &["check", "edge.toml"]).await;
    assert_eq!(code, 1, "{text}");
    let (_, json) = run_in(folder.path(), &["check", "edge.toml", "--format", "json"]).await;
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let problems = report["problems"].as_array().unwrap();
    let mut expected = 0;
    for (line, content) in SEEDED.lines().enumerate() {
        let Some((_, marker)) = content.split_once("  # ") else { continue };
        let (_, words) = marker.split_once(' ').unwrap();
        expected += 1;
        let found = problems.iter().any(|problem| {
            problem["place"]["line"] == line + 1 && problem["message"].as_str().unwrap().contains(words)
        });
        assert!(found, "line {}: {words}\n{text}", line + 1);
    }
    assert!(expected >= 20 && problems.len() == expected, "{} of {expected}\n{text}", problems.len());
    for hint in [
        "did you mean `process`?",
        "did you mean `https`?",
        "did you mean `address`?",
        "did you mean `weight`?",
        "did you mean `exact`?",
    ] {
        assert!(text.contains(hint), "{hint}\n{text}");
    }
    assert!(!text.contains("hunter2") && !json.contains("hunter2"), "a secret is not repeated");
}

/// Documents that are well-formed and still wrong: one expected message each.
#[tokio::test]
async fn what_fits_the_schema_and_makes_no_sense_is_refused_too() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca");
    ca.leaf(&["a.test"]).write(folder.path(), "a");
    ca.leaf_valid(&["a.test"], Duration::days(-3)).write(folder.path(), "old");
    ca.leaf(&["b.test"]).write(folder.path(), "b");
    std::fs::copy(folder.path().join("b.key"), folder.path().join("wrong.key")).unwrap();
    let certificate = |name: &str, key: &str| {
        format!("[certificate.{name}]\ncert = {{ file = \"{name}.crt\" }}\nkey = {{ file = \"{key}.key\" }}\n")
    };
    let http = "[listener.http]\naddress = \"127.0.0.1:8080\"\n";
    let shop = "[upstream.shop]\nendpoints = [\"10.0.0.1:80\"]\n";
    for (config, message) in [
        (format!("{http}{shop}[route.r]\nupstream = \"shp\"\n"), "upstream \"shp\" is not defined (defined: shop)"),
        (format!("{http}{shop}[route.r]\nupstream = \"shp\"\n"), "did you mean `shop`?"),
        (
            format!(
                "{http}{shop}[upstream.two]\nendpoints = [\"10.0.0.2:80\"]\nprotocol = \"h2c\"\n[route.r]\nupstream = \"shop\"\nmirror.upstream = \"two\"\n"
            ),
            "cannot be mirrored to",
        ),
        (
            format!("{http}{shop}[route.r]\nlisteners = [\"htp\"]\nupstream = \"shop\"\n"),
            "http listener \"htp\" is not defined",
        ),
        (
            format!(
                "{http}{shop}[route.a]\nhosts = [\"x.test\"]\nupstream = \"shop\"\n[route.b]\nhosts = [\"x.test\"]\nupstream = \"shop\"\n"
            ),
            "are equally specific",
        ),
        (
            format!("{http}{shop}[route.a]\nupstream = \"shop\"\n[route.b]\npriority = 5\nupstream = \"shop\"\n"),
            "`a` is unreachable",
        ),
        (format!("{http}{shop}[route.r]\nsplit = {{ shop = 0 }}\n"), "the weights sum to zero"),
        (
            format!(
                "{http}[upstream.shop]\nendpoints = [{{ address = \"10.0.0.1:80\", weight = 0 }}]\n[route.r]\nupstream = \"shop\"\n"
            ),
            "the weights sum to zero",
        ),
        (
            format!(
                "{http}[upstream.shop]\nendpoints = [\"10.0.0.1:80\", \"10.0.0.1:80\"]\n[route.r]\nupstream = \"shop\"\n"
            ),
            "10.0.0.1:80 is listed twice",
        ),
        (
            format!("{http}{shop}[route.r]\nupstream = \"shop\"\nredirect = {{ host = \"x.test\" }}\n"),
            "`upstream` and `redirect` exclude one another",
        ),
        (format!("{http}{shop}[route.r]\nhosts = [\"x.test\"]\n"), "route \"r\" does nothing"),
        (
            format!("{http}{shop}[route.r]\nupstream = \"shop\"\nmatch = {{ path = {{ regex = \"(\" }} }}\n"),
            "is not a regular expression",
        ),
        (format!("{http}{shop}[route.r]\nupstream = \"shop\"\npath = \"/a/../b\"\n"), "can never match"),
        (
            format!(
                "{http}{shop}[route.r]\nupstream = \"shop\"\nrequest_headers = {{ set = {{ x = \"${{hst}}\" }} }}\n"
            ),
            "unknown variable `hst`",
        ),
        (
            format!(
                "{http}{shop}[route.r]\nupstream = \"shop\"\nrequest_headers = {{ set = {{ content-length = \"5\" }} }}\n"
            ),
            "cannot be edited",
        ),
        (
            format!("{http}[listener.two]\naddress = \":8080\"\n{shop}[route.r]\nupstream = \"shop\"\n"),
            "cannot both have this address",
        ),
        (
            format!("[listener.t]\naddress = \"127.0.0.1:1\"\nprotocol = \"tcp\"\n{shop}"),
            "no tcp_route leads from listener \"t\"",
        ),
        (
            format!(
                "[listener.s]\naddress = \"127.0.0.1:1\"\nprotocol = \"https\"\n{shop}[route.r]\nupstream = \"shop\"\n"
            ),
            "an https listener needs a certificate",
        ),
        (
            format!(
                "{}[listener.s]\naddress = \"127.0.0.1:1\"\n{}{shop}[route.r]\nhosts = [\"c.test\"]\nupstream = \"shop\"\n",
                certificate("a", "a"),
                "certificates = [\"a\"]\n"
            ),
            "no certificate of listener \"s\" covers c.test",
        ),
        (format!("{}{http}", certificate("old", "old")), "expired 3 days ago"),
        (format!("{}{http}", certificate("a", "wrong")), "the key does not belong to the certificate"),
        (format!("{}{http}", certificate("none", "a")), "cannot read"),
        (
            format!(
                "{}[listener.s]\naddress = \"127.0.0.1:1\"\nprotocol = \"https\"\ntls = {{ client_auth = \"required\" }}\n",
                certificate("a", "a")
            ),
            "client certificates need `trust`",
        ),
        (format!("{http}tls = {{ min_version = \"1.3\" }}\n"), "`tls` has no effect"),
        (format!("{http}{shop}protocol = \"h2\"\n[route.r]\nupstream = \"shop\"\n"), "h2 to an upstream needs `tls`"),
        (
            format!(
                "{http}{shop}health_check = {{ interval = \"1s\", timeout = \"2s\" }}\n[route.r]\nupstream = \"shop\"\n"
            ),
            "a check ends before the next begins",
        ),
        (
            format!("{http}limits = {{ header = \"1B\" }}\n{shop}[route.r]\nupstream = \"shop\"\n"),
            "between 1KiB and 1MiB",
        ),
        ("[listener.http]\naddress = \"127.0.0.1:8080\"\naddress = \"x\"\n".to_owned(), "duplicate key"),
        (format!("{http}{shop}schema = \"2\"\n"), "unknown key `schema`"),
    ] {
        std::fs::write(folder.path().join("edge.toml"), &config).unwrap();
        let (code, out) = run_in(folder.path(), &["check", "edge.toml"]).await;
        assert!(code == 1 && out.contains(message), "{message}\nin\n{config}\n{out}");
    }
}

#[tokio::test]
async fn files_are_merged_by_name_and_a_duplicate_shows_both_places() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::create_dir(folder.path().join("conf.d")).unwrap();
    write("edge.toml", "include = [\"conf.d/*.toml\"]\n[listener.http]\naddress = \"127.0.0.1:8080\"\n");
    write("conf.d/a.toml", "[upstream.shop]\nendpoints = [\"10.0.0.1:80\"]\n");
    write("conf.d/b.toml", "[route.shop]\nupstream = \"shop\"\n");
    let (code, out) = run_in(folder.path(), &["check", "edge.toml"]).await;
    assert_eq!(code, 0, "{out}");
    write("conf.d/c.toml", "\n[upstream.shop]\nendpoints = [\"10.0.0.2:80\"]\n");
    let (code, out) = run_in(folder.path(), &["check", "edge.toml"]).await;
    assert_eq!(code, 1);
    for part in ["`upstream.shop` is defined twice, in two files", "conf.d/c.toml:2:11", "conf.d/a.toml:1:11"] {
        assert!(out.contains(part), "{part}\n{out}");
    }
}

#[tokio::test]
async fn show_tells_where_each_value_comes_from_and_schema_is_json() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edge.toml"), "[listener.http]\naddress = \"127.0.0.1:8080\"\n[upstream.shop]\nendpoints = [\"10.0.0.1:80\"]\n[route.shop]\nupstream = \"shop\"\n").unwrap();
    let (code, out) = run_in(folder.path(), &["show", "edge.toml", "--effective"]).await;
    assert_eq!(code, 0, "{out}");
    for line in [
        "address = \"127.0.0.1:8080\"  # edge.toml:2",
        "connect_timeout = \"2s\"  # default",
        "header = \"16KiB\"  # default",
        "timeout = \"1m\"  # default",
    ] {
        assert!(out.contains(line), "{line}\n{out}");
    }
    std::fs::write(folder.path().join("again.toml"), &out).unwrap();
    let (code, again) = run_in(folder.path(), &["check", "again.toml"]).await;
    assert_eq!(code, 0, "what is shown is a configuration itself\n{again}");
    let (code, schema) = run_in(Path::new("."), &["schema"]).await;
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert!(code == 0 && schema["properties"]["listener"].is_object());
}
