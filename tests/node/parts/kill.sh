# shellcheck shell=bash disable=SC2016
# Without warning. What the Pod was answering at that moment is lost, and what flows to it until kubelet or the supervisor acts.
# at most 180 s
p=$(dns_pods | head -1) before=$(restarts_of "$p")
# the container's first process: kubelet starts it again, the other Pod serves on
kill_first() { node kill -KILL "$(pids kube-system "$p" "$SERVER" | head -1)"; sleep 8; ready; }
while_loaded sigkill-of-a-container 20 kill_first
is "restarts of that Pod" "$(restarts_of "$p")" $((before + 1))
is "wrong" "$(fields wrong)" 0
# its children: it starts them again itself
kill_children() { local pid; for pid in $(pids kube-system "$p" "$SERVER" | tail -n +2); do node kill -KILL "$pid"; done; sleep 5; }
while_loaded sigkill-of-the-children 12 kill_children
is "restarts of that Pod, still" "$(restarts_of "$p")" $((before + 1))
is "wrong" "$(fields wrong)" 0
is "it answers again" "$(at "$(address_of "$p")" kubernetes.default.svc.cluster.local)" 10.96.0.1
force() { kn delete pod "$(dns_pods | head -1)" --force --grace-period=0; sleep 6; ready; }
while_loaded delete-by-force 16 force
is "wrong" "$(fields wrong)" 0
until_settled
