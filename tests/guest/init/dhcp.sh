#!/bin/busybox sh
# Called by udhcpc: puts the lease into force.
case "$1" in
    deconfig) ip addr flush dev "$interface"; ip link set "$interface" up;;
    bound | renew)
        ip addr add "$ip/${mask:-24}" dev "$interface"
        [ -n "$router" ] && ip route add default via "$router"
        echo "guest: address $ip"
        ;;
esac
