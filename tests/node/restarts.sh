#!/bin/bash
# restarts.sh VARIANT [ROUNDS] - queries lost while DNS Pods are replaced, for clusterdns, coredns, and either with a quick
# readiness probe (clusterdns-probe, coredns-probe). 500 queries a second; workload.yaml must be applied (test.sh deploy).
set -uo pipefail
# shellcheck source=SCRIPTDIR/env.sh
. "$(dirname "$0")/env.sh"
out=$STATE/restarts; mkdir -p "$out"
kn() { k -n kube-system "$@"; }
ready() { kn rollout status deployment/coredns --timeout=180s >/dev/null; sleep "${1:-2}"; }
variant=$1 rounds=${2:-2}
case $variant in
    coredns*) image=registry.k8s.io/coredns/coredns:v1.15.0 ;;
    *) image=${IMAGE:-clusterdns} ;;
esac
case $variant in
    *-probe) probe='{"httpGet":{"path":"/ready","port":"readiness-probe"},"periodSeconds":1,"failureThreshold":'${FAILURES:-3}'}' ;;
    *) probe='{"httpGet":{"path":"/ready","port":"readiness-probe"},"periodSeconds":10,"failureThreshold":3}' ;;
esac
kn patch deployment coredns --type=strategic -p "{\"spec\":{\"replicas\":2,\"template\":{\"spec\":{\"containers\":[{\"name\":\"coredns\",\"image\":\"$image\",\"readinessProbe\":$probe}]}}}}" >/dev/null
ready 12
rolling() { kn rollout restart deployment/coredns >/dev/null; ready 8; }
delete() { kn delete pod "$(kn get pods -l k8s-app=kube-dns -o name | head -1 | cut -d/ -f2)" --wait=false >/dev/null; sleep 14; }
up() { kn scale deployment coredns --replicas=4 >/dev/null; ready 5; }
down() { kn scale deployment coredns --replicas=2 >/dev/null; sleep 14; }
for round in $(seq "$rounds"); do
    for what in ${WHAT:-rolling delete}; do
        f=$out/$variant-$what-$round.json
        case $what in rolling) s=27 ;; delete) s=18 ;; up) s=20 ;; down) s=20 ;; esac
        k -n uit exec -i glibc -- python3 - "$DNS_IP" "$s" 500 <"$HERE/load.py" >"$f" & l=$!
        sleep 3; $what; wait $l
        python3 - "$f" "$variant $what $round" <<'P'
import json, sys
d = json.load(open(sys.argv[1]))
print(f"{sys.argv[2]}: lost {d['lost']} of {d['sent']} (fresh {d['fresh'].get('lost', 0)}, kept {d['kept'].get('lost', 0)}, tcp {d['tcp'].get('lost', 0)}), wrong {d['wrong']}, from {d['lost_from']} to {d['lost_to']} s; ms {d['ms']}")
P
        ready 3
    done
done
