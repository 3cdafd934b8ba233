"""What every kind of cluster has in common: its profile's base class, and the sweep that is sent there."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from orchestrator.definition import BASE, SPACE, write_whole
from orchestrator.space import Config, Sweep, to_yaml

SUBMITTED = ".submitted"
"""Folder in the results for what was sent; no sweep's name begins with a dot."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _variable(name: str) -> str:
    if not VARIABLE.fullmatch(name):
        raise ValueError("must be the name of an environment variable, such as HJEPA_STORAGE")
    return name


def _one_line(text: str) -> str:
    if not text.strip() or "\n" in text or "\r" in text or "\0" in text:
        raise ValueError("must be one line of text")
    return text


Variable = Annotated[str, AfterValidator(_variable)]
"""Name of an environment variable."""
Line = Annotated[str, AfterValidator(_one_line)]
"""Text that may stand in a script's header, where a second line would be a line of the script."""


def home_path(path: str) -> str:
    """A path as a word of the shell there, in which a leading ~ is the home folder."""
    rest = path.removeprefix("~/")
    return shlex.quote(path) if rest == path else f'"$HOME"/{shlex.quote(rest)}'


class BaseProfile(Config):
    """What the profiles of all kinds hold. None holds a secret: they name variables and files."""

    description: Line | None = None
    """What the cluster is, for people."""
    set: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    """Keys that have another value there, as by --set: `data.data_path: /datasets/imagenet`."""

    def preview(self, submission: "Submission", results: Path) -> str:
        """What would be sent, to read. Raises ConfigError where the cluster can never hold a trial."""
        raise NotImplementedError

    def submit(self, submission: "Submission", results: Path) -> str:
        """Send it, or find it sent, and say so. Raises ConfigError where the cluster refuses."""
        raise NotImplementedError

    def stop(self, name: str) -> str:
        """Ask the sweep `name` there to stop in order, and say so. Raises ConfigError."""
        raise NotImplementedError


@dataclass(frozen=True)
class Submission:
    """A sweep on its way: what it is, and the options that it runs with."""

    sweep: Sweep
    options: tuple[str, ...] = ()
    """Words for the command line there, such as --tracking-uri URI."""

    @property
    def name(self) -> str:
        """The sweep's."""
        return self.sweep.config.name

    @property
    def id(self) -> str:
        """The same for the same sweep, whoever sends it and how often."""
        return f"hjepa-{self.name}-{self.sweep.fingerprint()[:10]}"

    def files(self) -> dict[str, str]:
        """The sweep by file name, whole: what was edited since it was sent does not reach it."""
        return {SPACE: self.sweep.to_yaml(), BASE: to_yaml(self.sweep.base)}

    def write(self, folder: Path) -> Path:
        """Write those files into `folder`; the path of the space."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.files().items():
            write_whole(folder / name, text)
        return folder / SPACE
