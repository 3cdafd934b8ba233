"""Checkpoints: written whole or not at all, read without running code."""

import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from hjepa.folders import free_folder
from hjepa.metrics import METRIC_MODES, metric_mode
from hjepa.schema import NO_EFFECT, Config, ConfigError
from hjepa.temporary import remove_abandoned, whole_file

FORMAT = 1


class CheckpointConfig(Config):
    """What `hjepa-train` keeps of a run; a sweep keeps its own."""

    save_frequency: int = Field(default=10, ge=1, json_schema_extra=NO_EFFECT)
    """Epochs between checkpoints; the last epoch always makes one."""
    keep_last_k: int = Field(default=1, ge=1, json_schema_extra=NO_EFFECT)
    """Newest checkpoints that are kept."""
    keep_best_n: int = Field(default=1, ge=0, json_schema_extra=NO_EFFECT)
    """Best checkpoints by `metric` that are kept beside the newest."""
    metric: str = Field(default="val/knn_top1", json_schema_extra=NO_EFFECT)
    """Metric that ranks checkpoints."""
    mode: Literal["min", "max"] = Field(default="max", json_schema_extra=NO_EFFECT)
    """Whether less or more of it is better; as the metric has it."""
    checkpoint_dir: str | None = Field(default=None, json_schema_extra=NO_EFFECT)
    """Folder of the checkpoints; null: checkpoints/ inside logging.log_dir."""
    resume: str | None = Field(default=None, json_schema_extra=NO_EFFECT)
    """Checkpoint file to go on from; `auto`: the newest of this very run, if any; null: start anew."""

    @model_validator(mode="after")
    def _metric_is_reported(self) -> Self:
        mode = metric_mode(self.metric)
        if mode is None:
            known = ", ".join([*METRIC_MODES, "val/knn_top1_k<n>"])
            raise ValueError(f"no run reports metric {self.metric!r}; one of {known}")
        if self.mode != mode:
            raise ValueError(f"mode {self.mode} would keep the worst by {self.metric}; set mode to {mode}")
        return self

    def inert(self) -> dict[str, str]:
        if self.keep_best_n > 0:
            return {}
        return dict.fromkeys(("metric", "mode"), "checkpoint.keep_best_n is 0")

    def unranked(self, epochs: int, eval_frequency: int) -> str | None:
        """Why no checkpoint before the last of `epochs` has a value of `metric`, so that none is kept for it;
        None where one has."""
        if self.save_frequency >= epochs:
            return f"checkpoint.save_frequency {self.save_frequency} of {epochs} epochs makes one checkpoint"
        # Only what is evaluated under val/ is not there at every epoch.
        measured = eval_frequency if self.metric.startswith("val/") else 1
        if math.lcm(self.save_frequency, measured) < epochs:
            return None
        return (
            f"no checkpoint before the last of {epochs} epochs is evaluated; checkpoint.save_frequency "
            f"{self.save_frequency} and evaluation.eval_frequency {eval_frequency} need a common multiple "
            f"below {epochs}"
        )


