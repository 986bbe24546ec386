"""What plugins cost that no Corefile names: ``python tests/bench/unnamed.py [--rounds N]``.

One Corefile, kubeadm's plugins, is served by the package as it is and by a copy that lacks the
module of each plugin that is not named, and each folder that nothing then imports. They take turns,
round by round; the printed JSON has the medians: seconds from the start to the first answer, memory
of all processes (PSS), and CPU time of a query for a Service asked before (hit) and of a query for a
name of its own (miss).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import measure
import peers

import clusterdns

PACKAGE = Path(clusterdns.__file__).parent
COREFILE = """.:{PORT} {
    errors
    health 127.0.0.1:{HEALTH} {
        lameduck 0s
    }
    ready 127.0.0.1:{READY}
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        manifests cluster
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    prometheus 127.0.0.1:{METRICS}
    forward . 127.0.0.1:1 {
        except cluster.local
    }
    cache 30
    loop
    reload
    loadbalance
}
"""
NAMESPACE = "{apiVersion: v1, kind: Namespace, metadata: {name: default}}\n---\n"
SERVICES = NAMESPACE + "\n---\n".join(
    f"{{apiVersion: v1, kind: Service, metadata: {{name: s{i}, namespace: default}},"
    f" spec: {{clusterIP: 10.96.0.{i}, clusterIPs: [10.96.0.{i}]}}}}"
    for i in range(1, 101)
)
LOADED = """
import json, sys
import clusterdns.__main__
from clusterdns.config.compile import compile_text
from clusterdns.processes import supervisor, worker
compile_text(open(sys.argv[1]).read(), "Corefile", port=53, environ={}, warn=lambda _: None)
print(json.dumps([each for each in sys.modules if each.startswith("clusterdns")]))
"""
HITS, MISSES, SECONDS = 1000, 200_000, 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        write_cluster(directory)
        asked = questions(directory)
        roots = {
            which: copied(directory / which, which == "without") for which in ("as is", "without")
        }
        rows = in_turns(list(roots), rounds, lambda w: measured(roots[w], directory, asked))
    for which, some in rows.items():
        files = len(list(roots_files[which]))
        print(json.dumps({"package": which, "modules": files, **medians(some)}))
    return 0


roots_files: dict[str, list[Path]] = {}


def copied(root: Path, lacks_unnamed: bool) -> Path:
    """Return a directory with a copy of the package, without what the Corefile does not need."""
    ignored = shutil.ignore_patterns("__pycache__", "*.c", "*.h")
    copy = root / "clusterdns"
    shutil.copytree(PACKAGE, copy, ignore=ignored)
    if lacks_unnamed:
        conf = root.parent / "named"
        conf.write_text(corefile().replace("{PORT}", "53"))
        done = subprocess.run(
            [sys.executable, "-c", LOADED, conf],
            cwd=root.parent, env=environment(root), check=True, stdout=subprocess.PIPE, timeout=60,
        )  # fmt: skip
        loaded = set(json.loads(done.stdout))
        for path in (copy / "plugins").glob("*.py"):
            if path.stem != "__init__" and f"clusterdns.plugins.{path.stem}" not in loaded:
                path.unlink()
        for folder in [each for each in copy.iterdir() if each.is_dir()]:
            if f"clusterdns.{folder.name}" not in loaded:
                shutil.rmtree(folder)
    roots_files["without" if lacks_unnamed else "as is"] = sorted(copy.rglob("*.py"))
    return root


def environment(root: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "HOME": "/root"}


def corefile(text: str = COREFILE) -> str:
    for word in ("HEALTH", "READY", "METRICS"):
        text = text.replace(f"{{{word}}}", str(peers.free_port()))
    return text


def write_cluster(directory: Path) -> None:
    """Write the objects into a directory, where the Corefile has them."""
    (directory / "cluster").mkdir()
    (directory / "cluster" / "all.yaml").write_text(SERVICES)


def in_turns(
    names: list[str], rounds: int, measure_one: Callable[[str], dict[str, float]]
) -> dict[str, list[dict[str, float]]]:
    """Return the figures of each round, by name; every second round has the other order."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[:: -1 if number % 2 else 1]:
            rows[name].append(measure_one(name))
    return rows


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure."""
    return {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}


def questions(directory: Path) -> dict[str, Path]:
    """Return the files of questions for dnsperf: Services asked again, and names asked once."""
    names = {
        "hit": [f"s{i % 100 + 1}.default.svc.cluster.local A" for i in range(HITS)],
        "miss": [
            f"10-{i >> 16}-{i >> 8 & 255}-{i & 255}.default.pod.cluster.local A"
            for i in range(MISSES)
        ],
    }
    found = {}
    for which, lines in names.items():
        found[which] = directory / f"{which}.txt"
        found[which].write_text("\n".join(lines) + "\n")
    return found


def measured(root: Path, directory: Path, asked: dict[str, Path]) -> dict[str, float]:
    """Return the figures of one run."""
    command = ["env", "-i", *[f"{k}={v}" for k, v in environment(root).items()]]
    command += [sys.executable, "-m", "clusterdns"]
    began = time.monotonic()
    with (
        measure.pinned(measure.SERVER_CORE),
        peers.running(command, corefile(), directory) as server,
    ):
        peers.wait_until_answering(server)
        row = {"start_s": time.monotonic() - began}
        time.sleep(1)  # the caches of the start
        for which, file in asked.items():
            measure.put_load(server.port, file, seconds=0.2)
            before = measure.cpu_ns(server.process.pid)
            load = measure.put_load(server.port, file, seconds=SECONDS)
            spent = measure.cpu_ns(server.process.pid) - before
            row[f"{which}_us"] = measure.Sample(load, spent).us_per_query
            if which == "hit":
                row["pss_mib"] = measure.pss_mib(server.process.pid)
    return row


if __name__ == "__main__":
    raise SystemExit(measure.run(main))
