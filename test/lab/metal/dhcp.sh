#!/bin/sh
# shellcheck disable=SC2154
# What busybox' udhcpc calls with the answer of the DHCP server in its environment.
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
for router in $router; do
	ip route add default via "$router"
done
: >/run/resolv.conf
[ -z "$domain" ] || echo "search $domain" >>/run/resolv.conf
for server in $dns; do
	echo "nameserver $server" >>/run/resolv.conf
done
