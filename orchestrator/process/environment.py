"""What a sweep ran on and by which commands: versions, machine, the commit of the code; recorded, shown."""

import functools
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.requirements import Requirement

ENVIRONMENT, COMMANDS = "environment.json", "commands.txt"
PACKAGES = ("torch", "torchvision", "timm", "numpy", "ray", "optuna", "mlflow")
SINCE = "since"


@functools.cache
def environment() -> dict[str, Any]:
    """What this process runs on, by short dotted names; what cannot be found out is left out."""
    found: dict[str, Any] = {
        "hjepa_sweep": _version("hjepa-sweep"),
        **_commit(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "host": platform.node(),
        "cpu": _cpu(),
        "cpu_cores": _cores(),
        "memory_gib": _memory_gib(),
        "gpus": _gpus(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def record_environment(folder: Path) -> None:
    """Write down in a sweep's folder what it runs on from now on; one that it already ran on is kept."""
    from orchestrator.definition import write_whole

    known = read_environments(folder)
    if not known or differences(known[-1], environment()):
        since = datetime.now(UTC).isoformat(timespec="seconds")
        write_whole(folder / ENVIRONMENT, json.dumps([*known, {SINCE: since, **environment()}], indent=1))


def record_command(folder: Path, command: Sequence[str]) -> None:
    """Write down in a sweep's folder that it was begun, or gone on with, by `command` now."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    with (folder / COMMANDS).open("a", encoding="utf-8") as file:
        file.write(f"{since} {shlex.join(command)}\n")


def read_commands(folder: Path) -> list[str]:
    """The commands by which the sweep in `folder` was begun and gone on with, oldest first, each once."""
    try:
        lines = (folder / COMMANDS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return list(dict.fromkeys(line.partition(" ")[2] for line in lines))


def read_environments(folder: Path) -> list[dict[str, Any]]:
    """What the sweep in `folder` ran on, oldest first, each with the time from when; empty if unknown."""
    try:
        found = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [dict(one) for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def environment_at(environments: list[dict[str, Any]], time: datetime | None) -> dict[str, Any]:
    """The one that held at a local time, such as a trial's beginning; empty if unknown."""
    if time is None:
        return {}
    before = [one for one in environments if datetime.fromisoformat(one[SINCE]) <= time.astimezone()]
    return (before or environments[:1] or [{}])[-1]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two, by name, apart from since when they held."""
    names = [name for name in {**one, **other} if name != SINCE]
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def needed(*extras: str) -> "list[Requirement]":
    """The packages that this project needs here, and those of its `extras`.

    PackageNotFoundError where it is not installed.
    """
    from packaging.requirements import Requirement

    lines = map(Requirement, importlib.metadata.requires("hjepa-sweep") or ())
    chosen = [{"extra": extra} for extra in ("", *extras)]
    return [one for one in lines if one.marker is None or any(map(one.marker.evaluate, chosen))]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    """Commit of the code that runs, and whether it was changed since; empty outside its repository."""
    here = Path(__file__)
    # A package that is installed somewhere below another project's repository is not part of that one.
    if _output("git", "-C", str(here.parent), "ls-files", "--error-unmatch", here.name) is None:
        return {}
    changed = _output("git", "-C", str(here.parent.parent), "status", "--porcelain", "--untracked-files=no")
    commit = _output("git", "-C", str(here.parent), "rev-parse", "HEAD")
    return {"git_commit": commit, "git_dirty": None if changed is None else bool(changed)}


def _cpu() -> str:
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _cores() -> int | None:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _gpus() -> list[str] | None:
    """Name, memory and driver of each NVIDIA GPU. Not by torch, which would take memory on every one."""
    query = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    lines = _output("nvidia-smi", *query)
    return lines.splitlines() if lines else None


def _output(*command: str) -> str | None:
    """What a command prints; None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
