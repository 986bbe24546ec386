#!/bin/sh
# assemble.sh OUT [CACHE] - make the image's root file system in OUT: Debian's Python, the packages of
# requirements.txt, clusterdns. No shell, no package manager, nothing that is set-UID.
#
# The Dockerfile runs this in its build stage; run as root on any Debian 12 it gives the same tree
# without a container engine (run.sh starts that one). Packages of Debian and Python are kept in
# CACHE. Needs: apt-get, dpkg-deb, setcap (libcap2-bin), pip for Python 3.11; with a C compiler the
# packet path and the typed modules are compiled.
#
# ARCH=arm64 makes the one of another architecture: with a cross compiler (gcc-aarch64-linux-gnu), and with
# qemu-user-static, which runs that Python once to check it.
set -eu

out=${1:?usage: assemble.sh OUT [CACHE]}
cache=${2:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/clusterdns-image}
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
pip=${PIP:-python3.11 -m pip}
native=$(dpkg --print-architecture)
arch=${ARCH:-$native}
case $arch in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) echo "assemble.sh: no image for $arch" >&2; exit 1 ;;
esac
mkdir -p "$out" "$cache"
out=$(cd "$out" && pwd)
python=$out/usr/bin/python3.11
stdlib=$out/usr/lib/python3.11
packages=$out/usr/lib/python3/dist-packages
[ -z "$(ls -A "$out")" ] || { echo "assemble.sh: $out is not empty" >&2; exit 1; }

# What an interpreter with ssl and ctypes is linked with; libgcc-s1 is for Rust's unwinding,
# and libstdc++6 for RE2.
debian='python3.11-minimal libpython3.11-minimal libpython3.11-stdlib
    libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libssl3 ca-certificates'

# Python.h, which is not in the image.
headers='libpython3.11-dev'

# Modules that a DNS server has no use for: development, terminals, mail, databases.
unused='__phello__ config-3.11-* ctypes/macholib curses dbm distutils ensurepip idlelib lib2to3
    pydoc_data sqlite3 test tkinter turtledemo unittest/test venv xmlrpc
    _aix_support.py _osx_support.py aifc.py antigravity.py cgi.py cgitb.py chunk.py crypt.py
    doctest.py ftplib.py imaplib.py imghdr.py mailbox.py mailcap.py msilib nntplib.py nturl2path.py
    pdb.py pipes.py poplib.py profile.py pstats.py pyclbr.py sndhdr.py smtplib.py smtpd.py
    sunau.py tabnanny.py telnetlib.py this.py trace.py turtle.py uu.py webbrowser.py xdrlib.py
    sitecustomize.py EXTERNALLY-MANAGED lib-dynload/_bz2* lib-dynload/_codecs_* lib-dynload/_crypt*
    lib-dynload/_curses* lib-dynload/_dbm* lib-dynload/_lsprof* lib-dynload/_lzma*
    lib-dynload/_sqlite3* lib-dynload/_test* lib-dynload/_uuid* lib-dynload/_xxtest*
    lib-dynload/_tkinter* lib-dynload/audioop* lib-dynload/nis* lib-dynload/ossaudiodev*
    lib-dynload/readline* lib-dynload/xxlimited*'

# Of another architecture there is no package list: read one, outside of the system's.
choose_archive() {
    debs=$cache/debian index=
    [ "$arch" != "$native" ] || return 0
    debs=$cache/debian-$arch
    index="-o APT::Architecture=$arch -o APT::Architectures::=$arch -o Dir::State::Lists=$work/lists -o Dir::Cache=$work"
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$debs"
    set -- "$debs"/libssl3_*.deb
    # shellcheck disable=SC2086  # options
    [ -e "$1" ] || apt-get update -q -o APT::Sandbox::User=root $index >/dev/null
}

# fetch_debian DIRECTORY NAME... - unpack packages.
fetch_debian() {
    into=$1
    shift
    mkdir -p "$debs"
    for name in "$@"; do
        set -- "$debs/$name"_*.deb
        # shellcheck disable=SC2086  # options
        [ -e "$1" ] || (cd "$debs" && apt-get download -q -o APT::Sandbox::User=root $index "$name" >/dev/null)
        set -- "$debs/$name"_*.deb
        dpkg-deb -x "$1" "$into"
    done
}

