# shellcheck shell=bash disable=SC2016
# A rolling restart, a deletion, scaling up and down lose nothing: half a second's flows would be 250 queries.
# at most 200 s
rolling() { kn rollout restart deployment/coredns && ready; }
under_load rolling-restart 32 rolling
delete_one() { kn delete pod "$(dns_pods | head -1)" --wait && ready; }
under_load delete-pod 22 delete_one
scale() { kn scale deployment coredns --replicas=4 && ready && sleep 3 && kn scale deployment coredns --replicas=2; }
under_load scale 30 scale
until_settled
