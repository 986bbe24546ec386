# shellcheck shell=bash disable=SC2016
# kube-apiserver is stopped for 30 s, and killed: names go on resolving, and what changes afterwards is seen.
# at most 200 s
outage() { local pid; pid=$(node pgrep -o kube-apiserver); node kill -STOP "$pid"; sleep 30; node kill -CONT "$pid"; }
under_load api-outage 40 outage
until_is 30 "the API server is back" ok k get --raw /readyz
k -n uit create service clusterip after --tcp=80 >/dev/null
until_is 6 "a Service made after the outage" "$(vip_of after)" short after.uit.svc.cluster.local
end() { node pkill -KILL -o kube-apiserver; sleep 15; }
under_load api-restart 25 end
until_is 60 "it is back again" ok k get --raw /readyz
k -n uit create service clusterip after2 --tcp=80 >/dev/null
until_is 8 "a Service made after a restart" "$(vip_of after2)" short after2.uit.svc.cluster.local
k -n uit delete service after after2 >/dev/null