class UnreadableCheckpointError(ConfigError):
    """A checkpoint file that is torn or of another kind."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state`, whole or not at all."""
    try:
        with whole_file(path) as file:
            torch.save({"format": FORMAT} | state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch's words for a full disk name neither
            cause = error.__context__
            raise OSError(cause.errno, cause.strerror, str(path)) from None
        raise


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """What `save_checkpoint` wrote. ConfigError where the file is missing, UnreadableCheckpointError where
    it is torn or of another kind."""
    try:
        _check_sums(path)
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such checkpoint.") from None
    except Exception as error:  # torch raises a dozen types on a torn file
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableCheckpointError(f"{path}: not a readable checkpoint: {first.rstrip('.')}.") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UnreadableCheckpointError(f"{path}: not a checkpoint of this version.")
    return state


def require_parts(path: Path, state: Mapping[str, Any], parts: Iterable[str], kind: str) -> None:
    """UnreadableCheckpointError unless `state`, loaded from `path`, holds `parts`, as its `kind` does."""
    missing = [part for part in parts if part not in state]
    if missing:
        held = ", ".join(name for name in state if name != "format")
        raise UnreadableCheckpointError(
            f"{path}: is no {kind}: it holds {held or 'nothing'}, and {', '.join(missing)} is missing."
        )


def _check_sums(path: Path) -> None:
    """Raise ValueError where a byte has changed: torch writes checksums, but does not read them."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged} does not fit: the file is corrupt")


class CheckpointFolder:
    """The checkpoints of one run: which to keep, which is newest. What killed processes have left of
    others is removed when it is opened."""

    def __init__(self, config: CheckpointConfig, folder: Path):
        self.config = config
        self.folder = folder
        remove_abandoned(folder, ".epoch_*.pt.*.tmp")
        # On disk too, so that a resumed run does not delete the best of what came before.
        self.scores_file = folder / "scores.json"
        self.notes: tuple[str, ...] = ()
        """What the user has to know, line by line."""
        self.unscored: set[Path] = set()
        """Checkpoints that are not deleted, for their scores have been lost."""
        self.scores = self._read_scores()

    def path(self, epoch: int) -> Path:
        """Where the checkpoint of `epoch` stands."""
        return self.folder / f"epoch_{epoch:05d}.pt"

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether `epoch` of `epochs` makes a checkpoint."""
        return epoch % self.config.save_frequency == 0 or epoch == epochs

    def newest(self) -> Path | None:
        """The newest checkpoint, if there is any."""
        return max(self.folder.glob("epoch_*.pt"), default=None)

    def newest_readable(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that can be read, None where there is none at all; and what is wrong with
        each newer one.

        Raises ConfigError where there are some and none can be read.
        """
        problems: list[str] = []
        for path in sorted(self.folder.glob("epoch_*.pt"), reverse=True):
            try:
                load_checkpoint(path, torch.device("cpu"))
            except UnreadableCheckpointError as error:
                problems.append(str(error))
                continue
            return path, problems
        if problems:
            listed = "\n".join(problems)
            raise ConfigError(
                f"checkpoint.resume auto: of {len(problems)} in {self.folder} none can be read:\n{listed}\n"
                "Remove them to start anew, or name a checkpoint file."
            )
        return None, []

    def begin(self, epoch: int) -> str | None:
        """Before a run goes on after `epoch`: move later checkpoints, which are of the branch that it leaves,
        to a folder aside/ of their own; what was moved, in words."""
        later = [file for file in sorted(self.folder.glob("epoch_*.pt")) if file > self.path(epoch)]
        if not later:
            return None
        aside = free_folder(self.folder / "aside")
        aside.mkdir()
        self.scores = {scored: score for scored, score in self.scores.items() if scored <= epoch}
        self._write_scores()
        for file in later:
            file.replace(aside / file.name)
        many = f"{len(later)} checkpoints" if len(later) > 1 else "a checkpoint"
        return f"{self.folder}: {many} of epochs after {epoch}, which come anew, moved to {aside}."

    def prune(self, epoch: int, score: float | None) -> None:
        """After saving `epoch`: delete what is neither among the newest nor among the best."""
        self.scores.pop(epoch, None)
        if score is not None and math.isfinite(score):
            self.scores[epoch] = score
        self._write_scores()
        files = sorted(self.folder.glob("epoch_*.pt"))
        ranked = sorted(self.scores, key=lambda e: self.scores[e], reverse=self.config.mode == "max")
        best = ranked[: self.config.keep_best_n]
        keep = {*files[-self.config.keep_last_k :], *(self.path(e) for e in best)}
        for file in set(files) - keep - self.unscored:
            file.unlink(missing_ok=True)

    def _read_scores(self) -> dict[int, float]:
        try:
            found = json.loads(self.scores_file.read_bytes())
            return {int(epoch): float(score) for epoch, score in found.items()}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (ValueError, TypeError, AttributeError):
            told = "cannot be read, so this run deletes none of the checkpoints that are there."
            self.notes = (f"{self.scores_file}: {told}",)
            self.unscored = set(self.folder.glob("epoch_*.pt"))
            return {}

    def _write_scores(self) -> None:
        with whole_file(self.scores_file) as file:
            file.write(json.dumps(self.scores).encode())
