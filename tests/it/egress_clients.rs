//! Programs of other people through the way out; in a namespace of their own where the gateway is all that can be reached.

use crate::support::{client::Client, eventually, gateway::Gateway, gateway::binary, have, outside::Outside};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{process::Command, sync::OnceCell};

const NAMES: [&str; 3] = ["allowed.test", "plain.test", "denied.test"];

async fn start(outside: &Outside, folder: tempfile::TempDir) -> Gateway {
    let config = format!(
        "{}[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\n\
         [listener.jail]\naddress = \"unix:out.sock\"\nprotocol = \"proxy\"\n\
         [destination.secure]\nhosts = [\"allowed.test\"]\nports = [{}]\nprivate_addresses = [\"127.0.0.0/8\"]\n\
         [destination.plain]\nhosts = [\"plain.test\"]\nports = [{}]\nprotocol = \"http\"\n\
         private_addresses = [\"127.0.0.0/8\"]\n\
         [access.all]\nfrom = [\"127.0.0.0/8\"]\nto = [\"destination:secure\", \"destination:plain\"]\naction = \"allow\"\n",
        outside.config(folder.path()),
        outside.tls.port(),
        outside.clear.addr.port()
    );
    Gateway::start_in(folder, &config).await
}

/// Where the whole network is one port, and that is the gateway's.
const JAIL: &str = r#"
import socket, subprocess, sys, threading
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
listener = socket.create_server(("127.0.0.1", 3128), backlog=64)
def pump(source, sink):
    try:
        while octets := source.recv(65536):
            sink.sendall(octets)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
def serve():
    while True:
        client, _ = listener.accept()
        gateway = socket.socket(socket.AF_UNIX)
        gateway.connect("out.sock")
        for pair in ((client, gateway), (gateway, client)):
            threading.Thread(target=pump, args=pair, daemon=True).start()
if sys.argv[1:]:
    threading.Thread(target=serve, daemon=True).start()
    sys.exit(subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL).returncode)
"#;

/// Whether programs can be shut in. Said once, if they cannot.
async fn can_jail() -> bool {
    static CAN: OnceCell<bool> = OnceCell::const_new();
    let probe = async || {
        if !have("unshare") || !have("ip") || !have("python3") {
            return false;
        }
        let output = Command::new("unshare").args(["-Urn", "python3", "-c", JAIL]).output().await.unwrap();
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            eprintln!("NOT CHECKED: clients in a namespace of their own, only beside the gateway: {why}");
        }
        output.status.success()
    };
    *CAN.get_or_init(probe).await
}

/// Standard output and error of a program that has nothing but the proxy in its environment, and reaches nothing else.
async fn run(folder: &Path, proxy: &str, arguments: &[&str]) -> (bool, String) {
    let ca = folder.join("outside.crt");
    let (mut command, proxy) = if can_jail().await && folder.join("out.sock").exists() {
        std::fs::write(folder.join("jail.py"), JAIL).unwrap();
        let mut command = Command::new("unshare");
        command.args(["-Urn", "python3", "jail.py"]);
        (command, "http://127.0.0.1:3128")
    } else {
        (Command::new("env"), proxy)
    };
    let place = proxy.strip_prefix("http://").unwrap();
    command.args(arguments.iter().map(|word| if *word == "PROXY" { place } else { *word }));
    command.current_dir(folder).stdin(Stdio::null());
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "npm_config_proxy", "npm_config_https_proxy"]
    {
        command.env(name, proxy);
    }
    for name in ["no_proxy", "NO_PROXY"] {
        command.env(name, "");
    }
    for name in [
        "SSL_CERT_FILE",
        "CURL_CA_BUNDLE",
        "REQUESTS_CA_BUNDLE",
        "PIP_CERT",
        "GIT_SSL_CAINFO",
        "NODE_EXTRA_CA_CERTS",
        "npm_config_cafile",
    ] {
        command.env(name, &ca);
    }
    command
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("HOME", folder)
        .env("PIP_CONFIG_FILE", "/dev/null")
        .env("NODE_PATH", NODE_PATH);
    command.env_remove("PIP_FIND_LINKS").env_remove("PIP_NO_INDEX");
    command.kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await.expect("it ends").unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

const URLLIB: &str =
    "import sys, urllib.request\nprint(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())";
