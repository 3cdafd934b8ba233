"""Sweeps of small spaces."""

from pathlib import Path
from typing import Any

import yaml

from orchestrator.space import Sweep, load_sweep
from tests.workplace import TINY


def sweep_of(
    folder: Path, space: dict[str, Any], algorithm: str = "tpe", trials: int = 16, **more: Any
) -> Sweep:
    (folder / "base.yaml").write_text(yaml.safe_dump(TINY))
    sections = {"base": "base.yaml", "search": {"algorithm": algorithm, "num_trials": trials}} | more
    (folder / "s.yaml").write_text(yaml.safe_dump(sections | {"space": space}, sort_keys=False))
    return load_sweep(folder / "s.yaml")
