#!/bin/bash
# test.sh [PART...] - does clusterdns work as the DNS of the cluster that up.sh started? Parts: deploy names transport live reload
# restart kill memory api stop. Prints TAP and, last, 'N passed, N failed'. DNS=coredns runs what applies against CoreDNS's image.
# shellcheck disable=SC2016,SC2317  # awk's words; functions that under_load calls
set -uo pipefail
# shellcheck source=SCRIPTDIR/env.sh
. "$(dirname "$0")/env.sh"
export DEPLOY=${DEPLOY:-$SOURCE/deploy}
OUT=$STATE/test; mkdir -p "$OUT"
passed=0 failed=0
ok() { passed=$((passed + 1)); echo "ok $((passed + failed)) - $*"; }
not_ok() { failed=$((failed + 1)); echo "not ok $((passed + failed)) - $*"; }
is() { if [ "$2" = "$3" ]; then ok "$1: $2"; else not_ok "$1: got '$2', expected '$3'"; fi; }            # is WHAT GOT EXPECTED
like() { if [[ $2 =~ $3 ]]; then ok "$1: $2"; else not_ok "$1: got '$2', expected /$3/"; fi; }          # like WHAT GOT REGEX
note() { echo "# $*"; }
kn() { k -n kube-system "$@"; }
pod() { k -n uit exec "$@"; }                                                  # pod NAME -- COMMAND
dig_() { pod glibc -- dig +time=2 +tries=1 "@$DNS_IP" "$@"; }
short() { dig_ +short "$@" | sort | tr '\n' ' ' | sed 's/ $//'; }
rcode() { dig_ "$@" | sed -n 's/.*status: \([A-Z]*\),.*/\1/p'; }
ip_of() { k -n uit get "$1" -o jsonpath='{.status.podIP}'; }
vip_of() { k -n uit get svc "$1" -o jsonpath='{.spec.clusterIP}'; }
dns_pods() { kn get pods -l k8s-app=kube-dns --field-selector=status.phase=Running -o jsonpath='{range .items[*]}{.metadata.name}{"\n"}{end}'; }
ready() { kn rollout status deployment/coredns --timeout=180s >/dev/null; }
# pids NAMESPACE POD COMMAND-PATTERN: processes of a Pod, oldest first, as the node numbers them
pids() { local uid; uid=$(k -n "$1" get pod "$2" -o jsonpath='{.metadata.uid}')
    node sh -c "for p in \$(cat /sys/fs/cgroup/memory/kubepods/*/pod$uid/*/cgroup.procs | sort -n); do tr '\\0' ' ' </proc/\$p/cmdline | grep -q '$3' && echo \$p; done"; }
# from the Pod's network, but not through the API server, which may be what is stopped
load() { node nsenter -n -t "$(pids uit glibc agnhost | head -1)" python3 "$HERE/load.py" "$DNS_IP" "$1" "${2:-500}" >"$OUT/load.json" 2>"$OUT/load.err"; }
fields() { python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); print(*[d[x] for x in sys.argv[2:]])' "$OUT/load.json" "$@"; }
# under_load NAME SECONDS COMMAND... : nothing may be lost while COMMAND runs
under_load() {
    local name=$1 seconds=$2; shift 2
    load "$seconds" "${RATE:-500}" & local loader=$!
    sleep 3; "$@" >"$OUT/$name.out" 2>&1; local rc=$?
    wait $loader || note "load: $(tail -1 "$OUT/load.err")"
    cp "$OUT/load.json" "$OUT/$name.json"
    is "$name, exit status" "$rc" 0
    is "$name: lost, wrong of $(fields sent)" "$(fields lost wrong)" "0 0"
    note "$name: $(cat "$OUT/load.json")"
}

