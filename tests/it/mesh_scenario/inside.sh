# Run by `unshare -Urnm sh inside.sh PORTCULLIS MESH_PROXY CAPTURE` in a folder of its own: four hosts on one switch, and an
# internet behind the last. Each line that is printed is one check of the scenario, and says what was found.
set -u
portcullis=$1 mesh_proxy=$2 capture=$3
PATH=$PATH:/usr/sbin:/sbin
mount -t tmpfs none /run && mkdir -p /run/netns || exit 9

for host in sw svc1 svc2 svc3 egw ext; do
	ip netns add $host
	ip -n $host link set lo up
done
ip -n sw link add br0 type bridge && ip -n sw link set br0 up
plug() { # HOST ADDRESS
	ip link add "v$1" type veth peer name eth0 netns "$1"
	ip link set "v$1" netns sw && ip -n sw link set "v$1" master br0 up
	ip -n "$1" addr add "$2/24" dev eth0 && ip -n "$1" link set eth0 up
	ip -n "$1" addr add "fd77::${2##*.}/64" dev eth0 nodad
}
plug svc1 10.77.0.1
plug svc2 10.77.0.2
plug svc3 10.77.0.3
plug egw 10.77.0.4
ip link add vext netns egw type veth peer name eth0 netns ext
ip -n egw addr add 10.88.0.1/24 dev vext && ip -n egw link set vext up
ip -n ext addr add 10.88.0.2/24 dev eth0 && ip -n ext link set eth0 up
ip -n egw addr add fd88::1/64 dev vext nodad && ip -n ext addr add fd88::2/64 dev eth0 nodad
ip -n ext route add default via 10.88.0.1 && ip -n ext -6 route add default via fd88::1
# The way to everywhere leads to the egress gateway's host, which forwards nothing.
for host in svc1 svc2 svc3; do ip -n $host route add default via 10.77.0.4 && ip -n $host -6 route add default via fd77::4; done
ip netns exec egw sh -c 'echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding'

on() { # HOST COMMAND...
	host=$1; shift
	ip netns exec "$host" "$@"
}

redirected() { # HOST
	for tables in iptables ip6tables; do
		on "$1" $tables -t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 15006
		on "$1" $tables -t nat -A OUTPUT -m mark --mark 1337 -j RETURN
		on "$1" $tables -t nat -A OUTPUT -o lo -j RETURN
		on "$1" $tables -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001
	done
}
taken_as_it_is() { # HOST
	for family in -4 -6; do
		on "$1" ip $family rule add fwmark 1 lookup 133
		on "$1" ip $family route add local default dev lo table 133
	done
	for tables in iptables ip6tables; do taken_by "$1" $tables; done
}
taken_by() { # HOST TABLES
	# Answers to the sidecar's own connections are none that come in.
	on "$1" "$2" -t mangle -A PREROUTING -i eth0 -p tcp -m conntrack --ctstate ESTABLISHED,RELATED -m socket --nowildcard -j RETURN
	on "$1" "$2" -t mangle -A PREROUTING -i eth0 -p tcp -j TPROXY --on-port 15006 --tproxy-mark 1
	on "$1" "$2" -t mangle -A OUTPUT -m mark --mark 1337 -j RETURN
	on "$1" "$2" -t mangle -A OUTPUT -o lo -j RETURN
	on "$1" "$2" -t mangle -A OUTPUT -p tcp -m conntrack --ctdir ORIGINAL -j MARK --set-mark 1
	on "$1" "$2" -t mangle -A PREROUTING -i lo -p tcp -m mark --mark 1 -j TPROXY --on-port 15001 --tproxy-mark 1
}
for host in svc1 svc2; do
	case $capture in
	redirect) redirected $host ;;
	tproxy) taken_as_it_is $host ;;
	esac || exit 9
done

$portcullis ca init --trust-domain corp >/dev/null || exit 9
for namespace in acme.lab bank; do $portcullis ca intermediate --namespace $namespace >/dev/null || exit 9; done
for name in svc1 svc2 egress; do
	mkdir -p $name
	$portcullis ca issue --namespace acme.lab --service $name --into $name >/dev/null || exit 9
done

