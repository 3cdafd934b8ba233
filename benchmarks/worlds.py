"""What searches are compared on: configurations, what they report, and what they are worth."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from pyarrow import parquet

from benchmarks.rivals import Values
from orchestrator.space import load_sweep
from orchestrator.space.distribution import label

HERE = Path(__file__).parent / "tabulated"
EPOCHS, POINTS, LEVELS = 27, 256, 5


class World(Protocol):
    """One landscape with its noise."""

    space: Path
    """As a search space file has it."""
    search: dict[str, Any]
    """What of that file a search sets differently."""
    keys: dict[str, int]
    """How many points a grid has on each axis."""
    best: float
    """Quality of the best configuration."""

    def curve(self, values: Values) -> tuple[np.ndarray, float]:
        """Reports and quality of a point, each of whose coordinates lies in [0, 1]."""
        ...

    def trial(self, values: Mapping[str, Any]) -> tuple[np.ndarray, float]:
        """The same of a trial of ours; without values, of the base."""
        ...


class Table:
    """This project's own runs: every configuration of a space on digits, by `table.py`.

    All configurations report what one seed did, as the trials of a sweep share theirs; which one depends on
    the world. A configuration's quality is the mean of all its seeds' ends.
    """

    space, search = HERE / "space.yaml", {"search.algorithm": "gp", "search.num_trials": 288}

    def __init__(self, seed: int):
        self._points, runs = _tabulated()
        self.keys = {key: len(labels) for key, labels in self._points.items()}
        self._runs = {config: curves[seed % len(curves)] for config, curves in runs.items()}
        self._quality = {config: float(np.mean([c[-1] for c in curves])) for config, curves in runs.items()}
        self.best = max(self._quality.values())

    def curve(self, values: Values) -> tuple[np.ndarray, float]:
        chosen = {
            key: labels[min(len(labels) - 1, int(values[key] * len(labels)))]
            for key, labels in self._points.items()
        }
        return self._of(chosen)

    def trial(self, values: Mapping[str, Any]) -> tuple[np.ndarray, float]:
        if not values:  # the base is a configuration like another
            return self.curve(dict.fromkeys(self.keys, 0.0))
        return self._of({key: label(value) for key, value in values.items()})

    def _of(self, chosen: Mapping[str, str]) -> tuple[np.ndarray, float]:
        config = tuple(chosen.get(key) for key in self.keys)
        return self._runs[config], self._quality[config]


Config = tuple[str | None, ...]


@cache
def _tabulated() -> tuple[dict[str, list[str]], dict[Config, list[np.ndarray]]]:
    """Labels of each key's choices, and the curves of each configuration, one for each seed."""
    space = load_sweep(HERE / "space.yaml").config.space
    points = {key: [label(value) for value in one.points or []] for key, one in space.items()}
    runs: dict[Config, list[np.ndarray]] = {}
    for row in parquet.read_table(HERE / "digits.parquet").to_pylist():
        assert not row["collapsed"], "a curve that breaks off cannot be replayed"
        runs.setdefault(tuple(row[key] for key in points), []).append(np.array(row["curve"]))
    return points, runs


class Prior:
    """One draw from the freeze-thaw prior that the `ifbo` package ships: a curve for each point of four axes.

    The best is that of 256 points drawn at random. Its parts draw from numpy's and torch's global streams.
    """

    space, search = HERE / "prior.yaml", {}

    def __init__(self, seed: int):
        from ifbo.priors.ftpfn_prior import DatasetPrior  # pyright: ignore[reportMissingImports] (extra: benchmark)

        np.random.seed(seed)
        torch.manual_seed(seed)
        self.keys = dict.fromkeys(load_sweep(self.space).config.space, LEVELS)
        self._prior = DatasetPrior(len(self.keys), 23)
        self._prior.model.preactivation_noise_std = self._prior.model.output_noise = 0.0
        points = np.random.default_rng(seed).uniform(size=(POINTS, len(self.keys)))
        self.best = max(self._quality(point) for point in points)

    def _quality(self, point: np.ndarray) -> float:
        """What a point comes to at its end, its noise averaged away."""
        end = self._prior.curves_for_configs(point[None].astype(float))
        return float(np.mean(end(np.ones(64), 0)))

    def curve(self, values: Values) -> tuple[np.ndarray, float]:
        point = np.array([values[key] for key in self.keys])
        curves = self._prior.curves_for_configs(point[None])
        return curves(np.arange(1, EPOCHS + 1) / EPOCHS, 0), self._quality(point)

    def trial(self, values: Mapping[str, Any]) -> tuple[np.ndarray, float]:
        # The base has no values of its own in this space's terms: it is a point like another.
        return self.curve({key: values.get(key, 0.5) for key in self.keys})


WORLDS: dict[str, Callable[[int], World]] = {"table": Table, "prior": Prior}
