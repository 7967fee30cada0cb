# Two namespaces with a veth between them: a sidecar calls ztunnel by HBONE, then ztunnel the sidecar. Run as the first process of user,
# network and process namespaces, with whose end all others end.
#   sh mesh_ztunnel.sh ZTUNNEL FOLDER_OF_ITS_TEST_AUTHORITY MESH_PROXY
set -eu
ztunnel=$1 authority=$2 sidecar=$3
unshare -n sleep 120 &
there=$!
# A word for each part of the command, so that its process is the program's own.
on_b="nsenter -t $there -n"
# Until it has its own.
while [ "$(readlink /proc/$there/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do :; done
ip link add left type veth peer name right netns "$there"
ip addr add 10.9.0.1/24 dev left
$on_b ip addr add 10.9.0.2/24 dev right
for link in lo left; do ip link set "$link" up; done
for link in lo right; do $on_b ip link set "$link" up; done

mkdir -p www svid
head -c 3000000 /dev/urandom > www/file
for port in 8080 8081; do
  $on_b python3 -m http.server -d www --bind 10.9.0.2 "$port" > /dev/null 2>&1 &
done
for who in cart api; do
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "svid/$who.key" -out "$who.csr" -subj /O=x 2> /dev/null
  printf 'subjectAltName=critical,URI:spiffe://cluster.local/ns/default/sa/%s\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE\n' "$who" > extensions
  openssl x509 -req -in "$who.csr" -CA "$authority/root-cert.pem" -CAkey "$authority/ca-key.pem" -CAcreateserial -CAserial serial \
    -days 2 -extfile extensions -out "svid/$who.crt" 2> /dev/null
  cat > "$who.toml" <<END
[admin]
address = "unix:$who.sock"
[process]
upgrade = "unix:$who-upgrade.sock"
[workload]
service = "$who"
namespace = "default"
spiffe = "spiffe://cluster.local/ns/default/sa/$who"
svid = { files = { cert = "svid/$who.crt", key = "svid/$who.key", bundle = "svid/bundle.crt" } }
[mtls]
mode = "strict"
END
done
cp "$authority/root-cert.pem" svid/bundle.crt
cat >> cart.toml <<END
[listener.octets]
address = "10.9.0.1:7001"
direction = "outbound"
to = "api"
[service.api]
namespace = "default"
upstream = "api"
hbone = 15008
[upstream.api]
endpoints = ["10.9.0.2:8080"]
END
cat >> api.toml <<END
[listener.hbone]
address = "10.9.0.2:15008"
direction = "inbound"
hbone = true
[service.cart]
namespace = "default"
upstream = "cart"
[upstream.cart]
endpoints = ["10.9.0.1:1"]
[access.octets]
from = ["service:cart"]
to = ["service:api"]
match = { ports = [8080] }
action = "allow"
END
{
  echo "workloads:"
  for of in "cart 10.9.0.1" "api 10.9.0.2"; do
    echo "- {uid: \"c//v1/Pod/default/${of% *}\", name: ${of% *}, namespace: default, trustDomain: cluster.local, serviceAccount: ${of% *}," \
      "workloadIps: [\"${of#* }\"], protocol: HBONE, node: local, network: \"\", services: {}}"
  done
  printf 'policies: []\nservices: []\n'
} > workloads.yaml
export FAKE_CA=true XDS_ADDRESS= LOCAL_XDS_PATH=workloads.yaml PROXY_MODE=dedicated PACKET_MARK=1337 ENABLE_ORIG_SRC=false \
  ZTUNNEL_WORKER_THREADS=1 NODE_NAME=local ISTIO_META_DNS_CAPTURE=false
# Its words, and whether what comes is the file.
fetch() {
  if curl -sf --retry 20 --retry-delay 1 --retry-all-errors --max-time 40 -o got "$2" && cmp -s got www/file; then echo "$1: whole"; else echo "$1: not"; fi
}

PROXY_WORKLOAD_INFO=default/api/api $on_b "$ztunnel" > ztunnel-b.log 2>&1 &
theirs=$!
"$sidecar" run cart.toml > cart.log 2>&1 &
ours=$!
fetch "to ztunnel" http://10.9.0.1:7001/file
grep -q 'src.identity="spiffe://cluster.local/ns/default/sa/cart".*direction="inbound"' ztunnel-b.log && echo "known by identity"
kill "$theirs" "$ours"
wait "$theirs" "$ours" 2> /dev/null || true

iptables -t nat -A OUTPUT -p tcp -d 10.9.0.2 --dport 8080:8081 -m mark ! --mark 1337 -j REDIRECT --to-ports 15001
$on_b "$sidecar" run api.toml > api.log 2>&1 &
PROXY_WORKLOAD_INFO=default/cart/cart "$ztunnel" > ztunnel-a.log 2>&1 &
fetch "from ztunnel" http://10.9.0.2:8080/file
curl -sf --max-time 10 -o got http://10.9.0.2:8081/file || echo "no rule, no way"
