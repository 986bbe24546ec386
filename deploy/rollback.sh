#!/bin/sh
# Go back from clusterdns to what deploy/switch.sh found: the image before, Pod by Pod.
#
#   deploy/rollback.sh [--dry-run] [IMAGE]
#
# Without IMAGE it is the one that switch.sh noted down at the Deployment. The environment is as for
# switch.sh, which see. Exit status: 0 gone back, 1 nothing was changed, 2 wrong usage, 3 changed,
# but the Pods do not become ready or do not answer.
set -eu

here=$(dirname "$0")
# shellcheck source=deploy/common.sh
. "$here/common.sh"

read_arguments "$@"
now=$(image_in_place)
[ -n "$now" ] || fail "deployment/$DEPLOYMENT in $NAMESPACE has no container $DEPLOYMENT"
[ -n "$image" ] || image=$(image_noted_down)
[ -n "$image" ] || fail "switch.sh has noted down no image; give one"
say "deployment/$DEPLOYMENT in $NAMESPACE runs $now"
if [ "$now" = "$image" ]; then
    say "nothing to do"
    exit 0
fi
if [ -n "$dry_run" ]; then
    exchange "$image" --dry-run=server || fail "the API server refuses; nothing was changed"
    say "dry run: the image would become $image; nothing was changed"
    exit 0
fi
exchange "$image" || fail "the API server refuses; nothing was changed"
if wait_for_pods && verify; then
    $KUBECTL -n "$NAMESPACE" annotate "deployment/$DEPLOYMENT" "$ANNOTATION-"
    say "gone back: $now -> $image"
    exit 0
fi
say "the image is $image, but it does not serve; look at: $KUBECTL -n $NAMESPACE get pods,events"
exit 3
