"""SLURM: a sweep as a batch job, in which Ray spans the job's nodes and which goes on when it is requeued."""

import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from orchestrator.cluster.base import BaseProfile, Line, Submission, Variable
from orchestrator.cluster.batch import batch_script
from orchestrator.cluster.program import call
from orchestrator.definition import SPACE
from orchestrator.doctor.finding import Finding, look
from orchestrator.doctor.stores import marked
from orchestrator.engine.capacity import places
from orchestrator.space import ConfigError
from orchestrator.space.config import Seconds

TAKEN = ("HOME", "USER", "LANG", "PATH")
"""Variables of the submitting shell that a job always has."""


def _option(text: str) -> str:
    if not text.startswith("--"):
        raise ValueError("must be an option of sbatch, such as --mail-type=END")
    return text


class SlurmProfile(BaseProfile):
    """A SLURM cluster, from one of its login nodes. All its nodes see the results folder."""

    sees_data = True  # on the file system that login nodes share with the others
    type: Literal["slurm"]
    nodes: int = Field(1, ge=1, le=4096)
    """Whole nodes of the job."""
    cpus_per_node: int = Field(ge=1)
    """Cores of each that the job takes."""
    gpus_per_node: int = Field(0, ge=0)
    """GPUs of each that the job takes."""
    memory_per_node: Line | None = None
    """Memory of each, such as 64G; 0: all of it. null: what the partition gives."""
    time: Annotated[Seconds, Field(ge=60)] | None = None
    """Limit of the job, in seconds or as 12h; when it is near, the sweep stops in order and the job is queued
    again. null: the partition's."""
    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    exclusive: bool = True
    """Whether the job has its nodes alone. Two such jobs on one node end one another: `ray stop`, with which
    each ends, ends every Ray of the user's there."""
    options: tuple[Annotated[Line, AfterValidator(_option)], ...] = ()
    """Further options of sbatch."""
    setup: tuple[Line, ...] = ()
    """Lines of shell before anything else, such as `module load cuda` or `source ~/venv/bin/activate`."""
    environment: tuple[Variable, ...] = ()
    """Variables that the job takes over from the shell that submits it, besides HOME, USER, LANG and PATH."""
    secret_files: dict[Variable, Line] = Field(default_factory=dict)
    """Variables that the job reads from files there, such as `HJEPA_STORAGE: ~/.config/hjepa/storage`."""
    state_root: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]{0,40}$")] = "/tmp"  # noqa: S108
    """Folder on each node's own disk for Ray's sockets; the job's own in it is open to its user alone."""
    warning_s: int = Field(120, ge=30, le=3600)
    """Seconds before the end of `time` at which the sweep is told to stop."""
    max_requeues: int = Field(50, ge=0)
    """How often a job that ran out of time is queued again."""

    def submit(self, submission: Submission, results: Path) -> str:
        """Queue the sweep, and say so. ConfigError where SLURM refuses, or no node can hold a trial."""
        script = self.preview(submission, results)
        found = _call("squeue", "--me", "--noheader", f"--name={submission.id}", "--format=%i %T").split()
        if found:
            return f"{submission.name}: sent already: job {found[0]} is {found[1].lower()}."
        submission.write(submission.folder(results))
        job = _call("sbatch", "--parsable", input=script).strip().split(";")[0]
        return (
            f"{submission.name}: job {job} is queued.\n"
            f"It writes {log_of(submission, results, job)}.\n"
            f"hjepa-sweep status {submission.name} tells how it stands."
        )

    def stop(self, name: str) -> str:
        """Ask the jobs of the sweep `name` to stop in order, and say so. ConfigError where SLURM refuses."""
        ours = re.compile(rf"hjepa-{re.escape(name)}-[0-9a-f]{{10}}")
        listed = _call("squeue", "--me", "--noheader", "--format=%i %T %j").splitlines()
        # Of jobs that are not ours the name may hold spaces, or nothing.
        told = [
            (job, state) for job, state, *title in map(str.split, listed) if ours.fullmatch(" ".join(title))
        ]
        if not told:
            return f"{name} has no job in the queue."
        for job, state in told:
            # A job that has not begun has no script that could hear a signal.
            _call("scancel", *(["--signal=TERM", "--batch"] if state == "RUNNING" else []), job)
        return "\n".join(
            f"{name}: job {job} {'has been asked to stop' if state == 'RUNNING' else 'is out of the queue'}."
            for job, state in told
        )

    def look(self, submission: Submission | None, results: Path) -> Iterator[Finding]:
        """SLURM and its partition, the results folder, and whether it would take the job."""
        partition = [f"--partition={self.partition}"] if self.partition else []
        yield look(
            "slurm",
            lambda: (
                _call("sinfo", "--noheader", "--format=partition %P is %a, %D nodes", *partition)
                or _refuse(f"no partition {self.partition}")
            ),
            "submit from a login node, and name a partition that `sinfo` lists",
        )
        with marked(results) as (_, finding):
            yield finding
        if submission is not None:
            yield look(
                "job",
                lambda: (
                    _call("sbatch", "--test-only", input=self.preview(submission, results))
                    or "SLURM would take it"
                ),
                "ask for what the partition has: nodes, cpus_per_node, gpus_per_node, time",
            )

    def preview(self, submission: Submission, results: Path) -> str:
        """The batch script. ConfigError where the nodes can never hold a trial."""
        node = {"CPU": float(self.cpus_per_node), "GPU": float(self.gpus_per_node)}
        places(submission.sweep.config.resources, [node] * self.nodes)
        options = {
            "job-name": submission.id,
            "nodes": self.nodes,
            "ntasks-per-node": 1,
            "cpus-per-task": self.cpus_per_node,
            "gpus-per-node": self.gpus_per_node or None,
            "mem": self.memory_per_node,
            "time": math.ceil(self.time / 60) if self.time else None,  # minutes
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "signal": f"B:USR1@{self.warning_s}",
            "open-mode": "append",
            "chdir": str(Path.cwd()),
            "output": str(log_of(submission, results, "%j")),
            "export": ",".join((*TAKEN, *self.environment)),
        }
        header = [
            f"--{name}={shlex.quote(str(value))}" for name, value in options.items() if value is not None
        ]
        header += ["--requeue", *(["--exclusive"] if self.exclusive else []), *self.options]
        return batch_script(
            header=header,
            setup=self.setup,
            secret_files=self.secret_files,
            nodes=self.nodes,
            exclusive=self.exclusive,
            state_root=self.state_root,
            max_requeues=self.max_requeues,
            name=submission.name,
            results=results.resolve(),
            space=submission.folder(results) / SPACE,
            options=submission.options,
        )


def log_of(submission: Submission, results: Path, job: str) -> Path:
    """What a job prints."""
    return submission.folder(results) / f"job-{job}.log"


def _call(program: str, *arguments: str, input: str | None = None) -> str:
    return call(program, *arguments, missing="submit from a login node of SLURM", input=input)


def _refuse(why: str) -> str:
    raise ConfigError(why)
