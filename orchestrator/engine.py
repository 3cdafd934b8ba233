"""Ray Tune as the engine: it places trials on processors and keeps their processes warm, no more."""

import contextlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from orchestrator.group import GroupActor
from orchestrator.schedule import Listener, TuneEvents, TuneScheduler
from orchestrator.search import TuneSearcher
from orchestrator.space import ConfigError, ResourcesConfig
from orchestrator.stopping import Stop
from orchestrator.trial import TrialActor

MAX_SOCKET_PATH = 107  # bytes, by Linux; Ray puts a socket some 70 bytes below its folder
PLACE = "place"
"""Ray's name for room for one trial under Ray Train, so that no more begin than there are workers for."""


def state_folder() -> Path:
    """Private folder for Ray's sockets and logs: $HJEPA_STATE_DIR, or hjepa in the user's state folder."""
    given = os.environ.get("HJEPA_STATE_DIR")
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(given) if given else Path(home) / "hjepa"


def places(config: ResourcesConfig) -> int:
    """Trials that run at a time on this machine. ConfigError where not even one fits."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fits = cores // (config.workers * config.cpus_per_worker)
    if fits == 0:
        raise ConfigError(
            f"resources.cpus_per_worker: a trial asks for {_asked(config, config.cpus_per_worker)} cores, "
            f"this machine has {cores}."
        )
    if config.gpus_per_worker:
        gpus = torch.cuda.device_count()
        fits = min(fits, gpus * int(1 / config.gpus_per_worker) // config.workers)
        if fits == 0:
            raise ConfigError(
                f"resources.gpus_per_worker: a trial asks for {_asked(config, config.gpus_per_worker)} GPUs, "
                f"this machine has {gpus}, and each worker's lies on one of them."
            )
    return min(fits, config.concurrency or fits)


def _asked(config: ResourcesConfig, per_worker: float) -> str:
    if config.workers == 1:
        return f"{per_worker:g}"
    return f"{config.workers} workers x {per_worker:g} = {config.workers * per_worker:g}"


@contextlib.contextmanager
def local_ray(config: ResourcesConfig) -> Iterator[Path]:
    """A Ray of our own on this machine with room for `places` trials; gives a folder for its scratch."""
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)  # Ray opens its own folder below to everybody
    _sweep_out(folder)
    temporary = folder / f"r{os.getpid()}"
    temporary.mkdir(mode=0o700)
    if len(os.fsencode(temporary)) + 70 > MAX_SOCKET_PATH:
        temporary.rmdir()
        raise ConfigError(
            f"HJEPA_STATE_DIR: {folder} is too long a path for Ray's sockets; "
            f"name a folder of at most {MAX_SOCKET_PATH - 80} characters."
        )
    try:
        _make_token(temporary / "token")
        ray.init(
            address="local",
            num_cpus=places(config) * config.workers * config.cpus_per_worker,
            resources={PLACE: places(config)},
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(temporary),
            _node_ip_address="127.0.0.1",
        )
        try:
            yield temporary / "tune"
        finally:
            ray.shutdown()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _make_token(path: Path) -> None:
    """A token of this Ray's own, readable by its user only. Ray's is one for all, readable by everybody."""
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(secrets.token_hex(32), encoding="ascii")
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def _sweep_out(folder: Path) -> None:
    """Remove what processes that were killed left behind."""
    for left in folder.glob("r[0-9]*"):
        try:
            os.kill(int(left.name[1:]), 0)
        except (ProcessLookupError, ValueError):
            shutil.rmtree(left, ignore_errors=True)
        except PermissionError:
            pass  # alive, and another user's


def run_trials(
    config: ResourcesConfig,
    next_trial: Callable[[], dict[str, Any] | str | None],
    listener: Listener,
    stop: Stop,
    scratch: Path,
) -> None:
    """Run what `next_trial` gives until it is FINISHED; `listener` hears of every report and decides."""
    tuner = tune.Tuner(
        _trainable(config, scratch),
        tune_config=tune.TuneConfig(
            search_alg=TuneSearcher(next_trial),
            scheduler=TuneScheduler(listener),
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[TuneEvents(listener, stop.listen)],
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    tuner.fit()


def _trainable(config: ResourcesConfig, scratch: Path) -> Any:
    """What Tune starts for a trial, and the place that it takes."""
    if not config.uses_train:
        needs = {"CPU": float(config.cpus_per_worker), "GPU": float(config.gpus_per_worker)}
        return tune.with_resources(TrialActor, tune.PlacementGroupFactory([needs]))
    # The actor computes nothing, so it takes no core; its workers have a placement group of their own.
    group = tune.with_parameters(GroupActor, resources=config, storage=str(scratch.with_name("train")))
    return tune.with_resources(group, tune.PlacementGroupFactory([{PLACE: 1.0}]))
