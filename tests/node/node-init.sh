#!/bin/bash
# Process 1 of the node; started by up.sh in its namespaces. Prepares them, starts the programs, reaps.
set -euo pipefail
# shellcheck source=SCRIPTDIR/env.sh
. "$(dirname "$0")/env.sh"
log=$STATE/log
mount --make-rshared /
hostname node1
# /sys of this network namespace; only this node's part of the cgroup hierarchies
controllers=$(ls /sys/fs/cgroup)
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for c in $controllers; do
    mkdir -p "/sys/fs/cgroup/$c"
    case $c in
        unified) mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified ;;
        systemd) mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd ;;
        *) mount -t cgroup -o "$c" cgroup "/sys/fs/cgroup/$c" ;;
    esac
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/containerd /run/lock
[ -L /var/run ] || mount --bind /run /var/run
bind() { mkdir -p "$2"; mount --bind "$1" "$2"; }
bind "$STATE/var-lib-kubelet" /var/lib/kubelet
bind "$STATE/var-lib-containerd" /var/lib/containerd
bind "$STATE/var-log-pods" /var/log/pods
bind "$STATE/var-log-containers" /var/log/containers
bind "$STATE/etc-cni" /etc/cni/net.d
mount --make-rshared /
# kubelet sets these for the whole machine; here it finds them as it wants them and leaves them alone
fake() { mkdir -p /run/sysctl; echo "$2" >"/run/sysctl/${1//\//.}"; mount --bind "/run/sysctl/${1//\//.}" "/proc/sys/$1"; }
fake vm/overcommit_memory 1; fake vm/panic_on_oom 0; fake kernel/panic 10; fake kernel/panic_on_oops 1
fake kernel/keys/root_maxkeys 1000000; fake kernel/keys/root_maxbytes 25000000

ip link set lo up
ip netns add internet
ip link add eth0 type veth peer name eth0 netns internet
ip addr add $NODE_IP/24 dev eth0; ip -6 addr add $NODE_IP6/64 dev eth0 nodad; ip link set eth0 up
i() { ip netns exec internet "$@"; }
i ip link set lo up
for a in $NET_IP $UPSTREAM; do i ip addr add "$a/24" dev eth0; done
i ip -6 addr add $NET_IP6/64 dev eth0 nodad; i ip link set eth0 up
ip route add default via $NET_IP; ip -6 route add default via $NET_IP6
i ip route add $POD_CIDR via $NODE_IP; i ip -6 route add $POD_CIDR6 via $NODE_IP6
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1

run() { # run NAME COMMAND... : in the background, started again when it ends
    local name=$1; shift
    ( while :; do "$@" >>"$log/$name.log" 2>&1 || true; echo "--- $name ended, again" >>"$log/$name.log"; sleep 1; done ) &
}
run upstream ip netns exec internet "$BIN/coredns" -conf "$STATE/conf/upstream.Corefile"
run etcd etcd --data-dir "$STATE/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --experimental-watch-progress-notify-interval="$ETCD_PROGRESS"
run containerd containerd --config "$STATE/conf/containerd.toml"
p=$STATE/pki
run kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --advertise-address=$NODE_IP \
    --service-cluster-ip-range=$SVC_CIDR,$SVC_CIDR6 --client-ca-file="$p/ca.crt" --tls-cert-file="$p/apiserver.crt" \
    --tls-private-key-file="$p/apiserver.key" --kubelet-client-certificate="$p/kubelet-client.crt" \
    --kubelet-client-key="$p/kubelet-client.key" --kubelet-preferred-address-types=InternalIP --token-auth-file="$p/tokens.csv" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --service-account-key-file="$p/sa.key" \
    --service-account-signing-key-file="$p/sa.key" --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --allow-privileged=true --service-account-extend-token-expiration=false --feature-gates=MutatingAdmissionPolicy=true,RelaxedServiceNameValidation=true \
    --runtime-config=admissionregistration.k8s.io/v1beta1=true
n=0; until curl -skf "https://$NODE_IP:6443/readyz" >/dev/null; do n=$((n + 1)); [ $n -lt 240 ] || { tail "$log/kube-apiserver.log"; exit 1; }; sleep .5; done
run kube-controller-manager kube-controller-manager --kubeconfig="$p/kcm.kubeconfig" --service-account-private-key-file="$p/sa.key" \
    --root-ca-file="$p/ca.crt" --cluster-signing-cert-file="$p/ca.crt" --cluster-signing-key-file="$p/ca.key" \
    --leader-elect=false --use-service-account-credentials=true --controllers='*,-nodeipam' --secure-port=0
run kube-scheduler kube-scheduler --kubeconfig="$p/scheduler.kubeconfig" --leader-elect=false --secure-port=0
n=0; until ctr version >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt 60 ] || { tail "$log/containerd.log"; exit 1; }; sleep .5; done
bash "$HERE/import.sh" >"$log/import.log" 2>&1
run kubelet kubelet --config="$STATE/conf/kubelet.yaml" --kubeconfig="$p/kubelet.kubeconfig" --hostname-override=node1 \
    --node-ip=$NODE_IP,$NODE_IP6 --cert-dir=/var/lib/kubelet/pki
run kube-proxy kube-proxy --config="$STATE/conf/proxy.yaml"
echo "node is up"
trap 'exit 0' TERM
while :; do sleep 3600 & wait $! || true; done
