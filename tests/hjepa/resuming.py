"""A tiny run of hjepa-train in a folder of its own, to be interrupted and gone on with."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hjepa import RunConfig
from hjepa.cli import main

Tiny = Callable[..., RunConfig]

ROOT = Path(__file__).parents[2]
KEEP_ALL = {"checkpoint.save_frequency": 1, "checkpoint.keep_last_k": 99}


@pytest.fixture
def write(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write the tiny run as run.yaml, its records in run/, some keys changed."""
    monkeypatch.chdir(tmp_path)

    def write(**dotted: Any) -> None:
        changed = {"logging.log_dir": "run", "training.epochs": 3, **KEEP_ALL, **dotted}
        Path("run.yaml").write_text(yaml.safe_dump(tiny(changed).model_dump(mode="json")))

    return write


def trained(*sets: str) -> int:
    return main(["train", "run.yaml", *(f"--set={text}" for text in sets)])


def epochs(folder: str) -> list[int]:
    return [json.loads(line)["epoch"] for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def numbers(folder: str) -> list[dict[str, float]]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time")} for line in lines]


def checkpoint(folder: str, epoch: int) -> Path:
    return Path(folder) / "checkpoints" / f"epoch_{epoch:05d}.pt"


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def started(*sets: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hjepa", "train", "run.yaml", *(f"--set={text}" for text in sets)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_epochs(child: subprocess.Popen[str], count: int) -> None:
    lines = Path("run/metrics.jsonl")
    while not lines.exists() or lines.read_text().count("\n") < count:
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.01)
