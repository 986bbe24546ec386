# shellcheck shell=bash disable=SC2016
# Kubelet asks a strict liveness probe while a Pod attacks: no container is restarted, others get their answers.
# at most 200 s
strict='{"spec":{"template":{"spec":{"containers":[{"name":"coredns","livenessProbe":{"initialDelaySeconds":1,"periodSeconds":1,"timeoutSeconds":1,"failureThreshold":3}}]}}}}'
kn patch deployment coredns -p "$strict" >/dev/null; ready; until_settled
attack() { node nsenter -n -t "$(pids uit "$attacker" agnhost | head -1)" python3 "$HERE/attack.py" "$DNS_IP" 25; }
attacker=$(k -n uit get pods -l app=web -o jsonpath='{.items[0].metadata.name}')
RATE=200 while_loaded attack 32 attack
sed 's/^/# attack: /' "$OUT/attack.out"
read -r sent lost wrong < <(fields sent lost wrong)
at_most "lost of $sent queries of another Pod, in a hundred" $((lost * 100 / sent)) 1
is "wrong" "$wrong" 0
is "restarts" "$(restarts)" "0 0"
is "unhealthy by the liveness probe" "$(kn get events --field-selector reason=Unhealthy -o jsonpath='{range .items[*]}{.message}{"\n"}{end}' | grep -c Liveness)" 0
for a in $(dns_addresses); do is "panics of $a" "$(metric "$a" coredns_panics_total)" 0; done
restore
