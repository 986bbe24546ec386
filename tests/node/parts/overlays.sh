# shellcheck shell=bash disable=SC2016
# Every overlay that can be here: applied as it is, but for addresses of other clusters. Nothing stands in for a cloud's own parts.
# at most 420 s
render() { k kustomize "$DEPLOY/overlays/$1" | sed 's/10\.43\.0\.10/10.96.0.10/'; }
apply() { render "$1" >"$OUT/$1.yaml"; k apply -f - <"$OUT/$1.yaml" >/dev/null; is "$1: kubectl apply" $? 0; ready "${2:-coredns}"; is "$1: ready" $? 0; }
# kube-proxy learns of Pods a moment after kubectl
answers() { until_is 10 "$1: a name, by ${2:-$DNS_IP}" "$(vip_of web)" at "${2:-$DNS_IP}" web.uit.svc.cluster.local; }
beside() { kn get pods -l app.kubernetes.io/name=clusterdns -o jsonpath='{.items[0].status.podIP}'; }
remove() { k delete -f - --ignore-not-found <"$OUT/$1.yaml" >/dev/null 2>&1; kn wait --for=delete pod -l app.kubernetes.io/name=clusterdns --timeout=60s >/dev/null 2>&1; }

render autoscaling | k apply --dry-run=server -f - >/dev/null; is "autoscaling: the API server takes it (its image is not here)" $? 0

apply dual-stack; answers dual-stack; answers dual-stack fd00:10:96::a
kn patch service kube-dns --type=merge -p '{"spec":{"ipFamilyPolicy":"SingleStack","ipFamilies":["IPv4"],"clusterIPs":["10.96.0.10"]}}' >/dev/null

apply replicas; until_is 20 "replicas: Pods" 3 pods; answers replicas
drain() { # one at a time may be evicted
    local p; for p in $(dns_pods | head -2); do echo "{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{\"name\":\"$p\",\"namespace\":\"kube-system\"}}" |
        k create --raw "/api/v1/namespaces/kube-system/pods/$p/eviction" -f - 2>&1; done; }
like "replicas: a second eviction at once" "$(drain | tail -1)" 'disruption budget'
ready; kn delete poddisruptionbudget coredns >/dev/null

kn create configmap coredns-custom --from-literal=more.override='rewrite name alias.example. web.uit.svc.cluster.local.' >/dev/null
apply k3s; kn patch configmap coredns --type=merge -p '{"data":{"NodeHosts":"172.31.255.2 node1\n"}}' >/dev/null
answers k3s; is "k3s: coredns-custom" "$(short alias.example)" "$(vip_of web)"
until_is 100 "k3s: the name of a node" 172.31.255.2 short node1

apply aks clusterdns; answers aks "$(beside)"
is "aks: coredns-custom" "$(at "$(beside)" alias.example)" "$(vip_of web)"
remove aks; kn delete configmap coredns-custom >/dev/null

kn create configmap kube-dns --from-literal=stubDomains='{"stub.example": ["172.31.255.53"]}' >/dev/null
apply gke clusterdns; answers gke "$(beside)"
remove gke; kn delete configmap kube-dns >/dev/null

k apply -k "$DEPLOY/base" >/dev/null 2>&1; kn delete deployment coredns --wait >/dev/null; gone
apply eks; answers eks
kn delete deployment coredns --wait >/dev/null; kn delete poddisruptionbudget coredns >/dev/null; gone
restore; answers base
