"""The nodes of the cluster that Ray is connected to: versions, data, ways to write, clocks, disks, GPUs."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.doctor.finding import Finding
from orchestrator.doctor.node import Answer, Gpu, Question, Versions, answer, clock, gpu, versions
from orchestrator.engine.capacity import cluster_nodes, grows, places, workers_on
from orchestrator.space import ConfigError, ResourcesConfig

ANSWER_S, GPU_S, PLACE_S = 180.0, 90.0, 30.0
"""Seconds that a node has to answer, a GPU to come free, and a trial to be placed."""
SKEW_S = 2.0
"""Clocks may differ by this much: times of reports and of leases are compared between machines."""
FULL = 0.95
"""Of a disk more full than this, Ray takes nothing any more."""
LEAST_DISK, LEAST_SHARED = 2 * 2**30, 256 * 2**20

Node = Mapping[str, Any]
"""As Ray describes it."""


def nodes(config: ResourcesConfig, question: Question) -> Iterator[Finding]:
    """Findings about every node; versions are compared with those of this machine."""
    ours = versions()
    alive = [node for node in ray.nodes() if node["Alive"]]
    asked = [(node, _on(node, answer, question)) for node in alive]
    for node, reference in asked:
        where = _name(node)
        try:
            said: Answer = ray.get(reference, timeout=ANSWER_S)
        except (RayError, GetTimeoutError) as error:
            yield _silent(where, error)
            continue
        yield _versions(where, said, ours)
        if workers_on(config, node["Resources"]):
            yield from _ways(where, said, question)
        yield from _room(where, said)
        yield from _gpus(node, where, said)
        yield _clock(node, where)


def placement(config: ResourcesConfig) -> Finding:
    """Whether a trial finds its place: by the arithmetic, then in earnest."""
    try:
        fits = places(config, cluster_nodes())
    except ConfigError as error:
        if not grows():
            said = str(error).rstrip(".")
            return Finding("placement", False, said, "ask for less in `resources`, or add nodes that have it")
        fits = 0
    bundle = {"CPU": float(config.cpus_per_worker)}
    if config.gpus:
        bundle["GPU"] = float(config.gpus)
    group = placement_group([dict(bundle) for _ in range(config.workers)])
    try:
        placed = group.wait(PLACE_S)
    finally:
        remove_placement_group(group)
    shape = f"{config.workers} x {', '.join(f'{amount:g} {name}' for name, amount in bundle.items())}"
    if placed:
        many = f"; {fits} at a time have room" if fits else ""
        return Finding("placement", True, f"a trial of {shape} was placed{many}")
    fix = "`ray status` shows who holds the rest; where nodes are added by themselves, try again in minutes"
    return Finding("placement", False, f"a trial of {shape} found no place within {PLACE_S:.0f} s", fix)


def _on(node: Node, function: Any, *arguments: Any, gpus: float = 0) -> Any:
    """Start `function` in a worker on a node."""
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    remote = ray.remote(function).options(num_cpus=0, num_gpus=gpus, max_retries=0, scheduling_strategy=there)
    return remote.remote(*arguments)


def _name(node: Node) -> str:
    """Its address, and enough of its id to tell apart those of one machine."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"


def _silent(where: str, error: Exception) -> Finding:
    reason = " ".join(str(error).split())[-300:] or type(error).__name__
    if "No module named" in reason:
        fix = "install this project there, with the versions of constraints.txt"
        return Finding("nodes", False, f"cannot run our code: {reason}", fix, where)
    return Finding("nodes", False, f"does not answer: {reason}", "look at its logs, or take it out", where)


def _versions(where: str, said: Answer, ours: Versions) -> Finding:
    # What was sent or installed without its history knows no commit.
    both = [name for name in ours if name in said.versions]
    differing = [
        f"{name} {said.versions[name]}, here {ours[name]}"
        for name in both
        if said.versions[name] != ours[name]
    ]
    if differing:
        fix = "install the same versions on all nodes: figures and pickles have to agree"
        return Finding("nodes", False, "; ".join(differing), fix, where)
    return Finding("nodes", True, ", ".join(f"{n} {v}" for n, v in said.versions.items()), node=where)


