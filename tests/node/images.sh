#!/bin/bash
# images.sh [NAME...] - make the images a node needs, without any registry of images: OCI archives.
# Names: base pause clusterdns coredns tools alpine busybox. clusterdns is the product's own Dockerfile, run by buildah.
set -euo pipefail
# shellcheck source=SCRIPTDIR/env.sh
. "$(dirname "$0")/env.sh"
# In namespaces of its own: however it ends, no process and no mount of a build is left.
if [ -z "${IMAGES_INSIDE:-}" ]; then
    IMAGES_INSIDE=1 exec unshare --mount --pid --fork --kill-child --mount-proc bash "$HERE/images.sh" "$@"
fi
mkdir -p "$IMAGES"
exec 9>"$IMAGES/lock"; flock 9
run=$CACHE/run; mkdir -p "$run"
mount -t tmpfs tmpfs "$run"  # what is only for a moment, also which layers buildah believes to be mounted
B=(buildah --root "$CACHE/storage" --runroot "$run" --storage-driver "${STORAGE:-overlay}")
# The host's own settings of apt and pip, for a build inside: mirrors, proxies, their certificates.
HOSTED=(-v /etc/apt:/etc/apt:ro -v /etc/ssl/certs:/etc/ssl/certs:ro -v /usr/local/share/ca-certificates:/usr/local/share/ca-certificates:ro)
[ ! -e /etc/pip.conf ] || HOSTED+=(-v /etc/pip.conf:/etc/pip.conf:ro)
[ ! -d /usr/share/ca-certificates ] || HOSTED+=(-v /usr/share/ca-certificates:/usr/share/ca-certificates:ro)
save() { rm -f "$IMAGES/$1.new"; "${B[@]}" push -q "$2" "oci-archive:$IMAGES/$1.new:$2"; mv "$IMAGES/$1.new" "$IMAGES/$1.tar"; }
scratch() { # scratch NAME TAG COPY-DIR [CONFIG...] : an image of one directory
    local c; c=$("${B[@]}" from scratch)
    "${B[@]}" add -q "$c" "$3" / >/dev/null; local name=$1 tag=$2; shift 3
    [ $# -eq 0 ] || "${B[@]}" config "$@" "$c"
    "${B[@]}" commit -q --rm "$c" "$tag" >/dev/null; save "$name" "$tag"
}
make_base() {
    local f options=(--aptopt='APT::Sandbox::User "root"')
    for f in /etc/apt/apt.conf.d/99*; do [ ! -e "$f" ] || options+=("--aptopt=$f"); done
    if [ ! -e "$CACHE/debian-12.tar" ]; then
        TMPDIR=$run mmdebstrap --quiet --variant=minbase "${options[@]}" --include=ca-certificates bookworm "$run/debian.tar" /etc/apt/sources.list.d/debian.sources
        mv "$run/debian.tar" "$CACHE/debian-12.tar"
    fi
    local c; c=$("${B[@]}" from scratch)
    "${B[@]}" add -q "$c" "$CACHE/debian-12.tar" / >/dev/null
    "${B[@]}" config --cmd bash "$c"
    "${B[@]}" commit -q --rm "$c" docker.io/library/debian:12-slim >/dev/null
    save base docker.io/library/debian:12-slim
}
make_pause() {
    local d; d=$(mktemp -d -p "$run"); gcc -O2 -static -s "$HERE/images.d/pause.c" -o "$d/pause"; chmod 755 "$d"
    scratch pause registry.k8s.io/pause:3.10 "$d" --entrypoint '["/pause"]' --user 65535:65535; rm -r "$d"
}
make_clusterdns() { # the product's Dockerfile as it is
    "${B[@]}" bud --isolation chroot --network host --pull-never --layers "${HOSTED[@]}" \
        --build-arg SOURCE_DATE_EPOCH="$(git -C "$SOURCE" log -1 --format=%ct)" -t docker.io/library/clusterdns:latest "$SOURCE" \
        >"$CACHE/clusterdns-build.log" 2>&1 || { tail -30 "$CACHE/clusterdns-build.log" >&2; return 1; }
    save clusterdns docker.io/library/clusterdns:latest
}
make_coredns() {
    local d; d=$(mktemp -d -p "$run"); chmod 755 "$d"; mkdir -p "$d/etc/ssl/certs"; cp "$BIN/coredns" "$d/coredns"
    cp /etc/ssl/certs/ca-certificates.crt "$d/etc/ssl/certs/"; setcap cap_net_bind_service=+ep "$d/coredns"
    scratch coredns registry.k8s.io/coredns/coredns:v1.15.0 "$d" --entrypoint '["/coredns"]' --user 65532:65532 --workingdir /; rm -r "$d"
}
make_dnsutils() { # what make_tools builds on
    local c; c=$("${B[@]}" from --pull-never docker.io/library/debian:12-slim)
    "${B[@]}" run --isolation chroot --network host "${HOSTED[@]}" "$c" -- sh -ec \
        'apt-get -q update >/dev/null; apt-get -q install -y --no-install-recommends bind9-dnsutils bind9-host curl wget iproute2 dnsperf procps netcat-openbsd python3-minimal libpython3-stdlib >/dev/null; rm -rf /var/lib/apt/lists/*' >"$CACHE/tools-build.log" 2>&1
    "${B[@]}" commit -q --rm "$c" localhost/dnsutils:1 >/dev/null
}
make_tools() { # stands in for agnhost and jessie-dnsutils: glibc, dig, getent, curl, dnsperf, agnhost, CoreDNS
    "${B[@]}" inspect localhost/dnsutils:1 >/dev/null 2>&1 || make_dnsutils
    local c d; c=$("${B[@]}" from --pull-never localhost/dnsutils:1)
    d=$(mktemp -d -p "$run"); chmod 755 "$d"; cp "$BIN/agnhost" "$d/agnhost"; ln -s agnhost "$d/agnhost-2"; cp "$BIN/coredns" "$d/coredns"
    mkdir "$d/uploads"; chmod 1777 "$d/uploads"
    musl-gcc -O2 -static -s "$HERE/images.d/getent.c" -o "$d/getent-musl"
    "${B[@]}" copy -q "$c" "$d" / >/dev/null; rm -r "$d"
    "${B[@]}" config --entrypoint '["/agnhost"]' --cmd pause "$c"
    "${B[@]}" commit -q --rm "$c" localhost/tools:1 >/dev/null
    save tools localhost/tools:1
}
make_alpine() { # stands in for alpine: busybox, and getent through musl
    local d; d=$(mktemp -d -p "$run"); chmod 755 "$d"; mkdir -p "$d/bin" "$d/usr/bin" "$d/etc" "$d/tmp"
    cp /bin/busybox "$d/bin/"; for a in sh sleep cat ls ip nslookup wget; do ln -s busybox "$d/bin/$a"; done
    musl-gcc -O2 -static -s "$HERE/images.d/getent.c" -o "$d/usr/bin/getent"
    scratch alpine docker.io/library/alpine:3.22 "$d" --cmd /bin/sh; rm -r "$d"
}
make_busybox() {
    local d; d=$(mktemp -d -p "$run"); chmod 755 "$d"; mkdir -p "$d/bin" "$d/etc" "$d/tmp"
    cp /bin/busybox "$d/bin/"; for a in $(/bin/busybox --list); do [ "$a" = busybox ] || ln -s busybox "$d/bin/$a"; done
    scratch busybox docker.io/library/busybox:1.37 "$d" --cmd sh; rm -r "$d"
}
[ $# -gt 0 ] || set -- base pause clusterdns coredns tools alpine busybox
# What an image is made of: that of clusterdns is of today's tree, the others of what stands here.
key() {
    if [ "$1" = clusterdns ]; then
        (cd "$SOURCE" && find Dockerfile deploy/image clusterdns zones pyproject.toml setup.py README.md LICENSE -type f ! -name '*.so' ! -name '*.pyc' -print0 |
            sort -z | xargs -0 sha256sum)
    else
        echo "$K8S $COREDNS_VERSION"; declare -f "make_$1"; cat "$HERE"/images.d/*
    fi | sha256sum | cut -c1-16
}
"${B[@]}" rm -a >/dev/null 2>&1 || true  # of a build that was killed
for name; do
    key=$(key "$name")
    [ ! -e "$IMAGES/$name.tar" ] || [ "$(cat "$IMAGES/$name.key" 2>/dev/null)" != "$key" ] || continue
    rm -f "$IMAGES/$name.key"
    start=$(date +%s); "make_$name"; echo "$key" >"$IMAGES/$name.key"
    say "image $name: $(($(date +%s) - start)) s, $( (du -m "$IMAGES/$name.tar" 2>/dev/null || echo 0) | cut -f1) MiB"
done
