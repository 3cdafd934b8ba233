"""What every kind of cluster has in common: its profile's base class, and the sweep that is sent there."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

from pydantic import AfterValidator, Field

from orchestrator.definition import BASE, SPACE, write_whole
from orchestrator.doctor.finding import Finding, in_all
from orchestrator.doctor.finding import as_json as to_json
from orchestrator.space import Config, ConfigError, Sweep, to_yaml

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


def exports(secret_files: Mapping[str, str]) -> list[str]:
    """Commands of the shell there that read variables from files, and end it where one cannot be read."""
    # The status of `export NAME=$(...)` would be that of `export`.
    return [
        f'{name}="$(cat {home_path(file)})" && export {name} || exit' for name, file in secret_files.items()
    ]


class Answer(NamedTuple):
    """What a command there has printed, and its exit status."""

    status: int
    text: str


class BaseProfile(Config):
    """What the profiles of all kinds hold. None holds a secret: they name variables and files.

    Every kind sends and stops. What else is asked of a sweep is asked without --to where its results are
    seen, unless the kind has another way.
    """

    sees_data: ClassVar[bool] = False
    """Whether the data has to be seen from here too, so that it is looked at before anything is sent."""
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

    def status(self, name: str, as_json: bool) -> Answer:
        """What `hjepa-sweep status NAME` says there."""
        raise self._asked_there(f"hjepa-sweep status {name}")

    def logs(self, name: str, follow: bool) -> Iterator[str]:
        """What the sweep `name` prints there; with `follow` on and on, until it ends."""
        raise self._asked_there(f"hjepa-sweep status {name}")

    def fetch(self, name: str, results: Path) -> str:
        """Bring what the sweep `name` found there to `results`, and say so."""
        raise self._asked_there(f"hjepa-sweep report {name}")

    def doctor(self, submission: "Submission | None", results: Path, as_json: bool) -> Answer:
        """What stands in the way of sending the sweep, or any: a line for each thing, as `doctor` has it."""
        findings = list(self.look(submission, results))
        lines = [*(one.line for one in findings), in_all(findings)]
        text = to_json(findings) if as_json else "\n".join(lines)
        return Answer(0 if all(one.ok for one in findings) else 1, text)

    def look(self, submission: "Submission | None", results: Path) -> Iterator[Finding]:
        """What is looked at. Nothing is sent, and nothing stays written."""
        raise NotImplementedError

    def _asked_there(self, command: str) -> ConfigError:
        kind = getattr(self, "type", "this")
        return ConfigError(
            f"--to: a profile of type {kind} is for submit, stop and doctor. Ask where the results are seen, "
            f"without --to: {command}"
        )


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

    def folder(self, results: Path) -> Path:
        """Where what is sent of it is kept here."""
        return results.resolve() / SUBMITTED / self.id

    def files(self) -> dict[str, str]:
        """The sweep by file name, whole: what was edited since it was sent does not reach it."""
        return {SPACE: self.sweep.to_yaml(), BASE: to_yaml(self.sweep.base)}

    def write(self, folder: Path) -> Path:
        """Write those files into `folder`; the path of the space."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.files().items():
            write_whole(folder / name, text)
        return folder / SPACE
