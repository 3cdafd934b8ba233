"""How many trials fit: on this machine's cores and GPUs, or on a cluster's nodes."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from orchestrator import cluster_address
from orchestrator.space import ConfigError, ResourcesConfig

Node = Mapping[str, float]
"""What a node has, by Ray's names: CPU, GPU."""
LOOK_S = 2.0
"""Seconds between two looks at a cluster's nodes."""


def this_machine() -> list[Node]:
    """The only node of a sweep that has a Ray of its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [{"CPU": cores, "GPU": torch.cuda.device_count()}]


def cluster_nodes() -> list[Node]:
    """The nodes of the cluster that Ray is connected to, those that live."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def grows() -> bool:
    """Whether the cluster that Ray is connected to may get nodes of itself, by an autoscaler."""
    from ray._private.state import state

    most: Any = state.get_max_resources_from_cluster_config()
    return most is not None


def workers_on(config: ResourcesConfig, node: Node) -> int:
    """Workers that fit on a node at a time. A GPU is shared by fractions, none lies across two."""
    fits = int(node.get("CPU", 0)) // config.cpus_per_worker
    if config.gpus:
        fits = min(fits, int(node.get("GPU", 0)) * int(1 / config.gpus))
    return fits


def places(config: ResourcesConfig, nodes: Sequence[Node] | None = None) -> int:
    """Trials that run at a time, on `nodes` or on this machine.

    Raises ConfigError, with the arithmetic, where not even one fits.
    """
    found = this_machine() if nodes is None else nodes
    fits = sum(workers_on(config, node) for node in found) // config.workers
    if fits == 0:
        raise ConfigError(_refusal(config, found, "this machine has" if nodes is None else "the nodes have"))
    return min(fits, config.concurrency or fits)


def places_now(config: ResourcesConfig) -> int:
    """Trials that run at a time here, or on the nodes that the cluster has now; 1 where they fit on none."""
    try:
        return places(config, cluster_nodes() if cluster_address() else None)
    except ConfigError:
        return 1  # nodes were lost, or are yet to come: a trial waits for others


def require_number(config: ResourcesConfig) -> None:
    """Raises ConfigError for a sweep on a cluster whose `pack` is still to be measured."""
    if config.pack == "auto":
        raise ConfigError(
            "resources.pack: auto measures the machine that the sweep starts on, and a cluster's nodes are "
            "others; allowed there: a number, such as `hjepa-sweep plan SPACE` says on such a node."
        )


class Places:
    """How many trials may run at a time, looked up anew every few seconds: a cluster's nodes come and go."""

    def __init__(self, config: ResourcesConfig):
        self._config = config
        self._looked, self._found = -math.inf, 1

    def now(self) -> int:
        """At least 1."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._looked, self._found = time.monotonic(), places_now(self._config)
        return self._found


def _refusal(config: ResourcesConfig, nodes: Sequence[Node], have: str) -> str:
    cores = config.model_copy(update={"gpus_per_worker": 0, "pack": None})
    short = sum(workers_on(cores, node) for node in nodes) < config.workers
    name, unit = ("CPU", "cores") if short else ("GPU", "GPUs")
    gpus_by = "gpus_per_worker" if config.pack is None else "pack"
    key, asked = ("cpus_per_worker", config.cpus_per_worker) if short else (gpus_by, config.gpus)
    largest_first = sorted((node.get(name, 0) for node in nodes), reverse=True)
    amounts = ", ".join(f"{amount:g}" for amount in largest_first) or "none"
    whole = "a worker's lie on one node" if short else "each worker's lies on one of them"
    message = f"resources.{key}: a trial asks for {_asked(config, asked)} {unit}, {have} {amounts}"
    return f"{message}, and {whole}." if len(nodes) > 1 or not short else f"{message}."


def _asked(config: ResourcesConfig, per_worker: float) -> str:
    if config.workers == 1:
        return f"{per_worker:g}"
    return f"{config.workers} workers x {per_worker:g} = {config.workers * per_worker:g}"
