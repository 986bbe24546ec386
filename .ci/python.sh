#!/bin/sh
# python.sh VERSION - print the path of a Python, such as 3.14. One that is not installed is taken from
# Debian's archive (unstable has the newest two) and kept in the cache, outside of the system.
set -eu

version=${1:?usage: python.sh VERSION}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/clusterdns-tests
root=$cache/python$version

# What an interpreter with ssl and ctypes is linked with, and Python.h.
packages="python$version python$version-minimal
    libpython$version-minimal libpython$version-stdlib libpython$version-dev libpython$version
    libc6 libgcc-s1 zlib1g libexpat1 libffi8 libssl3t64 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libzstd1"

installed() {
    for each in "$(command -v "python$version" || true)" "$HOME/.pyenv/versions/$version".*/bin/python"$version" \
        "$root/usr/bin/python$version"; do
        if "$each" -c 'import ssl' 2>/dev/null; then
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
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$work/sources.list"
    private="-o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::Lists=$work/lists
        -o Dir::Cache=$work -o APT::Sandbox::User=root -q"
    cd "$work/debs"
    # shellcheck disable=SC2086  # options and names
    apt-get $private update >/dev/null && apt-get $private download $packages >/dev/null
}

# It finds its modules from where it lies, and its libraries, of a newer release than ours, beside them.
unpack() {
    mkdir -p "$work/root"
    for each in "$work"/debs/*.deb; do dpkg-deb -x "$each" "$work/root"; done
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

installed
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(download)
unpack
installed
exit 1
