"""This machine: Python, torch, and the device that a run takes here."""

import platform
import sys
from collections.abc import Iterator

import torch

from orchestrator.doctor.finding import Finding
from orchestrator.process.environment import environment

OLDEST = (3, 11)


def machine() -> Iterator[Finding]:
    """What a client needs before it asks a cluster."""
    version = platform.python_version()
    enough = sys.version_info >= OLDEST
    fix = f"install Python {'.'.join(map(str, OLDEST))} or newer"
    yield Finding("python", enough, f"{version} at {sys.executable}", "" if enough else fix)
    yield _torch()


def _torch() -> Finding:
    gpus: list[str] = environment().get("gpus", [])
    said = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        return Finding("torch", True, f"{said}, {torch.cuda.device_count()} GPU by CUDA {torch.version.cuda}")
    if gpus:
        build = torch.version.cuda
        why = f"is built for CUDA {build}" if build else "is a build without CUDA"
        fix = "install the torch and torchvision of https://pytorch.org that fit the driver, as one pair"
        return Finding("torch", False, f"{said} {why} and does not see {'; '.join(gpus)}", fix)
    if torch.backends.mps.is_available():
        return Finding("torch", True, f"{said}, Apple MPS")
    return Finding("torch", True, f"{said}, on the CPU: no GPU here")