const HTTPX: &str = "import sys, httpx\nr = httpx.get(sys.argv[1], timeout=20)\nr.raise_for_status()\nprint(r.text)";
const AIOHTTP: &str = "import sys, ssl, asyncio, aiohttp
async def main():
    trust = ssl.create_default_context(cafile='outside.crt')
    async with aiohttp.ClientSession(trust_env=True, connector=aiohttp.TCPConnector(ssl=trust)) as session:
        async with session.get(sys.argv[1]) as r:
            r.raise_for_status()
            print(await r.text())
asyncio.run(main())";
/// Says `connection: close` on CONNECT, and Host without port.
const UNDICI: &str = "const { ProxyAgent, request } = require('undici');
const ca = require('fs').readFileSync('outside.crt');
request(process.argv[1], { dispatcher: new ProxyAgent({ uri: process.env.https_proxy, requestTls: { ca } }) })
  .then(async (r) => { console.log(await r.body.text()); process.exit(r.statusCode < 400 ? 0 : 1); })
  .catch((e) => { console.error(e); process.exit(1); });";
/// Asks a proxy for `GET https://…` in the clear, so that the proxy would see everything; with an agent of its own it does not.
const AXIOS: &str = "const axios = require('axios');
axios.get(process.argv[1]).then((r) => console.log(r.data)).catch((e) => { console.error(e.message, e.response && e.response.data); process.exit(1); });";
const AXIOS_AGENT: &str = "const axios = require('axios'), { HttpsProxyAgent } = require('https-proxy-agent');
axios.get(process.argv[1], { proxy: false, httpsAgent: new HttpsProxyAgent(process.env.https_proxy) })
  .then((r) => console.log(r.data)).catch((e) => { console.error(e.message); process.exit(1); });";
/// Sends no password and two different sets of fields.
const JAVA: &str = r#"
import java.net.*; import java.net.http.*; import java.nio.file.*; import java.security.*; import java.security.cert.*; import javax.net.ssl.*;
class Ask {
    public static void main(String[] arguments) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (var in = Files.newInputStream(Path.of("outside.crt"))) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext tls = SSLContext.getInstance("TLS");
        tls.init(null, trust.getTrustManagers(), null);
        URI proxy = URI.create(System.getenv("https_proxy"));
        HttpClient client = HttpClient.newBuilder().sslContext(tls)
            .proxy(ProxySelector.of(new InetSocketAddress(proxy.getHost(), proxy.getPort()))).build();
        HttpResponse<String> answer = client.send(HttpRequest.newBuilder(URI.create(arguments[0])).build(), HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.statusCode() + " " + answer.body());
        System.exit(answer.statusCode() < 400 ? 0 : 1);
    }
}
"#;
const REQUESTS: &str =
    "import sys, requests\nr = requests.get(sys.argv[1], timeout=20)\nr.raise_for_status()\nprint(r.text)";

