"""`ray up`: a Ray cluster of a cloud's machines or of one's own, made for a sweep and taken down after."""

import hashlib
import re
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from orchestrator.cluster.base import Line, Submission, Variable, exports, home_path
from orchestrator.cluster.documents import write_yaml
from orchestrator.cluster.machines import MachinesConfig
from orchestrator.cluster.program import call
from orchestrator.definition import SPACE, write_whole
from orchestrator.doctor.finding import Finding, look
from orchestrator.engine.capacity import Node, places, workers_on
from orchestrator.process.state import OwnFolder
from orchestrator.space import ConfigError

CONFIG, RUN, STOP, TOKEN = "cluster.yaml", "run.sh", "stop.sh", "token"
PORT = 6379
MISSING = "install hjepa-sweep[sweep]"
STOP_S = 180.0
"""Seconds to reach the head and stop a sweep there, which takes 30 at most."""
WAIT_S = 1800
"""Seconds that workers have to come up."""

_RUN = """\
#!/bin/bash
# Begun again, it goes on.
@BEFORE@
# Workers come up after the head, and no trial would fit on the head alone.
python - @NODES@ @WAIT@ <<'END'
import sys, time
import ray
ray.init(address="auto", log_to_driver=False)
wanted, deadline = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
while sum(node["Alive"] for node in ray.nodes()) < wanted and time.monotonic() < deadline:
    time.sleep(5)
END
@COMMAND@
"""
_STOP = """\
#!/bin/bash
@BEFORE@
@COMMAND@
"""


