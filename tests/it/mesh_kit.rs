//! What stands around a sidecar: identities from an authority's endpoint, revocation, probes, names, waiting and ending, spans.

use crate::support::{
    client::Client,
    dns, eventually,
    gateway::{Gateway, binary, run_in},
    have,
    mesh::{Mesh, allow, inbound, outbound, workload_table},
    origin::{Origin, ok, read_request},
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use serde_json::Value;
use std::{
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
};

async fn ca(folder: &Path, arguments: &str) -> String {
    let arguments: Vec<_> = ["ca"].into_iter().chain(arguments.split(' ')).collect();
    let (code, text) = run_in(folder, &arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {text}");
    text
}

/// `ca serve`, and where it listens.
async fn authority(folder: &Path) -> (Child, String) {
    ca(folder, "init --trust-domain corp").await;
    ca(folder, "intermediate --namespace acme.lab").await;
    let mut child = Command::new(binary())
        .args(["ca", "serve", "--namespace", "acme.lab", "--address", "127.0.0.1:0"])
        .current_dir(folder)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines.next_line().await.unwrap().unwrap();
    let address = said.rsplit(' ').next().unwrap().to_owned();
    (child, address)
}

/// `[workload]` with an identity from the endpoint.
async fn enrolled(at: &Path, service: &str, authority: &str) -> String {
    let token = ca(at, &format!("token --namespace acme.lab --service {service}")).await;
    let token = token.lines().find(|line| line.starts_with("pct_")).unwrap();
    std::fs::write(at.join(format!("{service}.token")), token).unwrap();
    let folder = at.display();
    let svid = format!(
        "svid = {{ authority = {{ address = \"{authority}\", bundle = \"{folder}/ca/root.crt\", token = \"{folder}/{service}.token\", keep = \"kept.json\" }} }}\n"
    );
    let table = workload_table(&format!("acme.lab/{service}"));
    let before = table.lines().filter(|line| !line.starts_with("svid"));
    before.map(|line| format!("{line}\n")).collect::<String>() + &svid
}

async fn status(sidecar: &Gateway) -> u16 {
    Client::connect(sidecar.addr("outbound")).await.get("api", "/").await.status
}

#[tokio::test]
async fn sidecars_get_their_identities_from_the_authority_and_keep_them_while_it_is_away() {
    let authorities = tempfile::tempdir().unwrap();
    let at = authorities.path();
    let (mut serving, address) = authority(at).await;
    let app = Origin::fixed("hello").await;
    let config = [enrolled(at, "api", &address).await, inbound(app.addr), allow("cart", "service:cart")].concat();
    let api = Gateway::start(&config).await;
    let config = [enrolled(at, "cart", &address).await, outbound("acme.lab/api", &[api.addr("inbound")])].concat();
    let cart = Gateway::start(&config).await;
    eventually("the first call", async || (status(&cart).await == 200).then_some(())).await;
    let left = cart.metric("portcullis_mesh_identity_expiry_seconds", &[]).await;
    assert!((23.0 * 3600.0..=24.0 * 3600.0).contains(&left), "{left}");
    // Without the authority, and after a reload and a restart without a token: the identity is the same.
    serving.start_kill().unwrap();
    serving.wait().await.unwrap();
    let (code, _) = cart.admin("POST", "/reload", "").await;
    assert_eq!((code, status(&cart).await), (200, 200));
    std::fs::remove_file(at.join("cart.token")).unwrap();
    let cart = cart.restart().await;
    eventually("after the restart", async || (status(&cart).await == 200).then_some(())).await;
}

#[tokio::test]
async fn a_peer_whose_certificate_was_taken_back_is_refused_at_its_next_handshake() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    ca(at, "init --trust-domain corp").await;
    ca(at, "intermediate --namespace acme.lab").await;
    for service in ["api", "cart", "pay"] {
        ca(at, &format!("issue --namespace acme.lab --service {service}")).await;
    }
    // A list that takes back nobody who is here.
    ca(at, "issue --namespace acme.lab --service gone").await;
    ca(at, "revoke ca/workloads/acme.lab/gone.crt").await;
    let of = |service: &str| {
        let folder = at.join("ca");
        let folder = folder.display();
        let table = workload_table(&format!("acme.lab/{service}"));
        let before = table.lines().filter(|line| !line.starts_with("svid"));
        let files = format!(
            "svid = {{ files = {{ cert = \"{folder}/workloads/acme.lab/{service}.crt\", key = \"{folder}/workloads/acme.lab/{service}.key\", bundle = \"{folder}/root.crt\", revoked = \"{folder}/namespaces/acme.lab.crl\" }} }}\n"
        );
        before.map(|line| format!("{line}\n")).collect::<String>() + &files
    };
    let app = Origin::fixed("hello").await;
    let api = Gateway::start(&[of("api"), inbound(app.addr), allow("all", "namespace:acme.lab")].concat()).await;
    let caller = |service: &str| [of(service), outbound("acme.lab/api", &[api.addr("inbound")])].concat();
    let (cart, pay) = (Gateway::start(&caller("cart")).await, Gateway::start(&caller("pay")).await);
    assert_eq!((status(&cart).await, status(&pay).await), (200, 200));
    ca(at, "revoke ca/workloads/acme.lab/cart.crt").await;
    eventually("the list is taken", async || {
        (api.metric("portcullis_mesh_identity_renewals_total", &["taken"]).await >= 1.0).then_some(())
    })
    .await;
    // A new process has no connection from before, and the own certificate is in the list: it is no identity to it.
    let cart = cart.restart().await;
    assert_eq!((status(&cart).await, status(&pay).await), (502, 200));
    assert!(cart.log().contains("Revoked"), "{}", cart.log());
}

#[tokio::test]
async fn probes_pass_strict_mode_and_nothing_else_does() {
    let mesh = Mesh::new();
    let app = Origin::fixed("well").await;
    let port = app.addr.port();
    let probes = |from: &str| {
        format!(
            "[sidecar.probes]\naddress = \"127.0.0.1:0\"\nfrom = [\"{from}\"]\nallow = [{{ port = {port}, path = \"/healthz\" }}]\n"
        )
    };
    let mut api = mesh.server("acme.lab/api", app.addr, &probes("127.0.0.0/8")).await;
    let bound = async |api: &Gateway| {
        let (_, status) = api.admin("GET", "/status", "").await;
        status["sidecar"]["probes"].as_str().unwrap().parse::<std::net::SocketAddr>().unwrap()
    };
    let probe = bound(&api).await;
    let answer = Client::connect(probe).await.get("kubelet", &format!("/{port}/healthz")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "well"));
    assert_eq!(Client::connect(probe).await.get("kubelet", &format!("/{port}/admin")).await.status, 404);
    assert_eq!(app.requests().len(), 1);
    // Strict is as strict as before: the same request in the clear is refused by the listener of the mesh.
    let mut clear = tokio::net::TcpStream::connect(api.addr("inbound")).await.unwrap();
    clear.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = clear.read_to_end(&mut rest).await;
    assert!(rest.is_empty() && app.requests().len() == 1);
    // Another address range, by a reload.
    let config = [workload_table("acme.lab/api"), inbound(app.addr), probes("192.0.2.0/24")].concat();
    let (code, text) = api.reload(&config).await;
    assert_eq!(code, 200, "{text}");
    let mut stranger = tokio::net::TcpStream::connect(bound(&api).await).await.unwrap();
    let _ = stranger.write_all(format!("GET /{port}/healthz HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    let mut rest = Vec::new();
    let _ = stranger.read_to_end(&mut rest).await;
    assert!(rest.is_empty() && app.requests().len() == 1);
}

#[tokio::test]
async fn a_reload_that_cannot_listen_for_probes_or_names_leaves_both_as_they_were() {
    let mesh = Mesh::new();
    let app = Origin::fixed("well").await;
    let port = app.addr.port();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = |from: &str, probes: &str, ttl: &str, names: &str| {
        let around = format!(
            "[sidecar.probes]\naddress = \"{probes}\"\nfrom = [\"{from}\"]\nallow = [{{ port = {port}, path = \"/healthz\" }}]\n\
             [sidecar.dns]\naddress = \"{names}\"\nttl = \"{ttl}\"\n"
        );
        [workload_table("acme.lab/api"), inbound(app.addr), around].concat()
    };
    let any = "127.0.0.1:0";
    let folder = tempfile::tempdir().unwrap();
    mesh.workload(folder.path(), "acme.lab/api");
    let mut api = Gateway::start_in(folder, &config("127.0.0.0/8", any, "9s", any)).await;
    let (_, before) = api.admin("GET", "/status", "").await;
    let probe = before["sidecar"]["probes"].as_str().unwrap().parse().unwrap();
    let occupied = taken.local_addr().unwrap().to_string();
    for (probes, names, what) in [(occupied.as_str(), any, "sidecar.probes"), (any, occupied.as_str(), "sidecar.dns")] {
        // The one that could be opened would have other rules.
        let (code, text) = api.reload(&config("192.0.2.0/24", probes, "8s", names)).await;
        assert!(code != 200 && text.to_string().contains(&format!("{what}: cannot listen")), "{text}");
        let (_, after) = api.admin("GET", "/status", "").await;
        assert_eq!(after["sidecar"], before["sidecar"]);
        assert_eq!(Client::connect(probe).await.get("kubelet", &format!("/{port}/healthz")).await.status, 200);
    }
}

#[tokio::test]
async fn each_program_says_its_own_name() {
    for (program, name) in [(binary(), "portcullis"), (env!("CARGO_BIN_EXE_mesh-proxy"), "mesh-proxy")] {
        for (word, start) in [("--version", format!("{name} ")), ("--help", String::new())] {
            let said = Command::new(program).arg(word).output().await.unwrap();
            let said = String::from_utf8(said.stdout).unwrap();
            assert!(said.starts_with(&start) && said.contains(name), "{said}");
        }
    }
}

#[tokio::test]
async fn names_of_services_are_answered_to_the_application_and_follow_the_document() {
    let mesh = Mesh::new();
    let folder = tempfile::tempdir().unwrap();
    let config = |address: &str| {
        let services = outbound("acme.lab/api", &["127.0.0.1:9".parse().unwrap()])
            .replace("upstream = \"api\"\n", &format!("upstream = \"api\"\naddress = \"{address}\"\n"));
        [&workload_table("acme.lab/cart"), "[sidecar.dns]\naddress = \"127.0.0.1:0\"\nttl = \"9s\"\n", &services]
            .concat()
    };
    mesh.workload(folder.path(), "acme.lab/cart");
    let mut cart = Gateway::start_in(folder, &config("240.0.0.7")).await;
    let (_, status) = cart.admin("GET", "/status", "").await;
    let server = status["sidecar"]["dns"].as_str().unwrap().parse().unwrap();
    assert_eq!(dns::answer(server, "api.acme.lab.", RecordType::A), ["240.0.0.7"]);
    assert_eq!(dns::ask(server, "api.acme.lab.", RecordType::A).answers[0].ttl, 9);
    for (name, code) in [("none.acme.lab.", ResponseCode::NXDomain), ("example.com.", ResponseCode::Refused)] {
        assert_eq!(dns::ask(server, name, RecordType::A).metadata.response_code, code, "{name}");
    }
    let (code, text) = cart.reload(&config("240.0.0.8")).await;
    assert_eq!(code, 200, "{text}");
    assert_eq!(dns::answer(server, "api.acme.lab.", RecordType::A), ["240.0.0.8"]);
}

/// `mesh-proxy wait …`, in the sidecar's folder.
fn wait(sidecar: &Gateway, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-proxy"));
    command.arg("wait").args(["--admin", "admin.sock"]).args(arguments);
    command.current_dir(sidecar.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

#[tokio::test]
async fn an_application_starts_when_its_sidecar_has_an_identity_and_what_goes_out_outlives_sigterm_until_it_ends() {
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let api = mesh.server("acme.lab/api", app.addr, &allow("cart", "service:cart")).await;
    let config =
        [workload_table("acme.lab/cart"), outbound("acme.lab/api", &[api.addr("inbound")]), inbound(app.addr)].concat();
    let mut cart = Gateway::start(&config).await;
    let early = wait(&cart, &["--timeout", "300ms", "--exec", "true"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(!early.status.success() && said.contains("no identity yet"), "{said}");
    let mut application = wait(&cart, &["--exec", "cat"]).spawn().unwrap();
    mesh.write(cart.path(), &mesh.leaf("acme.lab/cart"), &mesh.root.certificate_pem);
    eventually("the application runs", async || {
        let (_, status) = cart.admin("GET", "/status", "").await;
        (status["sidecar"]["applications"] == 1).then_some(())
    })
    .await;
    let (outbound, inbound) = (cart.addr("outbound"), cart.addr("inbound"));
    cart.signal("-TERM");
    eventually("nothing comes in", async || tokio::net::TcpStream::connect(inbound).await.is_err().then_some(())).await;
    assert_eq!(Client::connect(outbound).await.get("api", "/").await.status, 200, "it still says its last words");
    drop(application.stdin.take());
    application.wait().await.unwrap();
    assert!(cart.ended(Duration::from_secs(20)).await.success());
}

#[tokio::test]
async fn a_job_takes_its_sidecar_along_and_quit_ends_it_at_once() {
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let mut first = mesh.server("acme.lab/job", app.addr, "").await;
    let job = wait(&first, &["--job", "--exec", "sh", "-c", "echo done"]).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&job.stdout), "done\n");
    assert!(first.ended(Duration::from_secs(20)).await.success());
    let mut second = mesh.server("acme.lab/job", app.addr, "").await;
    let mut application = wait(&second, &["--exec", "cat"]).spawn().unwrap();
    eventually("the application runs", async || {
        let (_, status) = second.admin("GET", "/status", "").await;
        (status["sidecar"]["applications"] == 1).then_some(())
    })
    .await;
    assert_eq!(second.admin("POST", "/quit", "").await.0, 200);
    assert!(second.ended(Duration::from_secs(20)).await.success());
    application.start_kill().unwrap();
}

/// The spans of every batch that a collector was sent.
async fn collector() -> (Origin, Arc<Mutex<Vec<Value>>>) {
    let spans: Arc<Mutex<Vec<Value>>> = Arc::default();
    let taken = spans.clone();
    let origin = Origin::start(move |seen| {
        assert_eq!(seen.line(), "POST /v1/traces HTTP/1.1");
        let batch: Value = serde_json::from_slice(&seen.body).unwrap();
        let service = batch["resourceSpans"][0]["resource"]["attributes"][0]["value"]["stringValue"].clone();
        for span in batch["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap() {
            let mut span = span.clone();
            span["service"] = service.clone();
            taken.lock().unwrap().push(span);
        }
        ok("{}")
    })
    .await;
    (origin, spans)
}

#[tokio::test]
async fn one_trace_goes_through_both_sidecars_and_each_hop_is_a_span() {
    let mesh = Mesh::new();
    let (collector, spans) = collector().await;
    let app = Origin::fixed("hello").await;
    let tracing = |sample: &str| {
        format!("[telemetry]\ntracing = {{ otlp = \"http://{}\", sample = \"{sample}\" }}\n", collector.addr)
    };
    let api = mesh.server("acme.lab/api", app.addr, &[allow("cart", "service:cart"), tracing("0%")].concat()).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), &tracing("0%")).await;
    let mut client = Client::connect(cart.addr("outbound")).await;
    // Not sampled by us, nor by whoever began it.
    assert_eq!(client.get("api", "/silent").await.status, 200);
    let b3 = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1";
    client.send(format!("GET /told HTTP/1.1\r\nHost: api\r\nb3: {b3}\r\n\r\n")).await;
    assert_eq!(client.response().await.status, 200);
    eventually("two spans", async || (spans.lock().unwrap().len() >= 2).then_some(())).await;
    let spans = spans.lock().unwrap().clone();
    assert_eq!(spans.len(), 2, "{spans:?}");
    let of = |service: &str| spans.iter().find(|span| span["service"] == service).unwrap();
    let (out, came) = (of("cart"), of("api"));
    for span in [out, came] {
        assert_eq!(span["traceId"], "80f198ee56343ba864fe8b2a57d3eff7");
        let attributes = span["attributes"].as_array().unwrap();
        let of = |key: &str| attributes.iter().find(|attribute| attribute["key"] == key).map(|found| &found["value"]);
        assert_eq!(of("url.path").unwrap()["stringValue"], "/told");
        assert_eq!(of("http.response.status_code").unwrap()["intValue"], "200");
        assert_eq!(of("portcullis.mesh.destination").unwrap()["stringValue"], "api.acme.lab");
    }
    assert_eq!(out["parentSpanId"], "e457b5a2e4d86bd1");
    assert_eq!(came["parentSpanId"], out["spanId"]);
    let seen = app.last();
    let sent = seen.header("traceparent").unwrap();
    assert_eq!(sent, format!("00-80f198ee56343ba864fe8b2a57d3eff7-{}-01", came["spanId"].as_str().unwrap()));
    let (_, status) = cart.admin("GET", "/status", "").await;
    assert_eq!(status["tracing"]["dropped"], 0, "{status}");
}

/// An application that asks another for each request, and takes the trace along.
async fn asks(next: SocketAddr) -> Origin {
    Origin::raw(move |mut stream| async move {
        let mut buffer = Vec::new();
        while let Some(seen) = read_request(&mut stream, &mut buffer).await {
            let mut client = Client::connect(next).await;
            let (path, trace) = (seen.path(), seen.header("traceparent").unwrap());
            client.send(format!("GET {path} HTTP/1.1\r\nHost: next\r\ntraceparent: {trace}\r\n\r\n")).await;
            let answer = ok(&client.response().await.text());
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn one_trace_goes_over_three_hops_and_what_each_counts_is_what_was_sent() {
    const REQUESTS: usize = 7;
    let mesh = Mesh::new();
    let (collector, spans) = collector().await;
    let tracing = format!("[telemetry]\ntracing = {{ otlp = \"http://{}\", sample = \"0%\" }}\n", collector.addr);
    let mut app = Origin::fixed("from the depth").await;
    let (mut apps, mut sidecars) = (Vec::new(), Vec::new());
    for (caller, callee) in [("api", "db"), ("cart", "api"), ("web", "cart")] {
        let rules = [&allow(caller, &format!("service:{caller}")), &tracing[..]].concat();
        let (from, to) = (format!("acme.lab/{caller}"), format!("acme.lab/{callee}"));
        let comes = mesh.server(&to, app.addr, &rules).await;
        let goes = mesh.client(&from, &to, comes.addr("inbound"), &tracing).await;
        apps.push(std::mem::replace(&mut app, asks(goes.addr("outbound")).await));
        sidecars.push((caller, callee, goes, comes));
    }
    let mut client = Client::connect(sidecars[2].2.addr("outbound")).await;
    for number in 0..REQUESTS {
        let trace = format!("00-80f198ee56343ba864fe8b2a57d3ef{number:02x}-e457b5a2e4d86bd1-01");
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: cart\r\ntraceparent: {trace}\r\n\r\n")).await;
        assert_eq!(client.response().await.text(), "from the depth");
    }
    eventually("all spans", async || (spans.lock().unwrap().len() >= 6 * REQUESTS).then_some(())).await;
    let spans = spans.lock().unwrap().clone();
    assert_eq!(spans.len(), 6 * REQUESTS);
    for number in 0..REQUESTS {
        let of_trace = |span: &&Value| span["traceId"] == format!("80f198ee56343ba864fe8b2a57d3ef{number:02x}");
        let (mut parent, mut way) = (Value::from("e457b5a2e4d86bd1"), Vec::new());
        while let Some(span) = spans.iter().filter(of_trace).find(|span| span["parentSpanId"] == parent) {
            way.push(span["service"].as_str().unwrap());
            parent = span["spanId"].clone();
        }
        assert_eq!(way, ["web", "cart", "cart", "api", "api", "db"], "{number}");
    }
    for (caller, callee, goes, comes) in &sidecars {
        let ends = [format!("source=\"{caller}.acme.lab\""), format!("destination=\"{callee}.acme.lab\"")];
        for (sidecar, direction) in [(goes, "direction=\"outbound\""), (comes, "direction=\"inbound\"")] {
            let parts = [&ends[0], &ends[1], direction, "2xx"];
            sidecar.counts("portcullis_mesh_requests_total", &parts, REQUESTS as f64).await;
            assert_eq!(sidecar.metric("portcullis_mesh_requests_total", &[]).await, REQUESTS as f64);
        }
    }
}

#[tokio::test]
async fn a_share_of_the_traces_that_begin_here_is_sampled() {
    let (collector, spans) = collector().await;
    let app = Origin::fixed("hello").await;
    let config = format!(
        "[telemetry]\ntracing = {{ otlp = \"http://{}\", sample = \"100%\" }}\n[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n",
        collector.addr, app.addr
    );
    let gateway = Gateway::start(&config).await;
    let mut client = Client::connect(gateway.addr("http")).await;
    client.get("x", "/a?secret=1").await;
    eventually("a span", async || (!spans.lock().unwrap().is_empty()).then_some(())).await;
    let span = spans.lock().unwrap()[0].clone();
    assert!(span["name"] == "GET app" && span["parentSpanId"] == "" && !span.to_string().contains("secret"), "{span}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.toml"), config.replace("http://", "https://")).unwrap();
    let (code, text) = run_in(folder.path(), &["check", "a.toml"]).await;
    assert!(code == 1 && text.contains("is no collector"), "{text}");
}

const CAPTURED: &str = include_str!("mesh_capture.sh");

#[tokio::test]
async fn capture_is_applied_twice_with_the_same_result_leads_connections_and_is_removed() {
    if !have("unshare") || !have("nft") || !have("ip") || !have("python3") {
        return;
    }
    let probe = Command::new("unshare").args(["-Urn", "nft", "list", "ruleset"]).output().await.unwrap();
    if !probe.status.success() {
        eprintln!("NOT CHECKED: no namespace of one's own: {}", String::from_utf8_lossy(&probe.stderr));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("inside.sh"), CAPTURED).unwrap();
    let mut command = Command::new("unshare");
    command.args(["-Urn", "sh", "inside.sh", env!("CARGO_BIN_EXE_mesh-proxy")]).current_dir(folder.path());
    let output = tokio::time::timeout(Duration::from_secs(100), command.kill_on_drop(true).output());
    let output = output.await.expect("it ends").unwrap();
    let out = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    for tool in ["nft", "iptables"] {
        if tool == "iptables" && !have("iptables") {
            continue;
        }
        for expected in [
            "redirect twice: same",
            "redirect out 4: 203.0.113.5:8080",
            "redirect out 6: 2001:db8::5:8080",
            "redirect in 4: in 198.51.100.1:8080",
            "redirect in 6: in 2001:db8:1::1:8080",
            "redirect in excepted: refused",
            "redirect marked: refused",
            "redirect excepted: refused",
            "redirect names: answered",
            "redirect removed: clean",
            "tproxy twice: same",
            "tproxy out 4: 203.0.113.5:8080",
            "tproxy out 6: 2001:db8::5:8080",
            "tproxy in 4: in 198.51.100.1:8080",
            "tproxy in 6: in 2001:db8:1::1:8080",
            "tproxy in excepted: refused",
            "tproxy marked: refused",
            "tproxy removed: clean",
        ] {
            let expected = format!("{tool} {expected}");
            assert!(out.lines().any(|line| line == expected), "{expected}:\n{out}");
        }
    }
    if out.lines().any(|line| line == "group: cannot be made") {
        eprintln!("NOT CHECKED: capture that spares a control group: none can be made here");
        return;
    }
    for expected in
        ["group others: 203.0.113.5:8080", "group inside: refused", "group missing: error: there is no control group "]
    {
        assert!(out.lines().any(|line| line.starts_with(expected)), "{expected}:\n{out}");
    }
    let by_nft = out.lines().find(|line| line.starts_with("group by nft: "));
    assert!(by_nft.is_none_or(|line| line.contains("say --tool iptables")), "{out}");
}

/// The files of `conf/mesh` are what they say: the document passes its check, and the commands in units and manifests are ours.
#[tokio::test]
async fn what_is_shipped_for_systemd_and_kubernetes_runs() {
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/mesh");
    let read = |name: &str| std::fs::read_to_string(conf.join(name)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let manifest = read("kubernetes.yaml");
    let (_, inline) = manifest.split_once("  sidecar.toml: |\n").unwrap();
    for (name, text) in [("sidecar.toml", read("sidecar.toml")), ("inline.toml", inline.replace("\n    ", "\n"))] {
        std::fs::write(folder.path().join(name), text).unwrap();
        let (code, out) = run_in(folder.path(), &["check", name]).await;
        assert_eq!(code, 0, "{name}: {out}");
    }
    let capture = manifest.lines().find(|line| line.contains("capture, apply")).unwrap();
    let words = capture.split_once('[').unwrap().1.trim_end_matches(']').replace(['"', ','], "");
    let unit = read("mesh-proxy.service");
    let pre = unit.lines().find_map(|line| line.strip_prefix("ExecStartPre=+/usr/bin/")).unwrap();
    for line in [words.as_str(), pre] {
        let arguments: Vec<_> =
            line.split(' ').skip(1).map(|word| if word == "apply" { "print" } else { word }).collect();
        let printed = Command::new(env!("CARGO_BIN_EXE_mesh-proxy")).args(&arguments).output().await.unwrap();
        let script = String::from_utf8(printed.stdout).unwrap();
        assert!(printed.status.success() && script.contains("th dport 53 redirect to :15053"), "{line}: {script}");
    }
    if have("systemd-analyze") {
        // The programs are not installed where the units say; everything else is as systemd wants it.
        for name in ["mesh-proxy.service", "application.service"] {
            std::fs::write(folder.path().join(name), read(name).replace("/usr/bin/mesh-proxy", "/bin/true")).unwrap();
        }
        let arguments = ["verify", "--man=no", "./mesh-proxy.service", "./application.service"];
        let verified =
            Command::new("systemd-analyze").args(arguments).current_dir(folder.path()).output().await.unwrap();
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        let about_us: Vec<_> = said
            .lines()
            .filter(|line| line.contains("mesh-proxy.service") || line.contains("application.service"))
            .collect();
        assert!(about_us.is_empty(), "{about_us:#?}");
    }
}
