"""Certificates for one run of the tests, made by openssl."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

INSTALL_OPENSSL = "apt-get install openssl"


def client_context(authority: Path | None = None) -> ssl.SSLContext:
    """Return a client's context; it is no stricter about authorities than Go (Python 3.13 is)."""
    context = ssl.create_default_context(cafile=authority)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def make(directory: Path) -> Path:
    """Make ca.pem, server.pem (127.0.0.1, dns.test), other.pem, client.pem, and stranger.pem,
    which is of no authority; with their keys.
    """
    if not shutil.which("openssl"):
        pytest.skip(f"needs openssl: {INSTALL_OPENSSL}")

    def openssl(*words: str) -> None:
        done = ["openssl", *words]
        subprocess.run(done, cwd=directory, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for who, subject in (("ca", "test authority"), ("stranger", "stranger")):
        openssl("req", "-x509", *key, "-keyout", f"{who}.key", "-out", f"{who}.pem", "-days", "2",
                "-subj", f"/CN={subject}")  # fmt: skip
    names = "subjectAltName=IP:127.0.0.1,DNS:dns.test\n"
    for who, extension in (
        ("server", names),
        ("other", names),
        ("client", "extendedKeyUsage=clientAuth\n"),
    ):
        (directory / f"{who}.ext").write_text(extension)
        openssl("req", *key, "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        openssl("x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-CAcreateserial", "-days", "2", "-extfile", f"{who}.ext", "-out",
                f"{who}.pem")  # fmt: skip
    return directory
