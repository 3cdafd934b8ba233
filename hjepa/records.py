"""Records of one run that `hjepa-train` writes: the resolved config and a line per epoch."""

import errno
import importlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from hjepa.schema import NO_EFFECT, Config, ConfigError


class WandbConfig(Config):
    """Weights & Biases, beside the files; WANDB_MODE=offline keeps it on this machine."""

    enabled: bool = Field(default=False, json_schema_extra=NO_EFFECT)
    """Send the run there. Needs the package wandb."""
    project: str = Field(default="h-jepa", json_schema_extra=NO_EFFECT)
    """Project that the run belongs to."""
    entity: str | None = Field(default=None, json_schema_extra=NO_EFFECT)
    """User or team; null: your default one. Not to be committed."""
    tags: tuple[str, ...] = Field(default=(), json_schema_extra=NO_EFFECT)
    """Labels of the run."""

    def inert(self) -> dict[str, str]:
        if self.enabled:
            return {}
        return dict.fromkeys(("project", "entity", "tags"), "logging.wandb.enabled is false")


class TensorboardConfig(Config):
    """TensorBoard, beside the files."""

    enabled: bool = Field(default=False, json_schema_extra=NO_EFFECT)
    """Write scalars to tensorboard/ in the folder of the records. Needs the package tensorboardX."""


class LoggingConfig(Config):
    """What `hjepa-train` writes down, and where; a sweep keeps its own records."""

    experiment_name: str = Field(
        default="hjepa", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", json_schema_extra=NO_EFFECT
    )
    """Name of the run; letters, digits, dot, dash and underscore."""
    log_dir: str | None = Field(default=None, json_schema_extra=NO_EFFECT)
    """Folder of the records; null: results/runs/<experiment_name>."""
    log_frequency: int = Field(default=50, ge=1, json_schema_extra=NO_EFFECT)
    """Steps between looks at the loss, each of which waits for the device; a loss that is not
    finite ends the run there."""

    log_dataset_distribution: bool = Field(default=True, json_schema_extra=NO_EFFECT)
    """Record with each epoch how many images of each of data.datasets were drawn, as data/<name>_images."""

    wandb: WandbConfig = WandbConfig()
    tensorboard: TensorboardConfig = TensorboardConfig()

    @property
    def folder(self) -> Path:
        """Folder of the records."""
        return Path(self.log_dir or f"results/runs/{self.experiment_name}")


def free_folder(folder: Path) -> Path:
    """`folder` where it is empty or missing, else the first of folder-2, folder-3, ... that is."""
    candidate, number = folder, 1
    while candidate.exists() and any(candidate.iterdir()):
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


class JsonLines:
    """An append-only file of one JSON object per line."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, record: Mapping[str, object]) -> None:
        """Append a record and hand it to the operating system; all of it, or OSError and nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = (json.dumps(record) + "\n").encode()
        with self.path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            except OSError:
                file.truncate(size)
                raise

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the records that are not `wanted`, and a last line that is torn."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and wanted(json.loads(line))]
        if kept != lines:
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(kept), encoding="utf-8")
            temporary.replace(self.path)


class Sink(Protocol):
    """Something that takes a run's metrics, epoch by epoch."""

    def write(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take an epoch's metrics."""
        ...

    def close(self) -> None:
        """Let go, everything delivered or on disk."""
        ...


class TensorboardSink:
    """Scalars in TensorBoard's event files."""

    def __init__(self, folder: Path):
        """Raises ConfigError where the package is missing."""
        self._writer = _package("tensorboardX", "logging.tensorboard").SummaryWriter(str(folder))

    def write(self, epoch: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """A run at Weights & Biases, or in its offline folder."""

    def __init__(self, config: LoggingConfig, folder: Path, settings: Mapping[str, Any]):
        """`settings` are recorded as the run's config. Raises ConfigError where the package is missing."""
        wandb = _package("wandb", "logging.wandb")
        folder.mkdir(parents=True, exist_ok=True)  # it would else write to the system's temporary folder
        self._run = wandb.init(
            project=config.wandb.project,
            entity=config.wandb.entity,
            tags=list(config.wandb.tags),
            name=config.experiment_name,
            dir=str(folder),
            config=dict(settings),
        )

    def write(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=epoch)

    def close(self) -> None:
        self._run.finish()


class Records:
    """All records of a run: JSON lines always, the rest as its config says."""

    def __init__(self, config: LoggingConfig, folder: Path, settings: Mapping[str, Any]):
        """Raises ConfigError where a package that the config needs is missing."""
        self._lines = JsonLines(folder / "metrics.jsonl")
        self._sinks: list[Sink] = []
        if config.tensorboard.enabled:
            self._sinks.append(TensorboardSink(folder / "tensorboard"))
        if config.wandb.enabled:
            self._sinks.append(WandbSink(config, folder, settings))

    def write(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """Record an epoch; `step` counts optimizer steps."""
        self._lines.write({"epoch": epoch, "step": step, "time": time.time(), **metrics})
        for sink in self._sinks:
            sink.write(epoch, metrics)

    def close(self) -> None:
        """Close every sink."""
        for sink in self._sinks:
            sink.close()


def _package(name: str, section: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise ConfigError(
            f"{section}.enabled: the package {name} is not installed: pip install {name}, "
            f"or --set {section}.enabled=false."
        ) from None
