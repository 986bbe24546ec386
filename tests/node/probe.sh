#!/bin/bash
# probe.sh - can this machine run a node at all? Prints what it lacks, one line, and fails; says nothing otherwise. A program that is
# missing is not the machine's fault: see README.md for the packages.
set -euo pipefail
# shellcheck source=SCRIPTDIR/env.sh
. "$(dirname "$0")/env.sh"
lacks() { echo "no node here, the machine lacks $*"; exit 1; }
[ "$(id -u)" = 0 ] || lacks "root"
[ "$(uname -s)" = Linux ] || lacks "Linux"
for program in unshare nsenter ip mount; do command -v $program >/dev/null || lacks "$program"; done
[ "$(stat -fc %T /sys/fs/cgroup)" = tmpfs ] || lacks "cgroup v1, or v1 with v2 beside it, at /sys/fs/cgroup"
for controller in memory cpu cpuacct cpuset pids devices freezer blkio systemd; do
    place=/sys/fs/cgroup/$controller/clusterdns-probe
    mkdir "$place" 2>/dev/null || lacks "a cgroup controller $controller that root can write to"
    rmdir "$place"
done
mkdir -p "$CACHE"
[ "$(df -Pm "$CACHE" | awk 'NR == 2 {print $4}')" -ge 6000 ] || lacks "6 GB of free space in $CACHE"
[ "$(awk '/^MemAvailable/{print int($2 / 1024)}' /proc/meminfo)" -ge 3000 ] || lacks "3 GB of free memory"
# in namespaces like the node's: what its programs do first
try() {
    local d; d=$(mktemp -d)
    mount --make-rprivate /
    mount -t tmpfs tmpfs "$d" || { echo "the right to mount a tmpfs"; return; }
    mkdir "$d"/{lower,upper,work,merged,cgroup}
    mount -t overlay -o "lowerdir=$d/lower,upperdir=$d/upper,workdir=$d/work" overlay "$d/merged" 2>/dev/null || { echo "overlayfs"; return; }
    mount -t sysfs sysfs /sys 2>/dev/null || { echo "the right to mount sysfs"; return; }
    mount -t cgroup -o memory cgroup "$d/cgroup" 2>/dev/null || { echo "the right to mount cgroups"; return; }
    mknod "$d/null" c 1 3 2>/dev/null || { echo "the right to make device files"; return; }
    { ip link add probe0 type veth peer name probe1 && ip link add probe2 type bridge && ip link set probe0 master probe2; } 2>/dev/null || { echo "veth and bridge interfaces"; return; }
    ip -6 addr add fd00::1/64 dev probe2 2>/dev/null || { echo "IPv6"; return; }
    if command -v iptables >/dev/null; then
        iptables -w -t nat -A OUTPUT -p tcp -m conntrack --ctstate NEW -m comment --comment x -j MARK --set-mark 1 2>/dev/null || { echo "iptables with NAT and conntrack"; return; }
    fi
    if command -v nft >/dev/null; then nft add table inet probe 2>/dev/null || { echo "nftables"; return; }; fi
}
export -f try
found=$(timeout 30 unshare --net --mount --pid --uts --ipc --cgroup --fork --kill-child --mount-proc bash -c try 2>&1) || lacks "namespaces: $(echo "$found" | tail -1)"
[ -z "$found" ] || lacks "$found"
# what is to be built comes over the network
if ! { [ -x "$BIN/kubelet" ] && [ -x "$BIN/kube-proxy" ] && [ -x "$BIN/kube-scheduler" ] && [ -e "$IMAGES/tools.tar" ]; }; then
    command -v go >/dev/null || lacks "Go, or Kubernetes' programs in $BIN"
    timeout 60 go list -m "k8s.io/kubernetes@v$K8S" >/dev/null 2>&1 || timeout 60 go list -m "k8s.io/kubernetes@v$K8S" >/dev/null 2>&1 ||
        lacks "a way to Go's modules over the network"
fi
