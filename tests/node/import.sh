#!/bin/bash
# import.sh [NAME...] - put the images into the node's containerd under the names that Pods ask for. Runs in the node.
set -eu
# shellcheck source=SCRIPTDIR/env.sh
. "$(dirname "$0")/env.sh"
if [ $# -eq 0 ]; then
    for tar in "$IMAGES"/*.tar; do tar=${tar##*/}; set -- "$@" "${tar%.tar}"; done
fi
c() { ctr -n k8s.io images "$@"; }
for name; do
    c import --all-platforms "$IMAGES/$name.tar" >/dev/null
done
alias() { for to in "${@:2}"; do c tag --force "$1" "$to" >/dev/null 2>&1 || echo "no $1"; done; }
# The names that Kubernetes' e2e tests and the manifests ask for.
while read -r from to; do [ -z "$from" ] || alias "$from" "$to"; done <"$HERE/aliases"
c ls -q
