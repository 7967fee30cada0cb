#!/usr/bin/env python3
"""Portcullis' DNS beside gdnsd, Knot and NSD, in one interleaved run.

    cargo build --profile dist && python3 benches/dns.py [--rounds 5] [--seconds 3] [--only static,steered,signed]

Each server answers with one UDP thread pinned to core 0; dnsperf has core 1. The figure to trust is CPU microseconds per
query: the scheduler's clock of all threads of the server, divided by the queries that were answered. Rates of dnsperf are
shown as they are; at 300 k a second it is itself near its end. With --real-time (root) what else the machine does is kept from
the two cores for all but a twentieth of each second. A server that is not installed is left out, aloud.

static    A of 1000 names, no EDNS                       all servers
edns      the same with EDNS and a client subnet         all servers
steered   a weighted choice of 4 by client subnet        ours; gdnsd's plugin `weighted`
plain-do  the same zone unsigned, asked with DO          ours
signed    the same zone signed, asked with DO            ours
absent    NXDOMAIN of random names                       all servers
latency   static with 8 queries outstanding              all servers; by the example `latency` where it is built, its median as the
                                                       mean; else by dnsperf, with what that takes to print each reply
reload    100,000 records read anew twice a second       ours, not pinned; what counts is `lost`
"""
import argparse, os, random, re, shutil, signal, socket, statistics, struct, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVER_CORE, LOAD_CORE = "0", "1"
NAMES = 1000
REAL_TIME = []
SCENARIOS = ["static", "edns", "steered", "plain-do", "signed", "absent", "latency", "reload"]
SUBNET = "8:00011800cb0071"


def port():
    while True:
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(tcp.getsockname())
                return tcp.getsockname()[1]
            except OSError:
                pass


def pinned(core, *command, **options):
    return subprocess.Popen([*on_core(core), *map(str, command)], **options)


def on_core(core):
    return [*REAL_TIME, "taskset", "-c", core]


def question(name, kind=1):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


def wait(name, p, asked, log):
    for _ in range(1800):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(0.1)
            try:
                s.connect(("127.0.0.1", p))
                s.send(question(asked))
                if s.recv(4096)[3] & 15 == 0:
                    return
            except OSError:
                time.sleep(0.05)
    sys.exit(f"{name} does not answer {asked} on {p}\n{log.read_text() if log.exists() else ''}")


def children(pid):
    pids = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for kid in (task / "children").read_text().split():
            pids += children(int(kid))
    return pids


