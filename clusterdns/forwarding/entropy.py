"""Random IDs and source ports, which a forger has to guess (RFC 5452, RFC 6056)."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

MIN_PORT: Final = 1024
PORT_TRIES: Final = 3  # then the kernel chooses, out of half as many ports
_AT_ONCE: Final = 256  # IDs taken from the kernel at one time: 0.05 µs each, 1.2 one by one


class Idents:
    """Random 16-bit numbers. Make it in the worker: after a fork, both would repeat them."""

    def __init__(self) -> None:
        self._octets = b""

    def take(self) -> int:
        """Return the next number."""
        if len(self._octets) < 2:
            self._octets = os.urandom(2 * _AT_ONCE)
        ident = self._octets[0] << 8 | self._octets[1]
        self._octets = self._octets[2:]
        return ident

    def bind(self, sock: socket.socket, host: str) -> None:
        """Bind a socket to a random port, at an address or at any ("").

        Raises:
            OSError: the address is not of this host.
        """
        for _ in range(PORT_TRIES):
            port = self.take()
            while port < MIN_PORT:
                port = self.take()
            try:
                sock.bind((host, port))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
            else:
                return
        sock.bind((host, 0))