class RayUpProfile(MachinesConfig):
    """Machines on which `ray up` makes a cluster, and how they are reached."""

    type: Literal["ray-up"]
    idle_s: int = Field(300, ge=60)
    """Seconds after which an idle worker is given back."""
    ssh_user: Line = "ubuntu"
    ssh_private_key: Line | None = None
    """File with the key; null: Ray makes one for the cloud, ssh's own for machines of one's own."""
    docker_image: Line | None = None
    """Image in which everything runs on the machines; null: none."""
    setup: tuple[Line, ...] = ()
    """Commands that each machine runs once, such as those that install hjepa-sweep."""
    activate: Line | None = None
    """Command before Ray and hjepa-sweep, such as `source ~/hjepa/bin/activate`; null: none."""
    secret_files: dict[Variable, Line] = Field(default_factory=dict)
    """Variables that the sweep reads from files on the head, such as `HJEPA_STORAGE: ~/storage`."""
    results: Line = "~/results"
    """Folder on the head for the sweeps."""
    shared: bool = False
    """Whether all machines see that folder, by a network disk; else the sweep has to name
    `resources.checkpoints`."""

    def preview(self, submission: Submission, results: Path) -> str:
        """The cluster's YAML. ConfigError where a trial can never fit, or Ray would refuse the YAML."""
        self._require_room(submission)
        return write_yaml(self._checked(submission, submission.folder(results)))

    def submit(self, submission: Submission, results: Path) -> str:
        """Write the cluster's YAML, and say with what commands it is made, used and taken down.

        Nothing is started: machines cost from their first minute.
        """
        text, folder = self.preview(submission, results), submission.folder(results)
        submission.write(folder)
        _make_token(folder / TOKEN)
        for name, script in self._scripts(submission).items():
            write_whole(folder / name, script)
        write_whole(folder / CONFIG, text)
        file = shlex.quote(str(folder / CONFIG))
        return (
            f"{submission.name}: {folder / CONFIG} is written, and nothing started. "
            "Machines cost until they are taken down.\n"
            f"ray up --yes {file}\n"
            f"ray exec --tmux {file} 'bash {there(submission.name)}/{RUN}'\n"
            f"ray attach --tmux {file}      shows what it prints\n"
            f"ray down --yes {file}         takes the machines down, with what is on them alone"
        )

    def look(self, submission: Submission | None, results: Path) -> Iterator[Finding]:
        """Ray's own program, and whether it would take the YAML. Asks no cloud and no machine."""
        yield look("ray", lambda: call("ray", "--version", missing=MISSING), "install hjepa-sweep[sweep]")
        if submission is not None:
            yield look(
                "yaml",
                lambda: f"Ray takes it: {len(self.preview(submission, results).splitlines())} lines",
                "`submit --dry-run` prints it",
            )

    def stop(self, name: str) -> str:
        """Stop the sweep `name` in order, and say so. ConfigError where the head cannot be reached.

        The machines stay: its results may be on them alone.
        """
        config = self._config(name, least=self.min_workers, mounts={})
        with OwnFolder("s") as scratch:
            file = scratch / CONFIG
            write_whole(file, write_yaml(config))
            script = f"bash {there(name)}/{STOP}"
            call("ray", "exec", str(file), script, missing=MISSING, timeout_s=STOP_S)
        return f"{name} has stopped. Its machines are still there, until `ray down` with its {CONFIG}."

    def _require_room(self, submission: Submission) -> None:
        resources = submission.sweep.config.resources
        places(resources, [self._node()] * self.provider.most(self))
        several = self.provider.first(self._least(submission)) > 1
        if resources.checkpoints is None and several and not self.shared:
            raise ConfigError(
                "resources.checkpoints: the machines share no disk. Name a store, such as s3://bucket/folder,"
                " or say `shared: true` in the profile where `results` is on a network disk."
            )

    def _node(self) -> Node:
        return {"CPU": float(self.cpus_per_node), "GPU": float(self.gpus_per_node)}

    def _least(self, submission: Submission) -> int:
        """Workers that are always there: what a trial takes, at the least."""
        resources = submission.sweep.config.resources
        return max(self.min_workers, -(-resources.workers // workers_on(resources, self._node())))

    def _scripts(self, submission: Submission) -> dict[str, str]:
        before = [*([self.activate] if self.activate else []), _environment(submission.name)]
        before += exports(self.secret_files)
        results = home_path(self.results)
        run = (
            f"hjepa-sweep run {home_path(there(submission.name))}/{SPACE} --results {results} --address auto"
        )
        filled = {
            "@BEFORE@": "\n".join(before),
            "@NODES@": str(self.provider.first(self._least(submission))),
            "@WAIT@": str(WAIT_S),
            "@COMMAND@": " ".join([run, shlex.join(submission.options)]).strip(),
        }
        stop = f"hjepa-sweep stop {shlex.quote(submission.name)} --results {results}"
        return {RUN: _filled(_RUN, filled), STOP: _filled(_STOP, filled | {"@COMMAND@": stop})}

    def _checked(self, submission: Submission, folder: Path) -> dict[str, Any]:
        mounts = {there(submission.name): str(folder)}
        config = self._config(submission.name, self._least(submission), mounts)
        _require_valid(config)
        return config

    def _config(self, sweep: str, least: int, mounts: dict[str, str]) -> dict[str, Any]:
        activate = f"{self.activate} && " if self.activate else ""
        start = f"{activate}ulimit -n 65536 && {_environment(sweep)} && ray start"
        key = {"ssh_private_key": self.ssh_private_key} if self.ssh_private_key else {}
        image = {"image": self.docker_image, "container_name": "hjepa"} if self.docker_image else {}
        head = self.provider.head_amounts(self)
        return {
            "cluster_name": cluster_name(sweep),
            **self.provider.layout(self, least),
            "idle_timeout_minutes": self.idle_s / 60,
            **({"docker": image} if image else {}),
            "auth": {"ssh_user": self.ssh_user, **key},
            "file_mounts": mounts,
            "initialization_commands": [],
            "setup_commands": list(self.setup),
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "head_start_ray_commands": [
                f"{activate}ray stop",
                f"{start} --head --port={PORT} {head} --dashboard-host=127.0.0.1 "
                "--autoscaling-config=~/ray_bootstrap_config.yaml",
            ],
            "worker_start_ray_commands": [
                f"{activate}ray stop",
                f"{start} --address=$RAY_HEAD_IP:{PORT}",
            ],
        }


def cluster_name(sweep: str) -> str:
    """The name of the cluster for a sweep, in the letters that clouds take; another for each name."""
    plain = re.sub(r"[^a-z0-9]+", "-", sweep.lower()).strip("-")[:24].rstrip("-")
    return f"hjepa-{plain}-{hashlib.sha256(sweep.encode()).hexdigest()[:6]}"


def there(sweep: str) -> str:
    """The folder on each machine that has what was sent."""
    return f"~/.hjepa/{cluster_name(sweep)}"


def _environment(sweep: str) -> str:
    """The command that gives each Ray of the cluster its settings: the token is the cluster's own."""
    token = f"{home_path(there(sweep))}/{TOKEN}"
    return f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={token} RAY_USAGE_STATS_ENABLED=0"


def _filled(text: str, filled: dict[str, str]) -> str:
    for mark, value in filled.items():
        text = text.replace(mark, value)
    return text


def _make_token(path: Path) -> None:
    """What the cluster's Rays know one another by, readable by its user only; one that is there stays."""
    if not path.exists() or not path.stat().st_size:  # a process may have died before it wrote it
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32), encoding="ascii")


def _require_valid(config: dict[str, Any]) -> None:
    """ConfigError where Ray would refuse the cluster's YAML. Asks no cloud."""
    import click
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(config))
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path) or "the cluster"
        raise ConfigError(f"ray up refuses {where}: {error.message}.") from None
    except (ValueError, RuntimeError, click.ClickException) as error:
        raise ConfigError(f"ray up refuses the cluster: {str(error).strip()}") from None