#[tokio::test]
async fn clients_of_other_people_get_through_and_are_told_why_not() {
    let outside = Outside::start(&NAMES).await;
    let gateway = start(&outside, tempfile::tempdir().unwrap()).await;
    let proxy = format!("http://{}", gateway.addr("out"));
    let (secure, clear) = (outside.tls.port(), outside.clear.addr.port());
    let allowed = format!("https://allowed.test:{secure}/tool");
    let plain = format!("http://plain.test:{clear}/tool");
    let denied = format!("https://denied.test:{secure}/tool");
    std::fs::write(gateway.path().join("Ask.java"), JAVA).unwrap();
    let python = have("python3");
    let [requests, httpx, aiohttp] =
        [with_module("requests").await, with_module("httpx").await, with_module("aiohttp").await];
    let (undici, axios) = (with_package("undici").await, with_package("axios").await);
    let agent = axios && with_package("https-proxy-agent").await;
    let module =
        |python: &Option<PathBuf>| python.as_deref().map_or("python3", |path| path.to_str().unwrap()).to_owned();
    let [with_requests, with_httpx, with_aiohttp] = [&requests, &httpx, &aiohttp].map(module);
    for (there, program, why) in [
        (have("curl"), &["curl", "-sS", "--max-time", "20", "URL"][..], "403"),
        // X'02' of RFC 1928: not allowed.
        (have("curl"), &["curl", "-sS", "--max-time", "20", "--socks5-hostname", "PROXY", "URL"], "(2)"),
        (
            have("wget"),
            &["wget", "-q", "-O", "-", "--tries=1", "--timeout=20", "--ca-certificate=outside.crt", "URL"],
            "",
        ),
        (python, &["python3", "-c", URLLIB, "URL"], "refused: no_destination"),
        (requests.is_some(), &[&with_requests, "-c", REQUESTS, "URL"], "refused: no_destination"),
        (httpx.is_some(), &[&with_httpx, "-c", HTTPX, "URL"], "403"),
        (aiohttp.is_some(), &[&with_aiohttp, "-c", AIOHTTP, "URL"], "403"),
        (undici, &["node", "-e", UNDICI, "URL"], ""),
        (axios, &["node", "-e", AXIOS, "URL"], "400"),
        (agent, &["node", "-e", AXIOS_AGENT, "URL"], ""),
        (has_java().await, &["java", "Ask.java", "URL"], ""),
    ] {
        if !there {
            continue;
        }
        for (url, expected) in [(&allowed, "secretly GET /tool"), (&plain, "GET /tool HTTP/1.1")] {
            // By SOCKS nothing is seen of requests, which is what the clear destination asks for; the agent is for TLS alone.
            let is_asked = match url == &allowed {
                true => !program.contains(&AXIOS),
                false => !program.contains(&"PROXY") && !program.contains(&AXIOS_AGENT),
            };
            if !is_asked {
                continue;
            }
            let arguments: Vec<&str> = program.iter().map(|word| if *word == "URL" { url } else { *word }).collect();
            let (done, out) = run(gateway.path(), &proxy, &arguments).await;
            assert!(done && out.contains(expected), "{arguments:?}: {out}");
        }
        let arguments: Vec<&str> = program.iter().map(|word| if *word == "URL" { &denied } else { *word }).collect();
        let (done, out) = run(gateway.path(), &proxy, &arguments).await;
        assert!(!done && out.contains(why), "{arguments:?}: {out}");
    }
    assert!(!outside.requests().iter().any(|seen| seen.header("host").is_some_and(|host| host.starts_with("denied"))));
}

/// A python that has the module: the first one on the path, or the system's own.
async fn with_module(module: &str) -> Option<PathBuf> {
    for python in ["python3", "/usr/bin/python3"] {
        let probe = Command::new(python).args(["-c", &format!("import {module}")]).output().await;
        if probe.is_ok_and(|probe| probe.status.success()) {
            return Some(python.into());
        }
    }
    eprintln!("NOT CHECKED: python's `{module}` is not installed");
    None
}

/// Whether node finds a package, where Debian puts its own.
async fn with_package(package: &str) -> bool {
    let probe =
        Command::new("node").args(["-e", &format!("require('{package}')")]).env("NODE_PATH", NODE_PATH).output().await;
    let there = probe.is_ok_and(|probe| probe.status.success());
    if !there {
        eprintln!("NOT CHECKED: node's `{package}` is not installed");
    }
    there
}

const NODE_PATH: &str = "/usr/share/nodejs:/usr/lib/node_modules:/usr/local/lib/node_modules";

/// One that runs a source file, as those with a compiler do.
async fn has_java() -> bool {
    let probe = Command::new("java").args(["--list-modules"]).output().await;
    let there = probe.is_ok_and(|probe| String::from_utf8_lossy(&probe.stdout).contains("jdk.compiler"));
    if !there {
        eprintln!("NOT CHECKED: no java that has a compiler is installed");
    }
    there
}

