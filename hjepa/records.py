"""Records of one run that `hjepa-train` writes: the resolved config and a line per epoch."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from hjepa.schema import NO_EFFECT, Config


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
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    def write(self, record: Mapping[str, object]) -> None:
        """Append a record and hand it to the operating system."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
