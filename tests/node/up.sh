#!/bin/bash
# up.sh - start a single-node Kubernetes cluster in namespaces of its own: etcd, kube-apiserver, kube-controller-manager,
# kube-scheduler, containerd, kubelet, kube-proxy, and beside it a namespace that stands for the internet.
# Nothing outside state/ is changed; down.sh ends it all. PROXY_MODE=iptables|nftables.
set -euo pipefail
# shellcheck source=SCRIPTDIR/env.sh
. "$(dirname "$0")/env.sh"
[ ! -e "$STATE/node.pid" ] || die "there is a node already: down.sh first"
for p in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl coredns; do
    [ -x "$BIN/$p" ] || die "no $p: build.sh first"
done
[ "$(stat -fc %T /sys/fs/cgroup)" = tmpfs ] || die "only cgroup v1 or hybrid has been tried: see README.md"
for p in etcd containerd runc iptables nft conntrack; do command -v "$p" >/dev/null || die "no $p: apt-get install it"; done
mkdir -p "$STATE"/{pki,log,etcd,var-lib-kubelet,var-lib-containerd,var-log-pods,var-log-containers,etc-cni,conf}
started=$(date +%s)

# ---- keys, certificates, tokens
cd "$STATE/pki"
if [ ! -e ca.crt ]; then
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=clusterdns-node 2>/dev/null
    openssl genrsa -out sa.key 2048 2>/dev/null
    sign() { # sign NAME SUBJECT [SAN]
        openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2" 2>/dev/null
        openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" \
            ${3:+-extfile <(echo "subjectAltName=$3")} 2>/dev/null
    }
    sign apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:$NODE_IP"
    sign kubelet-client /O=system:masters/CN=apiserver
    : >tokens.csv
    user() { # user NAME TOKEN-USER GROUPS
        local token; token=$(openssl rand -hex 16)
        echo "$token,$2,$2,\"$3\"" >>tokens.csv
        cat >"$1.kubeconfig" <<K
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://$NODE_IP:6443", certificate-authority: $STATE/pki/ca.crt}}]
users: [{name: u, user: {token: $token}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
K
    }
    user admin admin system:masters
    user kcm system:kube-controller-manager ""
    user scheduler system:kube-scheduler ""
    user kubelet system:node:node1 system:nodes
    user proxy system:kube-proxy ""
fi

# ---- configuration
cd "$STATE/conf"
printf 'nameserver %s\n' "$UPSTREAM" >resolv.conf
cat >containerd.toml <<C
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10"
  max_container_log_line_size = 16384
  restrict_oom_score_adj = true   # lowering it takes CAP_SYS_RESOURCE, which a sandbox may lack
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
C
cat >kubelet.yaml <<C
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
clusterDNS: [${KUBELET_DNS:-$DNS_IP}]
clusterDomain: cluster.local
resolvConf: $STATE/conf/resolv.conf
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: $STATE/pki/ca.crt}}
authorization: {mode: AlwaysAllow}
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
imageMinimumGCAge: 24h
serializeImagePulls: false
maxPods: 110
syncFrequency: 10s
configMapAndSecretChangeDetectionStrategy: Watch
C
cat >proxy.yaml <<C
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: $PROXY_MODE
clusterCIDR: $POD_CIDR,$POD_CIDR6
clientConnection: {kubeconfig: $STATE/pki/proxy.kubeconfig}
hostnameOverride: node1
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
C
cat >"$STATE/etc-cni/10-bridge.conflist" <<C
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
 {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{"subnet": "$POD_CIDR"}], [{"subnet": "$POD_CIDR6"}]],
           "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
C
# The resolver of the outside world: names under example.com and example.org exist, and what the e2e suite asks for; all others do not.
cat >upstream.Corefile <<C
.:53 {
    bind $UPSTREAM
    template ANY ANY . {
        match ^(.*\.)?example\.(com|org)\.\$
        answer "{{ .Name }} 60 IN {{ if eq .Type \"AAAA\" }}AAAA 2001:db8::80{{ else }}A 192.0.2.80{{ end }}"
        fallthrough
    }
    template IN PTR 8.8.8.8.in-addr.arpa {
        answer "{{ .Name }} 60 IN PTR dns.google."
    }
    template IN A dns.google {
        answer "{{ .Name }} 60 IN A 8.8.8.8"
    }
    template ANY ANY . {
        rcode NXDOMAIN
        authority ". 60 IN SOA a.root. b.root. 1 1800 900 604800 60"
    }
}
C

# ---- the node
for c in /sys/fs/cgroup/*/; do
    mkdir -p "$c/clusterdns-node"
    if [ -e "$c/cpuset.cpus" ]; then for f in cpuset.cpus cpuset.mems; do cat "$c/$f" >"$c/clusterdns-node/$f"; done; fi
    [ "${c%/}" = /sys/fs/cgroup/unified ] || sh -c "echo \$PPID >$c/clusterdns-node/cgroup.procs"
done
sh -c 'echo $PPID >/sys/fs/cgroup/unified/clusterdns-node/cgroup.procs' 2>/dev/null || true
cd /
setsid env -u NODE_RUN unshare --net --mount --pid --uts --ipc --cgroup --fork --mount-proc --propagation private \
    bash "$HERE/node-init.sh" >"$STATE/log/init.log" 2>&1 </dev/null 8>&- &
for _ in $(seq 100); do
    pid=$(pgrep -f "^bash $HERE/node-init.sh" | while read -r p; do
        [ "$(awk '/^NSpid/{print $NF}' "/proc/$p/status")" = 1 ] && echo "$p"; done) || true
    [ -z "$pid" ] || break
    sleep .1
done
[ -n "${pid:-}" ] || { cat "$STATE/log/init.log" >&2; die "the node did not start"; }
echo "$pid" >"$STATE/node.pid"
i=0
until k get node node1 2>/dev/null | grep -q ' Ready'; do
    i=$((i + 1)); [ $i -lt "${TRIES:-120}" ] || { tail -n 5 "$STATE"/log/*.log >&2; die "the node is not ready"; }
    [ -d "/proc/$pid" ] || { tail -n 5 "$STATE"/log/*.log >&2; die "the node ended"; }
    sleep 1
done
k taint node node1 node.kubernetes.io/not-ready- >/dev/null 2>&1 || true
say "node ready after $(($(date +%s) - started)) s, kube-proxy $PROXY_MODE, $(k version 2>/dev/null | sed -n 's/Server Version: //p')"
