#!/usr/bin/env python3
"""What health checks of published services cost, whether they are spread evenly, and how fast a failover is.

    cargo build --profile dist
    benches/gslb_checks.py --program target/dist/portcullis

First 5,000 members are checked every 5 s by TCP; the CPU time of the thread that checks (and of the whole process) is read
from /proc, connections are counted each second where they arrive. Then a member of a service that is checked every 2 s, down
after two failures, is stopped again and again, and the time to the first answer without it is taken.
"""

import argparse, os, pathlib, socket, statistics, struct, subprocess, sys, tempfile, threading, time

MEMBERS, PER_SERVICE = 5000, 10


def cpu(pid):
    """Seconds of CPU: of all threads, and of the one that checks."""
    tick = os.sysconf("SC_CLK_TCK")
    whole = checks = 0.0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rsplit(")", 1)
        used = sum(int(field) for field in fields[1].split()[11:13]) / tick
        whole += used
        checks += used if "dns-checks" in fields[0] else 0
    return whole, checks


class Door:
    """Accepts and closes; counts by the second."""

    def __init__(self, address=""):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((address, 0))
        self.socket.listen(4096)
        self.port = self.socket.getsockname()[1]
        self.seconds = {}
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                stream, _ = self.socket.accept()
            except OSError:
                return
            stream.close()
            now = int(time.monotonic())
            self.seconds[now] = self.seconds.get(now, 0) + 1


def start(program, folder, config):
    preamble = '[admin]\naddress = "unix:admin.sock"\n[process]\nthreads = 1\n'
    (folder / "edge.toml").write_text(preamble + config)
    child = subprocess.Popen([program, "run", "edge.toml"], cwd=folder, stdout=subprocess.DEVNULL, stderr=(folder / "log").open("w"))
    while not (folder / "admin.sock").exists():
        if child.poll() is not None:
            sys.exit((folder / "log").read_text())
        time.sleep(0.1)
    return child


def free_port():
    """Free for TCP and for UDP."""
    while True:
        with socket.socket() as stream, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            stream.bind(("127.0.0.1", 0))
            try:
                datagrams.bind(stream.getsockname())
                return stream.getsockname()[1]
            except OSError:
                continue


def zone(port):
    return (f'[listener.dns]\naddress = "127.0.0.1:{port}"\nprotocol = "dns"\n[dns]\nrate_limit = {{ mode = "off" }}\n'
            '[zone.x]\nname = "example.test"\nns = ["ns.example.org"]\nsoa = { mname = "ns.example.org", rname = "noc.example.org" }\n')


def ask(port, name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack(">HHHHHH", 7, 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.sendto(query, ("127.0.0.1", port))
        reply = client.recv(512)
    return socket.inet_ntoa(reply[-4:])


def cost(program, seconds):
    door, port = Door(), free_port()
    services = []
    for index in range(MEMBERS // PER_SERVICE):
        members = ", ".join(f'"127.1.{n // 250}.{n % 250 + 1}"' for n in range(index * PER_SERVICE, (index + 1) * PER_SERVICE))
        services.append(f'[public_service.s{index}]\nhost = "s{index}.example.test"\nport = {door.port}\n'
                        f'health_check = {{ interval = "5s", timeout = "2s" }}\nsites.a = [{members}]\n')
    with tempfile.TemporaryDirectory() as folder:
        child = start(program, pathlib.Path(folder), zone(port) + "".join(services))
        begun = time.monotonic()
        time.sleep(12)
        before, at = cpu(child.pid), time.monotonic()
        time.sleep(seconds)
        after, span = cpu(child.pid), time.monotonic() - at
        child.terminate()
        child.wait()
    whole = [door.seconds.get(second, 0) for second in range(int(begun) + 2, int(at + span))]
    mean = statistics.mean(whole)
    print(f"{MEMBERS} checks at 5 s: {mean:.0f} a second, busiest second {max(whole)} ({max(whole) / mean:.2f} of the mean), "
          f"quietest {min(whole)}")
    print(f"CPU of the thread that checks {100 * (after[1] - before[1]) / span:.1f} % of a core, "
          f"of the process {100 * (after[0] - before[0]) / span:.1f} %")


def failover(program, rounds):
    took = []
    with tempfile.TemporaryDirectory() as folder:
        port, other = free_port(), Door("127.0.0.2")
        config = (zone(port) + f'[public_service.shop]\nhost = "shop.example.test"\nport = {other.port}\nttl = "20s"\n'
                  'sites = { a = ["127.0.0.1"], b = ["127.0.0.2"] }\n'
                  'health_check = { interval = "2s", timeout = "1s", unhealthy = 2, healthy = 1 }\n')
        child = None
        for _ in range(rounds):
            first = socket.socket()
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            first.bind(("127.0.0.1", other.port))
            first.listen(64)
            child = child or start(program, pathlib.Path(folder), config)
            time.sleep(5.3)
            while ask(port, "shop.example.test") != "127.0.0.1":
                time.sleep(0.05)
            first.close()
            begun = time.monotonic()
            while ask(port, "shop.example.test") != "127.0.0.2":
                time.sleep(0.01)
            took.append(time.monotonic() - begun)
        child.terminate()
        child.wait()
    print(f"failover at interval 2 s, fall 2: {len(took)} times, median {statistics.median(took):.2f} s, worst {max(took):.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/dist/portcullis")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    program = os.path.abspath(given.program)
    cost(program, given.seconds)
    failover(program, given.rounds)
