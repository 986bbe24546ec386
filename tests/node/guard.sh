#!/bin/bash
# guard.sh WORD [PID] - when the process PID has ended, end all that it started: processes with NODE_RUN=WORD, and the node.
# run.sh starts it for the case that it is killed, and calls it when it ends.
set -uo pipefail
# shellcheck source=SCRIPTDIR/env.sh
. "$(dirname "$0")/env.sh"
[ $# -lt 2 ] || tail --pid="$2" -f /dev/null
for round in 1 2 3; do  # also what was being started
    for environ in /proc/[0-9]*/environ; do
        pid=${environ#/proc/}; pid=${pid%/environ}
        ! tr '\0' '\n' <"$environ" 2>/dev/null | grep -qx "NODE_RUN=$1" || kill -KILL "$pid" 2>/dev/null
    done
    sleep .$round
done
"$HERE/down.sh"
