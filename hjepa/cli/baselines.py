"""What learning has to beat, measured once for a run and kept in its folder."""

import json
from pathlib import Path
from typing import Any

from hjepa.config import RunConfig
from hjepa.judge import baselines
from hjepa.run import Run

FILE = "baselines.json"


def measured_once(run: Run, folder: Path) -> dict[str, float]:
    """`baselines` of a run with its records in `folder`: those kept there, where they are of the same data,
    model, seed and k-NN. Of several processes all must call this; the first one reads and writes."""
    of, file = _what_they_depend_on(run.config), folder / FILE
    known = run.team.agree(_kept(file, of) if run.team.leads else None)
    if known is not None:
        return known
    found = baselines(run.config)
    if run.team.leads:
        file.write_text(json.dumps({"knn_top1": found, "of": of}, indent=1), encoding="utf-8")
    return found


def _what_they_depend_on(config: RunConfig) -> dict[str, Any]:
    """Training does not change them."""
    parts = {"seed": True, "data": True, "model": True, "evaluation": {"knn"}, "training": {"use_amp"}}
    return config.model_dump(mode="json", include=parts)


def _kept(file: Path, of: dict[str, Any]) -> dict[str, float] | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none there, or torn: they are measured again
        return None
    return kept["knn_top1"] if isinstance(kept, dict) and kept.get("of") == of else None
