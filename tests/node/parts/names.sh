# shellcheck shell=bash disable=SC2016
# Names as Pods look them up: through the C library, with the search path that kubelet wrote.
conf=$(pod glibc -- cat /etc/resolv.conf | tr '\n' '|')
is "resolv.conf that kubelet wrote" "$conf" "search uit.svc.cluster.local svc.cluster.local cluster.local|nameserver $DNS_IP|options ndots:5|"
is "on the node's network" "$(pod on-node -- cat /etc/resolv.conf | tr '\n' '|')" "$conf"
web=$(vip_of web) db0=$(ip_of pod/db-0) api=10.96.0.1
hosts() { pod "$1" -- getent ahostsv4 "$2" 2>/dev/null | awk '{print $1}' | sort -u | sorted; }
for c in glibc musl on-node; do
    is "$c: web" "$(hosts $c web)" "$web"
    is "$c: web.uit" "$(hosts $c web.uit)" "$web"
    is "$c: web.uit.svc" "$(hosts $c web.uit.svc)" "$web"
    is "$c: web.uit.svc.cluster.local" "$(hosts $c web.uit.svc.cluster.local)" "$web"
    is "$c: kubernetes.default" "$(hosts $c kubernetes.default)" "$api"
    is "$c: db-0.db" "$(hosts $c db-0.db)" "$db0"
    is "$c: db (headless)" "$(hosts $c db)" "$(printf '%s\n' "$db0" "$(ip_of pod/db-1)" | sorted)"
    is "$c: outside (ExternalName)" "$(hosts $c outside)" 192.0.2.80
    is "$c: inside (ExternalName within)" "$(hosts $c inside)" "$web"
    is "$c: www.example.com" "$(hosts $c www.example.com)" 192.0.2.80
    is "$c: slow (never ready)" "$(hosts $c slow)" ""
    is "$c: slow-host.slow-too (published all the same)" "$(hosts $c slow-host.slow-too)" "$(ip_of pod/slow)"
    is "$c: nothing" "$(hosts $c nothing)" ""
done
is "a Pod knows its own name" "$(pod db-0 -- hostname -f)" db-0.db.uit.svc.cluster.local
is "HTTP through the name" "$(pod glibc -- curl -s -m 5 -o /dev/null -w '%{http_code}' http://web/healthz)" 200
