#!/bin/busybox sh
# The first process of a guest: mounts what a distribution mounts, takes the steps of /steps, ends the machine.
/bin/busybox mkdir -p /busybox /proc /sys /dev /run /var /root
/bin/busybox mkdir -p -m 1777 /tmp
/bin/busybox ln -s /run /var/run
/bin/busybox --install -s /busybox
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/busybox HOME=/root
# Whatever happens, the machine ends.
(sleep 3500; poweroff -f) > /dev/null 2>&1 &
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mount -t securityfs securityfs /sys/kernel/security
mount -t bpf bpf /sys/fs/bpf

version_1() {
    mount -t tmpfs tmpfs /sys/fs/cgroup
    for controllers in cpu,cpuacct cpuset memory blkio pids; do
        mkdir -p /sys/fs/cgroup/$controllers
        mount -t cgroup -o $controllers cgroup /sys/fs/cgroup/$controllers || rmdir /sys/fs/cgroup/$controllers
    done
    # As systemd does: before 5.11 the limit of a group does not hold for those below it by itself.
    echo 1 > /sys/fs/cgroup/memory/memory.use_hierarchy
    mkdir -p /sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
}
case "$(cat /proc/cmdline)" in
    *tapio.cgroups=v1*) version_1 ;;
    *tapio.cgroups=hybrid*)
        version_1
        mkdir -p /sys/fs/cgroup/unified
        mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
        ;;
    *)
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        # As systemd does. Written one by one, since one that is not there refuses them all.
        for controller in cpu memory io pids; do
            echo +$controller > /sys/fs/cgroup/cgroup.subtree_control
        done
        ;;
esac
for module in /modules/*; do insmod $module; done
ip link set lo up
hostname guest
# Kernel messages other than of its end would stand in the middle of the tests' lines.
dmesg -n 1

# step NAME COMMAND..., with its output through a pipe: on a terminal programs speak to people.
set -o pipefail
step() {
    name=$1
    shift
    echo "@@begin $name"
    "$@" < /dev/null 2>&1 | cat
    echo "@@end $name $?"
}
echo "@@guest $(uname -r)"
. /steps
poweroff -f
