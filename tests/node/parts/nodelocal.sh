# shellcheck shell=bash disable=SC2016
# overlays/nodelocal: the cache on the node, its address on an interface of its own; then it takes over the Service's address.
# at most 200 s
local_address=169.254.20.10
now() { kn get daemonset node-local-dns -o jsonpath='{.status.numberReady}'; }
asked() { metric $local_address coredns_dns_requests_total 9253; }
k apply -k "$DEPLOY/overlays/nodelocal" >/dev/null; is "kubectl apply -k deploy/overlays/nodelocal" $? 0
until_is 40 "ready on each node" 1 now
kn logs -l k8s-app=node-local-dns -c interface --tail=5 | sed 's/^/# interface: /'
note "$(node ip -o link show nodelocaldns | cut -c1-120)"
# the Service's Pods are in its environment only if the Service was there first: its own kube-dns-upstream was
until_is 20 "a name of the cluster" "$(vip_of web)" at $local_address web.uit.svc.cluster.local
is "a name outside" "$(at $local_address www.example.com)" 192.0.2.80
is "over TCP" "$(at $local_address +tcp web.uit.svc.cluster.local)" "$(vip_of web)"
is "a reverse name" "$(at $local_address -x "$(vip_of web)")" web.uit.svc.cluster.local.
is "from the node" "$(pod on-node -- dig +time=2 +tries=1 +short @$local_address web.uit.svc.cluster.local)" "$(vip_of web)"
# The DNS Pods end: what is in the cache is still answered
kn scale deployment coredns --replicas=0 >/dev/null; gone
is "from its cache, without any server" "$(at $local_address web.uit.svc.cluster.local)" "$(vip_of web)"
kn scale deployment coredns --replicas=2 >/dev/null; ready; until_settled

# The address of the Service on that interface, and no translation of it: what NodeLocal DNSCache does itself.
untracked() { local protocol; for protocol in udp tcp; do
    node iptables -w -t raw "$1" PREROUTING -d "$DNS_IP" -p $protocol --dport 53 -j NOTRACK || return 1
    node iptables -w -t raw "$1" OUTPUT -d "$DNS_IP" -p $protocol --dport 53 -j NOTRACK || return 1
    node iptables -w -t raw "$1" OUTPUT -s "$DNS_IP" -p $protocol --sport 53 -j NOTRACK || return 1
done; }
k kustomize "$DEPLOY/overlays/nodelocal" | sed "s/bind $local_address/bind $local_address $DNS_IP/" >"$OUT/taken.yaml"
take() { node ip addr add "$DNS_IP/32" dev nodelocaldns && k apply -f "$OUT/taken.yaml" && kn rollout restart daemonset/node-local-dns && kn rollout status daemonset/node-local-dns --timeout=40s && untracked -I; }
taken=$(take 2>&1); is "the Service's address is taken over" $? 0
note "$(echo "$taken" | tail -1)"
before=$(asked); for _ in 1 2 3 4 5; do answer=$(short web.uit.svc.cluster.local); done
is "a name by the Service's address" "$answer" "$(vip_of web)"
is "over TCP" "$(short +tcp web.uit.svc.cluster.local)" "$(vip_of web)"
at_most "and the cache was asked: what is missing of 6 queries" $((6 - ($(asked) - before))) 0
release() { untracked -D && node ip addr del "$DNS_IP/32" dev nodelocaldns; }
under_load given-back 8 release
before=$(asked); is "and back: a name" "$(short web.uit.svc.cluster.local)" "$(vip_of web)"
is "which the cache did not see" "$(asked)" "$before"
k delete -k "$DEPLOY/overlays/nodelocal" >/dev/null; node ip link del nodelocaldns
