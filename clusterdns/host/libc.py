"""Calls of the C library without a Python function; the library is opened at the first call."""

from __future__ import annotations

import ctypes
import functools
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_LARGE_OCTETS = 128 * 1024  # glibc's first value, which grows up to 32 MiB unless it is set
_FREE_OCTETS = 2**20


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends (prctl(2))."""
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def share_one_heap() -> None:
    """Let all threads allocate from one heap; no effect without glibc (mallopt(3))."""
    call = getattr(_libc(), "mallopt", None)
    if call is not None:
        call(_M_ARENA_MAX, 1)


def return_large_blocks() -> None:
    """Let each large block go back to the kernel when it is freed; no effect without glibc.

    Otherwise the blocks that follow a freed one are made in the heap (mallopt(3)), where small ones
    above them keep them: what attackers have filled once is never given back.
    """
    call = getattr(_libc(), "mallopt", None)
    if call is not None:
        call(_M_MMAP_THRESHOLD, _LARGE_OCTETS)
        call(_M_TRIM_THRESHOLD, _FREE_OCTETS)


def return_free_memory() -> None:
    """Return free memory to the kernel; no effect without glibc (malloc_trim(3))."""
    call = getattr(_libc(), "malloc_trim", None)
    if call is not None:
        call(0)


def datagram_calls() -> tuple[Callable[..., int], Callable[..., int]]:
    """Return recvmmsg(2) and sendmmsg(2); structures are given by their addresses.

    They return -1 for any error.
    """
    receive, send = _libc().recvmmsg, _libc().sendmmsg
    number, address = ctypes.c_int, ctypes.c_void_p
    receive.argtypes = number, address, ctypes.c_uint, number, address
    send.argtypes = number, address, ctypes.c_uint, number
    return receive, send


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
