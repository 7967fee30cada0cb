#!/usr/bin/env python3
"""What many clients that take their time cost, within a limit on memory: Portcullis beside nginx and haproxy.

    cargo build --profile dist && sudo python3 benches/overload.py [--clients 400] [--limit 256] [--only slow,slow-tls]

Each proxy gets a control group of its own for each scenario. While the clients hold what they have, another asks for a
small file fifty times a second. Counted are: whether the process lived, the group's peak, the other client's requests
(served, told 503, refused or cut), its slowest, and what the process still holds five seconds after all have gone.
Needs what edge.py needs, and the right to make control groups (either version).
"""
import argparse, http.client, os, socket, ssl, subprocess, sys, tempfile, threading, time
from pathlib import Path

import edge

SCENARIOS = {
    "slow": "downloads of 20 MB that nobody reads",
    "slow-tls": "the same over TLS",
    "upload": "uploads of 5 MB that stop in the middle",
    "head": "heads of 12 kB that never end",
    "idle": "connections that say nothing",
}
HOLD = 8


class Group:
    """A control group with a limit; what is started inside `with` belongs to it."""

    def __init__(self, name, limit_mib):
        v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
        root, self.limit, self.peak = ((v1, "memory.limit_in_bytes", "memory.max_usage_in_bytes") if v1.exists()
                                       else (v2, "memory.max", "memory.peak"))
        own = next((line.split(":", 2)[2].strip() for line in Path("/proc/self/cgroup").read_text().splitlines()
                    if (":memory:" in line if v1.exists() else line.startswith("0::"))), "/")
        self.root, self.home = root, root / own.lstrip("/")
        self.folder = root / f"portcullis-bench-{os.getpid()}-{name}"
        self.folder.mkdir()
        (self.folder / self.limit).write_text(str(limit_mib << 20))

    def __enter__(self):
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def __exit__(self, *_):
        home = self.home if (self.home / "cgroup.procs").exists() else self.root
        (home / "cgroup.procs").write_text(str(os.getpid()))

    def peak_mib(self):
        return int((self.folder / self.peak).read_text()) >> 20

    def remove(self):
        for _ in range(100):
            try:
                return self.folder.rmdir()
            except OSError:
                time.sleep(0.05)


class Other(threading.Thread):
    """The client who did nothing wrong."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.over = port, threading.Event()
        self.ok = self.told = self.lost = 0
        self.slowest = 0.0

    def run(self):
        while not self.over.is_set():
            began = time.monotonic()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/small")
                status = connection.getresponse().status
                self.ok, self.told, self.lost = self.ok + (status == 200), self.told + (status == 503), self.lost + (status not in (200, 503))
                connection.close()
            except (OSError, http.client.HTTPException):
                self.lost += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            time.sleep(0.02)


def occupy(scenario, proxy, context):
    stream = socket.socket()
    stream.settimeout(3)
    # What is sent to it waits in the proxy, not in the kernel.
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stream.connect(("127.0.0.1", proxy["tls" if scenario == "slow-tls" else "plain"]))
    if scenario == "slow-tls":
        stream = context.wrap_socket(stream)
    stream.sendall({
        "slow": b"GET /huge HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "slow-tls": b"GET /huge HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "upload": b"POST /small HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 200_000,
        "head": b"GET /small HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 12_000,
        "idle": b"",
    }[scenario])
    return stream


def lives(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def measure(bench, name, scenario, clients, limit):
    group = Group(f"{name}-{scenario}", limit)
    plain, tls = edge.port(), edge.port()
    with group:
        pid = getattr(bench, "start_" + name)(plain, tls)
    if not pid:
        return group.remove()
    edge.wait(plain)
    proxy = dict(plain=plain, tls=tls)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    other, held = Other(plain), []
    other.start()
    for _ in range(clients):
        try:
            held.append(occupy(scenario, proxy, context))
        except OSError:
            pass  # turned away
    time.sleep(HOLD)
    alive = all(lives(one) for one in edge.children(pid)) if lives(pid) else False
    for stream in held:
        stream.close()
    other.over.set()
    other.join()
    time.sleep(5)
    after = edge.rss_kib(pid) // 1024 if alive else 0
    print(f"{scenario:9} {name:11} {'yes' if alive else 'KILLED':>6} {group.peak_mib():>9} {len(held):>8} {other.ok:>7} {other.told:>5} {other.lost:>5} {other.slowest:>9.2f} {after:>9}", flush=True)
    bench.stop_last()
    group.remove()


class Bench(edge.Bench):
    def stop_last(self):
        process = self.running.pop()
        process.terminate()
        process.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=400)
    parser.add_argument("--limit", type=int, default=256, help="MiB")
    parser.add_argument("--only", default=",".join(SCENARIOS))
    parser.add_argument("--proxies", default="portcullis,nginx,haproxy")
    arguments = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin"
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        bench = Bench(folder)
        (bench.folder / "www/huge").write_bytes(os.urandom(1 << 20) * 20)
        try:
            bench.nginx("origin", edge.LOAD_CORE, f"client_max_body_size 1g; server {{ listen 127.0.0.1:{bench.origin} backlog=4096; root {folder}/www; }}")
            edge.wait(bench.origin)
            print(f"{'':9} {'proxy':11} {'lives':>6} {'peak MiB':>9} {'clients':>8} {'served':>7} {'503':>5} {'lost':>5} {'slowest s':>9} {'MiB after':>9}")
            for scenario in arguments.only.split(","):
                for name in arguments.proxies.split(","):
                    measure(bench, name, scenario, arguments.clients, arguments.limit)
        finally:
            bench.stop()


if __name__ == "__main__":
    sys.exit(main())
