#!/bin/sh
# run.sh ROOT CONFIG [ARGUMENT...] - start what assemble.sh made in ROOT as a container runtime would.
#
# Own mount, PID, network, UTS and IPC namespaces; only loopback, which is up; ROOT read-only, CONFIG
# mounted at /etc/coredns; uid 65532, no_new_privs, and of all capabilities NET_BIND_SERVICE: the
# securityContext of the Deployment. The arguments default to the Deployment's. The process below
# unshare is process 1 of the container: `nsenter -t PID -n dig @127.0.0.1 NAME` asks it, `kill PID`
# ends it and with it this command, with its exit status.
# Needs: root, unshare, nsenter (util-linux), ip (iproute2), capsh (libcap2-bin).
set -eu

if [ "${1:-}" != --inside ]; then
    root=$(cd "${1:?usage: run.sh ROOT CONFIG [ARGUMENT...]}" && pwd)
    config=$(cd "${2:?usage: run.sh ROOT CONFIG [ARGUMENT...]}" && pwd)
    shift 2
    [ $# -gt 0 ] || set -- -conf /etc/coredns/Corefile
    exec unshare --mount --pid --net --uts --ipc --fork \
        "$0" --inside "$root" "$config" "$@"
fi

root=$2 config=$3
shift 3
hostname clusterdns
ip link set lo up
mount --bind "$root" "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o nosuid,noexec,mode=755,size=64k dev "$root/dev"
for node in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "$root/dev/${node%:*}" c 1 "${node#*:}"
done
mount -o remount,ro "$root/dev"
mount --bind "$config" "$root/etc/coredns"
mount -o remount,bind,ro "$root/etc/coredns"
mount -o remount,bind,ro "$root"
# Number 10 is NET_BIND_SERVICE. A runtime sets permitted and effective as well, so that the file
# capability of the interpreter may give it in spite of no_new_privs.
others=$(seq 0 "$(cat /proc/sys/kernel/cap_last_cap)" | grep -vx 10 | paste -sd,)
exec capsh --chroot="$root" --drop="$others" --keep=1 --groups=65532 --gid=65532 --uid=65532 \
    --caps=cap_net_bind_service=ep --no-new-privs --shell=/usr/bin/python3.11 -- -I -m clusterdns "$@"
