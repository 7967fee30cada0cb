#!/usr/bin/env python3
"""The WAF of Portcullis beside ModSecurity 3 in nginx, with the same rules, in one interleaved run.

    cargo build --profile dist
    PORTCULLIS_CRS=<checkout of coreruleset/coreruleset> python3 benches/waf.py [--rounds 3] [--seconds 2] [--binary FILE]

Without PORTCULLIS_CRS the Core Rule Set 3.3 of Debian's `modsecurity-crs` is used. Each proxy runs one worker on core 0, once
without a WAF and once with it, blocking, at paranoia 1; wrk and the one nginx origin share core 1. The figure is CPU
microseconds per request, by the scheduler's clock; what the WAF adds is the difference of the two. Needs nginx, wrk, taskset
and libnginx-mod-http-modsecurity.
"""
import argparse, os, re, signal, subprocess, sys, tempfile, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from edge import LOAD_CORE, PROXY_CORE, ROOT, cpu_ns, pinned, port, rss_kib, wait

MODULE = Path("/usr/lib/nginx/modules/ngx_http_modsecurity_module.so")
BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding": "gzip, deflate, br",
    "Referer": "https://shop.example.com/shop/products?page=@",
    "Cookie": "session=8f14e45fceea167a5a36dedd4bea@; theme=dark; lang=en; cart=3-17-29; consent=2026-11-01",
}
ITEM = ('{"sku":"AB-%d-XL","name":"Garden chair %d","price":%d.95,"count":%d,"gift":false,"color":"dark green",'
        '"note":"Please leave it with the neighbour on the left."}')
# A `@` is a number that is another one for each of so many visitors: names and the headers of a browser recur, and nothing else.
VISITORS = 512
REQUESTS = {
    "benign GET": ("GET", "/small?page=@&sort=price_asc&q=garden+chair&ref=newsletter-2026", None, "", 200),
    "2 kB form": ("POST", "/small", "application/x-www-form-urlencoded",
                  "&".join(f"field_{n}=Some+ordinary+value+{n}" for n in range(70)), 200),
    "10 kB JSON": ("POST", "/small", "application/json",
                   '{"items":[' + ",".join(ITEM % (n, n, n, n) for n in range(60)) + "]}", 200),
    "SQLi GET": ("GET", "/small?q=1%27+or+%271%27%3D%271", None, "", 403),
}
ENGINE = """SecRuleEngine On
SecRequestBodyAccess On
SecRequestBodyLimit 13107200
SecRequestBodyNoFilesLimit 131072
SecRequestBodyJsonDepthLimit 512
SecArgumentsLimit 1000
SecResponseBodyAccess On
SecResponseBodyMimeType text/plain text/html text/xml application/json
SecResponseBodyLimit 524288
SecResponseBodyLimitAction ProcessPartial
SecAuditEngine Off
SecRule REQUEST_HEADERS:Content-Type "^application/json" "id:200001,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
"""


def rules(folder):
    """The same files for both."""
    (folder / "engine.conf").write_text(ENGINE)
    files = [str(folder / "engine.conf")]
    if crs := os.environ.get("PORTCULLIS_CRS"):
        files += [f"{crs}/crs-setup.conf.example", f"{crs}/rules/*.conf"]
    elif Path("/etc/modsecurity/crs/crs-setup.conf").exists():
        files += ["/etc/modsecurity/crs/crs-setup.conf", "/usr/share/modsecurity-crs/rules/*.conf"]
    else:
        sys.exit("there is no Core Rule Set: set PORTCULLIS_CRS, or install modsecurity-crs")
    return files


