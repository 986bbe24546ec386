# shellcheck shell=bash disable=SC2016
# Every type of record over UDP and TCP, through the Service's address; metrics, health, readiness.
for t in +notcp +tcp; do
    is "$t A" "$(short $t web.uit.svc.cluster.local)" "$(vip_of web)"
    is "$t AAAA of a dual-stack Service" "$(short $t web-dual.uit.svc.cluster.local AAAA)" "$(k -n uit get svc web-dual -o jsonpath='{.spec.clusterIPs[1]}')"
    is "$t AAAA of another: no data" "$(rcode $t web.uit.svc.cluster.local AAAA) $(short $t web.uit.svc.cluster.local AAAA)" "NOERROR "
    is "$t SRV" "$(short $t _http._tcp.web.uit.svc.cluster.local SRV)" "0 100 80 web.uit.svc.cluster.local."
    is "$t SRV, headless" "$(short $t _sql._tcp.db.uit.svc.cluster.local SRV)" "0 50 5432 db-0.db.uit.svc.cluster.local. 0 50 5432 db-1.db.uit.svc.cluster.local."
    is "$t PTR of a Service" "$(short $t -x "$(vip_of web)")" web.uit.svc.cluster.local.
    is "$t PTR of a Pod" "$(short $t -x "$(ip_of pod/db-1)")" db-1.db.uit.svc.cluster.local.
    is "$t PTR of an IPv6 Service" "$(short $t -x "$(k -n uit get svc web-dual -o jsonpath='{.spec.clusterIPs[1]}')")" web-dual.uit.svc.cluster.local.
    is "$t CNAME" "$(short $t outside.uit.svc.cluster.local CNAME)" www.example.com.
    is "$t ExternalName with its address" "$(short $t outside.uit.svc.cluster.local)" "192.0.2.80 www.example.com."
    is "$t Pod name" "$(short $t 10-244-0-77.uit.pod.cluster.local)" 10.244.0.77
    is "$t NXDOMAIN" "$(rcode $t nothing.uit.svc.cluster.local)" NXDOMAIN
    is "$t outside" "$(short $t www.example.com)" 192.0.2.80
    is "$t NXDOMAIN outside" "$(rcode $t www.example.net)" NXDOMAIN
    is "$t version" "$(short $t dns-version.cluster.local TXT)" '"1.1.0"'
    is "$t NS" "$(rcode $t cluster.local NS)" NOERROR
    is "$t SOA" "$(short $t cluster.local SOA | sed 's/[0-9]\{6,\}/N/')" "ns.dns.cluster.local. hostmaster.cluster.local. N 7200 1800 86400 30"
done
note "NS: $(short cluster.local NS)"
e=$(pod on-node -- dig +time=2 +tries=1 +short "@$DNS_IP" web.uit.svc.cluster.local); is "from the node itself" "$e" "$(vip_of web)"
like "metrics through the Service" "$(pod glibc -- curl -s -m 5 "http://$DNS_IP:9153/metrics" | grep -c '^coredns_')" '^[1-9][0-9]+$'
for a in $(kn get pods -l k8s-app=kube-dns -o jsonpath='{.items[*].status.podIP}'); do
    is "/health of $a" "$(pod glibc -- curl -s -m 5 "http://$a:8080/health")" OK
    is "/ready of $a" "$(pod glibc -- curl -s -m 5 "http://$a:8181/ready")" OK
done
