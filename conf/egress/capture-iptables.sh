#!/bin/sh
# The same as capture.nft for iptables. Usage: capture-iptables.sh GATEWAY
# In the applications' network namespace; the gateway on this machine runs as the user `portcullis`.
set -eu
gateway=${1:?address of the gateway}
proxy=3128       # [listener.out]
captured=15001   # [listener.captured]

for tables in iptables ip6tables; do
	# Connections to the outside go to the transparent listener of this machine, but for the gateway's own.
	$tables -t nat -A OUTPUT -m owner --uid-owner portcullis -j RETURN
	$tables -t nat -A OUTPUT -o lo -j RETURN
	$tables -t nat -A OUTPUT -p tcp -m multiport --dports 80,443 -j REDIRECT --to-ports "$captured"

	$tables -A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
	$tables -A OUTPUT -o lo -j ACCEPT
	# Led to the gateway by the rule above; their interface is still the old one here.
	$tables -A OUTPUT -m conntrack --ctstate DNAT -j ACCEPT
	$tables -A OUTPUT -m owner --uid-owner portcullis -j ACCEPT
	# QUIC: rejected, so that clients fall back to TCP at once.
	$tables -A OUTPUT -p udp --dport 443 -j REJECT
	$tables -A OUTPUT -p udp --dport 53 -j REJECT
done
case $gateway in
*:*) ip6tables -A OUTPUT -p tcp -d "$gateway" --dport "$proxy" -j ACCEPT ;;
*) iptables -A OUTPUT -p tcp -d "$gateway" --dport "$proxy" -j ACCEPT ;;
esac
# TCP by a reset: over IPv6, a local client does not hear that a port is unreachable, and would wait.
for tables in iptables ip6tables; do
	$tables -A OUTPUT -p tcp -j REJECT --reject-with tcp-reset
	$tables -A OUTPUT -j REJECT
done
