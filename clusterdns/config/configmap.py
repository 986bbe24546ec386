"""ConfigMaps with a configuration: as a manifest on disk, or mounted, where each key is a file.

``read`` takes a Corefile, or manifests with the ConfigMap that holds one, as `kubectl get -o yaml`
prints it. ``from_directory`` and ``from_manifest`` take the ConfigMap of kube-dns.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from clusterdns.config import kubedns
from clusterdns.config.kubedns import ConfigEntry
from clusterdns.corefile.files import DiskFiles
from clusterdns.corefile.lexer import Files
from clusterdns.errors import ClusterDNSError, ConfigError
from clusterdns.host.stamp import Stamp

KEY = "Corefile"
MOUNT = "/etc/coredns"  # mount path in kubeadm's Deployment
CUSTOM = "coredns-custom"  # a second ConfigMap of AKS and k3s, mounted to its ``custom``
CONFIGMAP = "kube-dns"
MAX_ENTRIES = 100
READ_ATTEMPTS = 3
_MANIFEST_STARTS = ("apiVersion:", "kind:")


class Subject(NamedTuple):
    """A Corefile to check; ``file`` is its name in messages; ``is_mounted`` if of a ConfigMap."""

    text: str
    file: str
    files: Files
    title: str
    is_mounted: bool


def read(path: Path, called: str = "") -> Subject:
    """Return the Corefile in a file, or in the one ConfigMap among its manifests that has one.

    ``called`` is the name of the file in messages, by default its path.

    Raises:
        ClusterDNSError: the file has neither.
        OSError: it cannot be read.
    """
    text = DiskFiles().read(str(path))
    file = called or str(path)
    if path.suffix in (".yaml", ".yml", ".json") or _is_manifest(text):
        from clusterdns.cluster import manifests  # and with it PyYAML, which serving does not need

        try:
            return _from_manifests(path, text, file)
        except manifests.ManifestError as error:
            raise ClusterDNSError(str(error).replace(str(path), file)) from error
    return Subject(text, file, DiskFiles(), file, is_mounted=False)


def _is_manifest(text: str) -> bool:
    """Tell whether a text is a manifest: a Corefile has no such line, and no ``{`` at its start."""
    lines = text.splitlines()
    return text.lstrip()[:1] == "{" or any(line.startswith(_MANIFEST_STARTS) for line in lines)


def _from_manifests(path: Path, whole: str, file: str) -> Subject:
    from clusterdns.cluster import manifests

    entries: dict[str, str] = {}
    found: list[tuple[str, str]] = []
    for manifest in manifests.documents(path):
        data, metadata = manifest.get("data"), manifest.get("metadata")
        if manifest.get("kind") != "ConfigMap" or not isinstance(data, Mapping):
            continue
        metadata = metadata if isinstance(metadata, Mapping) else {}
        place = posixpath.join(MOUNT, "custom" if metadata.get("name") == CUSTOM else "")
        entries |= {posixpath.join(place, str(key)): str(value) for key, value in data.items()}
        if KEY in data:
            words = (metadata.get("namespace"), metadata.get("name"))
            found.append(("/".join(str(word) for word in words if word), str(data[KEY])))
    if len(found) != 1:
        there = f": {', '.join(name for name, _ in found)}" if found else ""
        raise ClusterDNSError(
            f"{file}: {len(found) or 'no'} ConfigMaps with the key {KEY}, wants one{there}"
        )
    name, text = found[0]
    first = _line_in(whole, text)
    called = file if first is not None else f"{file}[{KEY}]"
    files = MountedFiles(entries, posixpath.dirname(called))
    title = f"{file}: ConfigMap {name}, key {KEY}"
    return Subject("\n" * (first or 0) + text, called, files, title, is_mounted=True)


def _line_in(whole: str, text: str) -> int | None:
    """Return the number of lines of ``whole`` before ``text``, None if it has no such lines.

    Quoted text and JSON have none.
    """
    outer = [line.strip() for line in whole.split("\n")]
    inner = [line.strip() for line in text.rstrip("\n").split("\n")]
    if not any(inner):
        return None
    starts = (i for i, line in enumerate(outer) if line == inner[0])
    return next((i for i in starts if outer[i : i + len(inner)] == inner), None)


class MountedFiles:
    """The entries of ConfigMaps as files where they would be mounted, and the files on disk."""

    def __init__(self, entries: Mapping[str, str], base: str) -> None:
        self._entries = entries
        self._base = base  # base of relative paths: the directory of the manifest
        self._disk = DiskFiles()

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match ``pattern``, see ``Files``."""
        mounted = self._mounted(pattern)
        found = [
            path
            for path in sorted(self._entries)
            if fnmatch.fnmatchcase(path, mounted) and path.count("/") == mounted.count("/")
        ]
        return found or self._disk.glob(pattern)

    def read(self, path: str) -> str:
        """Return the text of an entry or a file. Raises OSError."""
        known = self._entries.get(self._mounted(path))
        return self._disk.read(path) if known is None else known

    def _mounted(self, path: str) -> str:
        if posixpath.isabs(path) and not self._is_below_base(path):
            return posixpath.normpath(path)
        return posixpath.normpath(posixpath.join(MOUNT, posixpath.relpath(path, self._base or ".")))

    def _is_below_base(self, path: str) -> bool:
        return posixpath.isabs(self._base) and path.startswith(f"{self._base.rstrip('/')}/")


def from_directory(directory: Path) -> dict[str, ConfigEntry]:
    """Return the entries that kubelet has put into ``directory``; none if there is no directory.

    Files whose name begins with a dot are ignored, as in kube-dns (pkg/dns/config/sync_dir.go).

    Raises:
        OSError: it is not a directory, or a file cannot be read.
    """
    if not directory.exists():
        return {}
    # All files must be of one version.
    for _ in range(READ_ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):
            stamps = _stamps(directory)
            found = {path.name: mounted_entry(directory, path.name, _text(path)) for path in stamps}
            if stamps == _stamps(directory):
                return found
    raise OSError(f"{directory} changes while it is read")


def _stamps(directory: Path) -> dict[Path, Stamp | None]:
    """Return the files of a directory, but for hidden ones, with their stamps.

    Kubelet replaces the link `..data`, then the links into it; the files behind it are of one
    version.
    """
    version = directory / "..data"
    root = version.resolve() if version.exists() else directory
    return {
        path: Stamp.at(path)
        for path in itertools.islice(sorted(root.iterdir()), MAX_ENTRIES)
        if not path.name.startswith(".") and not path.is_dir()
    }


def _text(path: Path) -> str:
    return DiskFiles().read(str(path)) if path.name in kubedns.KEYS else ""


def mounted_entry(directory: Path, key: str, value: str) -> ConfigEntry:
    """Return an entry as the file that it is mounted as."""
    return ConfigEntry(key, value, str(directory / key), value)


def from_manifest(path: Path) -> dict[str, ConfigEntry]:
    """Return the entries of the one ConfigMap `kube-dns` in a file of YAML or JSON.

    Raises:
        ClusterDNSError: not a manifest, not exactly one ConfigMap, or a value is not text.
        OSError: it cannot be read.
    """
    from clusterdns.cluster import manifests  # and with it PyYAML, which serving does not need

    names: list[str] = []
    found: list[Mapping[str, object]] = []
    for manifest in manifests.documents(path):
        metadata = manifest.get("metadata")
        called = str(metadata.get("name")) if isinstance(metadata, Mapping) else ""
        if manifest.get("kind") == "ConfigMap":
            names.append(called)
            if called == CONFIGMAP:
                found.append(manifest)
    if len(found) != 1:
        there = f"; there is {', '.join(names)}" if names else ""
        raise ClusterDNSError(
            f"{path}: {len(found) or 'no'} ConfigMaps with the name {CONFIGMAP}{there}"
        )
    data = found[0].get("data") or {}
    if not isinstance(data, Mapping):
        raise ConfigError(str(path), 1, "data", "wants keys and their texts")
    whole = path.read_text("utf-8", "replace") if path.is_file() else ""
    entries = {str(key): ConfigEntry(str(key), "", str(path), whole) for key in data}
    for key, value in data.items():
        if not isinstance(value, str):
            reason = f"wants text, not {type(value).__name__}: put it behind | or in quotes"
            raise entries[str(key)].error("", reason)
        entries[str(key)] = entries[str(key)]._replace(value=value)
    return entries