# The interpreter, its modules, and shared libraries without what glibc has for other programs.
copy_interpreter() {
    mkdir -p "$out/usr/bin" "$out/usr/lib" "$out/lib64"
    cp -p "$work/debian/usr/bin/python3.11" "$python"
    cp -a "$work/debian/usr/lib/python3.11" "$stdlib"
    for path in $unused; do
        # shellcheck disable=SC2086  # patterns
        rm -rf "${stdlib:?}"/$path
    done
    set -- "$work"/debian/usr/lib/*-linux-gnu
    triplet=$(basename "$1")
    libraries=$out/usr/lib/$triplet
    mkdir -p "$libraries" "$out/lib/$triplet"
    for directory in lib usr/lib; do
        for library in c m dl pthread rt util resolv nss_dns nss_files gcc_s stdc++ z expat ffi ssl crypto; do
            for file in "$work/debian/$directory/$triplet/lib$library".so.* \
                "$work/debian/$directory/$triplet/lib$library"-*.so*; do
                [ ! -e "$file" ] || cp -a "$file" "$out/$directory/$triplet/"
            done
        done
    done
    cp -a "$work/debian/lib/$triplet"/ld-linux-* "$out/lib/$triplet/"
    for loader in "$work"/debian/lib64/ld-linux-* "$work"/debian/lib/ld-linux-*; do
        [ ! -L "$loader" ] || cp -a "$loader" "$out/$(basename "$(dirname "$loader")")/"
    done
    rmdir --ignore-fail-on-non-empty "$out/lib64"
}

copy_packages() {
    platforms=
    [ "$arch" = "$native" ] || for glibc in 2014 _2_17 _2_24 _2_26 _2_27 _2_28 _2_31 _2_34; do
        platforms="$platforms --platform manylinux${glibc}_$machine"
    done
    # shellcheck disable=SC2086  # PIP may be several words
    $pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --require-hashes --no-compile \
        --only-binary :all: --python-version 3.11 --implementation cp $platforms --cache-dir "$cache/pip" \
        --target "$packages" -r "$here/requirements.txt"
    rm -rf "${packages:?}/bin" "$packages/kubernetes/aio" "$packages/kubernetes/client/api" \
        "$packages/kubernetes/docs" "$packages/kubernetes/e2e_test"
    # What cryptography was built with; it needs _cffi_backend alone.
    rm -rf "$packages/cffi" "$packages/pycparser"
    # One class for every kind of object; the watcher reads JSON (cluster/objects.py).
    find "$packages/kubernetes/client/models" -name '*.py' ! -name __init__.py -delete
    # RECORD knows the path of the Python that pip ran with: an image is to be the same everywhere
    find "$packages" \( -name '*.pyi' -o -name '*.pyx' -o -name '*.c' -o -name '*.h' \
        -o -name py.typed -o -name RECORD \) -delete
    find "$packages" -depth -type d \( -name tests -o -name test \) -exec rm -rf {} +
}

copy_clusterdns() {
    cp -R "$source/clusterdns" "$packages/clusterdns"
    find "$packages/clusterdns" -depth \( -name __pycache__ -o -name '*.so' -o -name '*.pyi' \) -exec rm -rf {} +
    compile_packet_path
    compile_modules
    mkdir -p "$out/usr/local/share/clusterdns"
    cp -R "$source/zones" "$out/usr/local/share/clusterdns/zones"
    # what a runtime mounts, and where CoreDNS's manifests mount the Corefile
    for directory in dev proc sys etc/coredns run/secrets; do mkdir -p "$out/$directory"; done
    mkdir -p "$out/etc/ssl/certs" "$out/usr/lib/ssl" "$out/var"
    ln -s /run "$out/var/run"
    cat "$work"/debian/usr/share/ca-certificates/mozilla/*.crt >"$out/etc/ssl/certs/ca-certificates.crt"
    ln -s /etc/ssl/certs "$out/usr/lib/ssl/certs"
    ln -s /etc/ssl/certs/ca-certificates.crt "$out/usr/lib/ssl/cert.pem"
    echo 'nonroot:x:65532:65532::/:/nonexistent' >"$out/etc/passwd"
    echo 'nonroot:x:65532:' >"$out/etc/group"
    echo 'hosts: files dns' >"$out/etc/nsswitch.conf"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$out/etc/hosts"
    : >"$out/etc/resolv.conf"
}

compile_packet_path() {
    rm -f "$packages/clusterdns/serving"/_*.[ch]
    compiler=$machine-linux-gnu-gcc
    [ "$arch" != "$native" ] || compiler=$(command -v cc || command -v gcc) || return 0
    # shellcheck disable=SC2086  # names
    fetch_debian "$work/headers" $headers
    "$compiler" -O2 -DNDEBUG -fPIC -shared -s -Wl,--build-id=none -I"$work/headers/usr/include/python3.11" -I"$work/headers/usr/include" \
        "$source/clusterdns/serving"/_*.c -o "$packages/clusterdns/serving/_drain.abi.so"
    mv "$packages/clusterdns/serving/_drain.abi.so" "$packages/clusterdns/serving/_drain.cpython-311-$triplet.so"
    chmod a-x "$packages/clusterdns/serving/_drain.cpython-311-$triplet.so"
}

# What setup.py compiles, by the mypyc of build-requirements.txt and with the headers of the image's Python.
compile_modules() {
    compiler=$machine-linux-gnu-gcc
    [ "$arch" != "$native" ] || compiler=$(command -v cc || command -v gcc) || return 0
    $pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --require-hashes \
        --only-binary :all: --cache-dir "$cache/pip" --target "$work/tools" -r "$here/build-requirements.txt"
    mkdir "$work/source"
    for name in clusterdns pyproject.toml setup.py README.md LICENSE; do
        cp -R "$source/$name" "$work/source/$name"
    done
    include="-I$work/headers/usr/include/python3.11 -I$work/headers/usr/include"
    # shellcheck disable=SC2086  # PIP may be several words
    (cd "$work/source" && CLUSTERDNS_COMPILE=1 PYTHONPATH="$work/tools" CC="$compiler" CFLAGS="-g0 -DNDEBUG -ffile-prefix-map=$work=. $include" \
        PYTHONHASHSEED=0 ${pip%-m pip} setup.py --quiet build_ext --build-lib "$work/compiled" >"$work/log" 2>&1) || {
        cat "$work/log" >&2
        exit 1
    }
    rm "$work/compiled/clusterdns/serving"/_drain.*.so
    (cd "$work/compiled" && find -- * -name '*.so') | while read -r file; do
        cp "$work/compiled/$file" "$packages/${file%%.cpython-*}.cpython-311-$triplet.so"
        chmod a-x "$packages/${file%%.cpython-*}.cpython-311-$triplet.so"
    done
}

# inside WORD... - run the image's Python.
inside() {
    if [ "$arch" = "$native" ]; then
        chroot "$out" /usr/bin/python3.11 -I "$@"
    else
        cp "$(command -v "qemu-$machine-static")" "$out/qemu"
        chroot "$out" /qemu /usr/bin/python3.11 -I "$@"
        rm "$out/qemu"
    fi
}

# Nobody can write bytecode later. Other people's modules need no source; ours do, for tracebacks.
compile() {
    inside -m compileall -q --invalidation-mode unchecked-hash \
        /usr/lib/python3/dist-packages/clusterdns
    inside -m compileall -q -b --invalidation-mode unchecked-hash \
        -x '/clusterdns/' /usr/lib/python3.11 /usr/lib/python3/dist-packages
    find "$stdlib" "$packages" -name '*.py' ! -path "$packages/clusterdns/*" -delete
    find "$stdlib" "$packages" -depth -type d -name __pycache__ ! -path "$packages/clusterdns/*" \
        -exec rm -rf {} +
}

# A module that was cut away but is needed shows here, not in a cluster.
check() {
    inside -c '
import importlib, pkgutil, ssl, ctypes, clusterdns
for module in pkgutil.walk_packages(clusterdns.__path__, "clusterdns."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert ssl.create_default_context().cert_store_stats()["x509_ca"] > 100'
    [ -z "$(find "$out" -xdev -perm /6000)" ] || { echo "assemble.sh: set-UID files" >&2; exit 1; }
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
choose_archive
# shellcheck disable=SC2086  # names
fetch_debian "$work/debian" $debian
copy_interpreter
copy_packages
copy_clusterdns
compile
check
chmod -R a+rX,go-w "$out"
chown -R 0:0 "$out"
# one date for all, so that equal input gives an equal image
find "$out" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +
# Port 53 without root: the Pod's bounding set must hold NET_BIND_SERVICE, as CoreDNS's does.
setcap cap_net_bind_service=+ep "$python"
