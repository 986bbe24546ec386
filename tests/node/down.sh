#!/bin/bash
# down.sh [--keep] - end the node and everything in it; without --keep its state goes as well. Also what is left of one that was
# started halfway, or whose scripts were killed: all its processes are in the cgroups that up.sh made.
set -euo pipefail
# shellcheck source=SCRIPTDIR/env.sh
. "$(dirname "$0")/env.sh"
pid=$(cat "$STATE/node.pid" 2>/dev/null) || pid=
if [ -n "$pid" ] && [ "$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)" = "bash $HERE/node-init.sh " ]; then
    kill -KILL "$pid" || true  # process 1 of its PID namespace: all others end with it, the mounts and networks too
fi
members() { find /sys/fs/cgroup/*/clusterdns-node -name cgroup.procs -exec cat {} + 2>/dev/null | sort -un | grep -vx "$$" || true; }
for _ in $(seq 50); do
    found=$(members)
    [ -n "$found" ] || break
    for each in $found; do kill -KILL "$each" 2>/dev/null || true; done
    sleep .2
done
rm -f "$STATE/node.pid"
for c in /sys/fs/cgroup/*/clusterdns-node; do
    for _ in 1 2 3 4 5 6 7 8; do find "$c" -depth -type d -exec rmdir {} + 2>/dev/null && break; sleep .3; done
done
[ "${1:-}" = --keep ] || rm -rf "$STATE"
! ls -d /sys/fs/cgroup/*/clusterdns-node >/dev/null 2>&1 || die "cgroups are left"
say "down"
