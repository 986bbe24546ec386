#!/bin/bash
# test.sh PART... - does clusterdns work as the DNS of the cluster that up.sh started? A part is a file of parts/, and runs for as long as
# its third line says at most. Prints TAP, the parts that failed, and last 'N passed, N failed'. The results stay in RESULTS.
set -uo pipefail
# shellcheck source=SCRIPTDIR/env.sh
. "$(dirname "$0")/env.sh"
RESULTS=${RESULTS:-$CACHE/node-results}; mkdir -p "$RESULTS"
count=0 passed=0 bad=()
for part; do
    file=$HERE/parts/$part.sh; results=$RESULTS/$part.tap
    [ -e "$file" ] || die "no part $part: $(cd "$HERE/parts" && echo *.sh | sed 's/\.sh//g')"
    limit=$(sed -n 's/^# at most \([0-9]*\) s$/\1/p' "$file"); start=$(date +%s)
    timeout -k 5 "${limit:-120}" bash "$HERE/part.sh" "$part" >"$results" 2>"$RESULTS/$part.err" </dev/null
    grep -qx "# end of $part" "$results" || echo "not ok - $part: ended early, after $(($(date +%s) - start)) s of at most ${limit:-120}: $(tail -1 "$RESULTS/$part.err")" >>"$results"
    echo "# --- $part, $(($(date +%s) - start)) s"
    awk -v n="$count" '/^(not )?ok - /{n++; sub(/ok - /, "ok " n " - ")} !/^# end of /' "$results"
    count=$((count + $(grep -cE '^(not )?ok - ' "$results"))); passed=$((passed + $(grep -c '^ok - ' "$results")))
    ! grep -q '^not ok - ' "$results" || bad+=("$part")
done
printf '%s\n' "${bad[@]}" >"$RESULTS/failed"
[ ${#bad[@]} -eq 0 ] || echo "# failed: ${bad[*]}"
echo "$passed passed, $((count - passed)) failed"
[ ${#bad[@]} -eq 0 ]