#[tokio::test]
async fn apt_fetches_through_it_with_its_own_kind_of_paths() {
    if !have("apt-get") {
        return;
    }
    let outside = Outside::start(&NAMES).await;
    let gateway = start(&outside, tempfile::tempdir().unwrap()).await;
    let (secure, clear) = (outside.tls.port(), outside.clear.addr.port());
    let proxy = format!("http://{}", gateway.addr("out"));
    let folder = gateway.path();
    std::fs::create_dir_all(folder.join("apt/lists/partial")).unwrap();
    std::fs::create_dir_all(folder.join("apt/archives/partial")).unwrap();
    std::fs::write(folder.join("apt/status"), "").unwrap();
    let list = format!(
        "deb [trusted=yes] http://plain.test:{clear}/pool ./\ndeb [trusted=yes] https://allowed.test:{secure}/pool ./\n\
         deb [trusted=yes] http://denied.test:{clear}/pool ./\n"
    );
    std::fs::write(folder.join("apt/sources.list"), list).unwrap();
    let set = |key: &str, file: &str| format!("{key}={}", folder.join(file).display());
    let used = if can_jail().await { "http://127.0.0.1:3128" } else { &proxy };
    let options = [
        set("Dir::Etc::sourcelist", "apt/sources.list"),
        set("Dir::Etc::sourceparts", "apt/none"),
        set("Dir::State", "apt"),
        set("Dir::State::status", "apt/status"),
        set("Dir::Cache", "apt"),
        set("Acquire::https::CaInfo", "outside.crt"),
        format!("Acquire::http::Proxy={used}"),
        format!("Acquire::https::Proxy={used}"),
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Retries=0".to_owned(),
    ];
    let mut arguments = vec!["apt-get", "update"];
    for option in &options {
        arguments.extend(["-o", option]);
    }
    let (_, out) = run(folder, &proxy, &arguments).await;
    // The origin is no archive: what counts is what it was asked, and that `/./` came as it was sent.
    let asked = |path: &str| outside.clear.requests().iter().any(|seen| seen.path() == path);
    assert!(asked("/pool/./InRelease"), "{out}");
    assert!(outside.requests().iter().any(|seen| seen.path() == "/pool/./InRelease"), "{out}");
    assert!(out.contains("403"), "{out}");
}

