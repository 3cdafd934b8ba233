"""Nodes that share no disk: each has mounts of its own, in which the results folder is hidden."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.programs.nodes import LOOPBACK, cluster_of
from tests.programs.s3 import S3
from tests.workplace import (
    SPACE,
    Workplace,
    end_session,
    free_port,
    learnt,
    records,
    uninterrupted,
    wait_until,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.getuid() != 0 or shutil.which("unshare") is None, reason="mount namespaces want root and unshare"
    ),
]
HIDE = 'mount --make-rprivate / && mount -t tmpfs tmpfs "$0" && exec "$@"'

# As ray.cluster_utils adds one; `ray start` would take the host's outer address for loopback.
_NODE = """
import sys, time
from ray._private.node import Node
from ray._private.parameter import RayParams

place = {"node_ip_address": "127.0.0.1", "gcs_address": sys.argv[1], "redis_address": sys.argv[1]}
some = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 150 * 2**20}
ports = {"min_worker_port": 0, "max_worker_port": 0, "node_manager_port": 0}
params = RayParams(include_log_monitor=False, **place, **some, **ports)
params.dashboard_agent_listen_port = None
Node(params, head=False, shutdown_at_exit=True, spawn_reaper=True)
print("joined", flush=True)
time.sleep(3600)
"""

AddNode = Callable[[], psutil.Process]


@pytest.fixture
def apart(workplace: Workplace, s3: S3) -> Iterator[tuple[str, AddNode]]:
    """Address of a cluster without cores, and what adds a node to it; the node's scheduler."""
    workplace.env |= LOOPBACK | s3.env
    hidden = workplace.folder / "results"
    hidden.mkdir()
    folder = Path(tempfile.mkdtemp(prefix="hn"))
    port = free_port()
    started: list[subprocess.Popen[bytes]] = []

    def add() -> psutil.Process:
        ray = [sys.executable, "-c", _NODE, f"127.0.0.1:{port}"]
        said = folder / f"said{len(started)}"
        with said.open("wb") as output:
            node = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", HIDE, str(hidden), *ray],
                env=workplace.env,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        started.append(node)

        while "joined" not in said.read_text():
            assert node.poll() is None, said.read_text()
            time.sleep(0.1)
        (raylet,) = (one for one in psutil.Process(node.pid).children(True) if one.name() == "raylet")
        return raylet

    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        nodes = stack.enter_context(cluster_of(folder, port))
        try:
            yield nodes.address, add
        finally:
            for node in started:
                end_session(node)  # pyright: ignore
                node.wait(timeout=30)


def test_a_trial_of_a_lost_node_goes_on_on_another_that_shares_no_disk_with_it(
    workplace: Workplace, s3: S3, bucket: str, apart: tuple[str, AddNode]
):
    address, add = apart
    first, _ = add(), add()
    search = {"algorithm": "random", "num_trials": 1}
    space = {"search": search, "scheduler": {"type": "fifo", "max_epochs": 40}}
    workplace.write("tiny.yaml", SPACE | space | {"resources": {"max_failures": 0, "checkpoints": bucket}})
    process = workplace.start_sweep("tiny.yaml", "--address", address, output=workplace.folder / "said")
    said = workplace.folder / "said"
    try:
        wait_until(lambda: "0000 epoch 3" in said.read_text(), process)
        wait_until(lambda: "0001 epoch 3" in said.read_text(), process)
        first.kill()
        process.wait(timeout=240)
    finally:
        end_session(process)
    assert process.returncode == 0, said.read_text()
    found = records(workplace)
    assert [record.outcome for record in found] == ["completed"] * 2
    assert [record.notes for record in found if record.notes] == [["its node was lost; goes on elsewhere"]]
    for record in found:
        kept = uninterrupted(workplace, record)
        assert [{k: m[k] for k in kept[0]} for m in map(learnt, record.reports.values())] == kept
    assert not (workplace.folder / "results/tiny/trials").exists()
    held = s3.names(bucket.removeprefix("s3://").partition("?")[0])
    for record in found:
        files = [name.rpartition("/")[2] for name in held if f"/trials/{record.id}/" in name]
        assert files == ["config.yaml", "epoch_00040.pt", "metrics.jsonl"]
