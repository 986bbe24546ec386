"""A file's stamp is another one after every kind of change, also back in time."""

from __future__ import annotations

import os

import pytest

from clusterdns.host.stamp import Stamp


@pytest.mark.parametrize("change", ["text", "earlier", "replaced"])
def test_a_change_shows(change, tmp_path):
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("one")
    before = Stamp.of(file.stat())
    assert before == Stamp.of(file.stat())
    if change == "text":
        file.write_text("three")
        os.utime(file, ns=(before.mtime_ns, before.mtime_ns))
    elif change == "earlier":
        os.utime(file, ns=(1, 1))
    else:
        other.write_text("two")
        os.utime(other, ns=(before.mtime_ns, before.mtime_ns))
        other.replace(file)
    assert before != Stamp.of(file.stat())