#[tokio::test]
async fn git_pip_and_npm_ask_through_it() {
    let outside = Outside::start(&NAMES).await;
    let gateway = start(&outside, tempfile::tempdir().unwrap()).await;
    let proxy = format!("http://{}", gateway.addr("out"));
    let secure = outside.tls.port();
    let (repository, index) =
        (format!("https://allowed.test:{secure}/repo.git"), format!("https://allowed.test:{secure}/simple/"));
    let registry = format!("https://allowed.test:{secure}/npm/");
    let denied = format!("https://denied.test:{secure}/");
    // The origin is no repository, index or registry: what counts is that it was asked, and by TLS that the client verified.
    for (there, program, asked, refusal) in [
        (have("git"), vec!["git", "ls-remote", "PLACE"], "/repo.git/info/refs", "403"),
        (
            have("pip") || have("pip3"),
            vec![
                "python3",
                "-m",
                "pip",
                "download",
                "--no-input",
                "--retries",
                "1",
                "--no-cache-dir",
                "--index-url",
                "PLACE",
                "nothing-of-the-kind",
            ],
            "/simple/nothing-of-the-kind/",
            "refused: no_destination",
        ),
        (
            have("npm"),
            vec!["npm", "view", "nothing-of-the-kind", "--fetch-retries=0", "--registry", "PLACE"],
            "/npm/nothing-of-the-kind",
            "403",
        ),
    ] {
        if !there {
            continue;
        }
        let place = match program[0] {
            "git" => &repository,
            "npm" => &registry,
            _ => &index,
        };
        let with = |place: &str| {
            program
                .iter()
                .map(|word| if *word == "PLACE" { place.to_owned() } else { (*word).to_owned() })
                .collect::<Vec<_>>()
        };
        let all = with(place);
        let (_, out) = run(gateway.path(), &proxy, &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert!(
            outside.requests().iter().any(|seen| seen.path().starts_with(asked)),
            "{all:?}: {out}\n{:?}",
            outside.requests()
        );
        let all = with(&denied);
        let (done, out) = run(gateway.path(), &proxy, &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert!(!done && out.contains(refusal), "{all:?}: {out}");
    }
}

#[tokio::test]
async fn the_demo_shows_a_way_out_and_a_mesh_whose_lines_work() {
    if !have("curl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let log = std::fs::File::create(folder.path().join("out.txt")).unwrap();
    let mut demo = Command::new(binary())
        .args(["demo", "--folder", "demo", "--port", "0"])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let text = eventually("the demo says what to try", async || {
        let text = std::fs::read_to_string(folder.path().join("out.txt")).unwrap();
        text.contains("Ctrl-C ends the demo").then_some(text)
    })
    .await;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let line = |part: &str| *lines.iter().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {text}"));
    for (part, expected) in [
        ("partner.localhost", "x-api-key: the-secret-of-the-demo"),
        ("-i -x", "\"reason\":\"no_destination\""),
        ("egress explain", "denied: no destination has this host"),
        ("--cacert", "Welcome to the shop"),
        ("# what cart's application would send", "origin green saw"),
        ("# what web's would", "HTTP/1.1 403"),
        ("mesh status", "last refused, inbound web.demo.mesh: mesh_denied"),
        ("mesh graph", "\"cart.demo.mesh\" -> \"api.demo.mesh\""),
    ] {
        let shown = line(part);
        let output = eventually("the line's program ends", async || {
            let output = Command::new("sh").args(["-c", shown]).current_dir(folder.path()).output().await.ok()?;
            output.status.success().then_some(output)
        })
        .await;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(out.contains(expected), "{shown}: {out}");
    }
    demo.kill().await.unwrap();
}

#[tokio::test]
async fn redirected_connections_lead_to_where_their_names_do_and_nowhere_else() {
    // Who comes to the listener by itself has no original destination.
    captured("redirect", REDIRECT, "direct: 000").await;
}

#[tokio::test]
async fn connections_taken_as_they_are_lead_to_where_their_names_do_and_nowhere_else() {
    // As it is, the port that was meant is the listener's own, which no destination has.
    captured("tproxy", TPROXY, "direct: 403").await;
}

/// A namespace without any network but its own, in which nftables leads what is for elsewhere to the gateway.
async fn captured(capture: &str, rules: &str, direct: &str) {
    if !have("unshare") || !have("nft") || !have("ip") || !have("curl") {
        return;
    }
    let probe = Command::new("unshare").args(["-Urn", "nft", "list", "ruleset"]).output().await.unwrap();
    if !probe.status.success() {
        eprintln!("NOT CHECKED: no namespace of one's own: {}", String::from_utf8_lossy(&probe.stderr));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edge.toml"), CAPTURED.replace("CAPTURE", capture)).unwrap();
    std::fs::write(folder.path().join("rules.sh"), rules).unwrap();
    let made = Command::new(binary())
        .args(["certificate", "allowed.localhost", "--folder", ".", "--name", "origin"])
        .current_dir(folder.path())
        .output()
        .await
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    std::fs::write(folder.path().join("origin.toml"), ORIGIN).unwrap();
    std::fs::write(folder.path().join("inside.sh"), INSIDE).unwrap();
    let mut command = Command::new("unshare");
    command.args(["-Urn", "sh", "inside.sh", binary()]).current_dir(folder.path()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(100), command.output()).await.expect("it ends").unwrap();
    let out = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    for expected in [
        "by-sni: 200 origin",
        "by-host: 200 clear",
        "another-name: 000",
        "another-host: 403",
        "by-address: 000",
        "v6: 200 origin",
        direct,
    ] {
        assert!(out.lines().any(|line| line == expected), "{expected}:\n{out}");
    }
}

const CAPTURED: &str = r#"
schema = "1"
[process]
threads = 1
upgrade = "unix:upgrade.sock"
[admin]
address = "unix:admin.sock"
[listener.captured]
address = ":15001"
protocol = "transparent"
capture = "CAPTURE"
[destination.secure]
hosts = ["allowed.localhost"]
private_addresses = ["127.0.0.0/8", "::1/128"]
[destination.clear]
hosts = ["clear.localhost"]
protocol = "http"
private_addresses = ["127.0.0.0/8", "::1/128"]
[access.all]
from = ["*"]
to = ["destination:secure", "destination:clear"]
action = "allow"
"#;

/// A second gateway plays the origin: TLS on 443, http on 80.
const ORIGIN: &str = r#"
schema = "1"
[process]
threads = 1
upgrade = "unix:origin-upgrade.sock"
[admin]
address = "unix:origin-admin.sock"
[certificate.origin]
cert = { file = "origin.crt" }
key = { file = "origin.key" }
[listener.tls]
address = ":443"
protocol = "https"
http_redirect = false
[listener.clear]
address = ":80"
[route.tls]
listeners = ["tls"]
respond = { status = 200, body = "origin" }
[route.clear]
listeners = ["clear"]
respond = { status = 200, body = "clear" }
"#;

const REDIRECT: &str = r#"
nft -f - <<'RULES'
table inet capture {
	chain output {
		type nat hook output priority -100; policy accept;
		oifname "lo" return
		tcp dport { 80, 443 } redirect to :15001
	}
	chain way_out {
		type filter hook output priority 0; policy accept;
		oifname "lo" accept
		ct status dnat accept
		reject
	}
}
RULES
"#;

const TPROXY: &str = r#"
ip rule add fwmark 1 lookup 100
ip route add local default dev lo table 100
ip -6 rule add fwmark 1 lookup 100
ip -6 route add local default dev lo table 100
nft -f - <<'RULES'
table inet capture {
	chain output {
		type route hook output priority -150; policy accept;
		oifname "lo" return
		tcp dport { 80, 443 } meta mark set 1
	}
	chain prerouting {
		type filter hook prerouting priority -150; policy accept;
		meta mark 1 tcp dport { 80, 443 } tproxy to :15001
	}
}
RULES
"#;

const INSIDE: &str = r#"
ip link set lo up
ip link add out type veth peer name far
ip addr add 198.51.100.2/24 dev out
ip -6 addr add 2001:db8::2/64 dev out nodad
ip link set far up
ip link set out up
ip route add default dev out
ip -6 route add default dev out
. ./rules.sh
"$1" run origin.toml > origin.log 2>&1 &
origin=$!
"$1" run edge.toml > edge.log 2>&1 &
edge=$!
tries=0
until curl -sf --unix-socket admin.sock http://admin/ready > /dev/null && curl -sf --unix-socket origin-admin.sock http://admin/ready > /dev/null; do
	tries=$((tries + 1))
	[ $tries -lt 400 ] || break
	sleep 0.05
done
ask() {
	name=$1
	shift
	echo "$name: $(curl -s --max-time 15 --cacert ca.crt -o body -w '%{http_code}' "$@") $(cat body 2>/dev/null)" | sed 's/ *$//'
	: > body
}
ask by-sni --resolve allowed.localhost:443:192.0.2.10 https://allowed.localhost/
ask by-host --resolve clear.localhost:80:192.0.2.10 http://clear.localhost/
ask another-name --resolve other.localhost:443:192.0.2.10 https://other.localhost/
curl -s --max-time 15 -o /dev/null -w 'another-host: %{http_code}\n' --resolve other.localhost:80:192.0.2.10 http://other.localhost/
ask by-address -k https://192.0.2.10/
ask v6 --resolve 'allowed.localhost:443:[2001:db8::10]' https://allowed.localhost/
curl -s --max-time 15 -o /dev/null -w 'direct: %{http_code}\n' --resolve clear.localhost:15001:127.0.0.1 http://clear.localhost:15001/
kill $edge $origin
cat edge.log origin.log
"#;

/// A namespace whose only link leads to a neighbour that never answers: what leaves is followed by silence, what is rejected by
/// an error at once. Says which of the two it was, before the rules and with them.
const WAYS_OUT: &str = r#"
import concurrent.futures, os, socket, subprocess, sys
run = lambda *words: subprocess.run(words, check=True)
for words in ("link set lo up", "link add out type veth peer name far", "addr add 198.51.100.2/24 dev out",
              "-6 addr add 2001:db8::2/64 dev out nodad", "link set far up", "link set out up",
              "neigh add 198.51.100.1 lladdr 02:00:00:00:00:01 dev out", "neigh add 2001:db8::1 lladdr 02:00:00:00:00:01 dev out",
              "route add default via 198.51.100.1", "-6 route add default via 2001:db8::1"):
    run("ip", *words.split())
captured = socket.create_server(("::", 15001), family=socket.AF_INET6, dualstack_ipv6=True)
def goes(kind, host, port):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as s:
        s.settimeout(1)
        try:
            s.connect((host, port))
            if kind == socket.SOCK_STREAM:
                return "captured"
            s.send(b"x")
            s.recv(1)
        except TimeoutError:
            return "leaves"
        except OSError:
            return "rejected"
def all_ways(who):
    ways = [(version, name, kind, host, port) for version, host in (("v4", "192.0.2.10"), ("v6", "2001:db8:1::10"))
            for name, kind, port in (("quic", socket.SOCK_DGRAM, 443), ("dns", socket.SOCK_DGRAM, 53), ("dns-tcp", socket.SOCK_STREAM, 53),
                                     ("https", socket.SOCK_STREAM, 443), ("other", socket.SOCK_STREAM, 8443))]
    ways.append(("v4", "proxy", socket.SOCK_STREAM, "198.51.100.1", 3128))
    with concurrent.futures.ThreadPoolExecutor(len(ways)) as pool:
        for way, end in zip(ways, pool.map(lambda way: goes(*way[2:]), ways)):
            print(who, way[0], way[1], end, flush=True)
all_ways("before")
run(*sys.argv[2:])
all_ways("with")
if sys.argv[1] == "root":
    os.setuid(12345)
    all_ways("gateway")
"#;

#[tokio::test]
async fn the_rules_that_are_shipped_leave_no_way_out_but_one() {
    if !have("unshare") || !have("ip") || !have("python3") {
        return;
    }
    let unshared = async |how: &str, words: &[&str]| {
        let probe = Command::new("unshare").arg(how).args(words).output().await;
        probe.is_ok_and(|probe| probe.status.success())
    };
    // Another user than this one exists only where this one really is root.
    let (how, who) = if unshared("-n", &["true"]).await { ("-n", "root") } else { ("-Urn", "alone") };
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/egress");
    let folder = tempfile::tempdir().unwrap();
    for name in ["capture.nft", "capture-iptables.sh", "capture-tproxy.nft"] {
        let rules = std::fs::read_to_string(conf.join(name)).unwrap();
        let rules = rules.replace("\"portcullis\"", "12345").replace("--uid-owner portcullis", "--uid-owner 12345");
        std::fs::write(folder.path().join(name), rules).unwrap();
    }
    for (can, rules) in [
        (
            have("nft") && unshared(how, &["nft", "list", "ruleset"]).await,
            &["nft", "-D", "GATEWAY=198.51.100.1", "-f", "capture.nft"][..],
        ),
        (
            have("iptables") && who == "root" && unshared(how, &["iptables", "-S"]).await,
            &["sh", "capture-iptables.sh", "198.51.100.1"],
        ),
    ] {
        if !can {
            eprintln!("NOT CHECKED: {rules:?}: no namespace in which it can be loaded");
            continue;
        }
        let mut command = Command::new("unshare");
        command.args([how, "python3", "-c", WAYS_OUT, who]).args(rules).current_dir(folder.path()).kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(100), command.output()).await.expect("it ends").unwrap();
        let out = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        for line in out.lines().filter(|line| !line.starts_with("with ")) {
            assert!(line.ends_with(" leaves"), "{rules:?} {line}:\n{out}");
        }
        for way in ["quic rejected", "dns rejected", "dns-tcp rejected", "https captured", "other rejected"] {
            for version in ["v4", "v6"] {
                let line = format!("with {version} {way}");
                assert!(out.lines().any(|have| have == line), "{rules:?} {line}:\n{out}");
            }
        }
        assert!(out.lines().any(|line| line == "with v4 proxy leaves"), "{rules:?}:\n{out}");
        assert_eq!(out.lines().count(), if who == "root" { 33 } else { 22 }, "{rules:?}:\n{out}");
    }
    if have("nft") && unshared(how, &["nft", "list", "ruleset"]).await {
        let loaded = unshared(how, &["nft", "-f", folder.path().join("capture-tproxy.nft").to_str().unwrap()]).await;
        assert!(loaded, "capture-tproxy.nft");
    }
}

#[tokio::test]
async fn bursts_of_short_connections_that_end_by_reset_leave_nothing_behind() {
    let outside = Outside::start(&NAMES).await;
    let gateway = start(&outside, tempfile::tempdir().unwrap()).await;
    let head = format!("CONNECT allowed.test:{} HTTP/1.1\r\n\r\n", outside.tls.port());
    for _ in 0..2 {
        let mut burst = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let (address, head) = (gateway.addr("out"), head.clone());
            burst.spawn(async move {
                let stream = tokio::net::TcpStream::connect(address).await.unwrap();
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                let mut client = Client::over(stream);
                client.send(head).await;
                assert_eq!(client.try_response(true).await.unwrap().status, 200);
            });
        }
        while let Some(done) = burst.join_next().await {
            done.unwrap();
        }
    }
    eventually("all is given back", async || {
        let open = gateway.metric("portcullis_connections_active", &["out"]).await
            + gateway.metric("portcullis_egress_tunnels_active", &[]).await;
        (open == 0.0).then_some(())
    })
    .await;
}
