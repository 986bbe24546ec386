# shellcheck shell=bash disable=SC2016
# A worker that hangs is replaced by its supervisor: nobody else sees that a process stands still, its socket is open.
# at most 90 s
p=$(dns_pods | head -1) before=$(restarts_of "$p") address=$(address_of "$p")
stopped=$(workers "$p" | head -1)
hang() { [ -n "$stopped" ] && node kill -STOP "$stopped"; sleep 10; }
while_loaded hang 20 hang
read -r lost from to < <(fields lost lost_from lost_to)
note "lost $lost, sent between $from and $to s"
at_most "seconds of one Pod's queries that are lost" "$(python3 -c "print(round($to - $from) if $lost else 0)")" 6
is "wrong" "$(fields wrong)" 0
is "the worker that hung is gone" "$(pids kube-system "$p" "$SERVER" | grep -cx "$stopped")" 0
is "restarts of that Pod" "$(restarts_of "$p")" "$before"
is "it answers again" "$(at "$address" web.uit.svc.cluster.local)" "$(vip_of web)"
like "and says so" "$(kn logs "$p" | grep 'does not beat')" 'killing it'
