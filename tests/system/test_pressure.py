"""What the metrics tell of a server under pressure: drops at the socket, and how busy a worker is."""

from __future__ import annotations

import socket
import time

import beside
import peers

from clusterdns.host.socketdrops import udp_drops

COREFILE = """.:{{PORT}} {{
    prometheus 127.0.0.1:{metrics}
    whoami
}}
"""
DROPS, SATURATION = "clusterdns_udp_receive_drops_total", "clusterdns_saturation_ratio"


def test_drops_of_a_socket_that_is_not_read():
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with (
            socket.socket(family, socket.SOCK_DGRAM) as server,
            socket.socket(family, socket.SOCK_DGRAM) as client,
        ):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            server.bind((host, 0))
            assert udp_drops(server) == 0
            client.connect(server.getsockname())
            for _ in range(200):
                client.send(bytes(500))
            drops = udp_drops(server)
            assert 150 < drops < 200
    assert udp_drops(server) == 0, "a closed socket"


def test_the_metrics_of_a_server_that_is_stopped_and_flooded(tmp_path):
    metrics = peers.free_port()

    def value(word: str) -> float:
        return sum(beside.samples(metrics, word).values())

    with peers.clusterdns(COREFILE.format(metrics=metrics), tmp_path) as server:
        assert 0 == value(DROPS)
        time.sleep(0.3)
        idle = value(SATURATION)
        packet, until = beside.query("a.example"), time.monotonic() + 0.5
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(server.address)
            while time.monotonic() < until:
                sock.send(packet)
        busy = value(SATURATION)
        assert 0 <= idle < busy <= 1
        assert value(DROPS) >= 0
