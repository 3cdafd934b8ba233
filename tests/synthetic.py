"""A test double of the core, whose effects are known, and sweeps of it without Ray.

Not a training: `synthetic_train` stands where `hjepa.train.train` does, takes a run config and yields its
reports, but their values are a formula and noise. What is around it is real: the search's samplers, the
study, the agenda with its confirmation, ASHA and the analysis.
"""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from hjepa.config import RunConfig
from hjepa.train import Report
from orchestrator.planning.simulate import simulate
from orchestrator.space import Sweep, load_sweep
from orchestrator.study.record import TrialRecord
from orchestrator.tracking.chronicle import run_config
from tests.workplace import TINY

METRIC = "val/knn_top1"
SPACE = {
    "name": "synthetic",
    "base": "base.yaml",
    "space": {
        "loss.type": {"choice": ["mse", "smoothl1", "cosine"]},
        "model.fpn.use_fpn": {"choice": [False, True]},
        "model.fpn.fusion_method": {"choice": ["add", "concat"], "when": {"model.fpn.use_fpn": True}},
        "training.lr": {"loguniform": [1e-4, 1e-2]},
    },
    "search": {"algorithm": "random", "num_trials": 60, "seed": 0},
    "scheduler": {"type": "asha", "max_epochs": 9, "grace_epochs": 1, "reduction_factor": 3},
    "confirm": {"top_k": 2, "seeds": 5},
}


@dataclass(frozen=True)
class Truth:
    """What the double's config keys do to its objective at the end, and its noise."""

    loss: float = 0.02
    """Gain of loss.type cosine; smoothl1 does nothing."""
    fpn: float = 0.01
    fusion: float = 0.0
    """Gain of concat over add."""
    lr: float = 0.015
    """Per decade."""
    trial_noise: float = 0.01
    """Standard deviation between runs, of all epochs of a run alike."""
    epoch_noise: float = 0.005
    """Standard deviation of each epoch by itself."""
    world: int = 0
    """Seed of all noise."""

    @classmethod
    def nothing(cls, world: int) -> "Truth":
        """No key does anything."""
        return cls(0, 0, 0, 0, world=world)

    def gain(self, config: RunConfig) -> float:
        """What a config is worth at the end, without noise."""
        fpn = config.model.fpn
        return (
            self.loss * (config.loss.type == "cosine")
            + fpn.use_fpn * (self.fpn + self.fusion * (fpn.fusion_method == "concat"))
            + self.lr * math.log10(config.training.lr / 1e-3)
        )


def growth(epoch: int) -> float:
    """Share of its effect at the end that a key has at an epoch."""
    return 1 - 0.7 * math.exp(-epoch / 3)


def synthetic_train(config: RunConfig, truth: Truth) -> Iterator[Report]:
    """Reports as of `hjepa.train.train`; the same config and seed, the same values."""
    text = zlib.crc32(config.model_dump_json().encode())
    rng = np.random.default_rng([truth.world, text])
    own = truth.trial_noise * rng.standard_normal()
    for epoch in range(1, config.training.epochs + 1):
        noise = own + truth.epoch_noise * rng.standard_normal()
        value = 0.5 + growth(epoch) * (0.1 + truth.gain(config)) + noise
        yield Report(epoch, epoch, {METRIC: value}, None, lambda path: None)


def synthetic_sweep(folder: Path, **sections: object) -> Sweep:
    """The sweep of `SPACE`, some of its sections changed."""
    (folder / "base.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "synthetic.yaml").write_text(yaml.safe_dump(SPACE | sections, sort_keys=False))
    return load_sweep(folder / "synthetic.yaml")


def seeded(sweep: Sweep, seed: int) -> Sweep:
    """The same sweep with another seed of its search."""
    search = sweep.config.search.model_copy(update={"seed": seed})
    return replace(sweep, config=sweep.config.model_copy(update={"search": search}))


def simulated(sweep: Sweep, truth: Truth, at_a_time: int = 4) -> list[TrialRecord]:
    """The records of a whole sweep of the double, its confirmation included.

    Trials that run at a time are of unlike length.
    """

    def curve(record: TrialRecord) -> list[float]:
        return [report.metrics[METRIC] for report in synthetic_train(run_config(sweep, record), truth)]

    def epoch_s(record: TrialRecord) -> float:
        return float(np.random.default_rng([truth.world, record.number]).uniform(0.5, 2))

    found = {step.trial.number: step.trial for step in simulate(sweep, curve, at_a_time, epoch_s)}
    return [found[number] for number in sorted(found)]


KEYS = {
    "loss.type": {"choice": ["mse", "smoothl1", "cosine"]},
    "model.fpn.use_fpn": {"choice": [False, True]},
    "model.fpn.fusion_method": {"choice": ["add", "concat"], "when": {"model.fpn.use_fpn": True}},
    "masking.num_masks": {"choice": [1, 2, 3, 4]},
    "training.lr": {"loguniform": [1e-4, 1e-2]},
}
"""The space of `drawn`."""


def drawn(rng: np.random.Generator, count: int, gain: float) -> list[TrialRecord]:
    """Completed trials of `KEYS` drawn at random, of which `loss.type: cosine` alone gains something."""
    found = []
    for number in range(count):
        values = {
            "loss.type": ["mse", "smoothl1", "cosine"][rng.integers(3)],
            "model.fpn.use_fpn": bool(rng.integers(2)),
            "masking.num_masks": int(rng.integers(1, 5)),
            "training.lr": float(10 ** rng.uniform(-4, -2)),
        }
        if values["model.fpn.use_fpn"]:
            values["model.fpn.fusion_method"] = ["add", "concat"][rng.integers(2)]
        value = 0.5 + gain * (values["loss.type"] == "cosine") + 0.01 * rng.standard_normal()
        found.append(TrialRecord(number, "search", values, reports={2: {METRIC: value}}, outcome="completed"))
    return found
