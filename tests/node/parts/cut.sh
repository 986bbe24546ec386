# shellcheck shell=bash disable=SC2016
# Nothing passes between the DNS Pods and the API server, and nobody says so: the half-open connection is noticed.
# at most 240 s
rule() { local a; for a in $(dns_addresses); do node iptables -w "$1" INPUT -s "$a" -p tcp --dport 6443 -j DROP; node iptables -w "$1" OUTPUT -d "$a" -p tcp --sport 6443 -j DROP; done; }
before=$(restarts)
cut() { rule -I; sleep 5; k -n uit create service clusterip unseen --tcp=80; sleep 95; rule -D; }
under_load cut-off 108 cut
until_is 15 "a Service made meanwhile" "$(vip_of unseen)" short unseen.uit.svc.cluster.local
is "restarts" "$(restarts)" "$before"
k -n uit delete service unseen >/dev/null
