"""From `resources.pack: auto` to a number: measured once for a sweep and a machine, and written down."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from orchestrator import cluster_address
from orchestrator.definition import DEFINITION, write_whole
from orchestrator.engine.capacity import require_number, this_machine
from orchestrator.engine.trial import pick_device
from orchestrator.planning.crew import Crew
from orchestrator.planning.packing import MOST_AT_ONCE, Choice, pack_gpu, split_cores
from orchestrator.process.environment import environment
from orchestrator.space import ConfigError, Sweep
from orchestrator.space.cost import cost, dearest

PACKING = "packing.json"
"""File of a sweep's folder: the choices made for it, oldest first, each with the machine."""
CPU_S, GPU_S = 0.7, 3.0
"""Seconds of one measurement: on a CPU there are some, and a sweep shall not begin noticeably later."""
MPS_S = 5.0
"""Seconds that the MPS daemon has to answer."""


@dataclass(frozen=True)
class Settled:
    """A sweep whose `auto` is a number."""

    sweep: Sweep
    """What is run."""
    defined: Sweep
    """What is written down: still `auto` for a GPU, since another machine may have another one; but a trial's
    threads, which belong to its numbers, are those that were chosen at first."""
    choice: Choice | None = None
    """None where nothing was to choose."""
    machine: dict[str, Any] | None = None

    @property
    def words(self) -> list[str]:
        """Lines about the choice."""
        if self.choice is None:
            return []
        return [self.choice.words + (f"; {daemon_words()}" if self.choice.kind == "cuda" else "")]

    def record(self, folder: Path) -> None:
        """Write the choice into the sweep's folder, unless it is there."""
        known = read_packing(folder)
        entry = {"machine": self.machine, **self.choice.data()} if self.choice else None
        if entry is not None and entry not in known:
            write_whole(folder / PACKING, json.dumps([*known, entry], indent=1))


def settle(sweep: Sweep, folder: Path | None, say: Callable[[str], None] = lambda text: None) -> Settled:
    """Make `resources.pack: auto` a number, by what `folder` has of an earlier start or by measuring.

    Writes nothing. `say` hears that it takes a while. Raises ConfigError where nothing can be measured, on a
    cluster, and for a device that is neither a CUDA GPU nor the CPU.
    """
    if sweep.config.resources.pack != "auto":
        return Settled(sweep, sweep)
    if cluster_address() is not None:
        require_number(sweep.config.resources)
    if device_kind(sweep) == "cuda":
        return _settle_gpu(sweep, folder, say)
    return _settle_cores(sweep, folder, say)


def device_kind(sweep: Sweep) -> str:
    """`cuda` or `cpu`, whichever trials take on this machine. ConfigError for another one, or none."""
    kind = pick_device(sweep.base.device).type
    if kind not in ("cuda", "cpu"):
        raise ConfigError(
            f"{sweep.path}: resources.pack: it packs CUDA GPUs, and with auto the cores of a CPU; the device "
            f"here is {kind}; leave pack out, resources.concurrency says how many trials share it."
        )
    return kind


def read_packing(folder: Path | None) -> list[dict[str, Any]]:
    """The choices recorded in a sweep's folder, oldest first; none where there is no such file."""
    if folder is None or not (folder / PACKING).exists():
        return []
    try:
        found = json.loads((folder / PACKING).read_text(encoding="utf-8"))
        for one in found:
            Choice.of(one)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{folder / PACKING}: cannot be read: {error}; remove it to measure anew."
        ) from None
    return found


def _settle_gpu(sweep: Sweep, folder: Path | None, say: Callable[[str], None]) -> Settled:
    resources = sweep.config.resources
    (node,) = this_machine()
    most, limit = _most(int(node["CPU"]), int(node["GPU"]), sweep)
    machine = {**_machine(), "most": most}
    choice = _recorded(folder, "cuda", machine)
    if choice is None:
        say("measuring how many trials shall share a GPU")
        with Crew(sweep.base, on_gpu=True) as crew:
            choice = pack_gpu(
                lambda trials: crew.measure(trials, resources.cpus_per_worker, GPU_S),
                most,
                limit,
                psutil.virtual_memory().available / int(node["GPU"]),
                _more_bytes(sweep),
            )
    return Settled(_changed(sweep, pack=choice.chosen), sweep, choice, machine)


def _most(cores: int, gpus: int, sweep: Sweep) -> tuple[int, str]:
    """Trials that may share each GPU at most, and what holds more back."""
    resources = sweep.config.resources
    limits = [
        (MOST_AT_ONCE, "are not tried"),
        (cores // (resources.cpus_per_worker * gpus), f"have no cores of their own (of {cores})"),
    ]
    if resources.concurrency is not None:
        limits.append((-(-resources.concurrency // gpus), "are more than resources.concurrency"))
    most, why = min(limits)
    return max(1, most), why


def _settle_cores(sweep: Sweep, folder: Path | None, say: Callable[[str], None]) -> Settled:
    choice = _recorded(folder, "cpu", None)
    if choice is None and folder is not None and (folder / DEFINITION).exists():
        return Settled(sweep, sweep)  # it has begun with the threads that it has
    if choice is None:
        say("measuring how many threads a trial shall have")
        (node,) = this_machine()
        with Crew(sweep.base, on_gpu=False) as crew:
            choice = split_cores(
                lambda trials, threads: crew.measure(trials, threads, CPU_S),
                int(node["CPU"]),
                psutil.virtual_memory().available,
                sweep.config.resources.concurrency,
                _more_bytes(sweep),
            )
    changed = _changed(sweep, cpus_per_worker=choice.chosen)
    threaded = replace(changed, base=changed.base.model_copy(update={"threads": choice.chosen}))
    return Settled(threaded, threaded, choice, _machine())


def _more_bytes(sweep: Sweep) -> int:
    """By how much the largest configuration's memory is estimated to be more than the base's."""
    largest = sweep.resolve(dearest(sweep, "memory_bytes"))
    return max(0, cost(largest).memory_bytes - cost(sweep.base).memory_bytes)


def _changed(sweep: Sweep, **resources: Any) -> Sweep:
    changed = sweep.config.resources.model_copy(update=resources)
    return replace(sweep, config=sweep.config.model_copy(update={"resources": changed}))


def _recorded(folder: Path | None, kind: str, machine: dict[str, Any] | None) -> Choice | None:
    """The newest choice for such a device, on that machine or on any where None."""
    for one in reversed(read_packing(folder)):
        if one["kind"] == kind and machine in (None, one["machine"]):
            return Choice.of(one)
    return None


def _machine() -> dict[str, Any]:
    known = environment()
    return {name: known[name] for name in ("cpu", "cpu_cores", "gpus", "torch") if name in known}


def mps_daemon_runs() -> bool:
    """Whether NVIDIA's MPS daemon runs here, by which processes compute on a GPU at the same moment."""
    if shutil.which("nvidia-cuda-mps-control") is None:
        return False
    try:
        # It answers or says that there is none; it starts nothing.
        done = subprocess.run(
            ["nvidia-cuda-mps-control"],
            input="get_server_list\n",
            capture_output=True,
            text=True,
            timeout=MPS_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and "Cannot find MPS control daemon" not in done.stdout + done.stderr


def daemon_words() -> str:
    if mps_daemon_runs():
        pipes = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "its default folder")
        return f"the MPS daemon runs (pipes in {pipes}), so that they compute at the same moment"
    return "no MPS daemon runs, so that they take turns; `nvidia-cuda-mps-control -d` starts one"
