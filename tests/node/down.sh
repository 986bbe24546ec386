#!/bin/bash
# down.sh [--keep] - end the node and everything in it; without --keep its state goes as well.
set -euo pipefail
# shellcheck source=SCRIPTDIR/env.sh
. "$(dirname "$0")/env.sh"
pid=$(cat "$STATE/node.pid" 2>/dev/null) || pid=
if [ -n "$pid" ] && [ "$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)" = "bash $HERE/node-init.sh " ]; then
    kill -KILL "$pid"   # process 1 of its PID namespace: all others end with it, the mounts and networks too
    while [ -d "/proc/$pid" ]; do sleep .2; done
fi
rm -f "$STATE/node.pid"
sleep 1
for c in /sys/fs/cgroup/*/clusterdns-node; do
    for _ in 1 2 3 4 5 6 7 8; do find "$c" -depth -type d -exec rmdir {} + 2>/dev/null && break; sleep .3; done
done
[ "${1:-}" = --keep ] || rm -rf "$STATE"
[ -e /sys/fs/cgroup/memory/clusterdns-node ] && { say "cgroups are left"; exit 1; }
say "down"