part_deploy() {
    kn delete deployment coredns --ignore-not-found --wait >/dev/null 2>&1
    local t; t=$(date +%s%N)
    k apply -k "$DEPLOY/base" >"$OUT/apply" 2>&1; is "kubectl apply -k deploy/base" $? 0
    ready; is "the Deployment is ready" $? 0
    note "ready $((($(date +%s%N) - t) / 1000000)) ms after kubectl apply"
    k apply -f "$HERE/workload.yaml" >/dev/null
    k -n uit rollout status deployment/web --timeout=120s >/dev/null; k -n uit rollout status statefulset/db --timeout=120s >/dev/null
    k -n uit wait pod/glibc pod/musl pod/on-node --for=condition=Ready --timeout=120s >/dev/null; is "clients run" $? 0
    is "restarts" "$(kn get pods -l k8s-app=kube-dns -o jsonpath='{.items[*].status.containerStatuses[*].restartCount}')" "0 0"
    local p pid; for p in $(dns_pods); do
        note "$p: $(kn get pod "$p" -o jsonpath='{.status.qosClass} {.status.podIP}')"
        pid=$(pids kube-system "$p" 'clusterdns -conf\|coredns -conf' | head -1)
        is "uid, capabilities, no_new_privs" "$(node awk '/^(Uid|CapEff|CapBnd|NoNewPrivs):/{printf "%s ", $2}' "/proc/$pid/status")" "65532 0000000000000400 0000000000000400 1 "
        like "read-only root" "$(node awk '$5 == "/" {print $6; exit}' "/proc/$pid/mountinfo")" '^ro'
    done
    note "memory (cgroup, MiB used): $(memory_used)"
    kn logs -l k8s-app=kube-dns --tail=20 | sed 's/^/# log: /'
    note "image: $(kn get pods -l k8s-app=kube-dns -o jsonpath='{.items[0].status.containerStatuses[0].imageID}')"
}
memory_used() { local c; for c in $(node sh -c 'ls -d /sys/fs/cgroup/memory/kubepods/burstable/pod*/*/' 2>/dev/null); do
    node sh -c "for p in \$(cat ${c}cgroup.procs); do tr '\\0' ' ' </proc/\$p/cmdline; done" | grep -q 'clusterdns -conf\|/coredns -conf' || continue
    node sh -c "awk -v l=\$(cat ${c}memory.limit_in_bytes) -v m=\$(cat ${c}memory.max_usage_in_bytes) -v i=\$(awk '/^total_inactive_file/{print \$2}' ${c}memory.stat) '{printf \"%.1f working set, %.1f peak of %.0f; \", (\$1-i)/1048576, m/1048576, l/1048576}' ${c}memory.usage_in_bytes"; done; }

part_names() {
    local conf; conf=$(pod glibc -- cat /etc/resolv.conf | tr '\n' '|')
    is "resolv.conf that kubelet wrote" "$conf" "search uit.svc.cluster.local svc.cluster.local cluster.local|nameserver $DNS_IP|options ndots:5|"
    is "on the node's network" "$(pod on-node -- cat /etc/resolv.conf | tr '\n' '|')" "$conf"
    local web db0 api c
    web=$(vip_of web) db0=$(ip_of pod/db-0) api=10.96.0.1
    hosts() { pod "$1" -- getent ahostsv4 "$2" 2>/dev/null | awk '{print $1}' | sort -u | tr '\n' ' ' | sed 's/ $//'; }
    for c in glibc musl on-node; do
        is "$c: web" "$(hosts $c web)" "$web"
        is "$c: web.uit" "$(hosts $c web.uit)" "$web"
        is "$c: web.uit.svc" "$(hosts $c web.uit.svc)" "$web"
        is "$c: web.uit.svc.cluster.local" "$(hosts $c web.uit.svc.cluster.local)" "$web"
        is "$c: kubernetes.default" "$(hosts $c kubernetes.default)" "$api"
        is "$c: db-0.db" "$(hosts $c db-0.db)" "$db0"
        is "$c: db (headless)" "$(hosts $c db)" "$(printf '%s\n' "$db0" "$(ip_of pod/db-1)" | sort | tr '\n' ' ' | sed 's/ $//')"
        is "$c: outside (ExternalName)" "$(hosts $c outside)" 192.0.2.80
        is "$c: inside (ExternalName within)" "$(hosts $c inside)" "$web"
        is "$c: www.example.com" "$(hosts $c www.example.com)" 192.0.2.80
        is "$c: slow (never ready)" "$(hosts $c slow)" ""
        is "$c: slow-host.slow-too (published all the same)" "$(hosts $c slow-host.slow-too)" "$(ip_of pod/slow)"
        is "$c: nothing" "$(hosts $c nothing)" ""
    done
    is "a Pod knows its own name" "$(pod db-0 -- hostname -f)" db-0.db.uit.svc.cluster.local
    is "HTTP through the name" "$(pod glibc -- curl -s -m 5 -o /dev/null -w '%{http_code}' http://web/healthz)" 200
}

