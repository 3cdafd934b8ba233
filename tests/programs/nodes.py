"""A real Ray cluster of several nodes on this machine, whose nodes can be added, killed and drained.

It lives in a process of its own: Ray reads its settings when it is first imported.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.workplace import OUTSIDE, Workplace, free_port

_SERVE = """
import json, os, sys, time
import ray
from ray.cluster_utils import Cluster

CHECKS = {"initial_delay_ms": 0, "period_ms": 500, "failure_threshold": 4}
QUICK = {f"health_check_{name}": value for name, value in CHECKS.items()}
place = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
cluster = Cluster(
    initialize_head=True, shutdown_at_exit=True,
    head_node_args=place | {"num_cpus": 0, "gcs_server_port": int(sys.argv[1]), "_system_config": QUICK},
)
nodes = {}

def add(cpus):
    node = cluster.add_node(node_ip_address="127.0.0.1", num_cpus=cpus)
    nodes[node.node_id] = node
    return node.node_id

def kill(node):
    for process in nodes[node].all_processes["raylet"]:
        process.process.kill()  # as a machine that loses power; its workers end when they miss it
    return node

def drain(node):
    from ray.core.generated import autoscaler_pb2
    client = ray._raylet.GcsClient(address=cluster.address)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = client.drain_node(node, reason, "taken back", time.time_ns() // 1_000_000 + 4_000)
    assert accepted, why
    return node

def behead(_):
    for processes in cluster.head_node.all_processes.values():
        for process in processes:
            process.process.kill()
    return ""

print(json.dumps(cluster.address), flush=True)
for line in sys.stdin:
    name, argument = json.loads(line)
    print(json.dumps(globals()[name](argument)), flush=True)
"""


# Ray would take loopback for the host's outer address, and listen there.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "GLOO_SOCKET_IFNAME": "lo"}


class Nodes:
    """The cluster; its head has no cores, so trials run on the nodes that are added."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process
        self.address: str = self._hear()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith('"'):  # not something that Ray has to say
                return json.loads(line)
        raise AssertionError("the cluster has ended")

    def _ask(self, name: str, argument: object) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, argument]) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def add(self, cpus: int = 1) -> str:
        """Add a node; its id."""
        return self._ask("add", cpus)

    def kill(self, node: str) -> None:
        """Let a node vanish."""
        self._ask("kill", node)

    def drain(self, node: str) -> None:
        """Let a node be taken back, as a spot instance: told now, with 4 s left."""
        self._ask("drain", node)

    def behead(self) -> None:
        """Let the first node vanish, and with it what the cluster knows."""
        self._ask("behead", None)


@contextmanager
def cluster_of(folder: Path, port: int) -> Iterator[Nodes]:
    """A cluster whose files lie in `folder`, a short path."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(port)],
        env=OUTSIDE | LOOPBACK | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Nodes(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()  # it ends, and Ray's processes with it
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@pytest.fixture
def cluster(workplace: Workplace) -> Iterator[Nodes]:
    """A cluster without cores as yet, to which the workplace's commands can connect."""
    workplace.env |= LOOPBACK
    folder = Path(tempfile.mkdtemp(prefix="hn"))
    try:
        with cluster_of(folder, free_port()) as nodes:
            yield nodes
    finally:
        shutil.rmtree(folder, ignore_errors=True)
