#!/usr/bin/env python3
"""Portcullis beside nginx and haproxy, in one interleaved run.

    cargo build --profile dist && python3 benches/edge.py [--rounds 3] [--seconds 2] [--only h1,tls-h2]

Each proxy runs one worker pinned to core 0; the load generator (h2load, wrk) and the one nginx origin share core 1.
The figure to trust is CPU microseconds per request: the scheduler's clock of the proxy's threads, divided by the
requests that were answered. Wall-clock rates and latencies on a shared machine are shown as ratios to nginx only.
A proxy that is not installed is left out, aloud. Needs: nginx (as origin), h2load, wrk, openssl; taskset.
"""
import argparse, base64, hashlib, os, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, threading, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROXY_CORE, LOAD_CORE = "0", "1"
SCENARIOS = ["h1", "tls-h1", "tls-h2", "1MiB", "tls-new", "websocket"]
WEBSOCKETS, MESSAGE = 16, 64


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def pinned(core, *command, **options):
    return subprocess.Popen(["taskset", "-c", core, *map(str, command)], **options)


def wait(p):
    for _ in range(200):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", p)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"nothing listens on {p}")


def children(pid):
    pids = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        kids = (task / "children").read_text().split()
        for kid in kids:
            pids += children(int(kid))
    return pids