part_transport() {
    local t e
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
    local a; for a in $(kn get pods -l k8s-app=kube-dns -o jsonpath='{.items[*].status.podIP}'); do
        is "/health of $a" "$(pod glibc -- curl -s -m 5 "http://$a:8080/health")" OK
        is "/ready of $a" "$(pod glibc -- curl -s -m 5 "http://$a:8181/ready")" OK
    done
}

# How long until a name that was asked for before it existed resolves, in ms, as a Pod that polls sees it.
part_live() {
    local i; : >"$OUT/fresh"
    for i in 1 2 3 4 5; do
        pod -i glibc -- python3 - "new$i" >>"$OUT/fresh" <<'P' &
import socket, sys, time
name = sys.argv[1] + ".uit.svc.cluster.local"
start = time.time(); tries = 0
while time.time() - start < 60:
    tries += 1
    try: socket.getaddrinfo(name + ".", 80, socket.AF_INET); break
    except socket.gaierror: time.sleep(0.005)
print(int(time.time() * 1000), tries)
P
        sleep 1.5; local before; before=$(date +%s%3N)
        k -n uit create service clusterip "new$i" --tcp=80 >/dev/null; local after; after=$(date +%s%3N)
        wait $!
        local seen tries; read -r seen tries < <(tail -1 "$OUT/fresh")
        note "Service new$i: resolved $((seen - before)) ms after kubectl was started, $((seen - after)) after it returned, asked for $tries times"
        if [ $((seen - after)) -lt 500 ]; then ok "a new Service resolves at once"; else not_ok "a new Service resolved after $((seen - after)) ms"; fi
        k -n uit delete service "new$i" >/dev/null
    done
    sleep 0.5; is "and is gone when deleted" "$(rcode new5.uit.svc.cluster.local)" NXDOMAIN
    k -n uit scale statefulset db --replicas=6 >/dev/null; k -n uit rollout status statefulset/db --timeout=90s >/dev/null; sleep 1
    is "six endpoints after scaling" "$(short db.uit.svc.cluster.local | wc -w)" 6
    k -n uit scale statefulset db --replicas=2 >/dev/null; k -n uit wait pod/db-5 --for=delete --timeout=60s >/dev/null 2>&1; k -n uit wait pod/db-2 --for=delete --timeout=60s >/dev/null 2>&1; sleep 1
    is "two after scaling back" "$(short db.uit.svc.cluster.local | wc -w)" 2
    local before after; before=$(ip_of pod/db-0); k -n uit delete pod db-0 --wait >/dev/null; k -n uit rollout status statefulset/db --timeout=60s >/dev/null; sleep 1
    after=$(ip_of pod/db-0); is "db-0 after it moved from $before" "$(short db-0.db.uit.svc.cluster.local)" "$after"
}

corefile() { kn get configmap coredns -o jsonpath='{.data.Corefile}'; }
ttls() { local a; for a in $(kn get pods -l k8s-app=kube-dns --field-selector=status.phase=Running -o jsonpath='{.items[*].status.podIP}'); do
    pod glibc -- dig +time=2 +tries=1 "@$a" +noall +answer web.uit.svc.cluster.local | awk '{print $2}'; done | tr '\n' ' '; }
