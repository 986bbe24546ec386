"""The release: the archive of the image as others read it, and the papers that go with it.

`make release` itself takes minutes and tries all it makes; here are the parts that can be wrong quietly.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "deploy" / "release"))

import cross  # noqa: E402
import image  # noqa: E402
import papers  # noqa: E402
import wheels  # noqa: E402

EPOCH = 1_700_000_000


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The files of an image: a program that may have a capability, a link, a folder."""
    root = tmp_path / "root"
    (root / "usr" / "bin").mkdir(parents=True)
    (root / "usr" / "bin" / "python3.11").write_bytes(b"\x7fELF")
    (root / "run").mkdir()
    (root / "var").symlink_to("/run")
    for path in (root, *root.rglob("*")):
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
    return root


def pack(files: Path, out: Path) -> tuple[str, dict[str, bytes]]:
    """Return the digest of the index, and what the archive holds by name."""
    digest = image.pack({"amd64": files, "arm64": files}, "9.8.7", "c0ffee", EPOCH, out)
    with tarfile.open(out) as archive:
        return digest, {
            member.name: archive.extractfile(member).read() for member in archive.getmembers()
        }


def test_every_blob_is_named_by_its_digest_and_reached_from_the_index(files, tmp_path):
    digest, held = pack(files, tmp_path / "image.tar")
    assert {"imageLayoutVersion": "1.0.0"} == json.loads(held.pop("oci-layout"))
    index = json.loads(held.pop("index.json"))
    (top,) = index["manifests"]
    assert digest == top["digest"]
    reached = set()

    def follow(descriptor):
        octets = held["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]
        assert hashlib.sha256(octets).hexdigest() == descriptor["digest"].removeprefix("sha256:")
        assert len(octets) == descriptor["size"]
        reached.add(descriptor["digest"])
        return octets

    platforms = set()
    for descriptor in json.loads(follow(top))["manifests"]:
        platforms.add(descriptor["platform"]["architecture"])
        manifest = json.loads(follow(descriptor))
        config = json.loads(follow(manifest["config"]))
        assert descriptor["platform"]["architecture"] == config["architecture"]
        for layer in manifest["layers"]:
            follow(layer)
    assert {"amd64", "arm64"} == platforms
    assert {f"sha256:{Path(name).name}" for name in held} == reached


def test_equal_files_make_an_equal_image(files, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(files, again, symlinks=True)
    one, two = (pack(root, tmp_path / f"{root.name}.tar") for root in (files, again))
    assert one == two


def test_the_capability_of_the_interpreter_is_in_the_layer(files, tmp_path):
    if os.geteuid() or not shutil.which("setcap"):
        pytest.skip("needs root and: apt-get install libcap2-bin")
    program = files / "usr" / "bin" / "python3.11"
    subprocess.run(["setcap", "cap_net_bind_service=+ep", program], check=True)
    _, held = pack(files, tmp_path / "image.tar")
    layers = [octets for octets in held.values() if octets.startswith(b"\x1f\x8b")]
    (tmp_path / "layer.tar.gz").write_bytes(layers[0])
    out = tmp_path / "unpacked"
    out.mkdir()
    unpack = ["tar", "--xattrs", "--xattrs-include=*", "-xzf", tmp_path / "layer.tar.gz"]
    subprocess.run([*unpack, "-C", out], check=True)
    unpacked = out / "usr" / "bin" / "python3.11"
    shown = subprocess.run(["getcap", unpacked], capture_output=True, text=True, check=True)
    assert "cap_net_bind_service=ep" in shown.stdout


def test_the_parts_of_the_image_are_those_of_the_lock_file(tmp_path):
    (tmp_path / "libc6_2.36-9+deb12u14_amd64.deb").write_bytes(b"deb")
    parts = list(papers.parts(tmp_path))
    lock = (ROOT / "deploy" / "image" / "requirements.txt").read_text()
    assert lock.count("==") + 1 == len(parts)
    assert lock.count("sha256:") == sum(len(part.digests) for part in parts) - 1
    libc = parts[-1]
    assert "pkg:deb/debian/libc6@2.36-9+deb12u14?arch=amd64&distro=debian-12" == libc.purl
    document = json.loads(papers.sbom("9.8.7", "c0ffee", EPOCH, parts))
    names = {package["SPDXID"] for package in document["packages"]}
    assert len(parts) + 1 == len(names)
    for relation in document["relationships"]:
        assert relation["relatedSpdxElement"] in names


def test_the_provenance_names_every_file_by_its_digest(tmp_path):
    wheel = tmp_path / "x.whl"
    wheel.write_bytes(b"wheel")
    statement = json.loads(
        papers.provenance([wheel], {"image:1": "sha256:" + "0" * 64}, "9.8.7", "c0ffee")
    )
    expected = hashlib.sha256(b"wheel").hexdigest()
    assert [expected, "0" * 64] == [each["digest"]["sha256"] for each in statement["subject"]]
    (tmp_path / "SHA256SUMS").write_text(papers.sums([wheel]))
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)


def test_source_distributions_of_two_checkouts_are_equal(tmp_path):
    """Times, owners, modes and order differ; names, octets and what may be executed do not."""
    for i, names in enumerate((["b", "a"], ["a", "b"])):
        place = tmp_path / f"{i}" / "x-1"
        place.mkdir(parents=True)
        for name in names:
            (place / name).write_text(name)
            (place / name).chmod(0o755 if name == "b" else 0o600 + i * 0o44)
            os.utime(place / name, (EPOCH + i, EPOCH + i))
        with tarfile.open(place.parent / "x-1.tar.gz", "w:gz") as archive:
            archive.add(place, "x-1", recursive=False)
            for name in names:
                member = archive.gettarinfo(place / name, f"x-1/{name}")
                member.uid, member.uname = i, f"user{i}"
                with (place / name).open("rb") as file:
                    archive.addfile(member, file)
    one, two = (tmp_path / each / "x-1.tar.gz" for each in "01")
    assert one.read_bytes() != two.read_bytes()
    for each in (one, two):
        wheels.make_equal(each, EPOCH)
    assert one.read_bytes() == two.read_bytes()
    with tarfile.open(one) as archive:
        found = [(each.name, oct(each.mode), each.mtime) for each in archive.getmembers()]
    expected = [("x-1", "0o755", EPOCH), ("x-1/a", "0o644", EPOCH), ("x-1/b", "0o755", EPOCH)]
    assert expected == found


def test_a_python_builds_for_the_platform_of_another_one(tmp_path):
    """What setuptools names modules and wheels by."""
    foreign = tmp_path / "usr" / "bin" / "python3.11"
    (tmp_path / "usr" / "lib" / "python3.11").mkdir(parents=True)
    told = {"EXT_SUFFIX": ".cpython-311-aarch64-linux-gnu.so", "SOABI": "x", "CC": "other-gcc"}
    configuration = tmp_path / "usr/lib/python3.11/_sysconfigdata__aarch64-linux-gnu.py"
    configuration.write_text(f"build_time_vars = {told}")
    work = tmp_path / "work"
    work.mkdir()
    variables = cross.environment(foreign, work)
    program = (
        "import sysconfig; print(sysconfig.get_platform(), sysconfig.get_config_var('EXT_SUFFIX'))"
    )
    said = wheels.run(sys.executable, "-c", program, **variables)
    assert "linux-aarch64 .cpython-311-aarch64-linux-gnu.so\n" == said
    assert "aarch64-linux-gnu-gcc" == variables["CC"]
    assert f"-I{tmp_path}/usr/include/python3.11 " in variables["CFLAGS"]


@pytest.mark.parametrize("missing", ["serving/_drain.", "wire/name."])
def test_a_wheel_without_machine_code_is_no_release(missing, tmp_path):
    """setuptools leaves out an extension that does not compile."""
    built = tmp_path / "x-1-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(built, "w") as archive:
        for path in {"serving/_drain.", "wire/name."} - {missing}:
            archive.writestr(f"clusterdns/{path}cpython-311-x86_64-linux-gnu.so", b"")
    with pytest.raises(SystemExit, match="no compiled"):
        wheels.named_for_glibc(built, tmp_path / "out")