def cpu_ns(pid):
    """Time on a core of every thread, from the scheduler."""
    total = 0
    for p in children(pid):
        for task in Path(f"/proc/{p}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total


def rss_kib(pid):
    total = 0
    for p in children(pid):
        total += int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{p}/status").read_text()).group(1))
    return total


def read_exactly(stream, count):
    have = b""
    while len(have) < count:
        more = stream.recv(count - len(have))
        if not more:
            raise EOFError
        have += more
    return have


def read_head(stream):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += read_exactly(stream, 1)
    return head.decode()


def echo_origin(p):
    """A WebSocket server (RFC 6455) that echoes small frames, one thread a connection."""
    def serve(stream):
        try:
            key = re.search(r"(?i)sec-websocket-key: (\S+)", read_head(stream)).group(1)
        except EOFError:
            return  # somebody looked whether we listen
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        stream.sendall(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        try:
            while True:
                frame = read_exactly(stream, 2 + 4 + MESSAGE)
                mask = int.from_bytes(frame[2:6] * (MESSAGE // 4), "big")
                stream.sendall(bytes([frame[0], frame[1] & 0x7F]) + (int.from_bytes(frame[6:], "big") ^ mask).to_bytes(MESSAGE, "big"))
        except (EOFError, OSError):
            pass
    listener = socket.create_server(("127.0.0.1", p))
    while True:
        stream, _ = listener.accept()
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(stream,), daemon=True).start()


def echo_load(p, seconds):
    """Sends a frame on every connection, waits for all echoes, and so on; prints what wrk would."""
    streams = []
    for _ in range(WEBSOCKETS):
        stream = socket.create_connection(("127.0.0.1", p))
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.sendall(b"GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        if " 101 " not in read_head(stream).splitlines()[0]:
            sys.exit("not upgraded")
        streams.append(stream)
    frame = bytes([0x82, 0x80 | MESSAGE]) + b"mask" + bytes(MESSAGE)
    expected = bytes([0x82, MESSAGE]) + b"mask" * (MESSAGE // 4)
    count, times, end = 0, [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        for stream in streams:
            stream.sendall(frame)
        for stream in streams:
            if read_exactly(stream, len(expected)) != expected:
                sys.exit("a wrong echo")
            count += 1
            times.append(time.monotonic() - began)
    times.sort()
    print(f"{count} requests in\n99% {times[len(times) * 99 // 100] * 1000:.3f}ms")


class Bench:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.running = []
        os.makedirs(self.folder / "www")
        (self.folder / "www/small").write_text("x" * 100)
        (self.folder / "www/big").write_bytes(b"y" * (1 << 20))
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                        "-keyout", self.folder / "key.pem", "-out", self.folder / "cert.pem"], check=True, capture_output=True)
        (self.folder / "both.pem").write_text((self.folder / "cert.pem").read_text() + (self.folder / "key.pem").read_text())
        self.origin, self.echo = port(), port()
        self.proxies = {}

    def keep(self, process):
        self.running.append(process)
        return process.pid

    def nginx(self, name, core, body):
        conf = self.folder / f"{name}.conf"
        conf.write_text(f"""daemon off; worker_processes 1; pid {self.folder}/{name}.pid; error_log {self.folder}/{name}.err;
events {{ worker_connections 20000; }}
http {{ access_log off; client_body_temp_path {self.folder}/{name}-b; proxy_temp_path {self.folder}/{name}-p;
fastcgi_temp_path {self.folder}/{name}-f; uwsgi_temp_path {self.folder}/{name}-u; scgi_temp_path {self.folder}/{name}-s;
sendfile on; keepalive_requests 1000000; {body} }}""")
        return self.keep(pinned(core, "nginx", "-c", conf, "-p", self.folder, stderr=subprocess.DEVNULL))

    def start(self):
        self.nginx("origin", LOAD_CORE, f"server {{ listen 127.0.0.1:{self.origin}; root {self.folder}/www; }}")
        self.keep(pinned(LOAD_CORE, sys.executable, __file__, "--echo-origin", self.echo))
        wait(self.origin)
        wait(self.echo)
        for name in ("portcullis", "nginx", "haproxy"):
            plain, tls = port(), port()
            pid = getattr(self, "start_" + name)(plain, tls)
            if pid:
                wait(plain)
                self.proxies[name] = dict(pid=pid, plain=plain, tls=tls, idle=rss_kib(pid))

    def start_portcullis(self, plain, tls):
        binary = ROOT / "target/dist/portcullis"
        if not binary.exists():
            sys.exit("build it first: cargo build --profile dist")
        conf = self.folder / "edge.toml"
        conf.write_text(f"""[process]
threads = 1
upgrade = "unix:{self.folder}/up.sock"
[admin]
address = "unix:{self.folder}/admin.sock"
[telemetry]
access_log = {{ to = "off" }}
[certificate.c]
cert = {{ file = "cert.pem" }}
key = {{ file = "key.pem" }}
[listener.http]
address = "127.0.0.1:{plain}"
protocol = "http"
limits = {{ connections_per_ip = 50000, requests = 1000000 }}
[listener.https]
address = "127.0.0.1:{tls}"
protocol = "https"
limits = {{ connections_per_ip = 50000, requests = 1000000 }}
[upstream.o]
endpoints = ["127.0.0.1:{self.origin}"]
[route.r]
upstream = "o"
[upstream.echo]
endpoints = ["127.0.0.1:{self.echo}"]
[route.echo]
match = {{ path = "/echo" }}
upstream = "echo"
""")
        return self.keep(pinned(PROXY_CORE, binary, "run", conf, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL))

    def start_nginx(self, plain, tls):
        if not shutil.which("nginx", path="/usr/sbin:" + os.environ["PATH"]):
            print("left out: nginx is not installed")
            return None
        return self.nginx("proxy", PROXY_CORE, f"""upstream o {{ server 127.0.0.1:{self.origin}; keepalive 256; keepalive_requests 1000000; }}
ssl_certificate {self.folder}/cert.pem; ssl_certificate_key {self.folder}/key.pem; proxy_http_version 1.1; proxy_set_header Connection "";
proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
server {{ listen 127.0.0.1:{plain} backlog=4096; listen 127.0.0.1:{tls} ssl http2 backlog=4096; location / {{ proxy_pass http://o; }}
location /echo {{ proxy_pass http://127.0.0.1:{self.echo}; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }} }}""")

    def start_haproxy(self, plain, tls):
        if not shutil.which("haproxy", path="/usr/sbin:" + os.environ["PATH"]):
            print("left out: haproxy is not installed")
            return None
        conf = self.folder / "haproxy.cfg"
        conf.write_text(f"""global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  option forwardfor
frontend f
  bind 127.0.0.1:{plain}
  bind 127.0.0.1:{tls} ssl crt {self.folder}/both.pem alpn h2,http/1.1
  use_backend echo if {{ path /echo }}
  default_backend b
backend echo
  timeout tunnel 1h
  server e 127.0.0.1:{self.echo}
backend b
  server o 127.0.0.1:{self.origin}
""")
        return self.keep(pinned(PROXY_CORE, "haproxy", "-db", "-f", conf, stderr=subprocess.DEVNULL))

    def load(self, scenario, proxy, seconds):
        plain, tls = f"http://127.0.0.1:{proxy['plain']}", f"https://127.0.0.1:{proxy['tls']}"
        tool = {
            "h1": ["wrk", "--latency", "-t1", "-c64", f"-d{seconds}s", plain + "/small"],
            "tls-h1": ["wrk", "--latency", "-t1", "-c64", f"-d{seconds}s", tls + "/small"],
            "tls-h2": ["h2load", "-t1", "-c16", "-m16", f"-D{seconds}", "--warm-up-time=0", f"--log-file={self.folder}/h2.log", tls + "/small"],
            "1MiB": ["wrk", "--latency", "-t1", "-c16", f"-d{seconds}s", plain + "/big"],
            "tls-new": ["wrk", "--latency", "-t1", "-c16", f"-d{seconds}s", "-H", "Connection: close", tls + "/small"],
            "websocket": [sys.executable, __file__, "--echo-load", str(proxy["plain"]), "--seconds", str(seconds)],
        }[scenario]
        (self.folder / "h2.log").unlink(missing_ok=True)
        before = cpu_ns(proxy["pid"])
        began = time.monotonic()
        out = subprocess.run(["taskset", "-c", LOAD_CORE, *tool], capture_output=True, text=True).stdout
        took = time.monotonic() - began
        used = cpu_ns(proxy["pid"]) - before
        if tool[0] != "h2load":
            count = int(re.search(r"(\d+) requests in", out).group(1))
            bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
            p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", out)
            p99 = float(p99.group(1)) * {"us": 0.001, "ms": 1, "s": 1000}[p99.group(2)] if p99 else None
        else:
            count = int(re.search(r"(\d+) succeeded", out).group(1))
            # A line a request: when, status, microseconds.
            times = sorted(int(line.split()[2]) for line in (self.folder / "h2.log").read_text().splitlines())
            bad, p99 = None, times[len(times) * 99 // 100] / 1000 if times else None
        if not count or bad:
            print(f"  {scenario}: failures: {out}")
            return None
        return dict(cpu=used / 1000 / count, rps=count / took, p99=p99)

    def idle_connections(self, proxy, count=4000):
        before = rss_kib(proxy["pid"])
        held = []
        for _ in range(count):
            s = socket.create_connection(("127.0.0.1", proxy["plain"]))
            s.sendall(b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n")
            s.recv(4096)
            held.append(s)
        time.sleep(0.5)
        each = (rss_kib(proxy["pid"]) - before) / count
        for s in held:
            s.close()
        return each

    def stop(self):
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--only", default=",".join(SCENARIOS))
    parser.add_argument("--echo-origin", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--echo-load", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.echo_origin:
        return echo_origin(arguments.echo_origin)
    if arguments.echo_load:
        return echo_load(arguments.echo_load, arguments.seconds)
    os.environ["PATH"] += ":/usr/sbin"
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        bench = Bench(folder)
        try:
            bench.start()
            # First, while no load has grown the heaps.
            idle = {name: bench.idle_connections(proxy) for name, proxy in bench.proxies.items()}
            for name, proxy in bench.proxies.items():
                for scenario in ("h1", "tls-h1"):
                    bench.load(scenario, proxy, 1)  # warm
            results = {}
            names = list(bench.proxies)
            for scenario in arguments.only.split(","):
                for n in range(arguments.rounds):
                    for name in names[n % len(names):] + names[:n % len(names)]:
                        measured = bench.load(scenario, bench.proxies[name], arguments.seconds)
                        results.setdefault(scenario, {}).setdefault(name, []).append(measured)
            print(f"\n{'scenario':10} {'proxy':11} {'CPU us/req':>10} {'vs nginx':>9} {'rps ratio':>9} {'p99 ratio':>9}")
            for scenario, by_name in results.items():
                middle = lambda rows, key: statistics.median([r[key] for r in rows if r and r[key] is not None] or [float("nan")])
                base = by_name.get("nginx")
                for name, rows in by_name.items():
                    cpu, rps, p99 = (middle(rows, key) for key in ("cpu", "rps", "p99"))
                    against = lambda value, key, flip=False: (middle(base, key) / value if flip else value / middle(base, key)) if base else float("nan")
                    print(f"{scenario:10} {name:11} {cpu:10.1f} {against(cpu, 'cpu', True):9.2f} {against(rps, 'rps'):9.2f} {against(p99, 'p99'):9.2f}")
            print(f"\n{'memory':10} {'proxy':11} {'idle MiB':>10} {'KiB/idle connection':>20}")
            for name, proxy in bench.proxies.items():
                print(f"{'':10} {name:11} {proxy['idle'] / 1024:10.1f} {idle[name]:20.1f}")
        finally:
            bench.stop()


if __name__ == "__main__":
    main()
