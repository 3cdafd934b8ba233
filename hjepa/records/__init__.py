"""Records of one run that `hjepa-train` writes: the resolved config, a line per epoch, pictures."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Image

from hjepa.records.config import LoggingConfig, MlflowConfig, TensorboardConfig, WandbConfig
from hjepa.records.jsonlines import JsonLines
from hjepa.records.mlflow import MlflowSink
from hjepa.records.sinks import Outcome, Sink, TensorboardSink, WandbSink

__all__ = [
    "LoggingConfig",
    "WandbConfig",
    "TensorboardConfig",
    "MlflowConfig",
    "Records",
    "Outcome",
    "JsonLines",
]


class Records:
    """All records of a run: JSON lines and pictures as files, the rest as its config says."""

    def __init__(self, config: LoggingConfig, folder: Path, settings: Mapping[str, Any], after: int = 0):
        """Goes on after the epoch `after`: of what is there, later epochs are dropped.

        Raises ConfigError where a package that the config needs is missing.
        """
        self._folder = folder
        self._sinks: list[Sink] = []
        if config.tensorboard.enabled:
            self._sinks.append(TensorboardSink(config, folder / "tensorboard", after))
        if config.wandb.enabled:
            self._sinks.append(WandbSink(config, folder, settings))
        if config.mlflow.enabled:
            self._sinks.append(MlflowSink(config, folder, settings))
        self._lines = JsonLines(folder / "metrics.jsonl")
        self._lines.keep(lambda record: record["epoch"] <= after)

    def write(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """Record an epoch; `step` counts optimizer steps."""
        self._lines.write({"epoch": epoch, "step": step, "time": time.time(), **metrics})
        for sink in self._sinks:
            sink.write(epoch, metrics)

    def draw(self, epoch: int, pictures: Mapping[str, Image]) -> None:
        """Record an epoch's RGB pictures by name, as pictures/<name>_<epoch>.png."""
        for name, picture in pictures.items():
            file = self._folder / "pictures" / f"{name}_{epoch:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.save(file)
            for sink in self._sinks:
                sink.draw(epoch, f"pictures/{name}", picture)

    def close(self, outcome: Outcome = "done") -> None:
        """Close every sink, which is told how the run ended."""
        for sink in self._sinks:
            sink.close(outcome)
