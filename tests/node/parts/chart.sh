# shellcheck shell=bash disable=SC2016
# The Helm chart: takes kubeadm's objects over while clients ask, is upgraded, and leaves them when it is uninstalled.
# at most 240 s
chart=$DEPLOY/helm/clusterdns
helm_() { node helm -n kube-system "$@"; }
values=(-f "$chart/values-kubeadm.yaml" --set "image.repository=clusterdns,image.tag=latest,service.clusterIP=$DNS_IP")
install() { helm_ install coredns "$chart" "${values[@]}" --take-ownership --wait --timeout 60s; }
under_load helm-install 25 install
like "its notes" "$(tr '\n' ' ' <"$OUT/helm-install.out")" 'Kubelets must hand out 10.96.0.10'
until_settled
is "who manages the Deployment" "$(kn get deployment coredns -o jsonpath='{.metadata.labels.app\.kubernetes\.io/managed-by}')" Helm
upgrade() { helm_ upgrade coredns "$chart" "${values[@]}" --set-string podAnnotations.turn=2 --wait --timeout 60s; }
under_load helm-upgrade 25 upgrade
until_settled
back() { helm_ rollback coredns 1 --wait --timeout 60s; }
under_load helm-rollback 25 back
until_settled
helm_ uninstall coredns >/dev/null 2>&1; is "helm uninstall" $? 0
is "names still resolve" "$(short web.uit.svc.cluster.local)" "$(vip_of web)"
# beside the cluster's own, with a zone and no cluster
helm_ install beside "$chart" -f "$chart/ci/beside-values.yaml" --set image.repository=clusterdns,image.tag=latest --wait --timeout 60s >"$OUT/beside" 2>&1; is "helm install beside it" $? 0
question=$(sed -n 's/^ *dig +tcp @127.0.0.1 -p 1053 //p' "$OUT/beside"); note "its notes ask: $question"
address=$(kn get service lab-dns -o jsonpath='{.spec.clusterIP}')
# shellcheck disable=SC2086  # a name and a type
like "what its notes ask for" "$(pod glibc -- dig +tcp +time=2 +tries=1 "@$address" $question | sed -n 's/.*status: \([A-Z]*\),.*/\1/p')" NOERROR
helm_ uninstall beside >/dev/null 2>&1
kn delete deployment coredns --wait >/dev/null; gone; restore
