"""Search spaces on a base of their own, in the current folder."""

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from orchestrator.space import ConfigError, Sweep, load_sweep

FPN = """
name: fpn
base: base.yaml
objective: {metric: val/knn_top1, mode: max}
space:
  model.fpn.fusion_method:  {choice: [add, concat], when: {model.fpn.use_fpn: true}}
  model.fpn.use_fpn:        {choice: [true, false]}
  loss.hierarchy_weights:   {choice: [[1.0, 0.5, 0.25], [1, 1, 1]]}
  training.lr:              {loguniform: [1e-4, 3e-3]}
search:    {algorithm: tpe, num_trials: 24, seed: 0}
scheduler: {type: asha, max_epochs: 27, grace_epochs: 3, reduction_factor: 3}
resources: {workers: 1, cpus_per_worker: 2, gpus_per_worker: 0}
"""
USE_FPN = {"model.fpn.use_fpn": {"choice": [True, False]}}
LR = {"training.lr": {"loguniform": [1e-4, 1e-2]}}
EMPTY: dict[str, Any] = {}
FUSION = "model.fpn.fusion_method"
CHOICES = {
    "model.fpn.use_fpn": {"choice": [True, False]},
    "model.fpn.fusion_method": {"choice": ["add", "concat"], "when": {"model.fpn.use_fpn": True}},
    "model.num_hierarchies": {"choice": [2, 3]},
    "loss.hierarchy_weights": {
        "choice": [[1.0, 0.5, 0.25], [1.0, 1.0, 1.0]],
        "when": {"model.num_hierarchies": 3},
    },
    "loss.type": {"choice": ["mse", "smoothl1", "cosine"]},
    "loss.smoothl1.beta": {"choice": [0.5, 1.0], "when": {"loss.type": "smoothl1"}},
    "loss.normalize_embeddings": {"choice": [False, True], "when": {"loss.type": ["mse", "smoothl1"]}},
}


def load(space: Any, base: dict[str, Any] = EMPTY, **sections: Any) -> Sweep:
    """The sweep of a file s.yaml with this space on base.yaml."""
    Path("base.yaml").write_text(yaml.safe_dump(base))
    sections = {"base": "base.yaml", "search": {"num_trials": 4}} | sections
    Path("s.yaml").write_text(yaml.safe_dump(sections | {"space": space}, sort_keys=False))
    return load_sweep("s.yaml")


def refusal(space: Any, base: dict[str, Any] = EMPTY, **sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(space, base, **sections)
    return str(caught.value)


def fpn(text: str = FPN, **arguments: Any) -> Sweep:
    Path("fpn.yaml").write_text(text)
    return load_sweep("fpn.yaml", **arguments)


def drawn(sweep: Sweep, seed: int, trials: int = 1) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [sweep.suggest(study.ask()) for _ in range(trials)]
