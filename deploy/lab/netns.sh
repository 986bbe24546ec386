#!/bin/sh
# The lab without Kubernetes: Pods are network namespaces, each with a resolv.conf of its own.
#
#   deploy/lab/netns.sh                       show what short names come to in Pods of two namespaces
#   deploy/lab/netns.sh NAMESPACE COMMAND...  run a command as in a Pod, such as `uit sh`
#
# `clusterdns lab` serves zones/ at 10.96.0.10, the address that kubelets hand out, on a bridge. A
# Pod is a network namespace at that bridge and a mount namespace where /etc/resolv.conf is what
# kubelet writes. All of it is inside one pair of namespaces more, so nothing here is touched and
# nothing is left; where the system lets users make them, root is not needed.
#
# Needs unshare and nsenter (util-linux), ip (iproute2), and clusterdns, in the PATH or CLUSTERDNS.
# With musl-gcc (apt-get install musl-tools) the same is asked through musl's resolver, as in Alpine.
set -eu

SERVER=10.96.0.10
DOMAIN=cluster.local
here=$(cd "$(dirname "$0")" && pwd)
CLUSTERDNS=${CLUSTERDNS:-clusterdns}

if [ "${1:-}" != --inside ]; then
    for tool in unshare nsenter ip mount ${CLUSTERDNS%% *}; do
        command -v "$tool" >/dev/null || { echo "netns.sh: needs $tool" >&2; exit 2; }
    done
    as=
    [ "$(id -u)" = 0 ] || as=--map-root-user
    # shellcheck disable=SC2086
    exec unshare $as --mount --net --pid --fork --mount-proc --kill-child sh "$0" --inside "$@"
fi
shift

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
trap 'exit 1' INT TERM HUP

# The network of the node: a bridge that has the cluster's DNS address, and a way to the Pods.
network() {
    ip link set lo up
    ip link add cluster type bridge
    ip addr add "$SERVER/32" dev cluster
    ip addr add 10.244.0.1/24 dev cluster
    ip link set cluster up
}

# pod NAMESPACE ADDRESS: a Pod; its first process waits until it is ended, and its ID goes to `pod`.
pod() {
    printf 'nameserver %s\nsearch %s.svc.%s svc.%s %s\noptions ndots:5\n' \
        "$SERVER" "$1" "$DOMAIN" "$DOMAIN" "$DOMAIN" >"$place/$1.conf"
    # shellcheck disable=SC2016
    unshare --mount --net sh -c 'mount --bind "$1" /etc/resolv.conf && touch "$1.up" \
        && exec sleep infinity' sh "$place/$1.conf" &
    pod=$!
    until [ -e "$place/$1.conf.up" ]; do
        kill -0 "$pod" 2>/dev/null || { echo "netns.sh: no Pod can be made here" >&2; exit 1; }
        sleep 0.05
    done
    ip link add "v$pod" type veth peer name eth0 netns "$pod"
    ip link set "v$pod" master cluster up
    within "$pod" ip link set lo up
    within "$pod" ip addr add "$2/24" dev eth0
    within "$pod" ip link set eth0 up
    within "$pod" ip route add default via 10.244.0.1
}

# within PID COMMAND...
within() {
    target=$1
    shift
    nsenter --target "$target" --mount --net -- "$@"
}

# serve: the lab, until this script ends.
serve() {
    : >"$place/log"
    $CLUSTERDNS lab -p 53 >"$place/log" 2>&1 &
    server=$!
    until grep -q clusterdns- "$place/log"; do
        kill -0 "$server" 2>/dev/null || { cat "$place/log" >&2; exit 1; }
        sleep 0.05
    done
}

# look_up PID LIBRARY COMMAND... HOST: print one line, with the addresses or "-".
look_up() {
    target=$1 library=$2
    shift 2
    for host in "$@"; do :; done
    found=$(within "$target" "$@" | awk '{ print $1 }' | sort -u | tr '\n' ' ')
    printf '  %-6s %-34s %s\n' "$library" "$host" "${found:--}"
}

show() {
    pod "$1" "$2"
    echo "a Pod in namespace $1:"
    within "$pod" sed 's/^/  | /' /etc/resolv.conf
    for host in web web.uit web.uit.svc "web.uit.svc.$DOMAIN" db-1.db www.example.com nothing; do
        look_up "$pod" glibc getent ahosts "$host"
        [ ! -x "$place/lookup" ] || look_up "$pod" musl "$place/lookup" "$host"
    done
}

network
serve
if [ $# -ge 2 ]; then
    pod "$1" 10.244.0.2
    shift
    status=0
    within "$pod" "$@" || status=$?
    exit "$status"
fi
if command -v musl-gcc >/dev/null; then
    musl-gcc -static -O1 -o "$place/lookup" "$here/lookup.c"
else
    echo "no musl-gcc: glibc only"
fi
show uit 10.244.0.2
show default 10.244.0.3
