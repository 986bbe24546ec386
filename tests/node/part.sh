#!/bin/bash
# part.sh PART - run one part of the tests against the node that up.sh started: the file parts/PART.sh. test.sh counts what it says.
# shellcheck disable=SC2034,SC2317,SC2119,SC2120  # parts use these
set -uo pipefail
# shellcheck source=SCRIPTDIR/env.sh
. "$(dirname "$0")/env.sh"
export DEPLOY=${DEPLOY:-$SOURCE/deploy}
OUT=$STATE/test; mkdir -p "$OUT"
IMAGE=registry.example/clusterdns:1       # the image under test, by another name
COREDNS_IMAGE=registry.k8s.io/coredns/coredns:v1.15.0
SERVER='clusterdns -conf\|coredns -conf'  # the command line of a server, either

ok() { echo "ok - $*"; }
not_ok() { echo "not ok - $*"; }
is() { if [ "$2" = "$3" ]; then ok "$1: $2"; else not_ok "$1: got '$2', expected '$3'"; fi; }       # is WHAT GOT EXPECTED
like() { if [[ $2 =~ $3 ]]; then ok "$1: $2"; else not_ok "$1: got '$2', expected /$3/"; fi; }     # like WHAT GOT REGEX
at_most() { if [ -n "$2" ] && [ "$2" -le "$3" ]; then ok "$1: $2, at most $3"; else not_ok "$1: '$2', at most $3"; fi; }
note() { echo "# $*"; }
now_ms() { date +%s%3N; }
# until_is SECONDS WHAT EXPECTED COMMAND... : ask until the output is the expected one; tells how long it took.
until_is() {
    local seconds=$1 what=$2 expected=$3 start got=; start=$(now_ms); shift 3
    while got=$("$@"); [ "$got" != "$expected" ] && [ $(($(now_ms) - start)) -lt $((seconds * 1000)) ]; do sleep .2; done
    is "$what, after $(($(now_ms) - start)) ms" "$got" "$expected"
}

# ---- the cluster
kn() { k -n kube-system "$@"; }
pod() { k -n uit exec "$@"; }                                                  # pod NAME -- COMMAND
dig_() { pod glibc -- dig +time=2 +tries=1 "@$DNS_IP" "$@"; }
sorted() { sort | tr '\n' ' ' | sed 's/ $//'; }
at() { local server=$1; shift; pod glibc -- dig +time=2 +tries=1 "@$server" +short "$@" | sorted; }    # at SERVER QUESTION
short() { at "$DNS_IP" "$@"; }
rcode() { dig_ "$@" | sed -n 's/.*status: \([A-Z]*\),.*/\1/p'; }
ip_of() { k -n uit get "$1" -o jsonpath='{.status.podIP}'; }
vip_of() { k -n uit get svc "$1" -o jsonpath='{.spec.clusterIP}'; }
dns_pods() { kn get pods -l k8s-app=kube-dns --field-selector=status.phase=Running -o jsonpath='{range .items[*]}{.metadata.name}{"\n"}{end}'; }
dns_addresses() { kn get pods -l k8s-app=kube-dns --field-selector=status.phase=Running -o jsonpath='{range .items[*]}{.status.podIP}{"\n"}{end}'; }
ready() { kn rollout status "deployment/${1:-coredns}" --timeout=90s >/dev/null; }
address_of() { kn get pod "$1" -o jsonpath='{.status.podIP}'; }          # of a DNS Pod
pods() { dns_pods | wc -l; }
restarts() { kn get pods -l k8s-app=kube-dns -o jsonpath='{.items[*].status.containerStatuses[*].restartCount}'; }
restarts_of() { kn get pod "$1" -o jsonpath='{.status.containerStatuses[*].restartCount}'; }
metric() { pod glibc -- curl -s -m 5 "http://$1:${3:-9153}/metrics" | awk -v m="$2" 'index($1, m) == 1 {n += $2} END {printf "%d", n}'; }   # metric SERVER NAME [PORT]
gone() { kn wait --for=delete pod -l k8s-app=kube-dns --timeout=60s >/dev/null 2>&1; }
# As deploy/base has it, whatever a part has made of it.
restore() { k apply -k "$DEPLOY/base" >/dev/null 2>&1; ready && until_settled; }
until_settled() { local n=0; until [ "$(pods)" = 2 ] || [ $n -gt 60 ]; do n=$((n + 1)); sleep .5; done; }

# ---- processes of Pods, as the node numbers them
# pids NAMESPACE POD COMMAND-PATTERN: oldest first
pids() { local uid; uid=$(k -n "$1" get pod "$2" -o jsonpath='{.metadata.uid}')
    node sh -c "for p in \$(cat /sys/fs/cgroup/memory/kubepods/*/pod$uid/*/cgroup.procs | sort -n); do tr '\\0' ' ' </proc/\$p/cmdline | grep -q '$3' && echo \$p; done"; }
# the child of a server that watches: it has connections to the API server
watcher() { local first; first=$(pids kube-system "$1" "$SERVER" | head -1)
    node nsenter -n -t "$first" ss -Htnp state established dport = :443 | sed -n 's/.*pid=\([0-9]*\).*/\1/p' | head -1; }
# its children that answer
workers() { local watching; watching=$(watcher "$1"); pids kube-system "$1" "$SERVER" | tail -n +2 | grep -vx "$watching"; }

# ---- load
# from the Pod's network, but not through the API server, which may be what is stopped
load() { node nsenter -n -t "$(pids uit glibc agnhost | head -1)" python3 "$HERE/load.py" "$DNS_IP" "$1" "${2:-500}" >"$OUT/load.json" 2>"$OUT/load.err"; }
fields() { python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); print(*[d[x] for x in sys.argv[2:]])' "$OUT/load.json" "$@"; }
# while_loaded NAME SECONDS COMMAND... : run COMMAND, from the fourth second on, while clients ask; its exit status is checked
while_loaded() {
    local name=$1 seconds=$2 loader status; shift 2
    load "$seconds" "${RATE:-500}" & loader=$!
    sleep 3; "$@" >"$OUT/$name.out" 2>&1; status=$?
    wait $loader || note "load: $(tail -1 "$OUT/load.err")"
    is "$name, exit status" "$status" 0
    [ "$status" = 0 ] || sed 's/^/# /' "$OUT/$name.out"
    note "$name: $(cat "$OUT/load.json")"
}
# under_load NAME SECONDS COMMAND... : nothing may be lost meanwhile. In CI a query or two may, by a machine that is busy: what is wrong
# with probes or lameduck costs forty.
under_load() {
    while_loaded "$@"
    at_most "$1: lost of $(fields sent)" "$(fields lost)" "$(if [ -n "${CI:-}" ]; then echo 3; else echo 0; fi)"
    is "$1: wrong" "$(fields wrong)" 0
}

# shellcheck source=/dev/null
. "$HERE/parts/$1.sh"
note "end of $1"
