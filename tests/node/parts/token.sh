# shellcheck shell=bash disable=SC2016
# A ServiceAccount token of ten minutes, the shortest that there is: kubelet rotates it after eight, and when the first has ended, the
# API server is restarted and every watch opened anew. Twelve minutes, so it runs by its name only.
# at most 900 s
patch='{"spec":{"template":{"spec":{"automountServiceAccountToken":false,"containers":[{"name":"coredns","volumeMounts":[{"name":"api","mountPath":"/var/run/secrets/kubernetes.io/serviceaccount","readOnly":true}]}],"volumes":[{"name":"api","projected":{"sources":[{"serviceAccountToken":{"path":"token","expirationSeconds":600}},{"configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"ca.crt"}]}},{"downwardAPI":{"items":[{"path":"namespace","fieldRef":{"fieldPath":"metadata.namespace"}}]}}]}}]}}}}'
kn patch deployment coredns -p "$patch" >/dev/null; ready; until_settled
p=$(dns_pods | head -1) first=$(pids kube-system "$(dns_pods | head -1)" "$SERVER" | head -1)
token() { node cat "/proc/$first/root/var/run/secrets/kubernetes.io/serviceaccount/token"; }
expiry() { token | cut -d. -f2 | python3 -c 'import base64,json,sys; t=sys.stdin.read().strip(); print(json.loads(base64.urlsafe_b64decode(t + "=" * (-len(t) % 4)))["exp"])'; }
was=$(expiry); note "the first token ends in $((was - $(date +%s))) s"
later() { [ "$(expiry)" -gt "$was" ] && echo yes; }
until_is 660 "kubelet has rotated the token" yes later
sleep $((was - $(date +%s) + 15))
end() { node pkill -KILL -o kube-apiserver; sleep 15; }
under_load restart-after-the-first-token 25 end
until_is 60 "the API server is back" ok k get --raw /readyz
k -n uit create service clusterip rotated --tcp=80 >/dev/null
until_is 8 "a Service made with the second token" "$(vip_of rotated)" at "$(address_of "$p")" rotated.uit.svc.cluster.local
k -n uit delete service rotated >/dev/null
at_most "refused for its token" "$(kn logs "$p" | grep -c 'Unauthorized\|401')" 1
kn delete deployment coredns --wait >/dev/null; gone; restore
