# What switch.sh and rollback.sh share. Sourced, not run.
# shellcheck shell=sh disable=SC2034

KUBECTL=${KUBECTL:-kubectl}
CLUSTERDNS=${CLUSTERDNS:-clusterdns}
NAMESPACE=${NAMESPACE:-kube-system}
DEPLOYMENT=${DEPLOYMENT:-coredns}
CONFIGMAP=${CONFIGMAP:-coredns}
NAME=${NAME:-kubernetes.default.svc.cluster.local}
VERIFY=${VERIFY:-}
PYTHON=${PYTHON:-/usr/bin/python3.11}
TIMEOUT=${TIMEOUT:-180s}
ANNOTATION=clusterdns/image-before
image=
dry_run=

say() {
    printf '%s\n' "$*" >&2
}

fail() {
    say "$*"
    exit 1
}

usage() {
    say "usage: $*"
    exit 2
}

# Set `image` and `dry_run`.
read_arguments() {
    for argument in "$@"; do
        case $argument in
            --dry-run) dry_run=yes ;;
            -*) usage "[--dry-run] IMAGE, not $argument" ;;
            *)
                [ -z "$image" ] || usage "[--dry-run] IMAGE, and one of them"
                image=$argument
                ;;
        esac
    done
}

image_in_place() {
    $KUBECTL -n "$NAMESPACE" get deployment "$DEPLOYMENT" -o \
        "jsonpath={.spec.template.spec.containers[?(@.name==\"$DEPLOYMENT\")].image}"
}

image_noted_down() {
    $KUBECTL -n "$NAMESPACE" get deployment "$DEPLOYMENT" -o \
        "jsonpath={.metadata.annotations.clusterdns/image-before}"
}

# exchange IMAGE [FLAG]
exchange() {
    $KUBECTL -n "$NAMESPACE" set image "deployment/$DEPLOYMENT" "$DEPLOYMENT=$1" ${2:+"$2"}
}

wait_for_pods() {
    $KUBECTL -n "$NAMESPACE" rollout status "deployment/$DEPLOYMENT" "--timeout=$TIMEOUT"
}

# Look up a name as a Pod does, through its own resolv.conf, or by the operator's command.
verify() {
    say "verifying: $NAME"
    if [ -n "$VERIFY" ]; then
        sh -c "$VERIFY"
        return
    fi
    # Ours has an interpreter and CoreDNS's has not, so going back is verified by ours as well.
    probe=$image
    [ -z "${now:-}" ] || probe=$now
    $KUBECTL -n "$NAMESPACE" run "clusterdns-verify-$$" --rm -i --restart=Never "--image=$probe" \
        --pod-running-timeout=60s --command -- "$PYTHON" -I -c \
        "import socket; print(*sorted({i[4][0] for i in socket.getaddrinfo('$NAME', None)}))"
}