edit_corefile() { kn create configmap coredns --from-file=Corefile=/dev/stdin --dry-run=client -o yaml | kn replace -f - >/dev/null; }
until_ttls() { local n=0; until [ "$(ttls)" = "$1" ] || [ $n -gt 120 ]; do n=$((n + 1)); sleep 1; done; is "$2" "$(ttls)" "$1"; }
part_reload() { # a ConfigMap that changes reaches the Pod as a link that kubelet moves
    local was t; was=$(corefile); t=$(date +%s)
    printf '%s\n' "${was/ttl 30/ttl 7}" | edit_corefile
    until_ttls "7 7 " "TTL of each Pod after the ConfigMap changed"
    note "taken up by both after $(($(date +%s) - t)) s"
    printf 'nonsense {\n' | edit_corefile
    sleep 60
    is "a Corefile that is nonsense changes nothing" "$(ttls)" "7 7 "
    like "and is told" "$(kn logs -l k8s-app=kube-dns --tail=20 | grep -m1 'Reload failed')" 'Corefile:1'
    printf '%s' "$was" | edit_corefile
    until_ttls "30 30 " "and back"
    is "restarts" "$(kn get pods -l k8s-app=kube-dns -o jsonpath='{.items[*].status.containerStatuses[*].restartCount}')" "0 0"
}

part_restart() {
    rolling() { kn rollout restart deployment/coredns && ready; }
    under_load rolling-restart 40 rolling
    delete_one() { kn delete pod "$(dns_pods | head -1)" --wait && ready; }
    under_load delete-pod 30 delete_one
    scale() { kn scale deployment coredns --replicas=4 && ready && sleep 3 && kn scale deployment coredns --replicas=2 && sleep 12; }
    under_load scale 45 scale
}

part_stop() { # SIGTERM: lameduck, then the end, with status 0
    local p t uid; p=$(dns_pods | head -1); t=$(date +%s%N)
    ( k get pod -n kube-system "$p" -w -o jsonpath='{.status.containerStatuses[0].state}{"\n"}' >"$OUT/stop" 2>/dev/null & echo $! >"$OUT/watch" )
    kn delete pod "$p" --wait >/dev/null; note "deleted after $((($(date +%s%N) - t) / 1000000)) ms"
    sleep 1; local s; s=$(grep -o '"exitCode":[0-9]*' "$OUT/stop" | tail -1); is "exit status of the container" "$s" '"exitCode":0'
    kill "$(cat "$OUT/watch")" 2>/dev/null; ready
}

part_kill() { # without warning: the kernel's and kubelet's part is measured, nothing can be promised
    local p; p=$(dns_pods | head -1)
    # the container's first process: kubelet starts it again, the other Pod serves on
    kill_one() { node kill -KILL "$(pids kube-system "$p" 'clusterdns -conf\|coredns -conf' | head -1)"; sleep 15; ready; }
    load 25 500 & local l=$!; sleep 3; kill_one; wait $l; note "SIGKILL of a container: $(cat "$OUT/load.json")"; cp "$OUT/load.json" "$OUT/kill-supervisor.json"
    is "restarts of that Pod" "$(kn get pod "$p" -o jsonpath='{.status.containerStatuses[*].restartCount}')" 1
    # its children: it starts them again itself
    kill_children() { local pid; for pid in $(pids kube-system "$p" 'clusterdns -conf' | tail -n +2); do node kill -KILL "$pid"; done; sleep 8; }
    load 15 500 & l=$!; sleep 3; kill_children; wait $l; note "SIGKILL of a Pod's children: $(cat "$OUT/load.json")"; cp "$OUT/load.json" "$OUT/kill-children.json"
    is "restarts of that Pod, still" "$(kn get pod "$p" -o jsonpath='{.status.containerStatuses[*].restartCount}')" 1
    like "its children are there again" "$(pids kube-system "$p" 'clusterdns -conf' | wc -l)" '^[23]$'
    force() { kn delete pod "$(dns_pods | head -1)" --force --grace-period=0; sleep 8; ready; }
    load 20 500 & l=$!; sleep 3; force >/dev/null 2>&1; wait $l; note "kubectl delete --force: $(cat "$OUT/load.json")"; cp "$OUT/load.json" "$OUT/force.json"
}

