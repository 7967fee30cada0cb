#!/usr/bin/env bash
# A pair of sidecars beside a pair of ztunnel, in one interleaved run: octets that nobody reads, between two namespaces.
#
#   cargo build --profile dist && sudo ZTUNNEL=… benches/ztunnel.sh [rounds]
#
# Each pair runs one worker each on core 0, wrk and nginx share core 1; the namespaces are joined by a veth. The figures are CPU by the
# scheduler's clock: microseconds for each message (64 connections, 1 KiB) and seconds for each gigabyte (8 connections, 8 MiB). ZTUNNEL names
# a program built from its sources with `--features testing`, whose authority signs for itself; MESH_PROXY and PORTCULLIS name other programs
# of ours. What ztunnel takes is led to it by a REDIRECT, ours listens. Needs root, ip, iptables, nginx, wrk, taskset.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
ztunnel=$(realpath "${ZTUNNEL:?names the program}")
sidecar=$(realpath "${MESH_PROXY:-$here/target/dist/mesh-proxy}")
portcullis=$(realpath "${PORTCULLIS:-$here/target/dist/portcullis}")
rounds=${1:-3}
folder=$(mktemp -d)
cd "$folder"
a="pz-$$-a" b="pz-$$-b"
started=()
finish() {
  kill "${started[@]}" 2>/dev/null || true
  ip netns del "$a" 2>/dev/null || true
  ip netns del "$b" 2>/dev/null || true
  rm -rf "$folder"
}
trap finish EXIT

for namespace in "$a" "$b"; do
  ip netns add "$namespace"
  ip -n "$namespace" link set lo up
done
ip link add left netns "$a" type veth peer name right netns "$b"
ip -n "$a" addr add 10.9.0.1/24 dev left
ip -n "$b" addr add 10.9.0.2/24 dev right
ip -n "$a" link set left up
ip -n "$b" link set right up
# Everything to the application goes to ztunnel, but what ztunnel marks as its own.
ip netns exec "$a" iptables -t nat -A OUTPUT -p tcp -d 10.9.0.2 --dport 8080 -m mark ! --mark 1337 -j REDIRECT --to-ports 15001

mkdir www
head -c 1024 /dev/zero | tr '\0' x > www/small
head -c 8388608 /dev/zero | tr '\0' y > www/big
chmod -R a+rX .
cat > nginx.conf <<END
daemon off; user root; worker_processes 1; pid nginx.pid; error_log nginx.err;
events { worker_connections 10000; }
http {
  access_log off; sendfile on; keepalive_requests 100000000;
  server { listen 10.9.0.2:8080 backlog=4096; listen 127.0.0.1:8080 backlog=4096; root $folder/www; }
}
END

"$portcullis" ca init --trust-domain corp > /dev/null
"$portcullis" ca intermediate --namespace acme.lab > /dev/null
for service in cart api; do
  "$portcullis" ca issue --namespace acme.lab --service "$service" --into svid > /dev/null
  cat > "$service.toml" <<END
[process]
threads = 1
upgrade = "unix:$service-upgrade.sock"
[admin]
address = "unix:$service.sock"
[telemetry]
access_log = { to = "off" }
[workload]
service = "$service"
namespace = "acme.lab"
spiffe = "spiffe://corp/ns/acme.lab/sa/$service"
svid = { files = { cert = "svid/$service.crt", key = "svid/$service.key", bundle = "svid/bundle.crt" } }
[mtls]
mode = "strict"
[defaults]
waf = { mode = "off" }
END
done
cat >> api.toml <<END
[listener.inbound]
address = "10.9.0.2:7000"
direction = "inbound"
to = "127.0.0.1:8080"
[access.octets]
from = ["service:cart"]
to = ["service:api"]
action = "allow"
END
cat >> cart.toml <<END
[listener.octets]
address = "10.9.0.1:7001"
direction = "outbound"
to = "api"
opaque_ports = [7001]
[service.api]
namespace = "acme.lab"
upstream = "api"
[upstream.api]
endpoints = ["10.9.0.2:7000"]
END
{
  echo "workloads:"
  for of in "a 10.9.0.1" "b 10.9.0.2"; do
    read -r name address <<< "$of"
    echo "- {uid: \"c//v1/Pod/default/$name\", name: $name, namespace: default, trustDomain: cluster.local, serviceAccount: $name," \
      "workloadIps: [\"$address\"], protocol: HBONE, node: local, network: \"\", services: {}}"
  done
  printf 'policies: []\nservices: []\n'
} > workloads.yaml

# Runs a program in a namespace, on a core; its process is the last of `started`.
start() {
  local namespace=$1 core=$2
  shift 2
  ip netns exec "$namespace" taskset -c "$core" "$@" > "$namespace-${#started[@]}.log" 2>&1 &
  started+=($!)
}
ztunnel_of() {
  start "$1" 0 env FAKE_CA=true XDS_ADDRESS= LOCAL_XDS_PATH=workloads.yaml PROXY_MODE=dedicated "PROXY_WORKLOAD_INFO=default/$2/$2" \
    PACKET_MARK=1337 ENABLE_ORIG_SRC=false ZTUNNEL_WORKER_THREADS=1 NODE_NAME=local ISTIO_META_DNS_CAPTURE=false RUST_LOG=off "$ztunnel"
}
start "$b" 1 nginx -p "$folder" -c nginx.conf
ztunnel_of "$a" a
ztunnel_of "$b" b
start "$a" 0 "$sidecar" run cart.toml
start "$b" 0 "$sidecar" run api.toml
for url in http://10.9.0.2:8080/small http://10.9.0.1:7001/small; do
  ip netns exec "$a" curl -sf --retry 20 --retry-delay 1 --retry-all-errors --max-time 60 -o /dev/null "$url"
done

cpu() { cat /proc/"$1"/task/*/schedstat | awk '{ sum += $1 } END { printf "%.0f", sum }'; }
# Name, url, connections, and the two processes.
measure() {
  local before_a before_b requests
  before_a=$(cpu "$4") before_b=$(cpu "$5")
  requests=$(ip netns exec "$a" taskset -c 1 wrk -t1 -c"$3" -d2 "$2" | awk '/requests in/ { print $1 }')
  awk -v name="$1" -v url="$2" -v n="$requests" -v x="$(($(cpu "$4") - before_a))" -v y="$(($(cpu "$5") - before_b))" 'BEGIN {
    if (url ~ /big$/) { unit = n * 8 / 1024 * 1.073741824 * 1e9; what = "CPU s/GB" } else { unit = n * 1e3; what = "us a message" }
    printf "%-10s %7.2f (caller) %7.2f (callee) %s\n", name, x / unit, y / unit, what
  }'
}
for _ in $(seq "$rounds"); do
  for what in "small 64" "big 8"; do
    read -r file connections <<< "$what"
    measure ztunnel "http://10.9.0.2:8080/$file" "$connections" "${started[1]}" "${started[2]}"
    measure portcullis "http://10.9.0.1:7001/$file" "$connections" "${started[3]}" "${started[4]}"
  done
done
