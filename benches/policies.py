#!/usr/bin/env python3
"""What each policy costs a request, and all of them together.

    cargo build --profile dist && python3 benches/policies.py [--rounds 5] [--seconds 1]

One portcullis with one thread on core 0; wrk and the nginx origin on core 1. Every policy has a route of its own before the same
origin; the routes are asked in turn, round after round, and the figure is the median of CPU microseconds per request (the
scheduler's clock of the proxy's threads), less that of the route without any. `all` is a route with every one of them.
"""
import argparse, base64, hashlib, hmac, json, os, re, statistics, subprocess, sys, tempfile, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from edge import LOAD_CORE, PROXY_CORE, ROOT, Bench, cpu_ns, pinned, port, wait

KEY = "bench-key-0123456789abcdef"
SECRET = b"a shared secret of thirty-two bytes!!"


def token():
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")
    head = part({"alg": "HS256", "kid": "k"}) + b"." + part(
        {"iss": "https://id.test", "aud": "bench", "sub": "alice", "tier": "gold", "exp": int(time.time()) + 3600})
    return (head + b"." + base64.urlsafe_b64encode(hmac.digest(SECRET, head, "sha256")).rstrip(b"=")).decode()


# Name: keys of the route, keys of its upstream, fields of the request.
LIMIT = 'rate_limit = { rate = "1000000/s" }'
JWT = 'auth.jwt = "corp"'
CORS = 'cors = { origins = ["https://www.example.com"] }'
EDITS = 'request_headers.set = { x-a = "${client_ip}" }\nresponse_headers = { set = { x-b = "1" }, remove = ["server"] }'
POLICIES = {
    "none": ("", "", []),
    "ip": ('ip.deny_file = "deny.txt"', "", []),
    "rate_limit": (LIMIT, "", []),
    "jwt": (JWT, "", ["Authorization: Bearer TOKEN"]),
    "api_key": ('auth.api_key.header = "x-api-key"', "", [f"X-Api-Key: {KEY}"]),
    "concurrency": ("concurrency = 1000", "", []),
    "adaptive": ("concurrency = { max = 1000, adaptive = true }", "", []),
    "cors": (CORS, "", ["Origin: https://www.example.com"]),
    "security_headers": ('security_headers = "basic"', "", []),
    "edits": (EDITS, "", []),
    "claims": ('auth.jwt = "corp"\nmatch.claims = { tier = "gold" }', "", ["Authorization: Bearer TOKEN"]),
    "sticky": ("", 'sticky = { cookie = "aff" }', []),
    "least_request": ("", 'balance.policy = "least_request"', []),
    "peak_ewma": ("", 'balance.policy = "peak_ewma"', []),
    "hash": ("", 'balance = { policy = "consistent_hash", key = "header:x-user" }', ["X-User: alice"]),
    "all": ("\n".join(['ip.deny_file = "deny.txt"', LIMIT, JWT, "concurrency = { max = 1000, adaptive = true }", CORS,
                       'security_headers = "basic"', EDITS]),
            'sticky = { cookie = "aff" }\nbalance.policy = "peak_ewma"',
            ["Authorization: Bearer TOKEN", "Origin: https://www.example.com"]),
}


def document(folder, plain, origin):
    text = f"""[process]
threads = 1
upgrade = "unix:{folder}/up.sock"
[admin]
address = "unix:{folder}/admin.sock"
[telemetry]
access_log = {{ to = "off" }}
[identity.corp]
issuer = "https://id.test"
audiences = ["bench"]
jwks.file = "keys.json"
[consumer.bench]
keys = [{{ sha256 = {{ file = "key.sha256" }} }}]
[listener.http]
address = "127.0.0.1:{plain}"
limits = {{ connections_per_ip = 50000, requests = 1000000 }}
"""
    for name, (route, upstream, _) in POLICIES.items():
        text += f'[upstream.{name}]\nendpoints = ["127.0.0.1:{origin}", "127.0.0.2:{origin}"]\n{upstream}\n'
        text += f'[route.{name}]\nhosts = ["{name.replace("_", "-")}.test"]\nupstream = "{name}"\n{route}\n'
    return text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=1)
    arguments = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin"
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        bench, plain = Bench(folder), port()
        secret = base64.urlsafe_b64encode(SECRET).rstrip(b"=").decode()
        files = {
            "keys.json": json.dumps({"keys": [{"kty": "oct", "kid": "k", "alg": "HS256", "k": secret}]}),
            "key.sha256": hashlib.sha256(KEY.encode()).hexdigest(),
            "deny.txt": "".join(f"10.{n >> 8 & 255}.{n & 255}.0/25\n" for n in range(50_000)),
            "edge.toml": document(folder, plain, bench.origin),
        }
        for name, text in files.items():
            (Path(folder) / name).write_text(text)
        try:
            bench.nginx("origin", LOAD_CORE, f"server {{ listen {bench.origin}; root {folder}/www; }}")
            wait(bench.origin)
            binary = ROOT / "target/dist/portcullis"
            pid = bench.keep(pinned(PROXY_CORE, binary, "run", Path(folder) / "edge.toml", stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
            wait(plain)
            bearer, results = token(), {name: [] for name in POLICIES}
            for n in range(arguments.rounds + 1):
                for name, (_, _, fields) in POLICIES.items():
                    headers = [f"Host: {name.replace('_', '-')}.test", *(field.replace("TOKEN", bearer) for field in fields)]
                    wrk = ["wrk", "-t1", "-c32", f"-d{arguments.seconds}s", *(word for field in headers for word in ("-H", field)), f"http://127.0.0.1:{plain}/small"]
                    before = cpu_ns(pid)
                    out = subprocess.run(["taskset", "-c", LOAD_CORE, *wrk], capture_output=True, text=True).stdout
                    used = cpu_ns(pid) - before
                    if "Non-2xx" in out:
                        sys.exit(f"{name}: not all were answered 200\n{out}")
                    # The first round warms.
                    if n:
                        results[name].append(used / 1000 / int(re.search(r"(\d+) requests in", out).group(1)))
            base = statistics.median(results["none"])
            print(f"{'policy':18} {'CPU us/req':>10} {'its cost':>9}")
            for name, rows in results.items():
                middle = statistics.median(rows)
                print(f"{name:18} {middle:10.2f} {middle - base:+9.2f}")
        finally:
            bench.stop()


if __name__ == "__main__":
    main()
