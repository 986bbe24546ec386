"""The image as an archive of the OCI layout, which every engine and registry client reads.

No engine takes part: `deploy/image/assemble.sh` makes the files of each architecture, this module
packs them. Equal files give equal octets. (OCI Image Format Specification 1.1)
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from wheels import ROOT, run

ARCHITECTURES = ("amd64", "arm64")
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


class Blob(NamedTuple):
    """Some octets of the archive, known by their digest."""

    media_type: str
    octets: bytes

    @property
    def digest(self) -> str:
        """``sha256:`` and 64 hexadecimal digits."""
        return "sha256:" + hashlib.sha256(self.octets).hexdigest()

    def descriptor(self, **more: object) -> dict[str, Any]:
        """Return what other blobs say of this one."""
        return {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": len(self.octets),
            **more,
        }


_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clusterdns-image"


def assemble(architecture: str, into: Path, epoch: int) -> Path:
    """Make the files of one architecture. Takes root."""
    script = ROOT / "deploy" / "image" / "assemble.sh"
    pip = f"{sys.executable} -m pip"
    run(script, into, _CACHE, ARCH=architecture, SOURCE_DATE_EPOCH=str(epoch), PIP=pip)
    return into


def debian_packages(architecture: str) -> Path:
    """Return where the packages of Debian lie that an image was made of."""
    native = run("dpkg", "--print-architecture").strip()
    return _CACHE / ("debian" if architecture == native else f"debian-{architecture}")


def pack(roots: dict[str, Path], version: str, revision: str, epoch: int, out: Path) -> str:
    """Write the archive; return the digest of the image index, which names it in a registry.

    Args:
        roots: the files, by architecture.
        version: of the program, the tag.
        revision: the commit.
        epoch: the date of all files, seconds since 1970.
        out: the archive, a tar.
    """
    labels = {
        "org.opencontainers.image.title": "clusterdns",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.revision": revision,
        "org.opencontainers.image.licenses": "Apache-2.0",
    }
    blobs: list[Blob] = []
    manifests = []
    for architecture, root in sorted(roots.items()):
        made = list(_image(root, architecture, labels, epoch))
        blobs += made
        platform = {"os": "linux", "architecture": architecture}
        manifests.append(made[-1].descriptor(platform=platform))
    index = Blob(_INDEX, _json({"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests}))
    blobs.append(index)
    top = index.descriptor(
        annotations={"org.opencontainers.image.ref.name": f"clusterdns:{version}"}
    )
    files = {f"blobs/sha256/{blob.digest.partition(':')[2]}": blob.octets for blob in blobs}
    files["index.json"] = _json({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [top]})
    files["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
    with tarfile.open(out, "w") as archive:
        for name, octets in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(octets), 0o644, epoch
            archive.addfile(member, io.BytesIO(octets))
    return index.digest


def _image(root: Path, architecture: str, labels: dict[str, str], epoch: int) -> Iterator[Blob]:
    """Yield layer, configuration and manifest."""
    plain = _layer(root)
    layer = Blob(_LAYER, gzip.compress(plain, 9, mtime=0))
    yield layer
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": _date(epoch),
        "config": {
            **_settings(),
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(plain).hexdigest()]},
        "history": [{"created": _date(epoch), "created_by": "deploy/image/assemble.sh"}],
    }
    described = Blob(_CONFIG, _json(config))
    yield described
    yield Blob(
        _MANIFEST,
        _json(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": described.descriptor(),
                "layers": [layer.descriptor()],
                "annotations": labels,
            }
        ),
    )


def _settings() -> dict[str, Any]:
    """Return how the image is started, as the last stage of the Dockerfile says."""
    text = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    said = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    ports = [port if "/" in port else f"{port}/tcp" for port in said["EXPOSE"].split()]
    return {
        "User": said["USER"],
        "WorkingDir": said["WORKDIR"],
        "ExposedPorts": {port: {} for port in ports},
        "Entrypoint": json.loads(said["ENTRYPOINT"]),
    }


def _layer(root: Path) -> bytes:
    """Return all files below a folder as a tar, with the capability of the interpreter."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            member = archive.gettarinfo(path, str(path.relative_to(root)))
            member.uname = member.gname = ""
            member.mtime = int(member.mtime)
            if path.is_symlink() or not path.is_file():
                archive.addfile(member)
                continue
            if "security.capability" in os.listxattr(path):
                value = os.getxattr(path, "security.capability").decode("latin-1")
                member.pax_headers = {"SCHILY.xattr.security.capability": value}
            with path.open("rb") as file:
                archive.addfile(member, file)
    return out.getvalue()


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _date(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
