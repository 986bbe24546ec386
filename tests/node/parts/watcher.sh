# shellcheck shell=bash disable=SC2016
# A Pod's watcher is killed, and hangs: names go on resolving, and what changes meanwhile is seen by the next one.
# at most 150 s
p=$(dns_pods | head -1) before=$(restarts_of "$p") address=$(address_of "$p")
lose() { # lose SIGNAL NAME
    local pid; pid=$(watcher "$p"); [ -n "$pid" ] || return 1
    node kill "-$1" "$pid"; k -n uit create service clusterip "$2" --tcp=80; sleep "$3"
}
under_load watcher-killed 12 lose KILL meanwhile1 3
until_is 5 "a Service made while it was gone" "$(vip_of meanwhile1)" at "$address" meanwhile1.uit.svc.cluster.local
under_load watcher-hangs 30 lose STOP meanwhile2 20
until_is 10 "a Service made while it hung" "$(vip_of meanwhile2)" at "$address" meanwhile2.uit.svc.cluster.local
is "restarts of that Pod" "$(restarts_of "$p")" "$before"
k -n uit delete service meanwhile1 meanwhile2 >/dev/null