class Bench:
    def __init__(self, folder, binary):
        self.folder, self.binary, self.running, self.proxies = folder, binary, [], {}
        (folder / "www").mkdir()
        (folder / "www/small").write_text("x" * 100)
        self.files = rules(folder)
        self.origin = port()
        # An answer to any method: static files refuse POST.
        self.nginx("origin", LOAD_CORE, f"""server {{ listen 127.0.0.1:{self.origin}; client_max_body_size 1m; client_body_buffer_size 1m;
location / {{ default_type text/plain; return 200 "{'x' * 100}"; }} }}""")
        wait(self.origin)

    def start(self, name, starter, *arguments):
        at = port()
        pid = starter(name.replace(" ", ""), at, *arguments)
        wait(at)
        self.proxies[name] = dict(pid=pid, port=at)

    def nginx(self, name, core, body, top=""):
        conf = self.folder / f"{name}.conf"
        conf.write_text(f"""daemon off; worker_processes 1; pid {self.folder}/{name}.pid; error_log /dev/null crit; {top}
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {self.folder}/{name}-b; proxy_temp_path {self.folder}/{name}-p;
fastcgi_temp_path {self.folder}/{name}-f; uwsgi_temp_path {self.folder}/{name}-u; scgi_temp_path {self.folder}/{name}-s;
keepalive_requests 1000000; {body} }}""")
        process = pinned(core, "nginx", "-c", conf, "-p", self.folder, stderr=subprocess.DEVNULL)
        self.running.append(process)
        return process.pid

    def nginx_proxy(self, name, at, waf):
        modsecurity = ""
        if waf:
            include = self.folder / "modsecurity.conf"
            include.write_text("".join(f"Include {file}\n" for file in self.files))
            modsecurity = f"modsecurity on; modsecurity_rules_file {include};"
        return self.nginx(name, PROXY_CORE, f"""upstream o {{ server 127.0.0.1:{self.origin}; keepalive 64; keepalive_requests 1000000; }}
proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; client_body_buffer_size 1m;
server {{ listen 127.0.0.1:{at}; {modsecurity} location / {{ proxy_pass http://o; }} }}""", f"load_module {MODULE};" if waf else "")

    def portcullis(self, name, at, rules):
        conf = self.folder / f"{name}.toml"
        table, route = "", ""
        if rules:
            listed = ", ".join(f'"{file}"' for file in rules)
            table = f'[waf.bench]\nrules = [{listed}]\n'
            route = 'waf = { profile = "bench", mode = "block", paranoia = 1 }\n'
        conf.write_text(f"""[process]
threads = 1
upgrade = "unix:{self.folder}/{name}-up.sock"
[admin]
address = "unix:{self.folder}/{name}.sock"
[telemetry]
access_log = {{ to = "off" }}
audit_log = {{ to = "off" }}
{table}[listener.http]
address = "127.0.0.1:{at}"
limits = {{ connections_per_ip = 5000, requests = 1000000 }}
[upstream.o]
endpoints = ["127.0.0.1:{self.origin}"]
[route.r]
upstream = "o"
{route}""")
        log = open(self.folder / f"{name}.log", "w")
        process = pinned(PROXY_CORE, self.binary, "run", conf, stderr=log, stdout=log)
        self.running.append(process)
        return process.pid

    def stop(self):
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def script(folder, name):
    method, target, kind, body, _ = REQUESTS[name]
    headers = dict(BROWSER, Host="shop.example.com", **({"Content-Type": kind} if kind else {}))
    path = folder / "wrk.lua"
    fields = ", ".join(f"[ {lua(key)} ] = string.gsub({lua(value)}, '@', n)" for key, value in headers.items())
    path.write_text(f"""
        local requests, at = {{}}, 0
        function init()
            for n = 1000, {999 + VISITORS} do
                local fields = {{ {fields} }}
                requests[#requests + 1] = wrk.format({lua(method)}, (string.gsub({lua(target)}, '@', n)), fields, {lua(body) if body else "nil"})
            end
        end
        function request()
            at = at % #requests + 1
            return requests[at]
        end
    """)
    return path


def lua(text):
    return "[==[" + text + "]==]"


def measure(bench, proxy, name, seconds):
    expected = REQUESTS[name][4]
    before = cpu_ns(proxy["pid"])
    out = subprocess.run(["taskset", "-c", LOAD_CORE, "wrk", "-t1", "-c8", f"-d{seconds}s", "-s", script(bench.folder, name),
                          f"http://127.0.0.1:{proxy['port']}"], capture_output=True, text=True, check=True)
    if out.stderr.strip():
        sys.exit(out.stderr)
    out = out.stdout
    spent = cpu_ns(proxy["pid"]) - before
    requests = int(re.search(r"(\d+) requests in", out).group(1))
    refused = int((re.search(r"Non-2xx or 3xx responses: (\d+)", out) or [0, 0])[1])
    if proxy.get("waf") and (refused > requests // 2) != (expected == 403):
        sys.exit(f"{name}: {refused} of {requests} were refused\n{out}")
    return spent / max(requests, 1) / 1000


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=int, default=2)
    arguments.add_argument("--binary", type=Path, default=ROOT / "target/dist/portcullis")
    options = arguments.parse_args()
    if not options.binary.exists():
        sys.exit("build it first: cargo build --profile dist")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.binary)
        try:
            bench.start("portcullis", bench.portcullis, [])
            bench.start("portcullis + own rules", bench.portcullis, ["builtin"])
            bench.start("portcullis + CRS", bench.portcullis, bench.files)
            bench.start("nginx", bench.nginx_proxy, False)
            if MODULE.exists():
                bench.start("nginx + CRS", bench.nginx_proxy, True)
            else:
                print("left out: libnginx-mod-http-modsecurity is not installed")
            run(bench, options)
        finally:
            bench.stop()


def run(bench, options):
    for name, proxy in bench.proxies.items():
        proxy["waf"] = "+" in name
    results = {(proxy, name): [] for proxy in bench.proxies for name in REQUESTS}
    for _ in range(options.rounds):
        for name in REQUESTS:
            for proxy in bench.proxies:
                results[proxy, name].append(measure(bench, bench.proxies[proxy], name, options.seconds))
    print("| CPU µs per request | " + " | ".join(REQUESTS) + " | RSS MB |")
    print("| --- |" + " ---: |" * (len(REQUESTS) + 1))
    best = {key: min(found) for key, found in results.items()}
    for proxy, process in bench.proxies.items():
        cells = [f"{best[proxy, name]:,.0f}" for name in REQUESTS]
        print(f"| {proxy} | " + " | ".join(cells) + f" | {rss_kib(process['pid']) / 1024:.0f} |")
    for proxy in bench.proxies:
        if "+" in proxy:
            plain = proxy.split(" + ")[0]
            # A refused request never reaches the origin: what is left of the difference is not the WAF's alone.
            cells = [f"{best[proxy, name] - best[plain, name]:,.0f}" for name in REQUESTS]
            print(f"| the WAF of {proxy} adds | " + " | ".join(cells) + " | |")


if __name__ == "__main__":
    main()