start() { # HOST PROGRAM NAME
	on "$1" "$2" run "$3.toml" >"$3.log" 2>&1 &
	eval "pid_$3=$!"
	tries=0
	until curl -fs --unix-socket "$3.sock" http://admin/ready >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ $tries -lt 400 ] || { echo "NOT READY $3"; cat "$3.log"; exit 9; }
		sleep 0.05
	done
}
metric() { # NAME PATTERN...: the sum of what fits
	name=$1; shift
	text=$(curl -fs --unix-socket "$name.sock" http://admin/metrics)
	for pattern in "$@"; do text=$(printf '%s\n' "$text" | grep -- "$pattern"); done
	printf '%s\n' "$text" | awk '{ sum += $NF } END { print sum + 0 }'
}
reload() { curl -fs --unix-socket "$1.sock" -X POST http://admin/reload >/dev/null || echo "RELOAD of $1 refused"; }
mode() { sed -i "s/^mode = .*/mode = \"$1\"/" svc1.toml svc2.toml && reload svc1 && reload svc2; }
get() { # HOST HOSTNAME URL: the status and the body
	host=$1 name=$2 url=$3; shift 3
	on "$host" curl -s --max-time 10 -H "Host: $name" -w ' %{http_code}' "$@" "$url"
}

start ext "$portcullis" ext
start svc2 "$portcullis" app2
start svc3 "$portcullis" app3
start egw "$portcullis" egw
start svc1 "$mesh_proxy" svc1
start svc2 "$mesh_proxy" svc2
on svc2 python3 servers.py smtp 10.77.0.2 2525 &
on sw python3 servers.py sniff wire.bin &
on ext python3 servers.py echo 443 53 &
on ext python3 servers.py smtp :: 2525 &
until [ -e wire.bin ]; do sleep 0.05; done

api=http://10.77.0.2:8080
# 1. Permissive: who is not in the mesh gets in, in clear; who is, by mTLS, and nothing of it is on the wire.
echo "1 clear: $(get svc3 api $api/canary-of-svc3)"
echo "1 counted: $(metric svc2 mesh_requests_total 'source="clear"' 'verdict="reported"')"
echo "1 mesh: $(get svc1 api $api/canary-of-svc1)"
echo "1 v6: $(get svc1 api 'http://[fd77::2]:8080/canary-of-svc1')"
echo "1 v6 clear: $(get svc3 api 'http://[fd77::2]:8080/')"
echo "1 counted mtls: $(metric svc2 mesh_requests_total 'source="svc1.acme.lab"' 'security="mtls"' 2xx)"
sleep 0.3
echo "1 wire: svc3 $(grep -ac canary-of-svc3 wire.bin) svc1 $(grep -ac canary-of-svc1 wire.bin)"
# 10. A server that speaks first: found out once, remembered. Milliseconds are for people; the bound is the test's.
echo "10 banner: $(on svc1 python3 servers.py banner 10.77.0.2 2525)"
# 2. Strict.
mode strict
echo "2 clear: $(get svc3 api $api/)"
echo "2 reason: $(metric svc2 mesh_refusals_total clear_in_strict)"
echo "2 mesh: $(get svc1 api $api/)"
# 6. By method and path, in whatever spelling; nothing by default.
for path in /admin /%61dmin /x/../admin; do echo "6 $path: $(get svc1 api $api$path --path-as-is)"; done
echo "6 DELETE: $(get svc1 api $api/ -X DELETE)"
echo "6 claims to be another: $(get svc1 api $api/admin -H 'X-Forwarded-Client-Cert: URI=spiffe://corp/ns/acme.lab/sa/admin')"
# 13. The figures are those of whoever asked.
before=$(metric svc2 mesh_requests_total 'source="svc1.acme.lab"' 2xx)
for number in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do get svc1 api $api/ >/dev/null; done
sleep 0.2
echo "13 twenty: $(($(metric svc2 mesh_requests_total 'source="svc1.acme.lab"' 2xx) - before))"
# 18. Bursts of short connections that end in resets, twice.
for burst in 1 2; do echo "18 burst: $(on svc1 python3 servers.py burst 10.77.0.2 2525 300)"; done
echo "18 after: $(get svc1 api $api/)"
# 7. Leaves of seconds' age are replaced all the time, and nobody notices.
(
	for turn in 1 2 3 4 5 6 7 8; do
		for name in svc1 svc2; do
			$portcullis ca issue --namespace acme.lab --service $name --into $name --replace >/dev/null
		done
		sleep 1
	done
) &
rotating=$!
failed=0 done=0
while kill -0 $rotating 2>/dev/null; do
	case $(get svc1 api $api/) in *" 200") done=$((done + 1)) ;; *) failed=$((failed + 1)) ;; esac
