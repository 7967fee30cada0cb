# Runs in a network namespace of its own: $1 is mesh-proxy. Each line that it prints is compared.
set -u
PATH=$PATH:/usr/sbin:/sbin
ip link set lo up
ip link add out type veth peer name there
# The other end has a namespace of its own: what comes from there comes in.
unshare -n sleep 100 & outside=$!
until [ "$(readlink /proc/$outside/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link set there netns $outside
outside() { nsenter -t $outside -n "$@"; }
outside ip link set there up
outside ip address add 198.51.100.2/24 dev there
outside ip -6 address add 2001:db8:1::2/64 dev there nodad
ip link set out up
ip address add 198.51.100.1/24 dev out
ip -6 address add 2001:db8:1::1/64 dev out nodad
ip route add default dev out
ip -6 route add default dev out
cat > there.py <<'P'
# Takes one connection for each family and says where it was meant for; answers one datagram.
import socket, struct, sys
tproxy = sys.argv[1] == "tproxy"
def listen(family, address, port):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if tproxy: s.setsockopt(socket.SOL_IP if family == socket.AF_INET else 41, 19 if family == socket.AF_INET else 75, 1)
    s.bind((address, port)); s.listen(8); return s
fours = [listen(socket.AF_INET, "0.0.0.0", port) for port in (15001, 15006)]
sixes = [listen(socket.AF_INET6, "::", port) for port in (15001, 15006)]
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); names.bind(("0.0.0.0", 15053))
print("up", flush=True)
import select
while True:
    for ready in select.select(fours + sixes + [names], [], [])[0]:
        if ready is names:
            data, peer = names.recvfrom(512); names.sendto(b"answered", peer); continue
        c, _ = ready.accept()
        if tproxy: host, port = c.getsockname()[:2]
        elif ready in fours:
            raw = c.getsockopt(socket.SOL_IP, 80, 16); host, port = socket.inet_ntoa(raw[4:8]), struct.unpack(">H", raw[2:4])[0]
        else:
            raw = c.getsockopt(41, 80, 28); host, port = socket.inet_ntop(socket.AF_INET6, raw[8:24]), struct.unpack(">H", raw[2:4])[0]
        way = "" if ready in (fours[0], sixes[0]) else "in "
        c.sendall(f"{way}{host}:{port}".encode()); c.close()
P
cat > call.py <<'P'
# call.py HOST PORT MARK: what the other side says, or "refused".
import socket, sys
host, port, mark = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
if port == 53:
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(3); s.sendto(b"?", (host, port)); print(s.recv(99).decode()); sys.exit()
s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(3 if not mark else 0.5)
if mark: s.setsockopt(socket.SOL_SOCKET, 36, mark)
try:
    s.connect((host, port)); print(s.recv(99).decode() or "nothing")
except OSError: print("refused")
P
for tool in nft iptables; do
  command -v $tool >/dev/null || continue
  rules() { if [ $tool = nft ]; then nft -s list ruleset; else iptables-save -t nat; iptables-save -t mangle; ip6tables-save -t nat; ip6tables-save -t mangle; fi | grep -v '^#' | sed 's/\[[0-9:]*\]//'; ip rule; ip -6 rule; ip route show table 133 2>/dev/null; }
  rules > before
  for method in redirect tproxy; do
    python3 there.py $method > up & there=$!
    until grep -q up up 2>/dev/null; do sleep 0.05; done
    words="--tool $tool --method $method --outbound 15001 --inbound 15006 --dns 15053 --mark 0x29a --except-outbound 9090 --except-inbound 22"
    "$1" capture apply $words || echo "$tool $method: apply failed"
    rules > once
    "$1" capture apply $words || echo "$tool $method: apply failed"
    rules > twice
    cmp -s once twice && echo "$tool $method twice: same" || diff once twice
    echo "$tool $method out 4: $(python3 call.py 203.0.113.5 8080 0)"
    echo "$tool $method out 6: $(python3 call.py 2001:db8::5 8080 0)"
    echo "$tool $method in 4: $(outside python3 call.py 198.51.100.1 8080 0)"
    echo "$tool $method in 6: $(outside python3 call.py 2001:db8:1::1 8080 0)"
    echo "$tool $method in excepted: $(outside python3 call.py 198.51.100.1 22 0)"
    echo "$tool $method marked: $(python3 call.py 203.0.113.5 8080 666)"
    [ $method = redirect ] && echo "$tool $method excepted: $(python3 call.py 203.0.113.5 9090 0)"
    [ $method = redirect ] && echo "$tool $method names: $(python3 call.py 203.0.113.53 53 0)"
    "$1" capture remove --tool $tool || echo "$tool $method: remove failed"
    rules > after
    if [ $tool = nft ]; then cmp -s before after; else ! grep -q PORTCULLIS after && ! grep -q 'fwmark 0x539' after; fi && echo "$tool $method removed: clean" || diff before after
    kill $there; wait $there 2>/dev/null; rm -f up
  done
done
# The sidecar told by its control group, where this machine lets one be made.
root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
group=portcullis-test-$$
if [ -n "$root" ] && mkdir "$root/$group" 2>/dev/null && sh -c "echo \$\$ > $root/$group/cgroup.procs" 2>/dev/null; then
  python3 there.py redirect > up & there=$!
  until grep -q up up 2>/dev/null; do sleep 0.05; done
  words="--method redirect --outbound 15001 --family v4"
  [ "$root" = /sys/fs/cgroup ] && tools="nft iptables" || tools=iptables
  for tool in $tools; do
    command -v $tool >/dev/null || continue
    "$1" capture apply --tool $tool $words --cgroup $group || echo "group: apply failed"
    echo "group others: $(python3 call.py 203.0.113.5 8080 0)"
    echo "group inside: $(sh -c "echo \$\$ > $root/$group/cgroup.procs; exec python3 call.py 203.0.113.5 8080 0")"
    "$1" capture remove --tool $tool --family v4
  done
  [ "$root" = /sys/fs/cgroup ] || echo "group by nft: $("$1" capture apply --tool nft $words --cgroup $group 2>&1)"
  echo "group missing: $("$1" capture apply --tool iptables $words --cgroup $group-none 2>&1)"
  kill $there; wait $there 2>/dev/null
else
  echo "group: cannot be made"
fi
[ -n "$root" ] && rmdir "$root/$group" 2>/dev/null
kill $outside
