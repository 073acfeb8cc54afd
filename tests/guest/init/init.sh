#!/bin/busybox sh
# The first program of the guest. What it does is decided by words of the kernel command line:
#   ring3.test=a,b,...  tests to run, in order (the functions test_* below), or work:NAME[:COPIES], a workload of /work
#   ring3.percent=N     how much of their work those of the workloads do that are programs
#   ring3.then=WORD     afterwards: poweroff (default after tests), reboot, shell (default without tests), or system, which goes
#                       on with the init on the disk
#   ring3.port=N        the TCP port of the host's server, for test_net
# Every line meant for the harness starts with "guest:".

export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=vt100 BUSYBOX=/bin/busybox
/bin/busybox mount -t devtmpfs dev /dev 2>/dev/null
exec </dev/console >/dev/console 2>&1
echo "guest: init"
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mkdir -p /dev/pts
mount -t devpts pts /dev/pts
# From here on the console belongs to us: kernel messages would land in the middle of our lines.
dmesg -n 1
ip link set lo up
echo "guest: up after $(cut -d' ' -f1 /proc/uptime)s on $(nproc) cpus, $(uname -r)"

word() {
    local w
    for w in $(cat /proc/cmdline); do
        case "$w" in "$1"=*) echo "${w#*=}"; return;; esac
    done
}

# The modules stand in load order in /modules/order.
load_modules() {
    local m
    while read -r m; do
        grep -q "^$m " /proc/modules && continue
        insmod "/modules/$m.ko" || { echo "insmod $m failed"; return 1; }
    done </modules/order
}

wait_for() {
    local tries=100
    while [ ! -e "$1" ]; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "$1 did not appear"; return 1; }
        usleep 100000
    done
}

# Copies the first half of the disk to the second, past the page cache: the host compares the halves.
test_blk() {
    load_modules && wait_for /dev/vda || return 1
    local size=$(cat /sys/block/vda/size)
    local half=$((size / 2 / 128))
    echo "disk of $size sectors"
    dd if=/dev/vda of=/tmp/half bs=64k count=$half iflag=direct 2>/dev/null || return 1
    dd if=/tmp/half of=/dev/vda bs=64k seek=$half conv=fsync 2>/dev/null || return 1
    echo 3 >/proc/sys/vm/drop_caches
    dd if=/dev/vda of=/tmp/back bs=64k skip=$half count=$half 2>/dev/null || return 1
    cmp /tmp/half /tmp/back
}

# An address by DHCP, then bytes from the host's server, which go back to it on a second connection.
test_net() {
    load_modules && wait_for /sys/class/net/eth0 || return 1
    ip link set eth0 up
    udhcpc -q -n -i eth0 -s /work/dhcp.sh || return 1
    local port=$(word ring3.port)
    nc 10.0.2.2 "$port" >/tmp/bytes </dev/null || return 1
    echo "received $(wc -c </tmp/bytes) bytes"
    nc 10.0.2.2 "$port" </tmp/bytes || return 1
}

# Two processes must make progress at once, on different processors if there are two.
test_smp() {
    echo "cpus online: $(cat /sys/devices/system/cpu/online)"
    local cpus=$(nproc) n pids=""
    for n in $(seq 0 $((cpus - 1))); do
        taskset -c $n sh -c 'i=0; while [ $i -lt 5000 ]; do i=$((i + 1)); done' &
        pids="$pids $!"
    done
    for n in $pids; do wait $n || return 1; done
    [ "$cpus" = "$(word ring3.cpus)" ]
}

# Guest time must agree with itself: sleeping takes as long as the clock says, and the host checks how
# long it took outside.
test_clock() {
    echo "clocksource: $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
    echo "guest: clock-start"
    local t0=$(cut -d. -f1 /proc/uptime)
    sleep 3
    local t1=$(cut -d. -f1 /proc/uptime)
    echo "guest: clock-end"
    echo "slept 3, saw $((t1 - t0))"
    [ $((t1 - t0)) -ge 3 ] && [ $((t1 - t0)) -le 4 ]
}

# The disk is a file system with somebody's system on it.
mount_disk() {
    [ -d /disk ] && return
    load_modules && wait_for /dev/vda && mkdir /disk && mount -t ext4 /dev/vda /disk && mount -t devtmpfs dev /disk/dev
}

# What debootstrap began on the host it ends here.
test_debootstrap() {
    mount_disk || return 1
    chroot /disk /bin/sh /second-stage "$(word ring3.password)" || return 1
    for m in dev/pts dev proc sys; do umount /disk/$m 2>/dev/null; done
    umount /disk && rmdir /disk
}

# A workload of /work, with markers around it for the host's clock. It is a script, or a program that also says itself how
# long it took; of programs, several copies may run at once.
workload() {
    local name=${1%%:*} copies=${1#*:}
    [ "$copies" = "$1" ] && copies=1
    echo "guest: start $1"
    if [ -e "/work/$name.sh" ]; then
        sh "/work/$name.sh" || return 1
    else
        "/work/$name" "$percent" $copies || return 1
    fi
    echo "guest: end $1"
}
percent=$(word ring3.percent)

tests=$(word ring3.test | tr ',' ' ')
for t in $tests; do
    case "$t" in
        work:*) run="workload ${t#work:}";;
        *) run=test_$(echo "$t" | tr '-' '_');;
    esac
    if $run; then echo "guest: PASS $t"; else echo "guest: FAIL $t"; fi
done

then=$(word ring3.then)
[ -n "$then" ] || { [ -n "$tests" ] && then=poweroff || then=shell; }
case "$then" in
    poweroff) echo "guest: poweroff"; poweroff -f;;
    reboot) echo "guest: reboot"; reboot -f;;
    system)
        mount_disk || echo "guest: FAIL system"
        echo "guest: system"
        for m in proc sys; do mount --move /$m /disk/$m; done
        exec switch_root /disk /sbin/init
        ;;
esac
load_modules
[ -e /sys/class/net/eth0 ] && ip link set eth0 up && udhcpc -q -n -i eth0 -s /work/dhcp.sh >/dev/null 2>&1
echo "guest: shell (poweroff -f to leave)"
while :; do
    setsid cttyhack sh
    echo "guest: shell ended"
done
