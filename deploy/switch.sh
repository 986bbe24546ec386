#!/bin/sh
# Switch a cluster's DNS from CoreDNS to clusterdns: check, exchange the image, wait, verify.
#
#   deploy/switch.sh [--dry-run] IMAGE
#
# The Deployment, its Service and its ConfigMap stay what they are; only the image changes, Pod by
# Pod. Nothing is changed unless clusterdns can serve the Corefile in place. When the new Pods do
# not become ready, or do not answer, the old image is put back. `deploy/rollback.sh` goes back
# later; --dry-run does all that changes nothing, the API server's own checks included.
#
# From the environment, with what they are otherwise:
#   KUBECTL     kubectl         how to reach the cluster, such as `kubectl --context lab`
#   CLUSTERDNS  clusterdns      how to run its checks here, such as `docker run --rm -i IMAGE`
#   NAMESPACE   kube-system     where the Deployment is
#   DEPLOYMENT  coredns         its name, and that of its container
#   CONFIGMAP   coredns         the ConfigMap with the key Corefile
#   NAME        kubernetes.default.svc.cluster.local   what is looked up to verify
#   VERIFY      (a Pod of IMAGE that looks up NAME)    a command instead, run by sh
#   PYTHON      /usr/bin/python3.11   the interpreter in IMAGE, for that Pod
#   TIMEOUT     180s            how long the Pods may take
#
# Exit status: 0 switched, 1 nothing was changed or all was put back, 2 wrong usage, 3 it could not
# be put back.
set -eu

here=$(dirname "$0")
# shellcheck source=deploy/common.sh
. "$here/common.sh"

read_arguments "$@"
[ -n "$image" ] || usage "deploy/switch.sh [--dry-run] IMAGE"

before=$(image_in_place)
[ -n "$before" ] || fail "deployment/$DEPLOYMENT in $NAMESPACE has no container $DEPLOYMENT"
say "deployment/$DEPLOYMENT in $NAMESPACE runs $before"
if [ "$before" = "$image" ]; then
    say "nothing to do"
    exit 0
fi

say "checking the Corefile of configmap/$CONFIGMAP"
corefile=$($KUBECTL -n "$NAMESPACE" get configmap "$CONFIGMAP" -o yaml) \
    || fail "no configmap/$CONFIGMAP in $NAMESPACE"
printf '%s\n' "$corefile" | $CLUSTERDNS check - \
    || fail "clusterdns cannot serve it; nothing was changed"

if [ -n "$dry_run" ]; then
    exchange "$image" --dry-run=server || fail "the API server refuses; nothing was changed"
    say "dry run: the image would become $image; nothing was changed"
    exit 0
fi

# What rollback.sh goes back to: `rollout undo` would take whatever was there last.
$KUBECTL -n "$NAMESPACE" annotate --overwrite "deployment/$DEPLOYMENT" "$ANNOTATION=$before" \
    || fail "cannot note down the image in place; nothing was changed"
if exchange "$image" && wait_for_pods && verify; then
    say "switched: $before -> $image"
    say "to go back: $here/rollback.sh"
    exit 0
fi
say "putting $before back"
if exchange "$before" && wait_for_pods; then
    fail "not switched: $before is back in place"
fi
say "that failed; do it by hand: $KUBECTL -n $NAMESPACE rollout undo deployment/$DEPLOYMENT"
exit 3
