"""What a node says of itself. These functions run on it, in a worker of Ray's."""

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written to


Versions = Mapping[str, str]
"""Of what has to be the same everywhere."""


@dataclass(frozen=True)
class Question:
    """What is asked of a node."""

    marker: str
    """A file that was just made in the results folder, or above it."""
    working_dir: str
    """Where relative paths go from."""
    run: str | None = None
    """A run config, as JSON, whose data shall be there."""
    checkpoints: str | None = None
    """URL to which checkpoints shall be written."""


@dataclass(frozen=True)
class Answer:
    """What a node says."""

    versions: Versions
    gpus: tuple[str, ...]
    """Its NVIDIA GPUs, by their driver."""
    sees_results: bool
    data_problem: str | None
    store_problem: str | None
    disk: tuple[str, int, int]
    """Where Ray writes; bytes free and in all."""
    shared_memory: tuple[int, int] | None
    """Bytes free and in all; None where the system has no such place."""


@dataclass(frozen=True)
class Gpu:
    """What a worker that was given a GPU sees."""

    available: bool
    names: tuple[str, ...]
    built_for: str | None
    """CUDA version of its torch; None: a build without."""
    visible: str | None
    """CUDA_VISIBLE_DEVICES."""


def answer(question: Question) -> Answer:
    """Look around. Takes seconds where torch has not been imported yet."""
    import ray

    from orchestrator.engine.trial import data_problem
    from orchestrator.process.environment import environment

    known = environment()
    session = ray._private.worker._global_node.get_session_dir_path()  # pyright: ignore
    usage = shutil.disk_usage(session)
    return Answer(
        versions=versions(),
        gpus=tuple(known.get("gpus", ())),
        sees_results=Path(question.marker).exists(),
        data_problem=None if question.run is None else data_problem(question.run, question.working_dir),
        store_problem=None if question.checkpoints is None else _store_problem(question.checkpoints),
        disk=(session, usage.free, usage.total),
        shared_memory=_shared_memory(),
    )


def versions() -> Versions:
    """Those of this process."""
    from orchestrator.process.environment import environment

    known = environment()
    names = {"Python": "python", "torch": "torch", "hjepa-sweep": "hjepa_sweep", "commit": "git_commit"}
    return {name: str(known[key]) for name, key in names.items() if key in known}


def clock() -> float:
    """Unix time in seconds."""
    return time.time()


def gpu() -> Gpu:
    """Asked of a worker that has one."""
    import torch

    there = torch.cuda.is_available()
    names = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) if there else ()
    return Gpu(there, names, torch.version.cuda, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _store_problem(url: str) -> str | None:
    from orchestrator.space import ConfigError
    from orchestrator.storage.store import open_store

    try:
        open_store(url).probe()
    except ConfigError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _shared_memory() -> tuple[int, int] | None:
    if not SHARED_MEMORY.exists():
        return None
    usage = shutil.disk_usage(SHARED_MEMORY)
    return usage.free, usage.total