part_api() { # kube-apiserver is stopped for 30 s: names go on resolving, and what changes afterwards is seen
    outage() { local pid; pid=$(node pgrep -o kube-apiserver); node kill -STOP "$pid"; sleep 30; node kill -CONT "$pid"; sleep 3; }
    under_load api-outage 45 outage
    k -n uit create service clusterip after --tcp=80 >/dev/null; sleep 6
    is "a Service made after the outage" "$(short after.uit.svc.cluster.local)" "$(vip_of after)"
    k -n uit delete service after >/dev/null
    down() { node pkill -KILL -o kube-apiserver; sleep 25; }
    under_load api-restart 35 down
    local n=0; until k get ns >/dev/null 2>&1 || [ $n -gt 60 ]; do sleep 1; n=$((n + 1)); done
    k -n uit create service clusterip after2 --tcp=80 >/dev/null; sleep 6
    is "a Service made after a restart" "$(short after2.uit.svc.cluster.local)" "$(vip_of after2)"
    k -n uit delete service after2 >/dev/null
}

part_memory() { # too little memory: killed by the kernel, told as OOMKilled, started again, and the rest serves on
    note "$(memory_used)"
    kn set resources deployment/coredns --requests=memory=10Mi --limits=memory="${LITTLE:-24Mi}" >/dev/null
    sleep 40; kn get pods -l k8s-app=kube-dns | sed 's/^/# /'
    note "reasons: $(kn get pods -l k8s-app=kube-dns -o jsonpath='{.items[*].status.containerStatuses[*].lastState.terminated.reason}')"
    is "names resolve all the while, the old Pod stays" "$(short web.uit.svc.cluster.local)" "$(vip_of web)"
    kn set resources deployment/coredns --requests=memory=70Mi --limits=memory=170Mi >/dev/null; ready; is "back" $? 0
}

COREDNS_IMAGE=registry.k8s.io/coredns/coredns:v1.15.0
image_now() { kn get deployment coredns -o jsonpath='{.spec.template.spec.containers[0].image}'; }
part_switch() { # from a real CoreDNS to clusterdns and back, by the product's own scripts, while clients ask
    export KUBECTL=$HERE/kubectl CLUSTERDNS=${CLUSTERDNS:-$CACHE/venv/bin/clusterdns}
    kn set image deployment/coredns coredns=$COREDNS_IMAGE >/dev/null; ready
    is "starts from" "$(image_now)" $COREDNS_IMAGE
    "$DEPLOY/switch.sh" --dry-run registry.example/clusterdns:1 >"$OUT/dry" 2>&1; is "switch.sh --dry-run" $? 0
    under_load switch 60 "$DEPLOY/switch.sh" registry.example/clusterdns:1
    sed 's/^/# switch: /' "$OUT/switch.out"
    is "runs now" "$(image_now)" registry.example/clusterdns:1
    under_load rollback 60 "$DEPLOY/rollback.sh"
    sed 's/^/# rollback: /' "$OUT/rollback.out"
    is "runs again" "$(image_now)" $COREDNS_IMAGE
    TIMEOUT=40s "$DEPLOY/switch.sh" registry.example/clusterdns:broken >"$OUT/broken" 2>&1; is "switch.sh to an image that is not there" $? 1
    sed 's/^/# broken: /' "$OUT/broken"
    is "CoreDNS is back" "$(image_now)" $COREDNS_IMAGE
    kn set image deployment/coredns coredns=clusterdns >/dev/null; ready
}

[ $# -gt 0 ] || set -- deploy names transport live reload restart stop kill api memory
for part; do note "--- $part, $(date +%T)"; "part_$part"; done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
