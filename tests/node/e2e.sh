#!/bin/bash
# e2e.sh [FOCUS [SKIP]] - the e2e tests of Kubernetes itself that are about DNS, against the cluster that up.sh started and whatever
# serves its DNS. Report in state/e2e/. Images: agnhost and jessie-dnsutils are those that images.sh makes.
set -uo pipefail
# shellcheck source=SCRIPTDIR/env.sh
. "$(dirname "$0")/env.sh"
[ -x "$BIN/e2e.test" ] || die "no e2e.test: build.sh e2e.test"
focus=${1:-'\[sig-network\] DNS|Services should be able to change the type from|service.kubernetes.io/headless'}
skip=${2:-'PerformanceDNS'}
out=$STATE/e2e/${NAME:-dns}; mkdir -p "$out"
start=$(date +%s)
node "$BIN/e2e.test" --provider=local --kubeconfig="$STATE/pki/admin.kubeconfig" --kubectl-path="$BIN/kubectl" --num-nodes=1 \
    --report-dir="$out" --dump-logs-on-failure=false --node-os-distro=debian --allowed-not-ready-nodes=0 \
    --ginkgo.focus="$focus" --ginkgo.skip="$skip" --ginkgo.no-color --ginkgo.v --ginkgo.timeout="${LIMIT:-20m}" >"$out/log" 2>&1
rc=$?
grep -E '^(Ran|PASS|FAIL|SUCCESS)|Passed \|' "$out/log" | tail -3
python3 - "$out" <<'P' | tee "$out/results"
import glob, sys, xml.etree.ElementTree as E
n = {"passed": 0, "failed": 0}
for path in glob.glob(sys.argv[1] + "/junit*.xml"):
    for case in E.parse(path).iter("testcase"):
        if case.get("status") in ("skipped", "pending") or case.find("skipped") is not None or not case.get("name").startswith("[It]"): continue
        bad = case.find("failure") is not None or case.find("error") is not None
        n["failed" if bad else "passed"] += 1
        print("not ok" if bad else "ok", f"{float(case.get('time')):6.1f} s", case.get("name")[5:])
print(f"{n['passed']} passed, {n['failed']} failed")
P
say "$(($(date +%s) - start)) s; log $out/log"
exit $rc
