#!/bin/bash
# run.sh [PART...] - all of it: build what is missing, start a node, run parts there, end it; prints 'N passed, N failed' last.
#
# Without parts: all that take less than ten minutes, with kube-proxy's iptables mode, and what kube-proxy has a say in with its nftables
# mode too. `ci`: what fits into CI. `e2e`: Kubernetes' own tests of DNS. Parts that failed run once more, on a fresh node. Every step has
# a time limit. However this script ends, also when it is killed, guard.sh ends everything that it started.
# A machine that cannot run a node (probe.sh): one line, and failure; in CI (CI=true) that is no failure.
set -uo pipefail
# shellcheck source=SCRIPTDIR/env.sh
. "$(dirname "$0")/env.sh"
ALL="deploy names transport live reload restart stop kill hang watcher api cut attack memory switch overlays chart lab nodelocal"
FLOWS="deploy restart switch"  # where the mode of kube-proxy counts
CI_PARTS="deploy names transport live restart hang watcher switch lab nodelocal"
CI_FLOWS="deploy restart"
NEEDED="containerd runc iptables nft conntrack ipset ethtool socat buildah mmdebstrap musl-gcc busybox setcap etcd openssl curl gcc"
case "${1:-}" in
    "") parts=$ALL flows=$FLOWS ;;
    ci) parts=$CI_PARTS flows=$CI_FLOWS ;;
    *) parts=$* flows= ;;
esac
[[ "$parts" = deploy* || "$parts" = e2e ]] || parts="deploy $parts"

if ! lack=$("$HERE/probe.sh"); then
    echo "$lack"
    if [ -n "${CI:-}" ]; then exit 0; else exit 1; fi
fi
missing=
for program in $NEEDED; do command -v "$program" >/dev/null || missing="$missing $program"; done
[ -e /usr/lib/cni/bridge ] || missing="$missing /usr/lib/cni/bridge"
[ -z "$missing" ] || die "missing:$missing; README.md has the packages"

# ---- one run at a time; what it starts has the word NODE_RUN in its environment, by which the guard finds it
mkdir -p "$CACHE"
exec 8>"$CACHE/node.lock"
flock -w 120 8 || die "another node runs on this machine"
NODE_RUN=$$-$(date +%s)
guard() { exec setsid env -u NODE_RUN bash "$HERE/guard.sh" "$NODE_RUN" "$@" </dev/null >/dev/null 2>&1; }
guard $$ & guarding=$! # it keeps the lock until it has cleaned up
export NODE_RUN
finish() { kill $guarding 2>/dev/null; (guard); }
trap finish EXIT
trap 'exit 130' INT TERM
"$HERE/down.sh" >/dev/null 2>&1 # what a machine that went down in between has left
mounts() { cut -d' ' -f5 /proc/self/mountinfo | sort; }
mounts_before=$(mounts) started=$(date +%s)
run() { "$@" 8>&- & wait $!; } # a signal is heeded at once
step() { # step SECONDS WHAT COMMAND...
    local seconds=$1 what=$2 begun; begun=$(date +%s); shift 2
    run timeout -k 5 "$seconds" "$@" || { say "$what failed after $(($(date +%s) - begun)) s of at most $seconds"; return 1; }
    say "$what: $(($(date +%s) - begun)) s"
}

# ---- attempts
passed=0 failed=0 again=0
export RESULTS
lines() { cat "$RESULTS"/*.tap 2>/dev/null | grep -c "^$1 - "; }
count() { passed=$((passed + $(lines ok))) failed=$((failed + $(lines "not ok"))); }
# attempt MODE PART... : on a fresh node; what failed stands in RESULTS/failed
attempt() {
    local mode=$1; shift
    rm -rf "$RESULTS"; mkdir -p "$RESULTS"; printf '%s\n' "$@" >"$RESULTS/failed"
    "$HERE/down.sh" >/dev/null 2>&1
    PROXY_MODE=$mode step 150 "node, kube-proxy $mode" "$HERE/up.sh" || return 1
    if [ "$*" = e2e ]; then e2e; else run "$HERE/test.sh" "$@"; fi
}
e2e() {
    run "$HERE/test.sh" deploy || return 1
    echo e2e >"$RESULTS/failed"
    step 1500 "Kubernetes' tests" "$HERE/e2e.sh" && : >"$RESULTS/failed"
    sed -n 's/^\(not ok\|ok\) /\1 - /p' "$STATE/e2e/dns/results" >"$RESULTS/e2e.tap"
    ! grep -q . "$RESULTS/failed"
}
# in_mode MODE PART... : with a second attempt for what fails, which is what counts
in_mode() {
    local mode=$1 each more; shift
    RESULTS=$CACHE/node-results/$mode
    if attempt "$mode" "$@"; then count; return; fi
    mapfile -t more < <(grep . "$RESULTS/failed")
    for each in "${more[@]}"; do rm -f "$RESULTS/$each.tap"; done
    count
    echo "# once more, on a fresh node: ${more[*]}"
    again=$((again + ${#more[@]}))
    [[ " ${more[*]} " = *" deploy "* || "${more[*]}" = e2e ]] || more=(deploy "${more[@]}")
    RESULTS=$CACHE/node-results/$mode-again
    attempt "$mode" "${more[@]}" || [ $failed -gt 0 ] || [ "$(lines "not ok")" -gt 0 ] || failed=1 # a node that does not start says nothing
    count
}

step 1200 "Kubernetes' programs" "$HERE/build.sh" || exit 1
[ "$parts" != e2e ] || step 900 "Kubernetes' tests" "$HERE/build.sh" e2e.test || exit 1
step 900 "images" "$HERE/images.sh" || step 900 "images, again" "$HERE/images.sh" || exit 1
# shellcheck disable=SC2086  # words
in_mode "$PROXY_MODE" $parts
# shellcheck disable=SC2086  # words
[ -z "$flows" ] || in_mode nftables $flows

"$HERE/down.sh" >/dev/null 2>&1
left=$(diff <(echo "$mounts_before") <(mounts) | grep '^>'; ls -d /sys/fs/cgroup/*/clusterdns-node 2>/dev/null; pgrep -f "^bash $HERE/node-init.sh")
if [ -z "$left" ]; then passed=$((passed + 1)); else failed=$((failed + 1)); printf 'not ok - nothing is left of the node: %s\n' "$left"; fi
echo "# $again parts ran twice; $(($(date +%s) - started)) s"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
