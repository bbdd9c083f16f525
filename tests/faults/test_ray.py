"""Runs on a real Ray cluster of nodes on loopback: one dies in mid-suite, and nothing is lost or
wrong for it.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noisebench.cli import main
from tests.support.suites import (
    LOOPBACK,
    ancestors,
    finish,
    numbers,
    start,
    under_way,
    wait_until,
    workspace,
)


def at_work(root: Path, nodes: list[Any]) -> list[Any]:
    """The nodes that have a run under way which is in its second epoch at least."""
    claims = [path for path in root.glob("runs/*/claim") if len(list(path.parent.iterdir())) > 1]
    busy = {pid for path in claims for pid in ancestors(json.loads(path.read_text())["pid"])}
    return [node for node in nodes if node.all_processes["raylet"][0].process.pid in busy]


@pytest.fixture(
    params=[1, pytest.param(2, marks=pytest.mark.soak)], ids=lambda count: f"{count + 1} nodes"
)
def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Nodes of one CPU each: a head and so many others."""
    for name, value in LOOPBACK.items():
        monkeypatch.setenv(name, value)
    pytest.importorskip("ray", reason="needs ray: pip install 'noisebench[ray]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    size = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={**size, "node_ip_address": "127.0.0.1"})
    try:
        made.others = [
            made.add_node(node_ip_address="127.0.0.1", **size) for _ in range(request.param)
        ]
        yield made
    finally:
        made.shutdown()


def test_a_node_that_dies_costs_no_run_and_changes_no_number(cluster: Any, tmp_path: Path) -> None:
    seeds = range(len(cluster.others))
    there, here = workspace(tmp_path / "there", 40, seeds), workspace(tmp_path / "here", 40, seeds)
    suite = start(there, "--executor", "ray", "--address", cluster.address)
    wait_until(lambda: at_work(there, cluster.others), suite)
    at_work(there, cluster.others)[0].kill_raylet()
    out, err = finish(suite, 240)
    assert suite.returncode == 0, err
    assert "resumes elsewhere: its node was lost" in err and " failed: " not in err
    assert main(["-q", "-C", str(here), "run", "tiny", "--jobs", "1"]) == 0
    assert numbers(there) == numbers(here) and len(numbers(there)) == 2 * len(seeds)
    assert out.startswith("digits, of which 400"), "stdout is the table alone"
    assert not under_way(there) and not list(there.glob("runs/*/error.json"))


@pytest.mark.soak
def test_interrupted_workers_save_and_the_same_command_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install 'noisebench[ray]'")
    root = workspace(tmp_path / "there", 300, [0])
    suite = start(root, "--executor", "ray", "--jobs", "1")
    wait_until(lambda: under_way(root), suite)
    time.sleep(1)
    suite.send_signal(signal.SIGINT)
    out, err = finish(suite, 120)
    assert (suite.returncode, out) == (130, ""), err
    assert (
        err.splitlines()[-1] == "error: interrupted; the same command resumes"
        and "ray" not in err.lower()
    )
    assert len(list(root.glob("runs/*/resume.pt"))) == 1 and not under_way(root)
