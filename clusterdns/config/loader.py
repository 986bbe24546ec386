"""Sources of the configuration: a Corefile, standard input, or kube-dns's ConfigMap.

A ``Loader`` reads the text whenever the supervisor asks, and compiles it. It raises an error for a
bad text; the supervisor decides which configuration stays in force.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from clusterdns.config.compile import Configuration, ListenAddress, compile_text
from clusterdns.config.configdir import ConfigDir
from clusterdns.corefile.files import TrackedFiles
from clusterdns.errors import ClusterDNSError

MAX_COREFILE_OCTETS = 4 * 2**20
DEFAULT_FILE = "Corefile"  # in the working directory (CoreDNS: coremain/run.go)
STDIN = "stdin"
_log = logging.getLogger(__name__)


class Loader(NamedTuple):
    """A source of the configuration; ``read`` and ``compile`` raise ConfigError or OSError.

    ``imports`` are the files imported by the last compilation. ``fallback``, if there is one,
    returns a text that can be served in place of a bad one. ``unavailable`` are the addresses that
    cannot be listened on, texts if they are of HTTP, with the reason; fragments that name one are
    left out. ``given`` is what stood on standard input, which is read once.
    """

    read: Callable[[], str]
    compile: Callable[[str], Configuration]
    imports: TrackedFiles
    unavailable: dict[ListenAddress | str, str]
    fallback: Callable[[str], Configuration] | None = None
    given: str | None = None

    def first(self, text: str) -> Configuration:
        """Return the configuration to start with.

        Raises:
            ClusterDNSError: no text can be served.
        """
        try:
            return self.compile(text)
        except ClusterDNSError as error:
            if self.fallback is None:
                raise
            _log.error("%s; started without stub domains and upstream servers of its own", error)
            return self.fallback(text)


def from_corefile(conf: str, port: int, given: str | None = None) -> Loader:
    """Return the loader of FILE, of standard input, or of ``Corefile`` if there is one.

    ``port`` is that of keys without one, ``given`` what standard input has said already.
    """
    files, unavailable = TrackedFiles(), dict[ListenAddress | str, str]()

    def compile_(text: str) -> Configuration:
        return _compile(text, conf or DEFAULT_FILE, port, files, unavailable)

    if conf == STDIN:
        text = sys.stdin.read() if given is None else given
        return Loader(lambda: text, compile_, files, unavailable, given=text)
    path = Path(conf or DEFAULT_FILE).absolute()
    has_started = False

    def read() -> str:
        nonlocal has_started
        if not conf and not path.exists():
            return ""  # then the default configuration is served, as in CoreDNS
        if has_started and path.exists() and not path.is_file():
            # The start may be given a pipe; a reload would wait for somebody to write to it.
            raise OSError(f"{path}: it is no regular file")
        with path.open("rb") as file:
            octets = file.read(MAX_COREFILE_OCTETS + 1)
        if len(octets) > MAX_COREFILE_OCTETS:
            raise OSError(f"{path}: larger than {MAX_COREFILE_OCTETS} octets")
        has_started = True
        return octets.decode("utf-8", "replace")

    return Loader(read, compile_, files, unavailable)


def from_config_dir(
    directory: Path, conf: str, *, zone: str, port: int, given: str | None = None
) -> Loader:
    """Return the loader of kube-dns's ConfigMap, mounted at ``directory``.

    With ``conf`` it is translated into that Corefile. In kube-dns a mistake in the ConfigMap never
    stopped DNS (pkg/dnsmasq/nanny.go), so the fallback leaves it out.
    """
    own = from_corefile(conf, port, given)
    mounted = ConfigDir(
        directory.absolute(),
        zone=zone,
        port=port,
        warn=_log.warning,
        own=own.read if conf else None,
    )
    file = conf or f"{directory} (translated)"

    def compile_(text: str) -> Configuration:
        return _compile(mounted.corefile(text), file, port, own.imports, own.unavailable)

    def fallback(text: str) -> Configuration:
        return _compile(mounted.defaults(text), conf or DEFAULT_FILE, port)

    return Loader(mounted.read, compile_, own.imports, own.unavailable, fallback, own.given)


def _compile(
    text: str,
    file: str,
    port: int,
    files: TrackedFiles | None = None,
    unavailable: Mapping[ListenAddress | str, str] | None = None,
) -> Configuration:
    if files is not None:
        files.forget()
    found = compile_text(
        text,
        file,
        port=port,
        environ=os.environ,
        warn=_log.warning,
        files=files,
        unavailable=unavailable,
    )
    for error in found.refused:
        _log.error("this file is left out: %s", error)
    return found