done
echo "7 rotation: failed $failed, enough $([ $done -ge 20 ] && echo yes || echo "no, $done")"
echo "7 taken: $([ "$(metric svc2 identity_renewals_total taken)" -ge 7 ] && echo yes || metric svc2 identity_renewals_total)"
# 15. To the outside only by the egress gateway, for whom its rules name.
echo "15 by gateway: $(get svc1 www.ext.test http://203.0.113.9/)"
echo "15 other workload: $(get svc2 www.ext.test http://203.0.113.9/)"
echo "15 unknown name: $(get svc1 other.test http://203.0.113.9/)"
echo "15 identity at the gateway: $(grep -c '"identity":"spiffe://corp/ns/acme.lab/sa/svc1"' egw.log)"
echo "15 from the gateway's host: $(on egw curl -s --max-time 5 -o /dev/null -w '%{http_code}' http://10.88.0.2/)"
echo "15 direct: $(on svc3 curl -s --max-time 2 -o /dev/null -w '%{http_code}' http://10.88.0.2/)"
# Past the capture, as a workload does that marks its own connections or runs under the sidecar's user.
for where in 10.88.0.2 fd88::2; do
	echo "15 past the capture $where: $(on egw python3 servers.py marked $where 2525), $(on svc1 python3 servers.py marked $where 2525)"
done
# What is no TCP finds no way past the gateway: QUIC, raw DNS, and either over IPv6. The gateway's own host shows that somebody
# would answer.
for where in 10.88.0.2 fd88::2; do
	for port in 443 53; do
		echo "15 $where $port: $(on egw python3 servers.py ask $where $port), $(on svc1 python3 servers.py ask $where $port)"
	done
done
# 16. By the address that a name stands for; and what is for no service: by the gateway it is refused, else as it says.
echo "16 by address: $(get svc1 whatever http://198.18.0.7:8080/)"
echo "16 no service: $(get svc1 svc3 http://10.77.0.3:8080/)"
sed -i 's/^gateway = .*/otherwise = "pass"/' svc1.toml && reload svc1
echo "16 pass: $(get svc1 svc3 http://10.77.0.3:8080/)"
sed -i 's/^otherwise = .*/otherwise = "refuse"/' svc1.toml && reload svc1
echo "16 refuse: $(get svc1 svc3 http://10.77.0.3:8080/ -o /dev/null)"
# 3. Off: in clear inside the namespace; from another namespace it is mTLS all the same.
mode off
rm -f wire.bin; touch wire.bin
echo "3 off: $(get svc1 api $api/canary-in-off)"
sleep 0.3
echo "3 wire: $([ "$(grep -ac canary-in-off wire.bin)" -gt 0 ] && echo clear)"
echo "3 counted: $(metric svc2 mesh_requests_total 'source="clear"' 'security="plain"' 2xx | awk '{ print ($1 > 0) }')"
sed -i 's/"acme.lab"$/"bank"/; s#acme.lab/sa/svc1"#bank/sa/svc1"#' svc1.toml
$portcullis ca issue --namespace bank --service svc1 --into svc1 --replace >/dev/null
sed -i '/^\[service.api\]/,/^$/ s/namespace = .*/namespace = "acme.lab"/' svc1.toml
reload svc1
sleep 1
echo "3 other namespace: $(get svc1 api $api/canary-of-bank)"
sleep 0.3
echo "3 other on wire: $(grep -ac canary-of-bank wire.bin)"
echo "3 other counted: $(metric svc2 mesh_requests_total 'source="svc1.bank"' 'security="mtls"' 2xx)"
# What the operator sees.
$mesh_proxy status --admin svc2.sock >status.txt
echo "status: $(grep -c 'svc1.acme.lab.*mtls' status.txt) $(grep -c 'svc1.bank.*mtls' status.txt)"
# 14. The sidecar ends when it is told to, and quickly when nothing is under way.
kill -TERM "$pid_svc2"
tries=0
while kill -0 "$pid_svc2" 2>/dev/null && [ $tries -lt 100 ]; do tries=$((tries + 1)); sleep 0.1; done
echo "14 ended: $(kill -0 "$pid_svc2" 2>/dev/null && echo no || echo yes)"
kill $(jobs -p) 2>/dev/null
exit 0
