"""An echo server over UDP, for what the machine itself takes: ``python echo.py`` prints its port."""

import socket

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", 0))
    print(sock.getsockname()[1], flush=True)
    while True:
        octets, client = sock.recvfrom(65535)
        sock.sendto(octets, client)
