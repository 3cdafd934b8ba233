"""Ray Tune as the engine: it places trials on processors and keeps their processes warm, no more."""

import contextlib
import functools
import logging
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import tune
from ray._private import services
from ray.air._internal import usage
from ray.exceptions import RayError
from ray.tune.execution import class_cache

from orchestrator import ADDRESS, cluster_address
from orchestrator.engine.capacity import Places, cluster_nodes, grows, places
from orchestrator.engine.gate import Gate
from orchestrator.engine.group import GroupActor
from orchestrator.engine.queue import TuneSearcher
from orchestrator.engine.schedule import Listener, TuneEvents, TuneScheduler
from orchestrator.engine.trial import TrialActor
from orchestrator.process.state import OwnFolder
from orchestrator.process.stopping import Stop
from orchestrator.space import ConfigError, ResourcesConfig, huge_pages, with_huge_pages

MAX_SOCKET_PATH = 107  # bytes, by Linux; Ray puts a socket some 70 bytes below its folder
SCRATCH = ".ray"
"""Folder of a sweep for what Tune and Train write, where other nodes have to see it; gone at the end."""
CONNECT_S = 10.0
"""Seconds that a cluster has to answer."""
RAY_ITSELF = ("gcs_server", "raylet")
"""Processes of a Ray without which it is none."""
LOOK_S = 1.0
"""Seconds between two looks at them."""
ENDS = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Seconds without a cluster's first node after which Ray ends the process, 60 unless set."""
AHEAD_S = 20.0
"""Seconds before that in which such a cluster is left."""
PLACE = "place"
"""Ray's name for room for one trial under Ray Train, so that no more begin than there are workers for."""
_SECRETS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}


@contextlib.contextmanager
def some_ray(config: ResourcesConfig, folder: Path, lost: Callable[[str], None]) -> Iterator[Path]:
    """The cluster that the environment names, or a Ray of our own; gives a folder for its scratch.

    `folder` is the sweep's, which all nodes of a cluster have to see; `lost` is for `watched`. Raises
    ConfigError where there is no such cluster, or a trial can never fit on it.
    """
    address = cluster_address()
    if address is not None:
        with cluster_ray(config, address, folder) as scratch, watched(lost, _silence(address)):
            yield scratch
        return
    with local_ray(config) as scratch, watched(lost, _death()):
        yield scratch


@contextlib.contextmanager
def cluster_ray(config: ResourcesConfig, address: str, folder: Path) -> Iterator[Path]:
    """A cluster that was there before and stays; gives a folder for scratch that all its nodes see."""
    with connection(config, address):
        scratch = folder.resolve() / SCRATCH
        try:
            # What an earlier process left. Nobody else's: the sweep is ours while we hold its lock.
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            yield scratch / "tune"
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def connection(config: ResourcesConfig, address: str) -> Iterator[None]:
    """A connection to the cluster at `address`, or the one that is open already. Writes nothing.

    Raises ConfigError where there is no such cluster, or a trial can never fit on it.
    """
    if ray.is_initialized():
        yield
        return
    with connected(address):
        if not grows():
            places(config, cluster_nodes())
        yield


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to the cluster at `address`, or ConfigError where there is none."""
    require_listener(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{ADDRESS} {address}: no Ray cluster can be reached there: {reason}.\nWhere it asks for a "
            f"token, set RAY_AUTH_MODE=token; `hjepa-sweep doctor --address {address}` says whether it does."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def local_ray(config: ResourcesConfig) -> Iterator[Path]:
    """A Ray of our own on this machine with room for `places` trials; gives a folder for its scratch."""
    with OwnFolder("r") as temporary:
        if len(os.fsencode(temporary)) + 70 > MAX_SOCKET_PATH:
            raise ConfigError(
                f"HJEPA_STATE_DIR: {temporary.parent} is too long a path for Ray's sockets; "
                f"name a folder of at most {MAX_SOCKET_PATH - 70 - len('/r0000')} characters."
            )
        _make_token(temporary / "token")
        with _apart(), with_huge_pages():
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


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """What Ray starts is in process groups of its own.

    A signal to ours, as `timeout` sends it, is for the sweep, which needs Ray to stop well; Ray is deaf to no
    signal but SIGINT. Elsewhere than on Linux Ray's reaper finds them by their group, and they stay in it.
    """
    if sys.platform != "linux":
        yield
        return
    popen = services.ConsolePopen
    services.ConsolePopen = functools.partial(popen, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = popen


@contextlib.contextmanager
def watched(lost: Callable[[str], None], why: Callable[[], str | None]) -> Iterator[None]:
    """Within, `lost` is called by another thread, once, with the reason that `why` gives, asked each second,
    once Ray is gone.

    Whoever asks Ray for anything then waits for a minute, and Ray ends the process without a word of ours.
    """
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            reason = why()
            if reason is not None and not over.is_set():
                lost(reason)
                return

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _death() -> Callable[[], str | None]:
    """Says which process of our Ray has died, if one has."""
    children = {process.name(): process for process in psutil.Process().children()}
    own = {name: process for name, process in children.items() if name in RAY_ITSELF}

    def why() -> str | None:
        dead = next((name for name, process in own.items() if _is_dead(process)), None)
        return dead and f"Ray's {dead} has died"

    return why


def _silence(address: str) -> Callable[[], str | None]:
    """Says that the cluster's first node is gone, once nothing has listened there for a while."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    heard, patience = time.monotonic(), float(os.environ.get(ENDS, "60")) - AHEAD_S

    def why() -> str | None:
        nonlocal heard
        with contextlib.suppress(OSError):
            socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_S).close()
            heard = time.monotonic()
        silent = time.monotonic() - heard
        gone = f"the Ray cluster at {address} has not answered for {silent:.0f} s"
        return gone if silent > patience else None

    return why


