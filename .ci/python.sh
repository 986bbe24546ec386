#!/bin/sh
# python.sh VERSION [ARCHITECTURE] - print the path of a Python, such as 3.14. One that is not installed is
# taken from Debian's archive (unstable has the newest two) and kept in the cache, outside of the system.
# That of another architecture, arm64, is always taken from there; qemu-user-static runs it.
set -eu

version=${1:?usage: python.sh VERSION [ARCHITECTURE]}
native=$(dpkg --print-architecture 2>/dev/null || true)
arch=${2:-$native}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/clusterdns-tests
root=$cache/python$version emulator=
if [ "$arch" != "$native" ]; then
    [ "$arch" = arm64 ] || { echo "python.sh: no Python for $arch" >&2; exit 1; }
    root=$root-$arch emulator=qemu-aarch64-static
fi

# Debian's release has this Python itself; it is linked with the release's libraries.
suite=sid libraries="libssl3t64 libzstd1"
if [ "$version" = 3.11 ]; then suite=bookworm libraries=libssl3; fi

# What an interpreter with ssl and ctypes is linked with, and Python.h.
packages="python$version python$version-minimal
    libpython$version-minimal libpython$version-stdlib libpython$version-dev libpython$version
    libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 $libraries"

installed() {
    set -- "$root/usr/bin/python$version"
    [ -n "$emulator" ] || set -- "$(command -v "python$version" || true)" \
        "$HOME/.pyenv/versions/$version".*/bin/python"$version" "$@"
    for each in "$@"; do
        if $emulator "$each" -c 'import ssl' 2>/dev/null; then
            echo "$each"
            exit
        fi
    done
}

# A package index of its own, from where the system's packages come: nothing of the system changes.
download() {
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/debs"
    # shellcheck disable=SC1091,SC2016  # apt-get itself puts the address in
    mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $(. /etc/os-release && echo "$VERSION_CODENAME")" | head -n 1)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
    private="-o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::Lists=$work/lists
        -o Dir::Cache=$work -o APT::Sandbox::User=root -o APT::Architecture=$arch -o APT::Architectures::=$arch -q"
    cd "$work/debs"
    # shellcheck disable=SC2086  # options and names
    apt-get $private update >/dev/null && apt-get $private download $packages >/dev/null
}

# It finds its modules from where it lies, and its libraries, of a newer release than ours, beside them.
unpack() {
    mkdir -p "$work/root"
    for each in "$work"/debs/*.deb; do dpkg-deb -x "$each" "$work/root"; done
    merge_folders
    libraries=$(dirname "$(find "$work/root/usr/lib" -name 'libc.so.6' | head -n 1)")
    loader=$(find "$libraries" -name 'ld-linux-*' | head -n 1)
    places=$root${libraries#"$work/root"}
    patchelf --set-interpreter "$places/${loader##*/}" --set-rpath "$places" --force-rpath \
        "$work/root/usr/bin/python$version"
    # Debian's leads to the one of an architecture, through the system's folders
    cp "$work/root/usr/include"/*-linux-gnu/"python$version/pyconfig.h" "$work/root/usr/include/python$version/"
    # as a virtual environment has it, Debian's would write into the system
    rm -f "$work/root/usr/lib/python$version/EXTERNALLY-MANAGED"
    rm -rf "$root"
    mkdir -p "$cache"
    mv "$work/root" "$root"
}

# Older packages have files in /lib, which is a link to /usr/lib where they are installed.
merge_folders() {
    [ -d "$work/root/lib" ] && [ ! -L "$work/root/lib" ] || return 0
    cp -a "$work/root/lib/." "$work/root/usr/lib/"
    rm -rf "$work/root/lib"
}

installed
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(download)
unpack
installed
exit 1
