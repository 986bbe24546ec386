"""A file's stamp is another one after every kind of change, also back in time."""

from __future__ import annotations

import os

import pytest

from clusterdns.corefile.files import TrackedFiles
from clusterdns.host.stamp import Stamp, read_regular


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


def aged(path, seconds: float = 60) -> None:
    """Have a file last written some time ago."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_a_file_that_was_just_written_has_no_stamp_to_rely_on(tmp_path):
    file = tmp_path / "file"
    file.write_text("one")
    assert not Stamp.of(file.stat()).is_settled
    aged(file)
    assert Stamp.of(file.stat()).is_settled


def test_what_is_read_is_regular_bounded_and_new(tmp_path):
    file, fifo = tmp_path / "file", tmp_path / "fifo"
    file.write_text("four")
    os.mkfifo(fifo)
    found = read_regular(file, 4)
    assert found == (Stamp.of(file.stat()), b"four")
    assert read_regular(file, 4, found[0]) is None
    with pytest.raises(OSError, match="larger than 3 octets"):
        read_regular(file, 3)
    with pytest.raises(OSError, match="no regular file"):
        read_regular(fifo, 3)
    with pytest.raises(OSError, match="no regular file"):
        read_regular("/dev/zero", 3)
    empty = read_regular("/dev/null", 3)
    assert empty is not None
    assert b"" == empty[1]


def test_tracked_files_are_read_again_only_when_their_stamp_tells_nothing(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("one")
    tracked, reads = TrackedFiles(), []
    read = tracked.stamped
    monkeypatch.setattr(tracked, "stamped", lambda path: reads.append(path) or read(path))
    assert "one" == tracked.read(str(file))
    assert not tracked.have_changed
    assert 2 == len(reads)  # it had just been written
    aged(file)
    assert not tracked.have_changed
    assert not tracked.have_changed
    assert 3 == len(reads)
    aged(file)
    file.write_text("two")
    assert tracked.have_changed
    file.unlink()
    assert tracked.have_changed
