"""Where a run's metrics and pictures may go besides the files, each by a package of its own."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL.Image import Image

from hjepa.records.config import LoggingConfig
from hjepa.schema import ConfigError

Outcome = Literal["done", "failed", "interrupted"]
"""How a run ended."""


class Sink(Protocol):
    """Something that takes a run's metrics and pictures, epoch by epoch."""

    def write(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take an epoch's metrics."""
        ...

    def draw(self, epoch: int, name: str, picture: Image) -> None:
        """Take an RGB picture."""
        ...

    def close(self, outcome: Outcome) -> None:
        """Let go, everything delivered or on disk."""
        ...


class TensorboardSink:
    """Scalars, pictures and the run's description in TensorBoard's event files."""

    def __init__(self, config: LoggingConfig, folder: Path, after: int):
        """Of earlier event files, what is beyond the epoch `after` is no longer shown.

        Raises ConfigError where the package is missing.
        """
        package = require_package("tensorboardX", "logging.tensorboard")
        self._writer = package.SummaryWriter(str(folder), purge_step=after + 1 if after else None)
        if config.description is not None:
            self._writer.add_text("description", config.description, after)

    def write(self, epoch: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)

    def draw(self, epoch: int, name: str, picture: Image) -> None:
        self._writer.add_image(name, np.asarray(picture), epoch, dataformats="HWC")

    def close(self, outcome: Outcome) -> None:
        self._writer.close()


class WandbSink:
    """A run at Weights & Biases, or in its offline folder."""

    def __init__(self, config: LoggingConfig, folder: Path, settings: Mapping[str, Any]):
        """`settings` are recorded as the run's config. Raises ConfigError where the package is missing."""
        self._wandb = require_package("wandb", "logging.wandb")
        folder.mkdir(parents=True, exist_ok=True)  # it would else write to the system's temporary folder
        self._run = self._wandb.init(
            project=config.wandb.project,
            entity=config.wandb.entity,
            tags=list(config.wandb.tags),
            name=config.experiment_name,
            notes=config.description,
            dir=str(folder),
            config=dict(settings),
        )

    def write(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=epoch)

    def draw(self, epoch: int, name: str, picture: Image) -> None:
        self._run.log({name: self._wandb.Image(picture)}, step=epoch)

    def close(self, outcome: Outcome) -> None:
        self._run.finish(exit_code={"done": 0, "failed": 1, "interrupted": 130}[outcome])
        # Until its own process has ended, the last of an offline run may not be on disk.
        self._wandb.teardown()


def require_package(name: str, section: str) -> Any:
    """The package, imported only now. Raises ConfigError naming it where it is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise ConfigError(
            f"{section}.enabled: the package {name} is not installed: pip install {name}, "
            f"or --set {section}.enabled=false."
        ) from None
