# shellcheck shell=bash disable=SC2016
# deploy/lab: every form of resolv.conf that a Pod may have, and Pods of a namespace that are given clusterdns.
# at most 150 s
in_lab() { k -n dns-lab exec "$1" -- sh -c "getent ahostsv4 kubernetes.default" 2>/dev/null | awk '{print $1; exit}'; }
k apply -k "$DEPLOY/lab" >/dev/null; is "kubectl apply -k deploy/lab" $? 0
k -n dns-lab rollout status deployment/clusterdns --timeout=60s >/dev/null
k -n dns-lab wait pod --all --for=condition=Ready --timeout=60s >/dev/null; is "all Pods are ready" $? 0
for each in glibc musl cluster-first cluster-first-more host-network; do is "$each: kubernetes.default" "$(in_lab $each)" 10.96.0.1; done
is "as-the-node: kubernetes.default" "$(in_lab as-the-node)" ""
is "who answers glibc" "$(k -n dns-lab exec glibc -- sed -n 's/^nameserver //p' /etc/resolv.conf)" 10.96.0.11
k apply -f "$DEPLOY/lab/injection.yaml" >/dev/null; is "kubectl apply -f deploy/lab/injection.yaml" $? 0
k create namespace injected >/dev/null; k label namespace injected dns=clusterdns >/dev/null
nameserver() {
    k -n injected delete pod client --now --ignore-not-found >/dev/null 2>&1
    k -n injected run client --image=localhost/tools:1 --image-pull-policy=Never --restart=Never -- pause >/dev/null 2>&1
    k -n injected get pod client -o jsonpath='{.spec.dnsConfig.nameservers[0]}'
}
until_is 20 "a new Pod of a labeled namespace asks" 10.96.0.11 nameserver
k -n injected wait pod/client --for=condition=Ready --timeout=30s >/dev/null
is "and finds names" "$(k -n injected exec client -- getent hosts web.uit | awk '{print $1}')" "$(vip_of web)"
k delete -f "$DEPLOY/lab/injection.yaml" >/dev/null; k delete namespace injected --wait=false >/dev/null
k delete -k "$DEPLOY/lab" --wait=false >/dev/null; is "kubectl delete -k deploy/lab" $? 0