def cpu_ns(pid):
    """Time on a core of every thread, from the scheduler."""
    tasks = [task for p in children(pid) for task in Path(f"/proc/{p}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


class Bench:
    def __init__(self, folder, binary):
        self.folder, self.binary = Path(folder), binary
        self.running, self.servers = [], {}
        records = "".join(f"n{n} 300 A 192.0.2.{n % 250}\n" for n in range(NAMES))
        head = "$TTL 300\n@ SOA ns1 noc 1 3600 900 604800 60\n@ NS ns1\nns1 A 127.0.0.1\n"
        (self.folder / "zone").write_text("$ORIGIN example.test.\n" + head + records)
        big = "".join(f"b{n} 300 A 192.0.2.{n % 250}\n" for n in range(100_000))
        (self.folder / "big").write_text("$ORIGIN big.test.\n" + head + records + big)
        (self.folder / "signed").write_text("$ORIGIN signed.test.\n" + head + records)
        shuffled = random.Random(7).sample(range(NAMES), NAMES)
        lists = {
            "static": [f"n{n}.example.test A" for n in shuffled],
            "signed": [f"n{n}.signed.test A" for n in shuffled],
            "reload": [f"n{n}.big.test A" for n in shuffled],
            "steered": ["w.steered.test A"],
            "absent": [f"{random.Random(n).randbytes(6).hex()}.example.test A" for n in range(20_000)],
        }
        for name, lines in lists.items():
            (self.folder / f"{name}.txt").write_text("\n".join(lines) + "\n")

    def keep(self, name, p, process, asked="n1.example.test"):
        self.running.append(process)
        wait(name, p, asked, self.folder / f"{name}.log")
        self.servers[name] = dict(pid=process.pid, port=p)

    def start(self, scenarios):
        servers = ["portcullis", "gdnsd", "knot", "nsd"] + (["big"] if "reload" in scenarios else [])
        for name in servers:
            program = dict(knot="knotd").get(name, name)
            if name not in ("portcullis", "big") and not shutil.which(program):
                print(f"left out: {program} is not installed")
                continue
            p = port()
            self.keep(name, p, getattr(self, "start_" + name)(p))

    def start_big(self, p):
        """Of its own: a hundred thousand names beside the thousand that are asked for are not what the others have."""
        return self.start_portcullis(p, "big", '[zone.big]\nname = "big.test"\nfile = "big"')

    def start_portcullis(self, p, name="portcullis", more=""):
        if not self.binary.exists():
            sys.exit("build it first: cargo build --profile dist")
        key = self.folder / "zone.key"
        if not key.exists():
            make = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key]
            subprocess.run(make, check=True, capture_output=True)
        conf = self.folder / f"{name}.toml"
        is_whole = self.binary.name != "serve"
        process = f"""schema = "1"
[process]
threads = 1
upgrade = "unix:{self.folder}/{name}-up.sock"
[admin]
address = "unix:{self.folder}/{name}.sock"
[telemetry]
access_log = {{ to = "off" }}
[listener.dns]
address = "127.0.0.1:{p}"
protocol = "dns"
"""
        conf.write_text(f"""{process if is_whole else ""}
[dns]
rate_limit = {{ mode = "off" }}
[zone.plain]
name = "example.test"
file = "zone"
{more}
[zone.signed]
name = "signed.test"
file = "signed"
dnssec = {{ keys = [{{ secret = {{ file = "zone.key" }} }}] }}
[zone.steered]
name = "steered.test"
ns = ["ns1.example.test"]
soa = {{ mname = "ns1.example.test", rname = "noc.example.test" }}
[public_service.w]
host = "w.steered.test"
ttl = "300s"
policy = "weighted"
[public_service.w.sites]
{"".join(f's{n} = {{ members = ["192.0.2.{n}"], weight = {n * 10} }}' + chr(10) for n in range(1, 5))}""")
        log = open(self.folder / f"{name}.log", "w")
        command = ["run", conf] if is_whole else [conf, f"127.0.0.1:{p}"]
        return pinned(SERVER_CORE, self.binary, *command, stderr=log, stdout=log)

    def start_gdnsd(self, p):
        home = self.folder / "gdnsd"
        (home / "zones").mkdir(parents=True)
        (home / "zones/example.test").write_text((self.folder / "zone").read_text())
        (home / "zones/steered.test").write_text("$TTL 300\n@ SOA ns1.example.test. noc 1 3600 900 604800 60\n@ NS ns1.example.test.\nw 300 DYNA weighted!w\n")
        members = " ".join(f"s{n} = [192.0.2.{n}, {n * 10}]," for n in range(1, 5))
        (home / "config").write_text(f"""options => {{ listen => 127.0.0.1:{p}, udp_threads => 1, tcp_threads => 1, run_dir => {home}/run, state_dir => {home}/state }}
plugins => {{ weighted => {{ service_types = up, w = {{ {members} }} }} }}
""")
        return pinned(SERVER_CORE, "gdnsd", "-c", home, "start", stderr=open(self.folder / "gdnsd.log", "w"))

    def start_knot(self, p):
        home = self.folder / "knot"
        home.mkdir()
        conf = self.folder / "knot.conf"
        conf.write_text(f"""server:
  listen: 127.0.0.1@{p}
  rundir: {home}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: {home}
zone:
  - domain: example.test
    file: {self.folder}/zone
    zonefile-sync: -1
    journal-content: none
""")
        return pinned(SERVER_CORE, "knotd", "-c", conf, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def start_nsd(self, p):
        home = self.folder / "nsd"
        home.mkdir()
        conf = self.folder / "nsd.conf"
        conf.write_text(f"""server:
  ip-address: 127.0.0.1@{p}
  server-count: 1
  do-ip6: no
  username: ""
  chroot: ""
  zonesdir: "{self.folder}"
  database: ""
  pidfile: "{home}/pid"
  xfrdfile: "{home}/xfrd"
  zonelistfile: "{home}/zones"
  logfile: "{home}/log"
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: example.test
  zonefile: zone
""")
        return pinned(SERVER_CORE, "nsd", "-d", "-c", conf, stderr=subprocess.DEVNULL)

    def load(self, scenario, name, seconds):
        """CPU and rate of one run; nothing where a server has no such thing."""
        server = self.servers[name]
        only = dict(steered=("portcullis", "gdnsd"), signed=("portcullis",), reload=("big",)).get(scenario)
        only = ("portcullis",) if scenario == "plain-do" else only
        if (only and name not in only) or (name == "big" and scenario != "reload"):
            return None
        queries = {"edns": "static", "plain-do": "static", "latency": "static"}.get(scenario, scenario)
        options = {"edns": ["-e", "-E", SUBNET], "steered": ["-e", "-E", SUBNET], "plain-do": ["-e", "-D"], "signed": ["-e", "-D"]}
        outstanding = "8" if scenario == "latency" else "200"
        clients = "1" if scenario == "latency" else "8"
        command = [*on_core(LOAD_CORE), "dnsperf", "-s", "127.0.0.1", "-p", str(server["port"]), "-d", self.folder / f"{queries}.txt",
                   "-l", str(seconds), "-c", clients, "-q", outstanding, *options.get(scenario, [])]
        own = next((own for own in (self.binary.with_name("latency"), self.binary.parent / "examples/latency") if own.exists()), None)
        is_own = scenario == "latency" and own is not None
        if is_own:
            command = [*on_core(LOAD_CORE), own, f"127.0.0.1:{server['port']}", outstanding, str(seconds)]
        elif scenario == "latency":
            command.append("-v")  # each reply with its latency
        before = cpu_ns(server["pid"])
        if scenario == "reload":
            out = self.reloading(command, server["pid"])
        else:
            out = subprocess.run(command, capture_output=True, text=True).stdout
        used = cpu_ns(server["pid"]) - before
        if is_own:
            words = out.split()
            told = dict(zip(words[::2], map(float, words[1::2])))
            return dict(cpu=used / 1000 / told["queries"], rate=told["queries"] / seconds, mean=told["p50"], p99=told["p99"], lost=int(told["lost"]))
        done = re.search(r"Queries completed:\s+(\d+)", out)
        rate = re.search(r"Queries per second:\s+([\d.]+)", out)
        mean = re.search(r"Average Latency \(s\):\s+([\d.]+)", out)
        codes = re.search(r"Response codes:\s+(\w+)", out)
        expected = "NXDOMAIN" if scenario == "absent" else "NOERROR"
        if not done or not int(done.group(1)) or codes.group(1) != expected:
            print(f"  {scenario} {name}: failures: {out}")
            return None
        lost = int(re.search(r"Queries lost:\s+(\d+)", out).group(1))
        each = sorted(float(one) for one in re.findall(r"^> NOERROR .* ([\d.]+)$", out, re.M))
        p99 = each[len(each) * 99 // 100] * 1e6 if each else 0
        return dict(cpu=used / 1000 / int(done.group(1)), rate=float(rate.group(1)), mean=float(mean.group(1)) * 1e6, p99=p99, lost=lost)

    def reloading(self, command, pid):
        """The zone changes and is read anew while it is asked for; the reload may use every core."""
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), range(os.cpu_count()))
        load = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        while load.poll() is None:
            with open(self.folder / "big", "a") as zone:
                zone.write(f"c{time.monotonic_ns()} 300 A 192.0.2.1\n")
            os.kill(pid, signal.SIGHUP)
            time.sleep(0.5)
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), [int(SERVER_CORE)])
        return load.stdout.read()

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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--real-time", action="store_true", help="servers and load go before all else on a busy machine (chrt)")
    parser.add_argument("--only", default=",".join(SCENARIOS))
    parser.add_argument("--binary", type=Path, default=ROOT / "target/dist/portcullis", help="or target/dist/examples/serve: DNS alone")
    arguments = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin"
    if arguments.real_time:
        REAL_TIME.extend(["chrt", "--rr", "10"])
    if not shutil.which("dnsperf"):
        sys.exit("dnsperf is not installed")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        bench = Bench(folder, arguments.binary.resolve())
        try:
            scenarios = arguments.only.split(",")
            bench.start(scenarios)
            results = {}
            names = list(bench.servers)
            for scenario in ("static", "signed"):
                for name in names:
                    bench.load(scenario, name, 1)  # warm; each signature is made once
            # One after the other in each round, so that what else the machine does hits all alike.
            for n in range(arguments.rounds):
                for scenario in arguments.only.split(","):
                    for name in names[n % len(names):] + names[:n % len(names)]:
                        measured = bench.load(scenario, name, arguments.seconds)
                        if measured:
                            results.setdefault(scenario, {}).setdefault(name, []).append(measured)
            middle = lambda rows, key: statistics.median(row[key] for row in rows)
            print(f"\n{'scenario':10} {'server':11} {'CPU us/query':>12} {'vs gdnsd':>9} {'k qps':>7} {'mean us':>8} {'p99 us':>7} {'lost':>5}")
            for scenario in arguments.only.split(","):
                by_name = results.get(scenario, {})
                base = by_name.get("gdnsd")
                for name, rows in by_name.items():
                    cpu = middle(rows, "cpu")
                    against = f"{middle(base, 'cpu') / cpu:9.2f}" if base else f"{'-':>9}"
                    print(f"{scenario:10} {name:11} {cpu:12.2f} {against} {middle(rows, 'rate') / 1000:7.0f} {middle(rows, 'mean'):8.1f} {middle(rows, 'p99') or '-':>7} {sum(row['lost'] for row in rows):5}")
            ours = lambda scenario: middle(results[scenario]["portcullis"], "cpu")
            for one, other in (("steered", "edns"), ("signed", "plain-do")):
                if one in results and other in results:
                    print(f"{one} is {ours(other) / ours(one):.2f} of our own {other}")
        finally:
            bench.stop()


if __name__ == "__main__":
    main()