def _is_dead(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def require_listener(address: str) -> None:
    """Raises ConfigError where nothing listens at HOST:PORT, over which Ray itself is silent for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():  # auto, or a name of Ray's
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"{ADDRESS} {address}: no Ray cluster can be reached there: {error}.\nOn its first node "
            "`ray start --head` says the address; leave --address out for a Ray of the sweep's own."
        ) from None


def _make_token(path: Path) -> None:
    """A token of this Ray's own, readable by its user only. Ray's is one for all, readable by everybody."""
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(secrets.token_hex(32), encoding="ascii")
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def run_trials(
    config: ResourcesConfig,
    next_trial: Callable[[], dict[str, Any] | str | None],
    listener: Listener,
    stop: Stop,
    scratch: Path,
) -> None:
    """Run what `next_trial` gives until it is FINISHED; `listener` hears of every report and decides."""
    if cluster_address() is None:
        # With variables of its own a trial would not get one of the processes that Ray has begun meanwhile,
        # which have all of this one's anyway.
        class_cache.DEFAULT_ENV_VARS.clear()
        class_cache.ENV_VARS_TO_PROPAGATE.clear()
    else:
        for name, value in huge_pages().items():  # what a node has itself goes on to count, and counts more
            class_cache.DEFAULT_ENV_VARS[name] = f"{value}:${{{name}}}"
        # Tune would hand these to every trial by way of Ray, which writes them to its logs.
        class_cache.ENV_VARS_TO_PROPAGATE.difference_update(_SECRETS)
    # It imports every tracker that Ray knows, to count whose callbacks are used, for statistics that are off.
    usage.tag_callbacks = lambda callbacks: False
    # It names the trials that are not over, which the study knows better.
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    room = Places(config)
    gate = Gate(config, room) if _needs_gate(config) else None
    tuner = tune.Tuner(
        _trainable(config, scratch, gate),
        tune_config=tune.TuneConfig(
            search_alg=TuneSearcher(next_trial),
            scheduler=TuneScheduler(listener, room.now),
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[TuneEvents(listener, stop.listen, gate.adjust if gate else None)],
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    finally:
        if gate is not None:
            gate.open()


def _needs_gate(config: ResourcesConfig) -> bool:
    """Whether something else than cores and GPUs limits the trials at a time, on a cluster."""
    return cluster_address() is not None and (config.uses_train or config.concurrency is not None)


def _trainable(config: ResourcesConfig, scratch: Path, gate: Gate | None) -> Any:
    """What Tune starts for a trial, and the place that it takes."""
    passes = [gate.share] if gate is not None else []
    if not config.uses_train:
        needs = {"CPU": float(config.cpus_per_worker), "GPU": float(config.gpus)}
        return tune.with_resources(TrialActor, tune.PlacementGroupFactory([needs, *passes]))
    # The actor computes nothing, so it takes no core; its workers have a placement group of their own.
    group = tune.with_parameters(GroupActor, resources=config, storage=str(scratch.with_name("train")))
    return tune.with_resources(group, tune.PlacementGroupFactory(passes or [{PLACE: 1.0}]))
