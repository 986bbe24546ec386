"""A reload that changes what is watched: the next generation knows as much, or has to wait."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import peers
from faultyapi import FaultyApi
from test_access import reload
from test_watch import address, ask, cluster, eventually, metric, service, serving, watcher_of


def corefile_of(directory: Path) -> tuple[Path, str]:
    conf = next(directory.glob("Corefile-*"))
    return conf, conf.read_text()


def holds(server: peers.Server, seconds: float) -> None:
    """Hold that what was known is answered, and what did not exist denied."""
    end = time.monotonic() + seconds
    while True:
        assert {address(3)} == ask(server, "s3.a")[1]
        assert "NXDOMAIN" == ask(server, "nosuch.a")[0]
        if time.monotonic() >= end:
            return
        time.sleep(0.02)


def test_a_reload_to_a_server_that_is_down_waits_for_it(tmp_path):
    with FaultyApi(cluster(20)) as api, FaultyApi(cluster(20)) as other:
        other.down()
        with serving(tmp_path, api) as (server, port):
            holds(server, 0)
            conf, text = corefile_of(tmp_path)
            reload(server, text.replace(api.url, other.url))
            eventually(lambda: "Reload put off" in server.output, 10)
            assert f"endpointslices, namespaces, services of {other.url}" in server.output
            assert 1 == metric(port, "coredns_reload_failed_total")
            holds(server, 0.5)
            api.apply(service("new", "10.9.9.9"))
            eventually(lambda: {"10.9.9.9"} == ask(server, "new.a")[1], 3)
            # Another change meanwhile is taken up at once.
            reload(server, text.replace("cache 30", "cache 20"))
            eventually(lambda: "Reloading complete" in server.output, 5)
            assert {"10.9.9.9"} == ask(server, "new.a")[1]
            reload(server, text.replace(api.url, other.url))
            eventually(lambda: server.output.count("Reload put off") == 2, 10)
            holds(server, 0.1)
            other.up()
            eventually(lambda: server.output.count("Reloading complete") == 2, 8)
            assert "NXDOMAIN" == ask(server, "new.a")[0]
            holds(server, 0.1)
            assert conf.exists()


def test_a_reload_while_the_server_is_down_that_watches_more(tmp_path):
    with FaultyApi(cluster(20)) as api, serving(tmp_path, api) as (server, _):
        holds(server, 0)
        _, text = corefile_of(tmp_path)
        api.down()
        reload(server, text.replace("endpoint", "pods verified\n endpoint"))
        eventually(lambda: "Reload put off" in server.output, 10)
        holds(server, 0.5)
        api.up()
        eventually(lambda: "Reloading complete" in server.output, 8)
        holds(server, 0.1)


def test_a_watcher_that_knows_nothing_after_its_restart(tmp_path):
    """The workers in force know more than it could tell new ones."""
    with FaultyApi(cluster(20)) as api, serving(tmp_path, api) as (server, _):
        holds(server, 0)
        _, text = corefile_of(tmp_path)
        api.down()
        os.kill(watcher_of(server), signal.SIGKILL)
        reload(server, text.replace("cache 30", "cache 20"))
        eventually(lambda: "Reload put off" in server.output, 10)
        holds(server, 0.2)
        api.up()
        eventually(lambda: "Reloading complete" in server.output, 8)
        holds(server, 0.1)


def test_a_watcher_that_hangs_during_a_reload(tmp_path):
    """New workers that have been told nothing read no socket, however long that takes."""
    with (
        FaultyApi(cluster(20)) as api,
        serving(tmp_path, api, "startup_timeout 100ms") as (server, _),
    ):
        eventually(lambda: {address(3)} == ask(server, "s3.a")[1], 8)
        _, text = corefile_of(tmp_path)
        watcher = watcher_of(server)
        os.kill(watcher, signal.SIGSTOP)
        reload(server, text.replace("cache 30", "cache 20"))
        holds(server, 2)
        assert "Reloading complete" not in server.output
        os.kill(watcher, signal.SIGCONT)
        eventually(lambda: "Reloading complete" in server.output, 8)
        holds(server, 0.1)


def test_what_knows_nothing_gives_way_at_once(tmp_path):
    """The first Corefile names a server that is not there, and is mended."""
    with FaultyApi(cluster(20)) as api, FaultyApi() as wrong:
        wrong.down()
        with serving(tmp_path, wrong, "startup_timeout 0s") as (server, _):
            assert "SERVFAIL" == ask(server, "s3.a")[0]
            _, text = corefile_of(tmp_path)
            reload(server, text.replace(wrong.url, api.url))
            eventually(lambda: {address(3)} == ask(server, "s3.a")[1], 5)
            assert "put off" not in server.output
