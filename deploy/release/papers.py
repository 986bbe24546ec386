"""What goes with a release: the parts it is made of, where it comes from, and digests.

SPDX 2.3 (ISO/IEC 5962) names the parts; an in-toto statement with the SLSA provenance predicate 1.0
names the commit. Both are unsigned: whoever publishes the release signs them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from wheels import ROOT

_LOCK = ROOT / "deploy" / "image" / "requirements.txt"


class Part(NamedTuple):
    """A package in the image; ``purl`` is its package URL, ``digests`` are SHA-256, hexadecimal."""

    name: str
    version: str
    purl: str
    digests: tuple[str, ...] = ()


def parts(debian: Path) -> Iterator[Part]:
    """Yield what the image carries: Python packages of the lock file, Debian's as downloaded."""
    for name, version, hashes in re.findall(
        r"^([\w.-]+)==([^\s;]+)(.*(?:\n +--hash.*)*)", _LOCK.read_text(), re.MULTILINE
    ):
        digests = tuple(re.findall(r"sha256:([0-9a-f]{64})", hashes))
        yield Part(name, version, f"pkg:pypi/{name.lower()}@{version}", digests)
    for path in sorted(debian.glob("*.deb")):
        name, version, architecture = path.stem.split("_")
        version = version.replace("%3a", ":")
        purl = f"pkg:deb/debian/{name}@{version}?arch={architecture}&distro=debian-12"
        yield Part(name, version, purl, (_sha256(path),))


def sbom(version: str, revision: str, epoch: int, found: Iterable[Part]) -> str:
    """Return the SPDX document of an image, JSON."""
    product: dict[str, Any] = {
        "SPDXID": "SPDXRef-clusterdns",
        "name": "clusterdns",
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "Apache-2.0",
        "licenseDeclared": "Apache-2.0",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "CONTAINER",
    }
    packages = [product, *map(_package, found)]
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"clusterdns-{version}",
        "documentNamespace": f"https://spdx.org/spdxdocs/clusterdns-{version}-{revision}",
        "creationInfo": {
            "created": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: clusterdns-release"],
        },
        "packages": packages,
        "relationships": [
            _relationship("SPDXRef-DOCUMENT", "DESCRIBES", product["SPDXID"]),
            *(
                _relationship(product["SPDXID"], "CONTAINS", package["SPDXID"])
                for package in packages[1:]
            ),
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def provenance(files: Iterable[Path], images: dict[str, str], version: str, revision: str) -> str:
    """Return the statement about files and images (name -> ``sha256:`` digest), JSON."""
    subjects = [{"name": path.name, "digest": {"sha256": _sha256(path)}} for path in files]
    subjects += [
        {"name": name, "digest": {"sha256": digest.partition(":")[2]}}
        for name, digest in images.items()
    ]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "https://slsa.dev/provenance/v1#make-release",
                "externalParameters": {"command": "make release", "version": version},
                "resolvedDependencies": [
                    {"name": "clusterdns", "digest": {"gitCommit": revision}},
                    {"name": _LOCK.name, "digest": {"sha256": _sha256(_LOCK)}},
                ],
            },
            "runDetails": {"builder": {"id": "local"}},
        },
    }
    return json.dumps(statement, indent=1) + "\n"


def sums(files: Iterable[Path]) -> str:
    """Return lines for ``sha256sum --check``."""
    return "".join(f"{_sha256(path)}  {path.name}\n" for path in files)


def _package(part: Part) -> dict[str, Any]:
    found = {
        "SPDXID": "SPDXRef-"
        + re.sub(r"[^\w.-]", "-", f"{part.purl.split('/')[0][4:]}-{part.name}"),
        "name": part.name,
        "versionInfo": part.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": part.purl,
            }
        ],
    }
    # Of a Python package the lock file has the digests of all its files; only one is in the image.
    if len(part.digests) == 1:
        found["checksums"] = [{"algorithm": "SHA256", "checksumValue": part.digests[0]}]
    return found


def _relationship(of: str, what: str, to: str) -> dict[str, str]:
    return {"spdxElementId": of, "relationshipType": what, "relatedSpdxElement": to}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
