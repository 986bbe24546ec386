#!/bin/bash
# build.sh [NAME...] - build Kubernetes' programs and CoreDNS from Go modules. Without names: all that a node needs.
set -euo pipefail
# shellcheck source=SCRIPTDIR/env.sh
. "$(dirname "$0")/env.sh"
mkdir -p "$BIN"
cd "$BIN/.."
exec 9>lock; flock 9
export CGO_ENABLED=0 GOFLAGS="-mod=mod -buildvcs=false"
if [ ! -e go.mod ]; then
    go mod init clusterdns-node 2>/dev/null
    go mod edit -require="k8s.io/kubernetes@v$K8S"
    mod=$(go mod download -json "k8s.io/kubernetes@v$K8S" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
    staging=v0.${K8S#1.}
    sed -nE 's/^[[:space:]]+(k8s\.io\/[a-z0-9-]+) => \.\/staging.*/\1/p' "$mod" | while read -r m; do
        go mod edit -replace="$m=$m@$staging"
    done
fi
x="-s -w"
for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    x="$x -X $p.gitVersion=v$K8S -X $p.gitMajor=1 -X $p.gitMinor=$(echo "$K8S" | cut -d. -f2) -X $p.gitTreeState=clean -X $p.gitCommit=unknown"
done
[ $# -gt 0 ] || set -- kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl agnhost coredns
for name; do
    [ ! -x "$BIN/$name" ] || continue
    start=$(date +%s)
    out=$BIN/$name.new
    case $name in
        agnhost) go build -ldflags "$x" -o "$out" k8s.io/kubernetes/test/images/agnhost ;;
        e2e.test) go test -c -vet=off -ldflags "$x" -o "$out" k8s.io/kubernetes/test/e2e ;;
        ginkgo) go build -ldflags "$x" -o "$out" github.com/onsi/ginkgo/v2/ginkgo ;;
        coredns) # static: CGO_ENABLED=0; the tests of the peer have built it so
            [ ! -x "$CACHE/coredns-$COREDNS_VERSION" ] || cp "$CACHE/coredns-$COREDNS_VERSION" "$out"
            [ -x "$out" ] || GOFLAGS=-buildvcs=false GOBIN=$BIN go install "github.com/coredns/coredns@$COREDNS_VERSION" ;;
        helm) GOFLAGS=-buildvcs=false GOBIN=$BIN go install helm.sh/helm/v3/cmd/helm@"${HELM_VERSION:-v3.19.0}" ;;
        *) go build -ldflags "$x" -o "$out" "k8s.io/kubernetes/cmd/$name" ;;
    esac
    [ ! -e "$out" ] || mv "$out" "$BIN/$name"  # whole, or not at all
    say "built $name: $(($(date +%s) - start)) s, $(du -m "$BIN/$name" | cut -f1) MiB"
done
