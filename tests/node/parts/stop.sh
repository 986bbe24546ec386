# shellcheck shell=bash disable=SC2016
# SIGTERM: lameduck, then the end, with status 0.
p=$(dns_pods | head -1) start=$(now_ms)
k get pod -n kube-system "$p" -w -o jsonpath='{.status.containerStatuses[0].state}{"\n"}' >"$OUT/stop" 2>/dev/null & watch=$!
kn delete pod "$p" --wait >/dev/null; note "deleted after $(($(now_ms) - start)) ms"
sleep 1; kill $watch; wait $watch 2>/dev/null
is "exit status of the container" "$(grep -o '"exitCode":[0-9]*' "$OUT/stop" | tail -1)" '"exitCode":0'
ready
