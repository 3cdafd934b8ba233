"""A Ray cluster that is there already.

The sweep runs as a job on its head node, whose disk keeps the results; what is asked of it afterwards is
answered by short jobs beside it, so that nothing but the dashboard's address has to be reached from here.
"""

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from orchestrator.cluster.base import Answer, BaseProfile, Line, Submission, Variable, exports, home_path
from orchestrator.cluster.bundle import NotACopyError, from_text
from orchestrator.cluster.jobs import OVER, PACKAGE, Jobs, jobs_at, package_limit
from orchestrator.cluster.package import SWEEP, pack, requirements
from orchestrator.definition import SPACE
from orchestrator.space import ConfigError
from orchestrator.study.place import copy_in

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails

STOP_S = 60
"""Seconds that a sweep has to stop in order; Ray gives 3 unless told."""
BUNDLE = "orchestrator.cluster.bundle"
COMMANDS = "orchestrator.cli"


def _web_address(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/@]+(/[^\s@]*)?", text):
        raise ValueError("must be the address of Ray's dashboard, such as http://head.example.org:8265")
    return text.rstrip("/")


class RayProfile(BaseProfile):
    """A Ray cluster whose dashboard can be reached from here."""

    type: Literal["ray"]
    address: Annotated[str, AfterValidator(_web_address)]
    """Its dashboard, such as http://127.0.0.1:8265."""
    token_file: Line | None = None
    """File here with the cluster's token. null: what RAY_AUTH_TOKEN holds, else the file that
    RAY_AUTH_TOKEN_PATH names, else ~/.ray/auth_token."""
    ca_file: Line | None = None
    """File here with the certificates to trust behind https. null: the system's."""
    results: Line = "~/hjepa-results"
    """Folder for the results, which all nodes see unless `resources.checkpoints` names a store."""
    install: bool = True
    """Whether the job gets the packages of this environment, in their versions, on top of the nodes' own.
    With false the nodes have them."""
    python: Line = "python"
    """Python there, where `install` is false."""
    files: tuple[Line, ...] = ()
    """Globs of files below the working folder that go along, such as `weights/*.safetensors`."""
    environment: tuple[Variable, ...] = ()
    """Variables that the job takes over from the shell that submits it. Ray shows them in its dashboard and
    logs: secrets belong into `secret_files`."""
    secret_files: dict[Variable, Line] = Field(default_factory=dict)
    """Variables that the sweep reads from files on the head node, such as `HJEPA_STORAGE: ~/storage`."""

    def preview(self, submission: Submission, results: Path) -> str:
        """The job, without speaking to the cluster."""
        packed = pack(submission, self.files, results, package_limit())
        lines = [
            f"job {submission.id} at {self.address}: {self._run(submission)}",
            f"with {len(packed):,} bytes of code and configs",
        ]
        if self.install:
            lines += ["and these packages:", *(f"  {package}" for package in requirements())]
        return "\n".join(lines)

    def submit(self, submission: Submission, results: Path) -> str:
        """Send the sweep, and say so. One that is sent already is left alone, unless its job is over.

        The new job goes on with the same results, which more trials or a raised budget make unfinished.
        """
        environment = self._environment(pack(submission, self.files, results, package_limit()))
        with self._jobs() as jobs:
            found = jobs.newest(re.escape(submission.id))
            if found is not None and found.status not in OVER:
                return f"{submission.name}: sent already: job {submission.id} is {_state(found)}."
            if found is not None:
                jobs.forget(submission.id)
            jobs.send(submission.id, self._run(submission), environment)
        again = " once more, and goes on where it was" if found is not None else ""
        return (
            f"{submission.name}: job {submission.id} is sent{again}.\n"
            f"With --to PROFILE, `hjepa-sweep status {submission.name}` tells how it stands, `logs -f` what "
            "it prints, and `fetch` brings what it found."
        )

    def stop(self, name: str) -> str:
        """Stop its job in order, and wait until it has."""
        with self._jobs() as jobs:
            job, id = self._find(jobs, name)
            if job.status in OVER:
                return f"{name} does not run: its job is {_state(job)}."
            jobs.stop(id, STOP_S + 15)
            job, _ = self._find(jobs, name)
        if job.status == "STOPPED":
            return f"{name} has stopped. `hjepa-sweep submit` goes on with it."
        return f"{name} had come to its end: its job is {_state(job)}."

    def status(self, name: str, as_json: bool) -> Answer:
        """What the sweep's record there says, below a line on the job; with --json, that alone."""
        with self._jobs() as jobs:
            job, id = self._find(jobs, name)
            command = self._python(COMMANDS, "status", name, *(["--json"] if as_json else []), "--results")
            answer = jobs.ask(f"{command} {home_path(self.results)}", job.runtime_env or {})
        if as_json:
            return answer
        why = f": {job.message}" if job.status == "FAILED" and job.message else ""
        return Answer(answer.status, f"job {id} is {_state(job)}{why}\n{answer.text}")

    def logs(self, name: str, follow: bool) -> Iterator[str]:
        """What its job prints."""
        with self._jobs() as jobs:
            _, id = self._find(jobs, name)
            yield from jobs.follow(id) if follow else [jobs.printed(id)]

    def fetch(self, name: str, results: Path) -> str:
        """Bring the sweep's folder without its checkpoints, and say so."""
        folder = results / name
        with self._jobs() as jobs:
            job, _ = self._find(jobs, name)
            there = home_path(f"{self.results}/{name}")
            answer = jobs.ask(f"{self._python(BUNDLE)} {there}", job.runtime_env or {})
        if answer.status:
            raise ConfigError(f"{name}: it cannot be fetched: {answer.text.strip() or 'no word why'}")
        try:
            from_text(answer.text, folder)
        except NotACopyError as error:
            raise ConfigError(f"{folder} {error}; name another folder by --results.") from None
        except ValueError as error:
            raise ConfigError(f"{name}: what arrived is no sweep: {error}; try again.") from None
        copy = copy_in(folder)
        stays = f" Its study stays in {copy.original}." if copy is not None else ""
        return (
            f"{folder} is a copy of the sweep there, without its checkpoints.{stays} "
            f"Its job is {_state(job)}."
        )

    def doctor(self, submission: Submission | None, results: Path, as_json: bool) -> Answer:
        """What `hjepa-sweep doctor` finds on the head."""
        environment = self._environment(pack(submission, self.files, results, package_limit()))
        space = [f"{SWEEP}/{SPACE}"] if submission is not None else []
        words = ["--json"] if as_json else []
        command = self._python(COMMANDS, "doctor", *space, *words, "--address", "auto", "--results")
        with self._jobs() as jobs:
            return jobs.ask(f"{command} {home_path(self.results)}", environment)

    def _run(self, submission: Submission) -> str:
        """The sweep's command, in place of the shell: what Ray signals is the sweep itself."""
        command = self._python(
            COMMANDS, "run", f"{SWEEP}/{SPACE}", *submission.options, "--results", exec=True
        )
        return f"{command} {home_path(self.results)}"

    def _python(self, module: str, *words: str, exec: bool = False) -> str:
        before = "".join(f"{command}; " for command in exports(self.secret_files))
        python = "python" if self.install else shlex.quote(self.python)
        return f"{before}{'exec ' if exec else ''}{python} {shlex.join(['-m', module, *words])}"

    def _environment(self, packed: bytes) -> dict[str, Any]:
        """Ray's runtime environment of a job, its package not yet uploaded."""
        missing = [variable for variable in self.environment if variable not in os.environ]
        if missing:
            raise ConfigError(f"environment: {missing[0]} is not set here.")
        variables = {variable: os.environ[variable] for variable in self.environment}
        return {
            PACKAGE: packed,
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S), **variables},
            **({"pip": {"packages": requirements(), "pip_check": False}} if self.install else {}),
        }

    def _find(self, jobs: Jobs, name: str) -> "tuple[JobDetails, str]":
        """The newest job of the sweep `name` and its id, or ConfigError."""
        job = jobs.newest(rf"hjepa-{re.escape(name)}-[0-9a-f]{{10}}")
        if job is None or job.submission_id is None:
            raise ConfigError(f"{name}: {self.address} knows no job of it; `hjepa-sweep submit` sends one.")
        return job, job.submission_id

    def _jobs(self) -> AbstractContextManager[Jobs]:
        certificates = Path(os.path.expanduser(self.ca_file)) if self.ca_file else None
        return jobs_at(self.address, self._token(), certificates)

    def _token(self) -> str | None:
        if self.token_file is None and (token := os.environ.get("RAY_AUTH_TOKEN")):
            return token
        named = self.token_file or os.environ.get("RAY_AUTH_TOKEN_PATH")
        path = Path(os.path.expanduser(named or "~/.ray/auth_token"))
        if named is None and not path.is_file():
            return None
        try:
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"token_file: {path}: {getattr(error, 'strerror', None) or error}.") from None
        if not re.fullmatch(r"[!-~]+", token):
            raise ConfigError(f"token_file: {path}: holds no token: that is one word of ASCII.")
        return token


def _state(job: "JobDetails") -> str:
    return str(job.status.value).lower()
