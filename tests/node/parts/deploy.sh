# shellcheck shell=bash disable=SC2016
# kubectl apply -k deploy/base, who the process is then and what memory it takes; and the Pods that ask.
# at most 240 s
kn delete deployment coredns --ignore-not-found --wait >/dev/null 2>&1
start=$(now_ms)
k apply -k "$DEPLOY/base" >"$OUT/apply" 2>&1; is "kubectl apply -k deploy/base" $? 0
ready; is "the Deployment is ready" $? 0
note "ready $(($(now_ms) - start)) ms after kubectl apply"
k apply -f "$HERE/workload.yaml" >/dev/null
k -n uit rollout status deployment/web --timeout=90s >/dev/null; k -n uit rollout status statefulset/db --timeout=90s >/dev/null
k -n uit wait pod/glibc pod/musl pod/on-node --for=condition=Ready --timeout=90s >/dev/null; is "clients run" $? 0
is "restarts" "$(restarts)" "0 0"
# As the kernel counts a container's memory, which limits count, and as the processes' shares of pages add up.
memory() {
    local uid; uid=$(kn get pod "$1" -o jsonpath='{.metadata.uid}')
    # shellcheck disable=SC2016
    node sh -c 'for c in /sys/fs/cgroup/memory/kubepods/*/pod'"$uid"'/*/; do
        tr "\0" " " </proc/$(head -1 $c/cgroup.procs)/cmdline | grep -q pause && continue
        for p in $(cat $c/cgroup.procs); do cat /proc/$p/smaps_rollup; done | awk "/^Pss:/{n += \$2} END {printf \"PSS %.0f MiB, \", n / 1024}"
        awk -v l=$(cat $c/memory.limit_in_bytes) -v m=$(cat $c/memory.max_usage_in_bytes) -v i=$(awk "/^total_inactive_file/{print \$2}" $c/memory.stat) \
            "{printf \"cgroup %.0f MiB working set, %.0f at most of %.0f\", (\$1 - i) / 1048576, m / 1048576, l / 1048576}" $c/memory.usage_in_bytes
    done'
}
for p in $(dns_pods); do
    note "$p: $(kn get pod "$p" -o jsonpath='{.status.qosClass} {.status.podIP}'), $(memory "$p")"
    pid=$(pids kube-system "$p" "$SERVER" | head -1)
    is "uid, capabilities, no_new_privs" "$(node awk '/^(Uid|CapEff|CapBnd|NoNewPrivs):/{printf "%s ", $2}' "/proc/$pid/status")" "65532 0000000000000400 0000000000000400 1 "
    like "read-only root" "$(node awk '$5 == "/" {print $6; exit}' "/proc/$pid/mountinfo")" '^ro'
done
kn logs -l k8s-app=kube-dns --tail=20 | sed 's/^/# log: /'
note "image: $(kn get pods -l k8s-app=kube-dns -o jsonpath='{.items[0].status.containerStatuses[0].imageID}')"
