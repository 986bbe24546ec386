# shellcheck shell=bash disable=SC2016
# A ConfigMap that changes reaches the Pods as a link that kubelet moves.
# at most 330 s
corefile() { kn get configmap coredns -o jsonpath='{.data.Corefile}'; }
edit_corefile() { kn create configmap coredns --from-file=Corefile=/dev/stdin --dry-run=client -o yaml | kn replace -f - >/dev/null; }
ttls() { local a; for a in $(dns_addresses); do pod glibc -- dig +time=2 +tries=1 "@$a" +noall +answer web.uit.svc.cluster.local | awk '{print $2}'; done | sorted; }
refusals() { kn logs -l k8s-app=kube-dns --tail=30 | grep -c 'Reload failed'; }
was=$(corefile) restarted=$(restarts)
printf '%s\n' "${was/ttl 30/ttl 7}" | edit_corefile
until_is 120 "TTL of each Pod after the ConfigMap changed" "7 7" ttls
printf 'nonsense {\n' | edit_corefile
until_is 120 "Pods that refuse a Corefile that is nonsense" 2 refusals
is "and it changes nothing" "$(ttls)" "7 7"
like "and is told with its place" "$(kn logs -l k8s-app=kube-dns --tail=30 | grep -m1 'Reload failed')" 'Corefile:1'
printf '%s' "$was" | edit_corefile
until_is 120 "and back" "30 30" ttls
is "restarts" "$(restarts)" "$restarted"
