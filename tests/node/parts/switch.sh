# shellcheck shell=bash disable=SC2016
# From a real CoreDNS to clusterdns and back, by the product's own scripts, while clients ask.
# at most 330 s
export KUBECTL=$HERE/kubectl CLUSTERDNS=${CLUSTERDNS:-clusterdns}
image_now() { kn get deployment coredns -o jsonpath='{.spec.template.spec.containers[0].image}'; }
kn set image deployment/coredns coredns="$COREDNS_IMAGE" >/dev/null; ready; until_settled
is "starts from" "$(image_now)" "$COREDNS_IMAGE"
"$DEPLOY/switch.sh" --dry-run "$IMAGE" >"$OUT/dry" 2>&1; is "switch.sh --dry-run" $? 0
under_load switch 40 "$DEPLOY/switch.sh" "$IMAGE"
sed 's/^/# switch: /' "$OUT/switch.out"
is "runs now" "$(image_now)" "$IMAGE"
until_settled
under_load rollback 40 "$DEPLOY/rollback.sh"
sed 's/^/# rollback: /' "$OUT/rollback.out"
is "runs again" "$(image_now)" "$COREDNS_IMAGE"
until_settled
fails() { ! TIMEOUT=20s "$DEPLOY/switch.sh" registry.example/clusterdns:broken; }
under_load switch-to-an-image-that-is-not-there 45 fails
sed 's/^/# broken: /' "$OUT/switch-to-an-image-that-is-not-there.out"
is "CoreDNS is back" "$(image_now)" "$COREDNS_IMAGE"
restore
