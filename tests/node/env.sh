# What every script here shares. Sourced, not run.
# shellcheck shell=bash disable=SC2034  # they use it
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
K8S=${K8S:-1.34.2}                        # of every Kubernetes program
COREDNS_VERSION=${COREDNS_VERSION:-v1.15.0}
SOURCE=${SOURCE:-$(cd "$HERE/../.." && pwd)}  # the checkout of clusterdns
CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/clusterdns-tests}  # programs, base images, container storage of the build
STATE=${STATE:-$CACHE/node}               # of the node; down.sh removes it
BIN=$CACHE/kubernetes-v$K8S/bin           # tests/support/controlplane.py looks here too
IMAGES=$CACHE/images                      # OCI archives that up.sh imports
PROXY_MODE=${PROXY_MODE:-iptables}        # kube-proxy: iptables or nftables
ETCD_PROGRESS=${ETCD_PROGRESS:-5s}           # kubeadm's; etcd's own default is 10m, and watches of what does not change are then silent

NODE_IP=172.31.255.2 NODE_IP6=fd00:172:31:255::2
NET_IP=172.31.255.1 NET_IP6=fd00:172:31:255::1          # "the internet": a namespace beside, with a resolver
UPSTREAM=172.31.255.53
POD_CIDR=10.244.0.0/24 POD_CIDR6=fd00:10:244::/64
SVC_CIDR=10.96.0.0/12 SVC_CIDR6=fd00:10:96::/112
DNS_IP=10.96.0.10
export PATH=$BIN:$CACHE/bin:/usr/sbin:/sbin:$PATH

say() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }
die() { say "$*"; exit 1; }
# node CMD... : run a command inside the node's namespaces.
node() {
    local pid
    pid=$(cat "$STATE/node.pid" 2>/dev/null) || die "no node: up.sh first"
    nsenter -t "$pid" -m -u -i -n -p -C --wdns="$PWD" -- env KUBECONFIG="$STATE/pki/admin.kubeconfig" PATH="$PATH" "$@"
}
k() { node kubectl "$@"; }
