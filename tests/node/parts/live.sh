# shellcheck shell=bash disable=SC2016
# What changes in the cluster is answered at once.
# at most 150 s
# How long until a name that was asked for before it existed resolves, as a Pod that polls sees it.
poll() {
    pod -i glibc -- python3 - "$1" <<'P'
import socket, sys, time
name = sys.argv[1] + ".uit.svc.cluster.local."
start = time.time(); tries = 0
while time.time() - start < 60:
    tries += 1
    try: socket.getaddrinfo(name, 80, socket.AF_INET); break
    except socket.gaierror: time.sleep(0.005)
print(int(time.time() * 1000), tries)
P
}
for i in 1 2 3 4 5; do
    poll "new$i" >"$OUT/fresh" & poller=$!
    sleep 1.5; before=$(now_ms)
    k -n uit create service clusterip "new$i" --tcp=80 >/dev/null; after=$(now_ms)
    wait $poller; read -r seen tries <"$OUT/fresh"
    note "Service new$i: resolved $((seen - before)) ms after kubectl was started, $((seen - after)) after it returned, asked for $tries times"
    at_most "ms until a new Service resolves" $((seen - after)) 500
    k -n uit delete service "new$i" >/dev/null
done
until_is 2 "and is gone when deleted" NXDOMAIN rcode new5.uit.svc.cluster.local
endpoints() { short db.uit.svc.cluster.local | wc -w; }
k -n uit scale statefulset db --replicas=6 >/dev/null; k -n uit rollout status statefulset/db --timeout=60s >/dev/null
until_is 3 "endpoints after scaling" 6 endpoints
k -n uit scale statefulset db --replicas=2 >/dev/null; k -n uit wait pod/db-5 pod/db-4 pod/db-3 pod/db-2 --for=delete --timeout=60s >/dev/null 2>&1
until_is 3 "after scaling back" 2 endpoints
was=$(ip_of pod/db-0); k -n uit delete pod db-0 --wait >/dev/null; k -n uit rollout status statefulset/db --timeout=60s >/dev/null
until_is 3 "db-0 after it moved from $was" "$(ip_of pod/db-0)" short db-0.db.uit.svc.cluster.local