def _ways(where: str, said: Answer, question: Question) -> Iterator[Finding]:
    """What trials on it read and write."""
    if question.run is not None:
        problem = said.data_problem
        fix = "put the data under that path on every node, or share the disk that has it"
        text = problem.rstrip(".") if problem else "the base config's data is there"
        yield Finding("data", problem is None, text, fix if problem else "", where)
    if question.checkpoints is not None:
        problem = said.store_problem
        fix = "give its workers credentials, by their environment or the machine's role, and a way there"
        text = problem or "checkpoints can be written to their URL"
        yield Finding("checkpoints", problem is None, text, fix if problem else "", where)
    elif said.sees_results:
        yield Finding("results", True, "sees the results folder", node=where)
    else:
        fix = "share that folder with it, or set resources.checkpoints to a URL that all nodes reach"
        yield Finding("results", False, "does not see the results folder of this machine", fix, where)


def _room(where: str, said: Answer) -> Iterator[Finding]:
    folder, free, total = said.disk
    roomy = free >= LEAST_DISK and free / total > 1 - FULL
    text = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free at {folder}"
    fix = f"make room: Ray stops at {FULL:.0%} full; or put its files elsewhere by `ray start --temp-dir`"
    yield Finding("disk", roomy, text, "" if roomy else fix, where)
    if said.shared_memory is not None:
        free, total = said.shared_memory
        enough = free >= LEAST_SHARED
        text = f"{free / 2**20:.0f} of {total / 2**20:.0f} MiB free at /dev/shm"
        fix = "give the container more: `docker run --shm-size=2g`, or an emptyDir of medium Memory there"
        yield Finding("shared memory", enough, text, "" if enough else fix, where)


def _gpus(node: Node, where: str, said: Answer) -> Iterator[Finding]:
    """Whether a worker that is given a GPU can use it."""
    known = node["Resources"].get("GPU", 0)
    if not known:
        if said.gpus:
            fix = f"start it with `ray start --num-gpus={len(said.gpus)}`, in a container with --gpus all"
            text = f"the driver shows {'; '.join(said.gpus)}, and Ray none"
            yield Finding("gpu", False, text, fix, where)
        return
    reference = _on(node, gpu, gpus=0.01)
    try:
        seen: Gpu = ray.get(reference, timeout=GPU_S)
    except GetTimeoutError:
        ray.cancel(reference, force=True)
        text = f"no worker was given one of {known:g} within {GPU_S:.0f} s"
        yield Finding("gpu", False, text, "`ray status` shows who holds them", where)
        return
    except RayError as error:
        yield _silent(where, error)
        return
    if seen.available:
        yield Finding("gpu", True, f"{known:g} by Ray; a worker sees {', '.join(seen.names)}", node=where)
        return
    why = f"is built for CUDA {seen.built_for}" if seen.built_for else "is a build without CUDA"
    fix = "install there the torch and torchvision of https://pytorch.org that fit its driver, as one pair"
    text = f"a worker that was given one sees none: torch {why}, CUDA_VISIBLE_DEVICES is {seen.visible}"
    yield Finding("gpu", False, text, fix, where)


def _clock(node: Node, where: str) -> Finding:
    """By the quickest of three answers: its time lies between asking and hearing."""
    best = (float("inf"), 0.0)
    for _ in range(3):
        before = time.time()
        try:
            there: float = ray.get(_on(node, clock), timeout=ANSWER_S)
        except RayError as error:
            return _silent(where, error)
        after = time.time()
        best = min(best, (after - before, there - (before + after) / 2))
    took, skew = best
    right = abs(skew) - took / 2 <= SKEW_S
    fix = "let NTP set the clocks (chrony, systemd-timesyncd), there and here"
    return Finding("clock", right, f"{skew:+.2f} s (to {took / 2:.2f} s)", "" if right else fix, where)
