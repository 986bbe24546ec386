# shellcheck shell=bash disable=SC2016
# Too little memory: killed by the kernel, told as OOMKilled, started again, and the Pod that is left serves on.
# at most 200 s
starve() { kn set resources deployment/coredns --requests=memory=10Mi --limits=memory="${LITTLE:-24Mi}"; sleep 30; }
under_load too-little-memory 36 starve
kn get pods -l k8s-app=kube-dns | sed 's/^/# /'
like "why containers ended" "$(kn get pods -l k8s-app=kube-dns -o jsonpath='{.items[*].status.containerStatuses[*].lastState.terminated.reason}')" 'OOMKilled'
restore; is "back" $? 0
until_is 20 "Pods" 2 pods
